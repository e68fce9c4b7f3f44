"""Scripts, run in processes of their own or, which takes no second import of torch, in this one."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import torch

HERE = Path(__file__).parent
TESTS = HERE.parent


def environment() -> dict[str, str]:
    """Return the variables under which a process finds the helpers and takes one core."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def run_script(
    name: str, *arguments: str, launcher: tuple[str, ...] = (), timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder.

    Args:
        name: The script's file.
        arguments: What its command line gets.
        launcher: Arguments of Python before the script, such as ``("-m", "torch.distributed.run")``.
        timeout: In seconds.
    """
    command = [sys.executable, *launcher, str(HERE / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment())


def run_here(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in this process as the command line would, and give back what it changed of the process.

    Warnings are in ``stderr``. An exception that would print a traceback is raised.
    """
    command = [str(script), *arguments]
    before = sys.argv, sys.path, torch.get_num_threads(), dict(os.environ), logging.getLogger("lightning.pytorch").level
    out, err = io.StringIO(), io.StringIO()
    code: str | int | None = 0
    sys.argv, sys.path = command, [str(script.parent), *sys.path]
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            warnings.simplefilter("always")
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as exit:
                code = exit.code
    finally:
        sys.argv, sys.path, threads, environment, level = before
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)
        logging.getLogger("lightning.pytorch").setLevel(level)
    said = [str(warning.message) for warning in warned] + ([code] if isinstance(code, str) else [])
    code = int(code is not None) if isinstance(code, str) else code or 0
    return subprocess.CompletedProcess(command, code, out.getvalue(), "\n".join([err.getvalue(), *said]))

"""Running scripts in separate processes or, where that suffices, in this process."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

HERE = Path(__file__).parent
TESTS = HERE.parent
PRELOADED = ["torch", "lightning.pytorch.cli", "tensorboard.compat.proto.event_pb2"]
"""Modules that the fork server imports once; none of the project, so that each process imports the project itself."""

_server = multiprocessing.get_context("forkserver")


def environment() -> dict[str, str]:
    """Return environment variables with which a process finds the helpers and uses one core."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def in_processes(
    function: Callable[..., Any], *arguments: Any, count: int = 1, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Call a function in one or several new processes, with torchrun's variables if there are several.

    The processes are forked from a server that has imported torch and Lightning once for all tests, which takes seconds.

    Args:
        function: A function of a module.
        arguments: Its arguments.
        count: Number of processes.
        timeout: Seconds after which the processes are killed.
        variables: Additional environment variables.

    Returns:
        The exit code of largest magnitude, the output of the first process, and the errors of all processes.
    """
    _start_server()
    several = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_RUN_ID": "-",
    }
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(count):
            own = several | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            given = (f"{folder}/{rank}", environment() | own | variables, function, arguments)
            processes.append(_server.Process(target=_call, args=given))
            processes[-1].start()
        end = time.monotonic() + timeout
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
        out, *_ = (Path(f"{folder}/{rank}.out").read_text() for rank in range(count))
        err = "".join(Path(f"{folder}/{rank}.err").read_text() for rank in range(count))
    codes = [process.exitcode or 0 for process in processes]
    return subprocess.CompletedProcess([function.__name__], max(codes, key=abs), out, err)


def run_script(script: Path | str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in new processes (see `in_processes`); a name alone is a script of this folder."""
    return in_processes(_run_path, str(HERE / script), arguments, **options)


def run_code(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process that shows no warnings (see `in_processes`)."""
    return in_processes(_run_code, code, arguments, **options)


@contextlib.contextmanager
def process_group() -> Iterator[int]:
    """Join the processes of `in_processes` into a group, and yield this process's rank."""
    torch.distributed.init_process_group("gloo")
    yield torch.distributed.get_rank()
    # Torch 2.6 ends a group with Python's lock held, for which a thread may wait that frees the last tensors sent.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _start_server() -> None:
    """Start the fork server, unless it runs already, with the environment of `environment`."""
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        _server.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _call(out: str, variables: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a function in this process, with stdout and stderr redirected to files."""
    for number, ending in ((1, "out"), (2, "err")):
        with open(f"{out}.{ending}", "w") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(1)
    rank_zero_only.rank = int(variables.get("RANK", "0"))  # which Lightning read when the server imported it
    function(*arguments)


def _run_path(script: str, arguments: tuple[str, ...]) -> None:
    sys.argv, sys.path = [script, *arguments], [str(Path(script).parent), *sys.path]
    runpy.run_path(script, run_name="__main__")


def _run_code(code: str, arguments: tuple[str, ...]) -> None:
    sys.argv = ["-c", *arguments]
    warnings.simplefilter("ignore")
    exec(compile(code, "<code of a test>", "exec"), {"__name__": "__main__"})


def run_here(script: Path, *arguments: str, **constants: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in this process as the command line would, and restore what it changed in the process.

    Warnings are in ``stderr``. An exception that would print a traceback is raised.

    Args:
        script: A file with a function `main`.
        arguments: Arguments of its command line.
        constants: Constants of the script to replace, for example networks by smaller ones.
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
                names = runpy.run_path(str(script), run_name="script")
                names["main"].__globals__.update(constants)
                names["main"]()
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

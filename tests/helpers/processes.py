"""Scripts of this folder, run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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

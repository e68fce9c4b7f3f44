"""Values of options of the command line."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def positive(text: str) -> int:
    """Return the integer of at least 1 that a text gives."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def output_folder(text: str) -> Path:
    """Return a folder that files can be written to, made if need be: hours may pass before the first is written.

    Raises:
        argparse.ArgumentTypeError: If there can be no such folder.
    """
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise argparse.ArgumentTypeError(f"expected a folder that files can be written to, got {text}: {error}") from None

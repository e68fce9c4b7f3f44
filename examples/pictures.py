"""Figures that examples save to files, if matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def save(draw: Callable[[], object], file: Path) -> None:
    """Draw a figure into a file, and print its path, or print that matplotlib is missing."""
    try:
        draw()
    except ModuleNotFoundError:
        print("The figure needs matplotlib: pip install 'fold-lightning[figures]'.")
    else:
        print(f"See {file}")

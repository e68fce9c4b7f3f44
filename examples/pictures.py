"""Pictures that examples leave in a file, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def save(draw: Callable[[], object], file: Path) -> None:
    """Draws, and says where the picture is, or what it would need."""
    try:
        draw()
    except ModuleNotFoundError:
        print("The figure needs matplotlib: pip install 'fold-lightning[figures]'.")
    else:
        print(f"See {file}")

"""Progress bars, written once."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int | None, noun: str, shown: bool) -> tqdm[Any]:
    """Return a progress bar, a context manager; it is shown on a terminal or in a notebook alone, and only if it is wanted.

    Args:
        total: Number of things; None where that is not known.
        noun: Name of the things.
        shown: Whether it is wanted.

    Example:
        >>> with progress_bar(3, "segments", False) as bar:
        ...     bar.update(3)
    """
    return tqdm(total=total, unit=f" {noun}", disable=None if shown else True)

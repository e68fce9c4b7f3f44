"""Progress bars, shared by all modules."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int | None, noun: str, shown: bool) -> tqdm[Any]:
    """Return a progress bar, a context manager; it is shown only on a terminal or in a notebook, and only if `shown`.

    Args:
        total: Number of things; None if unknown.
        noun: Name of the things.
        shown: Whether to show it.

    Example:
        >>> with progress_bar(3, "segments", False) as bar:
        ...     bar.update(3)
    """
    return tqdm(total=total, unit=f" {noun}", disable=None if shown else True)

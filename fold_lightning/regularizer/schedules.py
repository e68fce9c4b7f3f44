"""Schedules: the strength of the regularizer as a function of the training's progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Schedule = str | Callable[[float], float]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2,
}
"""Name -> function from progress in [0, 1] to a factor of the weight."""


def check_schedule(schedule: Any) -> None:
    """Raise unless a value is a schedule's name or a function."""
    if not callable(schedule) and schedule not in SCHEDULES:
        raise ValueError(
            f"`schedule` must be one of {', '.join(map(repr, SCHEDULES))}, or a function of the progress in [0, 1] that returns a "
            f"factor of the weight, got {schedule!r}."
        )


def strength(schedule: Schedule, progress: float, until: float) -> float:
    """Return the factor of the weight at a progress in [0, 1]; a named schedule is 0 from `until` on.

    A user's function gets the progress itself, and `until` does not apply to it.

    Raises:
        ValueError: If a user's function returns anything but a finite number.

    Example:
        >>> [strength("cosine", progress, until=0.5) for progress in (0.0, 0.25, 0.5, 0.75)]
        [1.0, 0.5, 0.0, 0.0]
        >>> strength("constant", 1.0, until=1.0), strength(lambda progress: 2 * progress, 0.75, until=0.5)
        (1.0, 1.5)
    """
    if isinstance(schedule, str):
        past = progress >= until and until < 1.0  # a constant schedule without end does not end at the last step either
        return 0.0 if past else SCHEDULES[schedule](min(progress / until, 1.0))
    factor = schedule(progress)
    try:
        finite = math.isfinite(factor)
    except TypeError:
        finite = False
    if not finite:
        raise ValueError(f"`schedule` must return a finite number, got {factor!r} at progress {progress:g}.")
    return float(factor)

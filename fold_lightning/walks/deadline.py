"""How long walks may take: past that, whatever runs of them ends, and what is left is looked at in points."""

from __future__ import annotations

import time

from torch import Tensor

LATE_POINTS = 33
"""At how many points a segment is looked at that was not walked when time was up."""


class LateWalks(UserWarning):
    """Time did not suffice for some walks."""


def is_late(resolution: Tensor) -> Tensor:
    """Bool (S,): which walks time did not suffice for, told by their resolution."""
    return resolution >= 1 / (LATE_POINTS - 1)


class OutOfTime(BaseException):
    """Time is up; no ``except Exception`` of a model swallows it."""


class Deadline:
    """Ends work that looks at it again and again.

    Args:
        seconds: From now on; None has no end.

    Example:
        >>> Deadline(None).check()
        >>> Deadline(0.0).check()
        Traceback (most recent call last):
            ...
        fold_lightning.walks.deadline.OutOfTime
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.perf_counter() + seconds

    def check(self) -> None:
        """Raises `OutOfTime` from then on."""
        if self._end is not None and time.perf_counter() >= self._end:
            raise OutOfTime

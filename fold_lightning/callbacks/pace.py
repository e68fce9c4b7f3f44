"""How much is measured in the time that there is: what training has earned, and how many rows fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

MaxSeconds = float | Literal["auto"] | None

SHARE = 0.03
"""Of the time that passed since the last measurement, which the next one may take by default."""

LEAST_SECONDS = 0.1
"""What it may take in any case: in a run of seconds there is no use in sparing more."""

MARGIN = 0.8
"""Of the time there is, planned with: networks grow more regions while they train."""

CLEARLY_MORE = 4
"""Only if so many times as many rows fit, more are taken: a curve should be one of the same segments."""


class Allowance:
    """How long the next measurement may take.

    By default it is a share of the time since the last one ended; a measurement that took more than that lets the next ones wait
    until training has made up for it.

    Args:
        max_seconds: A fixed time for each measurement, "auto", or None for no limit.
    """

    def __init__(self, max_seconds: MaxSeconds) -> None:
        self._max_seconds, self._has_warned = max_seconds, False
        self.restart()

    def restart(self) -> None:
        """Training begins."""
        self._since, self._debt = time.perf_counter(), 0.0

    @property
    def affords(self) -> bool:
        """Whether a measurement may be made now."""
        return self._max_seconds != "auto" or self._debt <= self._earned()

    @property
    def seconds(self) -> float | None:
        """How long; None without limit."""
        return self._earned() if self._max_seconds == "auto" else self._max_seconds

    def spend(self, seconds: float) -> None:
        """A measurement that ends now took so long."""
        if self._max_seconds == "auto":
            self._debt = max(0.0, self._debt + seconds - self._earned(before=seconds))
        elif self._max_seconds is not None and seconds > 2 * self._max_seconds and not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"A measurement of FoldingMonitor took {seconds:.1f} s, though `max_seconds={self._max_seconds}`: the fewest inputs "
                "and segments that it takes need longer. Count fewer layers (`layers=`) or leave parts out (`faces=False`). (Said "
                "once.)"
            )
        self._since = time.perf_counter()

    def _earned(self, before: float = 0.0) -> float:
        return max(LEAST_SECONDS, SHARE * (time.perf_counter() - self._since - before))


class Pace:
    """How long a row of some work takes, learned from one measurement to the next, and how many fit a time.

    As many as fit are a power of two times the least, so that neighbouring measurements take the same number.

    Args:
        least: How many to take in any case.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._seconds_each: float | None = None
        self._usual: int | None = None

    def blocks(self, count: int, seconds: float | None, processes: int = 1) -> Iterator[range]:
        """Blocks of rows, to be worked at one after the other: all, or the first ones, as long as there is time.

        Args:
            count: How many rows there are.
            seconds: How long all of them may take; None takes all in one block.
            processes: How many share them, so many at least.
        """
        if seconds is None:
            yield range(count)
            return
        begin, done, least = time.perf_counter(), 0, min(count, max(self._least, processes))
        planned = self._plan(count, least, seconds)
        size = least if planned is None else max(least, (planned + 1) // 2)
        while size > 0:
            yield range(done, done + size)
            done += size
            self._seconds_each = max(time.perf_counter() - begin, 1e-9) / done  # a clock may be coarse
            fitting = self._fitting(count, least, seconds)
            size = (fitting if planned is None else planned if planned <= seconds / self._seconds_each else 0) - done
        self._usual = done

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds_each": self._seconds_each, "usual": self._usual}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._seconds_each, self._usual = state["seconds_each"], state["usual"]

    def _plan(self, count: int, least: int, seconds: float) -> int | None:
        """As many as last time, unless they no longer fit or far more would; None if there was none."""
        if self._usual is None or self._seconds_each is None:
            return None
        there_is_time_for = seconds / self._seconds_each
        if least <= self._usual <= min(count, there_is_time_for) and there_is_time_for < CLEARLY_MORE * self._usual:
            return self._usual
        return self._fitting(count, least, seconds)

    def _fitting(self, count: int, least: int, seconds: float) -> int:
        assert self._seconds_each is not None
        rows = least
        while 2 * rows <= MARGIN * seconds / self._seconds_each and rows < count:
            rows *= 2
        return min(rows, count)

"""How much is measured in the time that there is: what training has earned, and how many rows fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

MaxSeconds = float | Literal["auto"] | None

SHARE = 0.02
"""Of the time that passed since the last measurement, which the next one may take by default."""

LEAST_SECONDS = 0.05
"""What it may take in any case: in a run of seconds there is no use in sparing more."""

MARGIN = 0.8
"""Of the time there is, planned with: networks grow more regions while they train."""

CLEARLY_MORE = 4
"""Only if so many times as many rows fit, more are taken: a curve should be one of the same segments."""

GROWTH = 4
"""So many times the rows done are the most that a next call may reach, while it is not known how many fit."""


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
    """What some work takes, learned from one measurement to the next, and how many rows of it fit a time.

    A call takes a time of its own and one for each of its rows: two calls of different size tell them apart. What fits is
    sought among the powers of two times the least, so that neighbouring measurements take the same number; half of that is taken
    where it turns out not to fit.

    Args:
        least: How many to take in any case.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._seconds_a_call = self._seconds_a_row = 0.0
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
        goal = self._goal(count, least, seconds)
        size = max(least, min(count, self._usual or least) if goal is None else (goal + 1) // 2)
        before: tuple[int, float] | None = None
        while size > 0:
            at = time.perf_counter()
            yield range(done, done + size)
            done += size
            before = self._learn(size, time.perf_counter() - at, before)
            passed = time.perf_counter() - begin
            if goal is None:
                size = self._most(min(count, GROWTH * done), least, MARGIN * seconds - passed, done=done) - done
            else:
                size = goal - done if self._takes(goal - done) <= seconds - passed else 0
        self._usual = done

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"call": self._seconds_a_call, "row": self._seconds_a_row, "usual": self._usual}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._seconds_a_call, self._seconds_a_row, self._usual = state["call"], state["row"], state["usual"]

    def _goal(self, count: int, least: int, seconds: float) -> int | None:
        """How many to take, in two blocks: as last time, or fewer where they no longer fit; None where that is to be found out."""
        if self._usual is None:
            return None
        if not least <= self._usual <= count or self._takes(self._usual, calls=2) > seconds:
            return self._most(min(count, self._usual), least, MARGIN * seconds - self._seconds_a_call)
        far_more_fit = self._takes(CLEARLY_MORE * self._usual, calls=2) <= seconds
        return None if far_more_fit and self._usual < count else self._usual

    def _most(self, count: int, least: int, seconds: float, done: int = 0) -> int:
        """How many rows there will be if those that are still to be done take so long, in one call."""
        rows = least
        while rows < count and self._takes(min(count, 2 * rows) - done) <= seconds:
            rows *= 2
        return max(done, min(rows, count))

    def _takes(self, rows: int, calls: int = 1) -> float:
        return calls * self._seconds_a_call + rows * self._seconds_a_row

    def _learn(self, rows: int, seconds: float, before: tuple[int, float] | None) -> tuple[int, float]:
        """Learns from a call, and from one of this measurement before it."""
        seconds = max(seconds, 1e-9)  # a clock may be coarse
        expected = self._takes(rows)
        if before is not None and rows >= 2 * before[0]:
            a_row = min(seconds / rows, (seconds - before[1]) / (rows - before[0]))
            a_row = a_row if a_row > 0 else seconds / rows  # the first of all calls takes longer
            self._seconds_a_call, self._seconds_a_row = seconds - rows * a_row, a_row
        elif expected > 0:
            self._seconds_a_call *= seconds / expected
            self._seconds_a_row *= seconds / expected
        else:
            self._seconds_a_row = seconds / rows
        return rows, seconds

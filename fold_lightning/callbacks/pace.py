"""How much is measured in the time that there is: what training has earned, and how many rows fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

MaxSeconds = float | Literal["auto"] | None

SHARE = 0.02
"""Of the time that passed since the last measurement, which the next one may take by default."""

LEAST_SECONDS = 0.05
"""What a measurement needs to say something; it waits until there is so much."""

EXTRA_SECONDS = 3.0
"""What measurements may take beyond their share, all of them together: in a run of seconds there is no use in sparing more."""

FIRST_SHARE = 0.8
"""Of the time there is, used when it is found out how much fits: networks grow more regions while they train."""

MORE_SHARE = 0.75
"""Only if more rows fit this share of the time, more are taken than last time."""

LONG_SECONDS = 2.0
"""More than twice as much in one measurement is worth a word."""

GROWTH = 4
"""So many times the rows last done are the most that a next call may reach."""


class Allowance:
    """How long the next measurement may take.

    By default it is a share of the time since the last one ended. Measurements wait until that is enough, and until training has
    made up for what those before took beyond it; not the first ones, which have some time as a gift. One that took long once, for
    whatever reason, keeps none waiting: what counts is the fast_kernel of the last two.

    Args:
        max_seconds: A fixed time for each measurement, "auto", or None for no limit.
        waits: Whether a measurement may wait.
    """

    def __init__(self, max_seconds: MaxSeconds, *, waits: bool = True) -> None:
        self._max_seconds, self._waits, self._has_warned = max_seconds, waits, False
        self._last: float | None = None
        self.restart()

    def restart(self) -> None:
        """Training begins."""
        self._since, self._debt, self._extra = time.perf_counter(), 0.0, EXTRA_SECONDS

    @property
    def affords(self) -> bool:
        """Whether a measurement may be made now."""
        return self._max_seconds != "auto" or not self._waits or max(self._debt, LEAST_SECONDS) <= self._earned() + self._gift

    @property
    def seconds(self) -> float | None:
        """How long; None without limit."""
        return max(LEAST_SECONDS, self._earned()) if self._max_seconds == "auto" else self._max_seconds

    def spend(self, seconds: float) -> None:
        """A measurement that ends now took so long."""
        if self._max_seconds == "auto":
            usual = seconds if self._last is None else min(seconds, self._last)
            due = self._debt + usual - self._earned(before=seconds)
            given = min(max(0.0, due), self._gift)
            self._debt, self._extra, self._last = max(0.0, due - given), self._extra - given, seconds
        self._warn_if_long(seconds)
        self._since = time.perf_counter()

    def _warn_if_long(self, seconds: float) -> None:
        limit = LONG_SECONDS if self._max_seconds == "auto" else self._max_seconds
        if limit is None or seconds <= 2 * limit or self._has_warned:
            return
        self._has_warned = True
        though = "" if self._max_seconds == "auto" else f", though `max_seconds={self._max_seconds}`"
        rank_zero_warn(
            f"A measurement of FoldingMonitor took {seconds:.1f} s{though}: the fewest inputs and segments that it takes need as "
            "long. Count fewer layers (`layers=`) or leave parts out (`faces=False`, `folding=False`). (Said once.)"
        )

    @property
    def _gift(self) -> float:
        """What a measurement may take beyond its share."""
        return min(LEAST_SECONDS, self._extra)

    def _earned(self, before: float = 0.0) -> float:
        return SHARE * (time.perf_counter() - self._since - before)


class Pace:
    """What some work takes, learned from one measurement to the next, and how many rows of it fit a time.

    The first measurement feels its way, block by block. Those after it take as many rows in one call, so that a curve is one of the
    same rows, unless clearly more fit, or no longer so many. What fits is sought among the powers of two times the least. A
    call takes a time of its own and one for each of its rows, which calls of different size tell apart. A machine may stall, so what
    takes too long has to do so twice before fewer rows are taken.

    Args:
        least: How many to take in any case.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._usual: int | None = None
        self._size = 0  # of the last call
        self._times: dict[int, list[float]] = {}  # of the last two calls of each size

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
        size = least if self._usual is None else self._as_usual(count, least, seconds)
        while size > 0:
            at = time.perf_counter()
            yield range(done, done + size)
            self._learn(size, time.perf_counter() - at)
            done += size
            left = FIRST_SHARE * seconds - (time.perf_counter() - begin)
            size = self._more(done, count, left) if self._usual is None else 0
        self._usual = done

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"usual": self._usual, "size": self._size, "times": self._times}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._usual, self._size, self._times = state["usual"], state["size"], state["times"]

    def _as_usual(self, count: int, least: int, seconds: float) -> int:
        """As many as last time, or more if they take but a part of the time, or fewer if they take more than it."""
        usual = max(least, min(count, self._usual or least))
        sizes = [size for size in _ladder(least, count) if size <= GROWTH * usual]
        if self._takes(usual) > seconds:
            return max((size for size in sizes if self._takes(size) <= FIRST_SHARE * seconds), default=least)
        more = [size for size in sizes if size > usual and self._takes(size, of_two=max) <= MORE_SHARE * seconds]
        return max(more, default=usual)

    def _more(self, done: int, count: int, left: float) -> int:
        """How many rows to add to those done, in one call."""
        sizes = [min(count, factor * done) - done for factor in (2, GROWTH)]
        return max((size for size in sizes if self._takes(size) <= left), default=0)

    def _takes(self, rows: int, of_two: Callable[[list[float]], float] = min) -> float:
        """How long a call of so many rows takes, by the last two calls of one size and by what is known of smaller ones."""
        if rows in self._times and rows <= self._size:
            return of_two(self._times[rows])
        known = of_two(self._times[self._size])
        a_row = known / self._size
        smaller = [size for size in self._times if 2 * size <= self._size]
        if smaller:
            slope = (known - min(self._times[max(smaller)])) / (self._size - max(smaller))
            a_row = min(a_row, max(slope, a_row / GROWTH))
        return known + a_row * (rows - self._size)

    def _learn(self, rows: int, seconds: float) -> None:
        self._size = rows
        self._times[rows] = [*self._times.get(rows, [])[-1:], seconds]


def _ladder(least: int, count: int) -> list[int]:
    """Powers of two times the least, and all."""
    sizes = [least]
    while sizes[-1] < count:
        sizes.append(min(count, 2 * sizes[-1]))
    return sizes

"""Times of ways that do the same, in turns, and tables of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Way:
    """Another way of doing something, or a part of it that nothing can do without.

    Attributes:
        name: Of the row.
        run: What is timed.
        share: Part of the work that it does; its time is divided by it.
        agrees: Function of its result and ours; None where they give different things.
        is_floor: Whether every way has to do this much.
    """

    name: str
    run: Callable[[], Any]
    share: float = 1.0
    agrees: Callable[[Any, Any], bool] | None = None
    is_floor: bool = False


def equal(one: Any, other: Any) -> bool:
    """Return whether two results are the same."""
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


CLOCK = (
    "Times are the processor's own where one thread computes, which other programs disturb least, wall-clock ones otherwise."
)


SHORT = 4.0
"""Seconds within which turns are repeated more often than asked for."""


def clock() -> float:
    """Return seconds: of the processor's own time where one thread computes, by the wall's clock otherwise."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes by `clock`, and its result."""
    begin = clock()
    result = run()
    return clock() - begin, result


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median of how long a call takes."""
    return statistics.median(seconds(run)[0] for _ in range(repeats))


def turns(repeats: int) -> Iterator[int]:
    """Count at least so many turns, and up to three times as many while they have taken less than `SHORT` seconds.

    Of 5 turns the median lies outside the least and the greatest of 5 others once in six times, if nothing but chance differs; of 15
    it does so once in 450 times.
    """
    begin = clock()
    for turn in range(3 * repeats):
        if turn >= repeats and clock() - begin > SHORT:
            return
        yield turn


def compare(case: str, ours: Callable[[], Any], ways: Sequence[Way], repeats: int, note: str = "") -> list[list[str]]:
    """Return a row for each other way: our time over its time, in turns, and whether the results agree.

    Args:
        case: Name of the case.
        ours: What is compared.
        ways: What it is compared with.
        repeats: Least number of turns, after one to warm up.
        note: Words for the first row.
    """
    result = ours()
    mine: list[float] = []
    ratios: dict[str, list[float]] = {way.name: [] for way in ways}
    verdicts: dict[str, str] = {}
    for _ in turns(repeats):
        took, result = seconds(ours)
        mine.append(took)
        for way in ways:
            other, found = seconds(way.run)
            ratios[way.name].append(took / max(other / way.share, 1e-9))
            if way.agrees is not None:
                verdicts[way.name] = "yes" if way.agrees(found, result) else "NO"
    rows = []
    for way in ways:
        name = f"floor: {way.name}" if way.is_floor else way.name
        first = [f"{case}{f'; {note}' if note else ''}", f"{statistics.median(mine) * 1e3:,.1f}"]
        rows.append([*(first if way is ways[0] else ("", "")), name, ratio(ratios[way.name]), verdicts.get(way.name, "-")])
    return rows


def grow(what: str, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]], repeats: int) -> list[str]:
    """Return a row of times at sizes that double, and of their ratios in one turn."""
    runs = [make(size) for size in sizes]
    for run in runs:
        run()
    found = [[seconds(run)[0] for run in runs] for _ in turns(repeats)]
    times = ", ".join(f"{statistics.median(column) * 1e3:,.1f}" for column in zip(*found, strict=True))
    factors = [ratio([turn[i + 1] / max(turn[i], 1e-9) for turn in found]) for i in range(len(sizes) - 1)]
    return [what, ", ".join(f"{size:,}" for size in sizes), times, "; ".join(factors)]


def ratio(numbers: Sequence[float]) -> str:
    """Return the median of ratios with the least and the greatest, if there are several, as "1 / x" below a half."""
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    shown = [f"1 / {_short(1 / number)}" if middle < 0.5 else _short(number) for number in (middle, low, high)]
    return f"{shown[0]} ({shown[1]} - {shown[2]})" if len(numbers) > 1 else shown[0]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}" if number >= 3 else f"{number:.2f}"

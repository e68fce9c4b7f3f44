"""Times of ways that do the same, in turns, and tables of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Way:
    """Another way of doing something, or a part of it that nothing can do without.

    Attributes:
        name: Of the row.
        run: What is timed.
        share: Part of the work that it does; its time is divided by it.
        agrees: Function of its result and ours; None where they give different things.
        role: "floor" for work that every way has to do, "reference" for work that shows the scale, but that a way can do without.
    """

    name: str
    run: Callable[[], Any]
    share: float = 1.0
    agrees: Callable[[Any, Any], bool] | None = None
    role: Literal["", "floor", "reference"] = ""


def equal(one: Any, other: Any) -> bool:
    """Return whether two results are the same."""
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


OURS = "ours"

CLOCK = (
    "Times are the processor's own where one thread computes, which other programs disturb least, wall-clock ones otherwise."
)


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


class Turns:
    """Times of ways that took turns, so that whatever else the machine does falls on all of them alike.

    Args:
        ways: Name -> the call that is timed.
        repeats: Number of turns.
    """

    def __init__(self, ways: Mapping[str, Callable[[], Any]], repeats: int) -> None:
        self.results: dict[str, Any] = {}
        self._seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, run in ways.items():
                took, self.results[name] = seconds(run)
                self._seconds[name].append(max(took, 1e-9))

    def median(self, name: str) -> float:
        """Return the median of a way's seconds."""
        return statistics.median(self._seconds[name])

    def ratio(self, one: str, other: str, share: float = 1.0) -> str:
        """Return the ratio of two ways' times within a turn, where the other one did but a share of the work."""
        return ratio([share * a / b for a, b in zip(self._seconds[one], self._seconds[other], strict=True)])


def compare(case: str, ours: Callable[[], Any], ways: Sequence[Way], repeats: int, note: str = "") -> list[list[str]]:
    """Return a row for each other way: our time over its time, in turns, and whether the results agree.

    Args:
        case: Name of the case.
        ours: What is compared.
        ways: What it is compared with.
        repeats: Number of turns, after a run of ours to warm up.
        note: Words for the first row.
    """
    ours()
    turns = Turns({OURS: ours, **{way.name: way.run for way in ways}}, repeats)
    rows = []
    for way in ways:
        verdict = "-"
        if way.agrees is not None:
            verdict = "yes" if way.agrees(turns.results[way.name], turns.results[OURS]) else "NO"
        name = f"{way.role}: {way.name}" if way.role else way.name
        first = [f"{case}{f'; {note}' if note else ''}", f"{turns.median(OURS) * 1e3:,.1f}"]
        rows.append([*(first if way is ways[0] else ("", "")), name, turns.ratio(OURS, way.name, way.share), verdict])
    return rows


def grow(what: str, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]], repeats: int) -> list[str]:
    """Return a row of times at sizes that double, and of their ratios in one turn."""
    runs = {str(size): make(size) for size in sizes}
    for run in runs.values():
        run()
    turns = Turns(runs, repeats)
    times = ", ".join(f"{turns.median(size) * 1e3:,.1f}" for size in runs)
    factors = [turns.ratio(larger, smaller) for smaller, larger in pairwise(runs)]
    return [what, ", ".join(f"{size:,}" for size in sizes), times, "; ".join(factors)]


def ratio(numbers: Sequence[float]) -> str:
    """Return the median of ratios with the least and the greatest, if there are several, as "1 / x" below a half."""
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    shown = [f"1 / {_short(1 / number)}" if middle < 0.5 else _short(number) for number in (middle, low, high)]
    return f"{shown[0]} ({shown[1]} - {shown[2]})" if len(numbers) > 1 else shown[0]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}" if number >= 3 else f"{number:.2f}"

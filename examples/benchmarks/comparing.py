"""Times of ways that do the same, in turns, and tables of their ratios."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes, of the processor's own time where one thread computes, and its result."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    result = run()
    return clock() - begin, result


def compare(case: str, ours: Callable[[], Any], ways: Sequence[Way], repeats: int, note: str = "") -> list[list[str]]:
    """Return a row for each other way: our time over its time, in turns, and whether the results agree.

    Args:
        case: Name of the case.
        ours: What is compared.
        ways: What it is compared with.
        repeats: Number of turns, after one to warm up.
        note: Words for the first row.
    """
    result = ours()
    mine: list[float] = []
    ratios: dict[str, list[float]] = {way.name: [] for way in ways}
    verdicts: dict[str, str] = {}
    for _ in range(repeats):
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
    turns = [[seconds(run)[0] for run in runs] for _ in range(repeats)]
    times = ", ".join(f"{statistics.median(column) * 1e3:,.1f}" for column in zip(*turns, strict=True))
    factors = [ratio([turn[i + 1] / max(turn[i], 1e-9) for turn in turns]) for i in range(len(sizes) - 1)]
    return [what, ", ".join(f"{size:,}" for size in sizes), times, "; ".join(factors)]


def ratio(numbers: Sequence[float]) -> str:
    """Return the median of ratios with the least and the greatest, as "1 / x" below 1."""
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    if middle < 0.5:
        return f"1 / {_short(1 / middle)} (1 / {_short(1 / high)} - 1 / {_short(1 / low)})"
    return f"{_short(middle)} ({_short(low)} - {_short(high)})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def machine() -> str:
    """Return what the times were taken on."""
    cpu = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        names = [line.partition(":")[2].strip() for line in listed.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    load = f", load {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    threads = torch.get_num_threads()
    clock = "its own processor time" if threads == 1 else "wall-clock time"
    return (
        f"{cpu}, {os.cpu_count()} cores{gpu}; torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}, {clock}{load}. "
        "Ratios are medians of turns in one run, with the least and the greatest."
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}" if number >= 3 else f"{number:.2f}"

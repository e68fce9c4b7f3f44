"""Tables, statements and statistics of the papers' experiments."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pages import write_text

Row = dict[str, Any]
"""One cell: its settings and the numbers that were found."""


@dataclass(frozen=True)
class Table:
    """A table of the report: a title, a sentence, and cells."""

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Finding:
    """A statement of the paper with its place, what was found here, whether they agree, and why not if that is known."""

    reported: str
    found: str
    verdict: str
    reason: str = ""

    def cells(self) -> tuple[str, str, str, str]:
        return self.reported, self.found, self.verdict, self.reason


def values(rows: Iterable[Row], name: str, **setting: Any) -> list[float]:
    """Return a column of the rows that have these settings."""
    return [row[name] for row in rows if all(row[key] == value for key, value in setting.items())]


def spread(numbers: Sequence[float]) -> str:
    """Return mean ± standard deviation with as many digits as numbers of that size need, and a dash for none or NaN."""
    numbers = [number for number in numbers if not math.isnan(number)]
    if not numbers:
        return "-"
    mean, deviation = moments(numbers)
    largest = max(map(abs, numbers))
    digits = 0 if largest >= 1000 else 1 if largest >= 20 else 2 if largest > 1 else 3
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(numbers) > 1 else "")


def moments(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation, which is 0 for one number."""
    column = torch.tensor(numbers, dtype=torch.float64)
    return column.mean().item(), column.std().item() if len(numbers) > 1 else 0.0


def differences(rows: Sequence[Row], name: str, one: Row, other: Row) -> list[float]:
    """Return a column's value at one setting minus that at another, seed by seed."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    pairs = [(values(rows, name, **one, seed=seed), values(rows, name, **other, seed=seed)) for seed in seeds]
    return [a[0] - b[0] for a, b in pairs if a and b]


def verdict(numbers: Sequence[float], sign: int = 1) -> str:
    """Return whether differences have the sign that the paper says, by a two-sided t-test at .05."""
    from scipy.stats import ttest_1samp

    numbers = [number for number in numbers if not math.isnan(number)]
    mean, deviation = moments(numbers) if numbers else (0.0, 0.0)
    if mean == 0 or len(numbers) < 2 or (deviation > 0 and ttest_1samp(numbers, 0).pvalue >= 0.05):
        return "not decided by these seeds"
    return "agrees" if mean * sign > 0 else "disagrees"


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    plain = [{key: value for key, value in row.items() if not isinstance(value, (list, dict))} for row in rows]
    names = list(dict.fromkeys(key for row in plain for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(plain)
    write_text(file, text.getvalue())

"""Operations that bend a piecewise linear function without giving a bit: where they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.choices import Choice
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, Breakpoints
from fold_lightning.walks.sparse import set_bits

ZERO_TOLERANCE = 1e-13
"""Share of a larger value below which the lead of one value over another is 0: rounding leaves about 1e-16."""


def clamp_bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[float | Tensor]:
    """Return the bounds of a clamp, the lower one first; `args` are those after its input."""
    names = {"clamp_min": ("min",), "clamp_max": ("max",)}.get(name, ("min", "max"))
    bounds = [*args, *(kwargs[key] for key in names if key in kwargs)]
    return [bound if isinstance(bound, Tensor) else float(bound) for bound in bounds if bound is not None]


def insert_choice_changes(
    grid: Breakpoints, choice: Choice, x: Tensor, check_size: Callable[[int], None]
) -> tuple[Tensor, Tensor | None]:
    """Add rows to a grid until the ranking of a choice stays between neighbouring rows, up to ties.

    Args:
        grid: The breakpoints.
        choice: What is chosen.
        x: Its candidates at all rows (R, n), affine in between.
        check_size: Takes how many numbers the candidates of all rows are, and may raise.

    Returns:
        The candidates at all rows, and the result of the operation there, if ranking finds it on the way.
    """
    numbers, result = choice.rank(x)
    place = grid.joined.nonzero().squeeze(1)
    while True:
        known = len(grid)
        grid.insert(*_changes(grid, choice, x, numbers, place))
        if len(grid) == known:
            return x, result
        check_size(len(grid) * x.shape[1])
        x = grid.lift(x)
        new_numbers, new_result = choice.rank(x[known:])
        numbers = torch.cat([numbers, new_numbers])
        result = None if result is None or new_result is None else torch.cat([result, new_result])
        is_new = (grid.order[:-1] >= known) | (grid.order[1:] >= known)
        place = (is_new & grid.joined).nonzero().squeeze(1)


def _changes(grid: Breakpoints, choice: Choice, x: Tensor, numbers: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the ranking of a lane changes in intervals: place (K,) and position (K,).

    A lane keeps its ranking if all its ranks at one end of the interval hold at the other end too, for affine functions cross once.
    Otherwise it changes where the lines of two elements of one rank cross, or, if none do, somewhere: the middle is looked at.

    Args:
        grid: The breakpoints.
        choice: What is chosen.
        x: Its candidates (R, n).
        numbers: Their ranks (R, L k).
        place: The left ends of the intervals (I,), as places in the grid's order.
    """
    left, right = grid.order[place], grid.order[place + 1]
    interval, column = set_bits(numbers[left] != numbers[right])
    first, last = left[interval], right[interval]
    before, after = (choice.places(numbers[row, column], column) for row in (first, last))
    lead, lag = x[first, before] - x[first, after], x[last, after] - x[last, before]
    lane = (interval * (numbers.shape[1] // choice.ranks) + column // choice.ranks).unique_consecutive(return_inverse=True)[1]
    scale = _over(lane, torch.maximum(x[first, before].abs(), x[last, after].abs()), "amax")
    is_near, is_far = lead.abs() > ZERO_TOLERANCE * scale, lag.abs() > ZERO_TOLERANCE * scale
    crosses = is_near & is_far & (lead * lag > 0)
    begin, end = grid.position[first], grid.position[last]
    position = begin + (end - begin) * torch.where(crosses, lead / (lead + lag), 0.5)
    is_near &= ~crosses | (position - begin > MERGE_TOLERANCE)
    is_far &= ~crosses | (end - position > MERGE_TOLERANCE)
    crosses &= is_near & is_far
    changes = _over(lane, is_near, "amax") & _over(lane, is_far, "amax") & (crosses | ~_over(lane, crosses, "amax"))
    changes &= (position - begin > MERGE_TOLERANCE) & (end - position > MERGE_TOLERANCE)
    return place[interval[changes]], position[changes]


def _over(lane: Tensor, values: Tensor, reduction: str) -> Tensor:
    """Return for each value the reduction over all those of its lane, whose numbers ascend."""
    count = int(lane[-1]) + 1 if len(lane) else 0
    return values.new_zeros(count).scatter_reduce_(0, lane, values, reduction)[lane]

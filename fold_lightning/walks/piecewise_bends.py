"""Breakpoints of operations that give no bit: clamps, max pooling and other choices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.choices import Choice
from fold_lightning.activations.operations import bounds_of
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, Breakpoints
from fold_lightning.walks.sparse import set_bits

ZERO_TOLERANCE = 1e-13
"""Difference of two values, as a share of the larger, below which they are equal: rounding leaves about 1e-16."""


def clamp_bounds(call: Call) -> list[float | Tensor]:
    """Return the bounds of a clamp, the lower one first."""
    return [bound if isinstance(bound, Tensor) else float(bound) for bound in bounds_of(call) if bound is not None]


def insert_choice_changes(
    grid: Breakpoints, choice: Choice, x: Tensor, check_size: Callable[[int], None]
) -> tuple[Tensor, Tensor | None]:
    """Add rows to a grid until the ranking of a choice stays between neighbouring rows, up to ties.

    Args:
        grid: The breakpoints.
        choice: The choice.
        x: Its candidates at all rows (R, n), affine in between.
        check_size: Function that takes the number of elements of all candidates and raises if they are too many.

    Returns:
        The candidates at all rows, and the operation's result there if the ranking gives it, else None.
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
    """Return the intervals (K,) in which the ranking of a lane changes, and the positions (K,) of the changes.

    A lane keeps its ranking in an interval if each rank is held by the same element at both ends, since affine functions cross once.
    Otherwise the ranking changes where the lines of the two elements that hold a rank cross; if none cross, the middle is taken.

    Args:
        grid: The breakpoints.
        choice: The choice.
        x: Its candidates (R, n).
        numbers: Indices, in their lanes, of the elements that hold the k ranks of L lanes (R, L k).
        place: The left ends of the intervals (I,), as indices in the grid's order.
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
    """Return for each value the reduction over all values of its lane; lane indices ascend."""
    count = int(lane[-1]) + 1 if len(lane) else 0
    return values.new_zeros(count).scatter_reduce_(0, lane, values, reduction)[lane]

"""Walks of networks that curve and have kinks, on which interpolation does not converge.

An interval is cut near its middle until every unit either stays away from its threshold or passes it once. The deviation of a unit's
value from a straight line is taken at one point that is not the middle. A unit stays away if its values at both ends and at this
point are farther from the threshold than several times the deviation; it passes once if it changes by more than that. Each crossing
is then located in its bracket by Chandrupatla's method. This margin is enough for functions that are smooth at the
interval's scale: it is a criterion and not a proof, and therefore such walks are never called exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize.elementwise import find_root
from torch import Tensor

from fold_lightning._tensors import index_in_group, longest_run
from fold_lightning.activations.rounding import ROUNDED
from fold_lightning.walks.breakpoints import order_by
from fold_lightning.walks.pieces import Intervals, Pieces, PieceWalks
from fold_lightning.walks.refinement import (
    CHECK,
    MOST_POINTS,
    SAME_POSITION,
    SampledIntervals,
    Samples,
    next_batch,
)
from fold_lightning.walks.walks import CURVED_REFINEMENT

FIRST_LENGTH = 1 / 64
"""Length in t: pieces are first cut at its multiples, wherever they begin, so that all segments are cut at the same positions,
where many units may switch at once."""

DEVIATION_FACTOR = 16.0
"""Bound on a unit's distance from a straight line, in multiples of its deviation at one point. With 8, and half as many intervals at
first, 2 of 183 segments of random networks with smooth activations and max pooling lost a pair of switches that 20,001 points
showed."""

MIN_SMOOTH_INTERVAL = 2.0**-24
"""Length in t below which an interval is cut no further: a unit that switches twice in it is missed."""

ROOT_POSITION_TOLERANCE = 1e-10
"""Error in t of the position of a crossing."""


@dataclass(frozen=True)
class SettledIntervals(Intervals):
    """I intervals in which each unit switches at most once.

    Attributes:
        begins: bool (I, N), bits just inside the left ends.
        ends: bool (I, N), bits just inside the right ends.
        undecided: float64 (I,), their lengths if some unit cannot be distinguished from its threshold, else 0.
    """

    begins: Tensor
    ends: Tensor
    undecided: Tensor

    @classmethod
    def of(cls, intervals: SampledIntervals, undecided: Tensor) -> SettledIntervals:
        """Return intervals as settled: a unit that is on its threshold at one end has the bit of the other."""
        left, right = intervals.at_left, intervals.at_right
        begins, ends = (left > 0) | ((left == 0) & (right > 0)), (right > 0) | ((right == 0) & (left > 0))
        return cls(intervals.piece, intervals.left, intervals.right, begins, ends, undecided)

    def in_order(self) -> SettledIntervals:
        """Return them by piece and position."""
        return self[order_by(self.piece, self.left)]


def walk_smooth(pieces: Pieces, samples: Samples, max_rows: int) -> PieceWalks:
    """Walk pieces by forward passes over at most `max_rows` points at a time."""
    todo = [_first_intervals(pieces, samples)]
    looked = torch.zeros_like(pieces.segment)
    settled: list[SettledIntervals] = []
    while todo:
        intervals = next_batch(todo, max_rows)
        looked += torch.bincount(intervals.piece, minlength=len(pieces))
        check = torch.lerp(intervals.left, intervals.right, CHECK)
        at_check = samples(intervals.piece, check)
        doubtful = ~_is_clear_or_passes_once(intervals, at_check).all(1)
        length = intervals.right - intervals.left
        given_up = doubtful & ((length < MIN_SMOOTH_INTERVAL) | (looked[intervals.piece] > MOST_POINTS))
        again = doubtful & ~given_up
        undecided = length.where(given_up | _is_faint(intervals, check, at_check, samples), 0.0)
        settled.append(SettledIntervals.of(intervals[~again], undecided[~again]))
        if bool(again.any()):
            rows = torch.arange(int(again.sum()), device=check.device)
            todo.append(intervals[again].cut(rows, check[again], at_check[again]))
    together = SettledIntervals.concatenate(settled).in_order()
    events, first_codes = _events(together, samples, max_rows)
    resolution = longest_run(together.undecided, together.piece, len(pieces), ROOT_POSITION_TOLERANCE)
    complete = looked <= MOST_POINTS
    engine = torch.full_like(pieces.segment, CURVED_REFINEMENT)
    found = PieceWalks(*events, first_codes, torch.zeros_like(complete), complete, resolution, engine)
    return found.merged(SAME_POSITION)


def _first_intervals(pieces: Pieces, samples: Samples) -> SampledIntervals:
    """Return the intervals to begin with: pieces that are cut at multiples of the longest length."""
    first = (pieces.begin / FIRST_LENGTH).floor().long() + 1
    parts = (pieces.end / FIRST_LENGTH).ceil().long() - first + 1
    piece = torch.arange(len(pieces), device=parts.device).repeat_interleave(parts + 1)
    index = index_in_group(piece, parts + 1)
    position = ((first[piece] + index - 1) * FIRST_LENGTH).double()
    position = position.where(index > 0, pieces.begin[piece]).where(index < parts[piece], pieces.end[piece])
    at = samples(piece, position)
    left = (piece[1:] == piece[:-1]).nonzero().squeeze(1)
    return SampledIntervals(piece[left], position[left], position[left + 1], at[left], at[left + 1])


def _is_clear_or_passes_once(intervals: SampledIntervals, at_check: Tensor) -> Tensor:
    """Return whether a unit stays on one side of the threshold, or changes sides once, bool (I, N)."""
    left, right = intervals.at_left, intervals.at_right
    margin = DEVIATION_FACTOR * (at_check - torch.lerp(left, right, CHECK)).abs()
    nearest = torch.minimum(torch.minimum(left.abs(), right.abs()), at_check.abs())
    one_side = (left * right > 0) & (left * at_check > 0)
    constant = (left == 0) & (right == 0) & (at_check == 0)
    return (one_side & (nearest > margin)) | ((right - left).abs() > margin) | constant


def _is_faint(intervals: SampledIntervals, check: Tensor, at_check: Tensor, samples: Samples) -> Tensor:
    """Return the intervals in which a unit counts as on its threshold but is farther from it than rounding, bool (I,)."""
    on = (intervals.at_left == 0) & (intervals.at_right == 0) & (at_check == 0)
    is_faint = on.any(1)
    some = is_faint.nonzero().squeeze(1)
    if len(some):
        values = samples(intervals.piece[some], check[some], as_computed=True).abs()
        sizes = values.new_zeros(len(some), samples.num_layers)
        sizes.scatter_reduce_(1, samples.layer.expand_as(values), values, "amax")
        is_faint[some] = (on[some] & (values > ROUNDED * sizes[:, samples.layer])).any(1)
    return is_faint


def _events(settled: SettledIntervals, samples: Samples, max_rows: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return the events inside intervals and at the points between them, and each piece's first code."""
    piece, left = settled.piece, settled.left
    interval, unit = (settled.begins != settled.ends).nonzero(as_tuple=True)
    position = _locate(piece[interval], unit, left[interval], settled.right[interval], samples, max_rows)
    goes_on = piece[1:] == piece[:-1]
    place, at_point = ((settled.ends[:-1] != settled.begins[1:]) & goes_on[:, None]).nonzero(as_tuple=True)
    events = (
        torch.cat([piece[interval], piece[place]]),
        torch.cat([position, left[place + 1]]),
        torch.cat([unit, at_point]),
    )
    return events, settled.begins[torch.cat([goes_on.new_ones(1), ~goes_on])]


def _locate(piece: Tensor, unit: Tensor, left: Tensor, right: Tensor, samples: Samples, max_rows: int) -> Tensor:
    """Return the positions float64 (K,) at which units cross their thresholds, each in its bracket."""
    if len(piece) == 0:
        return left

    def value(position: np.ndarray[Any, Any], piece: np.ndarray[Any, Any], unit: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        t, p, u = (torch.from_numpy(np.ascontiguousarray(a)).to(left.device) for a in (position, piece, unit))
        found = [
            samples(a, b).gather(1, c[:, None]).squeeze(1)
            for a, b, c in zip(p.split(max_rows), t.split(max_rows), u.split(max_rows), strict=True)
        ]
        return np.asarray(torch.cat(found).cpu())

    arrays = [a.cpu().numpy() for a in (left, right, piece, unit)]
    result = find_root(
        value,
        (arrays[0], arrays[1]),
        args=(arrays[2], arrays[3]),
        tolerances={"xatol": ROOT_POSITION_TOLERANCE, "xrtol": 0.0, "fatol": 0.0, "frtol": 0.0},
        maxiter=60,
    )
    return torch.from_numpy(result.x).to(left.device)

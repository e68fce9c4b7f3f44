"""Exact walks by plain forward passes, for models that do not take a batch that grows.

This is slower than one pass with a growing batch, but assumes only that the inputs of a batch do not affect each other. An interval
is settled if a point inside it shows that all pre-activations are affine there and none crosses its threshold. Otherwise it is cut
at the crossings of the first layer that has some, or where a bend was seen, and its parts are checked again. A bend that no
threshold explains comes from an operation that is not known to bend, and the walk is then not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.layer_pass import LayerPass
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import ROUNDED, largest
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE
from fold_lightning.walks.pieces import Intervals, Pieces, PieceWalks
from fold_lightning.walks.walks import REFINEMENT

CHECK = 0.381966
"""Relative position in an interval at which it is checked: not the middle, where an odd function looks affine."""

ON_TOLERANCE = 1e-12
"""Share of a layer's size below which a value counts as 0: positions are rounded to 1e-16, and steep pre-activations magnify
that."""

MIN_LAYER_SIZE = 1e-3
"""Minimum size of a layer at a point, as a share of its largest magnitude in the piece, in a network that curves. A network
whose gates multiply may grow 1e10 times along a segment: units that cross far from its largest values are compared with values
near them."""

AFFINE_TOLERANCE = 1e-10
"""Largest error of an affine function, as a share of its layer's largest magnitude."""

SAME_POSITION = 1e-11
"""Distance in t up to which switches of a network that curves count as one step. If units switch together, as those of a
network without biases do at the origin, interpolation finds them up to 1e-15 apart and refinement up to 2e-12."""

MIN_INTERVAL = 1e-11
"""Length in t below which an interval counts as affine."""

MOST_POINTS = 200_000
"""Maximum number of points evaluated on a piece; beyond it the piece is given up."""

NEVER = 2**31 - 1


class Samples:
    """Pre-activations minus thresholds at points of pieces; values within rounding of 0 are set to 0.

    Args:
        replica: The model.
        structure: Its activations.
        names: The activations to evaluate, in execution order.
        num_pieces: P.
        terms: Usual terms (L,) of these layers: a value smaller than their rounding is 0.
        points: Piece (K,) and position (K,) -> inputs (K, ...).
        min_size: Minimum size of a layer at a point, as a share of its largest magnitude in the piece; a layer's size is
            otherwise its largest magnitude at the point.

    Attributes:
        layer: int64 (M,) the index of each unit's layer.
        num_layers: L.
        counted: bool (M,) whether the unit's bit counts.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        names: Sequence[str],
        num_pieces: int,
        terms: Sequence[float],
        points: Callable[[Tensor, Tensor], Tensor],
        min_size: float = 1.0,
    ) -> None:
        self._replica, self._structure, self._points, self._min_size = replica, structure, points, min_size
        self.num_layers = len(names)
        self._indices = {name: index for index, name in enumerate(names)}
        widths = [structure.num_bits(name) for name in names]
        counted = [name in structure.counted for name in names]
        device = replica.device
        self.layer = torch.arange(len(widths), device=device).repeat_interleave(torch.tensor(widths, device=device))
        self.counted = torch.tensor(counted, device=device)[self.layer]
        floor = ROUNDED / (ON_TOLERANCE * min_size) * torch.tensor(terms, dtype=torch.float64, device=device)
        self._largest = floor.repeat(num_pieces, 1)

    def __call__(self, piece: Tensor, position: Tensor, *, as_computed: bool = False) -> Tensor:
        """Return samples (K, M) float64 of the M units of these layers; an activation with two thresholds has two per unit.

        With `as_computed` no value is set to 0, so that they are as smooth as the network.
        """
        found: list[Tensor] = []
        if len(piece) == 0:
            return torch.empty(0, len(self.layer), dtype=torch.float64, device=piece.device)
        if self._structure.is_row_by_row and len(piece) > 1:
            rows = zip(piece.split(1), position.split(1), strict=True)
            return torch.cat([self(*row, as_computed=as_computed) for row in rows])

        def read(layer: str, thresholds: Thresholds, units: Tensor) -> None:
            if layer not in self._indices:
                return
            of_layer, here = self._largest[:, self._indices[layer]], largest(units)
            of_layer.scatter_reduce_(0, piece, here.squeeze(1), "amax")
            tolerance = ON_TOLERANCE * torch.maximum(here, self._min_size * of_layer[piece, None])
            for threshold in thresholds:
                distance = units - threshold
                found.append(distance if as_computed else distance.masked_fill(distance.abs() <= tolerance, 0.0))

        LayerPass(self._replica, self._structure, read).run(self._points(piece, position))
        return torch.cat(found, dim=1)

    def sizes(self) -> Tensor:
        """Return the largest magnitude seen of each layer on each piece, at least that of its rounding, float64 (P, L)."""
        return self._largest.clone()

    def largest(self, piece: Tensor) -> Tensor:
        """Return the largest magnitude seen of each unit's layer on pieces (K,), float64 (K, M)."""
        return self._largest[piece][:, self.layer]


@dataclass(frozen=True)
class SampledIntervals(Intervals):
    """I open intervals, and the samples (I, M) at both ends."""

    at_left: Tensor
    at_right: Tensor

    def cut(self, interval: Tensor, position: Tensor, at: Tensor) -> SampledIntervals:
        """Return these intervals cut at points (K,) inside them, ordered by interval and position, with their samples (K, M)."""
        if len(self) == 0:
            return self
        piece = torch.cat([self.piece, self.piece[interval]])
        begin, at_begin = torch.cat([self.left, position]), torch.cat([self.at_left, at])
        owner = torch.cat([torch.arange(len(self), device=piece.device), interval])
        order = torch.argsort(begin)
        order = order[torch.argsort(owner[order], stable=True)]
        follows = torch.empty_like(order)
        follows[order] = order.roll(-1)
        is_last = owner[follows] != owner
        is_last |= follows == order[0]
        end = torch.where(is_last, self.right[owner], begin[follows])
        at_end = torch.where(is_last[:, None], self.at_right[owner], at_begin[follows])
        return SampledIntervals(piece, begin, end, at_begin, at_end)


def next_batch(todo: list[SampledIntervals], most: int) -> SampledIntervals:
    """Take up to `most` intervals off the end of a list."""
    intervals = todo.pop()
    if len(intervals) > most:
        todo.append(intervals[most:])
    return intervals[:most]


def refine(pieces: Pieces, samples: Samples, max_rows: int) -> PieceWalks:
    """Walk pieces by forward passes over at most `max_rows` points at a time."""
    piece = torch.arange(len(pieces), device=pieces.begin.device)
    at_left, at_right = samples(piece, pieces.begin), samples(piece, pieces.end)
    todo = [SampledIntervals(piece, pieces.begin, pieces.end, at_left, at_right)]
    settled: list[tuple[Tensor, Tensor, Tensor]] = []
    unresolved = torch.zeros(len(pieces), dtype=torch.bool, device=piece.device)
    looked = torch.zeros_like(piece)
    while todo:
        intervals = next_batch(todo, max_rows)
        looked += torch.bincount(intervals.piece, minlength=len(pieces))
        done, parts = _look(intervals, samples, unresolved)
        given_up = looked[parts.piece] > MOST_POINTS
        for some in (done, parts[given_up]):
            settled.append((some.piece, some.left, ((some.at_left > 0) | (some.at_right > 0))[:, samples.counted]))
        if not bool(given_up.all()):
            todo.append(parts[~given_up])
    return _traversal(settled, pieces, unresolved, looked <= MOST_POINTS)


def _look(intervals: SampledIntervals, samples: Samples, unresolved: Tensor) -> tuple[SampledIntervals, SampledIntervals]:
    """Return the intervals that are settled, and the parts of those that are not."""
    length = intervals.right - intervals.left
    check = intervals.left + CHECK * length
    at_check = samples(intervals.piece, check)
    scale = samples.largest(intervals.piece)
    error = (at_check - torch.lerp(intervals.at_left, intervals.at_right, CHECK)).abs()
    bent = _first_layer(error > AFFINE_TOLERANCE * scale, samples)
    crosses = intervals.at_left * intervals.at_right < 0
    crossed = _first_layer(crosses, samples)
    at_bend = (bent <= crossed) & (bent < NEVER)  # a crossing bends the layers after it
    short = length < MIN_INTERVAL
    unresolved[intervals.piece[at_bend]] = True
    at_bend &= ~short
    at_crossings = (crossed < NEVER) & ~at_bend
    error = error.where(samples.layer == bent[:, None], 0.0)
    cut_bends = _cut_at_bends(intervals[at_bend], check[at_bend], at_check[at_bend], error[at_bend], samples)
    which = crosses[at_crossings] & (samples.layer == crossed[at_crossings, None])
    cut_crossings = _cut_at_crossings(intervals[at_crossings], which, samples)
    return intervals[~(at_bend | at_crossings)], SampledIntervals.concatenate([cut_bends, cut_crossings])


def _first_layer(units: Tensor, samples: Samples) -> Tensor:
    """Return the first layer with a marked unit, or `NEVER`, int64 (I,)."""
    return torch.where(units, samples.layer, NEVER).amin(1)


def _cut_at_crossings(intervals: SampledIntervals, crosses: Tensor, samples: Samples) -> SampledIntervals:
    interval, unit = crosses.nonzero(as_tuple=True)
    before, after = intervals.at_left[interval, unit], intervals.at_right[interval, unit]
    left, right = intervals.left[interval], intervals.right[interval]
    position = left + (right - left) * (before / (before - after))
    for side, ends in ((intervals.at_left, left), (intervals.at_right, right)):
        near = (position - ends).abs() <= MERGE_TOLERANCE
        side[interval[near], unit[near]] = 0.0
    inside = (position - left > MERGE_TOLERANCE) & (right - position > MERGE_TOLERANCE)
    interval, unit, position = interval[inside], unit[inside], position[inside]
    order = torch.argsort(position)
    order = order[torch.argsort(interval[order], stable=True)]
    interval, unit, position = interval[order], unit[order], position[order]
    fresh = torch.ones_like(interval, dtype=torch.bool)
    fresh[1:] = (interval[1:] != interval[:-1]) | (position[1:] - position[:-1] > MERGE_TOLERANCE)
    at = samples(intervals.piece[interval[fresh]], position[fresh])
    at[fresh.cumsum(0) - 1, unit] = 0.0
    return intervals.cut(interval[fresh], position[fresh], at)


def _cut_at_bends(
    intervals: SampledIntervals, check: Tensor, at_check: Tensor, error: Tensor, samples: Samples
) -> SampledIntervals:
    """Cut where the lines from both ends meet, which is at the bend if there is one; else at the point of the check."""
    rows = torch.arange(len(intervals), device=check.device)
    unit = error.argmax(1)
    step = (intervals.right - intervals.left) / 128
    near_left, near_right = intervals.left + step, intervals.right - step
    first, last = intervals.at_left[rows, unit], intervals.at_right[rows, unit]
    rise = (samples(intervals.piece, near_left)[rows, unit] - first) / step
    fall = (last - samples(intervals.piece, near_right)[rows, unit]) / step
    meet = (last - first + fall * intervals.left - fall * intervals.right) / (rise - fall) + intervals.left
    meets = (meet > near_left) & (meet < near_right)
    position = torch.where(meets, meet, check)
    at = at_check.clone()
    at[meets] = samples(intervals.piece[meets], position[meets])
    return intervals.cut(rows, position, at)


def _traversal(
    settled: list[tuple[Tensor, Tensor, Tensor]], pieces: Pieces, unresolved: Tensor, complete: Tensor
) -> PieceWalks:
    """Return the events between neighbouring settled intervals."""
    piece, left, codes = (torch.cat(part) for part in zip(*settled, strict=True))
    order = torch.argsort(left)
    order = order[torch.argsort(piece[order], stable=True)]
    piece, left, codes = piece[order], left[order], codes[order]
    within = piece[1:] == piece[:-1]
    at, unit = ((codes[1:] != codes[:-1]) & within[:, None]).nonzero(as_tuple=True)
    starts = torch.cat([~within.new_zeros(1), ~within])
    return PieceWalks(
        row=piece[at + 1],
        position=left[at + 1],
        unit=unit,
        first_codes=codes[starts],
        exact=complete & ~unresolved,
        complete=complete,
        resolution=torch.where(unresolved, MIN_INTERVAL, MERGE_TOLERANCE).double(),
        engine=torch.full_like(pieces.segment, REFINEMENT),
    )

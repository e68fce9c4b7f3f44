"""Walks of smooth networks: pre-activations are interpolated by polynomials, and switches found on these.

A piece is cut into intervals. On each of them the pre-activations of all units that count are interpolated at Chebyshev points; one
forward pass takes the points of all intervals of all pieces. An interval whose interpolation errs by more than a tolerance is halved.
If halving does not make the interpolation converge, as at the kinks of a ReLU after a layer norm, the interval is left to refinement.
The sign changes of the polynomials are found without the network, and a unit is settled only when a bound excludes a further switch.

The interpolation assumes that the network is smooth between its points: it misses a bump that is so narrow that no point lies on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning._tensors import longest_run
from fold_lightning.activations.rounding import ROUNDED
from fold_lightning.walks.breakpoints import order_by
from fold_lightning.walks.pieces import Intervals, Pieces, PieceWalks
from fold_lightning.walks.polynomials import between_nodes, chebyshev_basis, interpolation, nodes, sign_changes
from fold_lightning.walks.refinement import MIN_LAYER_SIZE, ON_TOLERANCE, SAME_POSITION, Samples
from fold_lightning.walks.rows import Events
from fold_lightning.walks.walks import CHEBYSHEV

FIRST_INTERVALS = 4
"""Number of equal intervals into which a piece is cut first."""

CHECKED = (4, 19)
"""An interpolation is checked between each of these nodes and the next. The two are not symmetric, since an odd or even
function could pass a symmetric check by accident."""

PROBED = (0, 2)
"""Indices of the intervals of a piece that are interpolated first: if halving helps neither of them, all are left to
refinement."""

TOLERANCE = 1e-12
"""Largest error of an interpolation that has converged, as a share of its layer's size in the interval."""

ERROR_FACTOR = 4.0
"""Bound on an interpolation's error, in multiples of the larger of the error at the checks and its last two coefficients."""

SIZED = 5
"""Number of equidistant points of a piece that show how large its layers become: the minimum size of a layer is
`MIN_LAYER_SIZE` times that."""

MIN_CHEBYSHEV_INTERVAL = 2.0**-24
"""Minimum length, in t, of an interval that is halved, and minimum distance at which two roots are distinguished."""

UNDECIDED = 1e-4
"""Length in t: a part in which a unit stays within the error of its threshold is left to refinement if it is longer than this. A unit
that only touches its threshold stays there for 1e-6 to 1e-5. Refinement judges each point by the layer's size at that point, so that
it tells a unit from 0 where the layer is large only elsewhere."""

POSITION_TOLERANCE = 1e-10
"""Error in t of the position of a switch whose unit changes, along the whole segment, by as much as its layer's largest value."""

MAX_INTERVALS = 2**13
"""Maximum number of intervals of a piece at a time; beyond it none is halved. Values that do not get smoother, such as those
with many jumps, would otherwise double the intervals down to `MIN_CHEBYSHEV_INTERVAL`. 200 random networks took up to 16, a
sine with 955 roots 192."""

SLOW = 0.15
"""Halving does not help if the last 8 coefficients are larger than this share of the 8 whose degrees are 10 lower: the share is
0.4 at a kink, 0.2 at a jump of the curvature, and less than 0.15 for a smooth function whose error is below `ROUGH`."""

DECAY = 10.0
"""The same limit in multiples of the cube root of the error, for small errors: the share of a geometric series is a few cube
roots."""

ROUGH = 3e-3
"""Error, as a share of the layer's largest value, above which the coefficients do not show yet whether halving helps."""


@dataclass(frozen=True)
class SettledSwitches(Events):
    """Switches in I intervals, which are the rows of the events, and the units' bits just inside both ends of each.

    Attributes:
        piece: int64 (I,).
        left: float64 (I,), in t.
        right: float64 (I,).
        begins: bool (I, N).
        ends: bool (I, N).
        undecided: float64 (I,), length in t of the longest part in which a unit stays within the error of its threshold.
    """

    piece: Tensor
    left: Tensor
    right: Tensor
    begins: Tensor
    ends: Tensor
    undecided: Tensor

    @property
    def intervals(self) -> Intervals:
        """The intervals."""
        return Intervals(self.piece, self.left, self.right)


def walk_chebyshev(pieces: Pieces, samples: Samples, max_rows: int) -> tuple[Pieces, PieceWalks, Pieces]:
    """Walk pieces by forward passes over about `max_rows` points at a time.

    Args:
        pieces: The pieces.
        samples: Pre-activations of the layers that count.
        max_rows: Maximum number of points evaluated together; an interval takes 33.

    Returns:
        The parts of pieces that were walked, their walks, and the parts where the interpolation does not converge.
    """
    interpolations = _Interpolations(pieces, samples, max_rows)
    first = _first_intervals(pieces)
    is_probe = torch.tensor([index in PROBED for index in range(FIRST_INTERVALS)], device=first.left.device).repeat(len(pieces))
    todo, rest = interpolations.advance(first[is_probe]), first[~is_probe]
    is_bent = (interpolations.num_hopeless() == len(PROBED))[rest.piece]
    interpolations.hopeless.append(rest[is_bent])
    todo = Intervals.concatenate([todo, rest[~is_bent]])
    while len(todo):
        todo = interpolations.advance(todo)
    settled, hopeless = SettledSwitches.concatenate(interpolations.settled), Intervals.concatenate(interpolations.hopeless)
    return *_walks(pieces, settled), _runs(pieces, hopeless)[0]


class _Interpolations:
    """Interpolations on intervals of pieces.

    Attributes:
        settled: Switches in the intervals where interpolations have converged.
        hopeless: Intervals where halving does not make them converge.
    """

    def __init__(self, pieces: Pieces, samples: Samples, max_rows: int) -> None:
        self._samples, self._max_rows = samples, max_rows
        self._sizes = _sizes(pieces, samples, max_rows)
        self.settled: list[SettledSwitches] = []
        self.hopeless: list[Intervals] = []

    def num_hopeless(self) -> Tensor:
        """Return the number of hopeless intervals of each piece, int64 (P,)."""
        return torch.bincount(Intervals.concatenate(self.hopeless).piece, minlength=len(self._sizes))

    def advance(self, intervals: Intervals) -> Intervals:
        """Settle intervals or add them to the hopeless ones, and return the halves of the others."""
        halves = []
        for some in _split(intervals, max(1, self._max_rows // (len(nodes()) + len(CHECKED)))):
            coefficients, error, size = _interpolate(some, self._samples, self._max_rows)
            size = torch.maximum(size, MIN_LAYER_SIZE * self._sizes[some.piece])[:, self._samples.layer]
            relative = (error / size).nan_to_num(torch.inf, torch.inf)
            converged = relative.amax(1) <= TOLERANCE
            again = ~converged & _gains_by_halving(coefficients, relative)
            found = _switches(some[converged], coefficients[converged], error[converged], size[converged])
            is_decided = found.undecided <= UNDECIDED
            self.settled.append(found.of(is_decided))
            again[converged] = ~is_decided & (found.undecided < found.intervals.length / 2)
            converged[converged.clone()] = is_decided
            again &= some.length > MIN_CHEBYSHEV_INTERVAL
            again &= (torch.bincount(intervals.piece, minlength=len(self._sizes)) <= MAX_INTERVALS)[some.piece]
            self.hopeless.append(some[~converged & ~again])
            halves.append(_halved(some[again]))
        return Intervals.concatenate(halves)


def _first_intervals(pieces: Pieces) -> Intervals:
    parts = Pieces(torch.arange(len(pieces), device=pieces.begin.device), pieces.begin, pieces.end).cut(FIRST_INTERVALS)
    return Intervals(*parts.columns)


def _halved(intervals: Intervals) -> Intervals:
    """Return both halves of each interval."""
    middle = (intervals.left + intervals.right) / 2
    left, right = torch.cat([intervals.left, middle]), torch.cat([middle, intervals.right])
    return Intervals(intervals.piece.repeat(2), left, right)


def _split(intervals: Intervals, most: int) -> Iterator[Intervals]:
    for first in range(0, len(intervals), most):
        yield intervals[first : first + most]


def _sizes(pieces: Pieces, samples: Samples, max_rows: int) -> Tensor:
    """Return the largest pre-activation of each layer at a few points of each piece, float64 (P, L)."""
    fraction = torch.linspace(0, 1, SIZED, dtype=torch.float64, device=pieces.begin.device)
    position = torch.lerp(pieces.begin[:, None], pieces.end[:, None], fraction).flatten()
    piece = torch.arange(len(pieces), device=position.device).repeat_interleave(SIZED)
    for some, places in zip(piece.split(max_rows), position.split(max_rows), strict=True):
        samples(some, places, as_computed=True)
    return samples.sizes()


def _interpolate(intervals: Intervals, samples: Samples, max_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Chebyshev coefficients of all units, their estimated errors, and the sizes of layers.

    Returns:
        float64 (I, DEGREE + 1, M), (I, M) and (I, L), the largest pre-activation of each layer in each interval.
    """
    at = torch.cat([nodes(), *map(between_nodes, CHECKED)]).to(intervals.left.device)
    position = torch.lerp(intervals.left[:, None], intervals.right[:, None], (at + 1) / 2).flatten()
    piece = intervals.piece.repeat_interleave(len(at))
    rows = zip(piece.split(max_rows), position.split(max_rows), strict=True)
    values = torch.cat([samples(*some, as_computed=True) for some in rows]).view(len(intervals), len(at), -1)
    known, checks = values[:, : len(nodes())], values[:, len(nodes()) :]
    coefficients = interpolation().to(at.device) @ known
    error = (chebyshev_basis(at[len(nodes()) :]) @ coefficients - checks).abs_().amax(1)
    largest = torch.maximum(known.amax(1), -known.amin(1))
    sizes = largest.new_zeros(len(largest), samples.num_layers)
    sizes.scatter_reduce_(1, samples.layer.expand_as(largest), largest, "amax")
    return coefficients, torch.maximum(error, coefficients[:, -2:].abs().amax(1)), sizes


def _gains_by_halving(coefficients: Tensor, error: Tensor) -> Tensor:
    """Return whether the coefficients (I, DEGREE + 1, M) of the units with the largest errors (I, M) decay fast, bool (I,)."""
    worst, unit = error.max(1)
    decay = coefficients[torch.arange(len(unit), device=unit.device), :, unit].abs()
    fast = (DECAY * worst ** (1 / 3)).clamp(max=SLOW)
    return (decay[:, -8:].amax(1) <= fast * decay[:, -18:-10].amax(1)) | (worst > ROUGH)


def _switches(intervals: Intervals, coefficients: Tensor, error: Tensor, size: Tensor) -> SettledSwitches:
    """Return the switches in intervals whose interpolation has converged."""
    largest = coefficients.abs()
    middle, spread = largest[:, 0].clone(), largest[:, 1:].sum(1)
    at_threshold = middle + spread <= ON_TOLERANCE * size
    is_faint = at_threshold & (middle + spread > ROUNDED * size)
    margin = ON_TOLERANCE * size + ERROR_FACTOR * error
    interval, unit = ((middle - spread <= margin) & ~at_threshold).nonzero(as_tuple=True)
    length = intervals.length
    found = sign_changes(coefficients[interval, :, unit], margin[interval, unit], 2 * MIN_CHEBYSHEV_INTERVAL / length[interval])
    begins = (coefficients[:, 0] > 0) & ~at_threshold
    ends = begins.clone()
    begins[interval, unit], ends[interval, unit] = found.begins, found.ends
    undecided = (2 * is_faint.any(1).to(length)).scatter_reduce(0, interval, found.undecided, "amax") * length / 2
    interval, unit = interval[found.polynomial], unit[found.polynomial]
    position = torch.lerp(intervals.left[interval], intervals.right[interval], (found.position + 1) / 2)
    at = intervals.piece, intervals.left, intervals.right
    return SettledSwitches(interval, position, unit, *at, begins, ends, undecided)


def _walks(pieces: Pieces, settled: SettledSwitches) -> tuple[Pieces, PieceWalks]:
    """Return runs of settled intervals and their walks.

    A unit switches at an interval's end if its bits on both sides differ.
    """
    runs, run = _runs(pieces, settled.intervals)
    order = order_by(run, settled.left)
    goes_on = run[order[1:]] == run[order[:-1]]
    before, after = order[:-1][goes_on], order[1:][goes_on]
    joint, unit = (settled.ends[before] != settled.begins[after]).nonzero(as_tuple=True)
    found = PieceWalks(
        row=torch.cat([run[settled.row], run[after[joint]]]),
        position=torch.cat([settled.position, settled.left[after[joint]]]),
        unit=torch.cat([settled.unit, unit]),
        first_codes=settled.begins[order[torch.cat([goes_on.new_ones(min(1, len(order))), ~goes_on])]],
        exact=torch.zeros_like(runs.segment, dtype=torch.bool),
        complete=torch.ones_like(runs.segment, dtype=torch.bool),
        resolution=longest_run(settled.undecided[order], run[order], len(runs), POSITION_TOLERANCE),
        engine=torch.full_like(runs.segment, CHEBYSHEV),
    )
    return runs, found.merged(SAME_POSITION)


def _runs(pieces: Pieces, intervals: Intervals) -> tuple[Pieces, Tensor]:
    """Return the parts of pieces that intervals cover without a gap, and the part of each interval, int64 (I,)."""
    order = order_by(intervals.piece, intervals.left)
    piece, left, right = intervals[order].columns
    starts = torch.ones_like(piece, dtype=torch.bool)
    starts[1:] = (piece[1:] != piece[:-1]) | (left[1:] != right[:-1])
    run = torch.empty_like(piece)
    run[order] = starts.cumsum(0) - 1
    return Pieces(pieces.segment[piece[starts]], left[starts], right[starts.roll(-1)]), run

"""Walks of smooth networks: pre-activations are interpolated by polynomials, and switches found on these.

A piece is cut into intervals. On each, the pre-activations of all units that count are interpolated at Chebyshev points, all
intervals of all pieces in one pass; an interval whose interpolation is not exact up to a tolerance is halved. Where halving does
not make it converge, as at the kinks of a ReLU behind a layer norm, the interval is left to refinement. The polynomials' sign
changes are found without the network, and no unit is settled before a bound excludes that it switches once more.

Between its points an interpolation trusts a network to be smooth: a bump so narrow that none of them meets it is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.activations.rounding import ROUNDED
from fold_lightning.walks.breakpoints import order_by
from fold_lightning.walks.pieces import Intervals, Pieces, PieceWalks
from fold_lightning.walks.polynomials import between_nodes, chebyshev_basis, interpolation, nodes, sign_changes
from fold_lightning.walks.refinement import AT_ONCE, FAR, ON_TOLERANCE, Samples, longest_run
from fold_lightning.walks.rows import Events
from fold_lightning.walks.walks import CHEBYSHEV

FIRST_INTERVALS = 4
"""Equal intervals of a piece to begin with."""

CHECKED = (4, 19)
"""Numbers of the nodes behind which an interpolation is checked: not symmetric, as odd and even functions are."""

PROBED = (0, 2)
"""Intervals of a piece, by number, that are interpolated first: where halving is of no use to either, all are left to refinement."""

TOLERANCE = 1e-12
"""Error of an interpolation, of its layer's size in the interval, up to which it has converged."""

SAFETY = 4.0
"""How many times the error seen at the checks, or the size of its last coefficients, an interpolation is trusted to stay within."""

SIZED = 5
"""Equidistant points of a piece that tell how large its layers are: a `FAR`th of that is a layer's size where all of it is small."""

SHORTEST = 2.0**-24
"""In t: intervals are not halved further, and roots not told apart further."""

UNDECIDED = 1e-4
"""In t: a part in which a unit stays at its threshold up to the error is left to refinement if it is longer than where one touches
its threshold, 1e-6 to 1e-5. Refinement judges each point by itself: a unit is told from 0 where its layer is large only far away."""

POSITION_TOLERANCE = 1e-10
"""In t, how closely a switch is located where its unit changes by its layer's largest in the whole segment."""

MAX_INTERVALS = 2**13
"""Intervals of a piece at a time beyond which none is halved: values that do not get smoother, such as those of many jumps, would
double them down to `SHORTEST`. 200 random networks took up to 16, a sine of 955 roots 192."""

SLOW = 0.15
"""Ratio of the last 8 coefficients to those 10 before them above which halving is no use: a kink makes it 0.4, a jump of the
curvature 0.2, a smooth function whose error is below `ROUGH` less than 0.15."""

DECAY = 10.0
"""Ratio of the same above which halving is no use, in cube roots of the error: of a geometric series it is at most a few of them."""

ROUGH = 3e-3
"""Error, of the layer's largest, above which an interpolation does not show yet how it converges."""


@dataclass(frozen=True)
class Settled(Events):
    """Switches in I intervals, the rows of events, and the counted units' bits just inside both ends of each interval.

    Attributes:
        piece: int64 (I,).
        left: float64 (I,), in t.
        right: float64 (I,).
        begins: bool (I, N).
        ends: bool (I, N).
        undecided: float64 (I,), in t, length of the longest part in which a unit stays at its threshold up to the error.
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
        max_rows: Points looked at together; an interval takes 33.

    Returns:
        The parts of pieces that were walked, their walks, and the parts on which the interpolation does not converge.
    """
    interpolations = _Interpolations(pieces, samples, max_rows)
    first = _first_intervals(pieces)
    is_probe = torch.tensor([number in PROBED for number in range(FIRST_INTERVALS)], device=first.left.device).repeat(
        len(pieces)
    )
    todo, rest = interpolations.advance(first[is_probe]), first[~is_probe]
    is_bent = (interpolations.num_hopeless() == len(PROBED))[rest.piece]
    interpolations.hopeless.append(rest[is_bent])
    todo = Intervals.concatenate([todo, rest[~is_bent]])
    while len(todo):
        todo = interpolations.advance(todo)
    settled, hopeless = Settled.concatenate(interpolations.settled), Intervals.concatenate(interpolations.hopeless)
    return *_walks(pieces, settled), _runs(pieces, hopeless)[0]


class _Interpolations:
    """Interpolations on intervals of pieces.

    Attributes:
        settled: Switches where they have converged.
        hopeless: Intervals on which they don't.
    """

    def __init__(self, pieces: Pieces, samples: Samples, max_rows: int) -> None:
        self._samples, self._max_rows = samples, max_rows
        self._sizes = _sizes(pieces, samples, max_rows)
        self.settled: list[Settled] = []
        self.hopeless: list[Intervals] = []

    def num_hopeless(self) -> Tensor:
        """Return the number of hopeless intervals of each piece, int64 (P,)."""
        return torch.bincount(Intervals.concatenate(self.hopeless).piece, minlength=len(self._sizes))

    def advance(self, intervals: Intervals) -> Intervals:
        """Settle intervals, or leave them to refinement, and return the halves of the others."""
        halves = []
        for some in _split(intervals, max(1, self._max_rows // (len(nodes()) + len(CHECKED)))):
            coefficients, error, size = _interpolate(some, self._samples, self._max_rows)
            size = torch.maximum(size, FAR * self._sizes[some.piece])[:, self._samples.layer]
            relative = (error / size).nan_to_num(torch.inf, torch.inf)
            converged = relative.amax(1) <= TOLERANCE
            again = ~converged & _gains_by_halving(coefficients, relative)
            found = _switches(some[converged], coefficients[converged], error[converged], size[converged])
            is_decided = found.undecided <= UNDECIDED
            self.settled.append(found.of(is_decided))
            again[converged] = ~is_decided & (found.undecided < found.intervals.length / 2)
            converged[converged.clone()] = is_decided
            again &= some.length > SHORTEST
            again &= (torch.bincount(intervals.piece, minlength=len(self._sizes)) <= MAX_INTERVALS)[some.piece]
            self.hopeless.append(some[~converged & ~again])
            halves.append(_halved(some[again]))
        return Intervals.concatenate(halves)


def _first_intervals(pieces: Pieces) -> Intervals:
    parts = Pieces(torch.arange(len(pieces), device=pieces.begin.device), pieces.begin, pieces.end).cut(FIRST_INTERVALS)
    return Intervals(*parts.columns)


def _halved(intervals: Intervals) -> Intervals:
    """Return both halves of each."""
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
    """Return Chebyshev coefficients of all units, the errors that checks and coefficients show, and the sizes of layers.

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


def _switches(intervals: Intervals, coefficients: Tensor, error: Tensor, size: Tensor) -> Settled:
    """Return the switches in intervals whose interpolation has converged."""
    largest = coefficients.abs()
    middle, spread = largest[:, 0].clone(), largest[:, 1:].sum(1)
    at_threshold = middle + spread <= ON_TOLERANCE * size
    is_faint = at_threshold & (middle + spread > ROUNDED * size)
    margin = ON_TOLERANCE * size + SAFETY * error
    interval, unit = ((middle - spread <= margin) & ~at_threshold).nonzero(as_tuple=True)
    length = intervals.length
    found = sign_changes(coefficients[interval, :, unit], margin[interval, unit], 2 * SHORTEST / length[interval])
    begins = (coefficients[:, 0] > 0) & ~at_threshold
    ends = begins.clone()
    begins[interval, unit], ends[interval, unit] = found.begins, found.ends
    undecided = (2 * is_faint.any(1).to(length)).scatter_reduce(0, interval, found.undecided, "amax") * length / 2
    interval, unit = interval[found.polynomial], unit[found.polynomial]
    position = torch.lerp(intervals.left[interval], intervals.right[interval], (found.position + 1) / 2)
    at = intervals.piece, intervals.left, intervals.right
    return Settled(interval, position, unit, *at, begins, ends, undecided)


def _walks(pieces: Pieces, settled: Settled) -> tuple[Pieces, PieceWalks]:
    """Return runs of settled intervals, and their walks: with events between intervals where bits differ that should agree."""
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
    return runs, found.merged(AT_ONCE)


def _runs(pieces: Pieces, intervals: Intervals) -> tuple[Pieces, Tensor]:
    """Return the parts of pieces that intervals cover without a gap, and the number of the part of each interval (I,)."""
    order = order_by(intervals.piece, intervals.left)
    piece, left, right = intervals[order].columns
    starts = torch.ones_like(piece, dtype=torch.bool)
    starts[1:] = (piece[1:] != piece[:-1]) | (left[1:] != right[:-1])
    run = torch.empty_like(piece)
    run[order] = starts.cumsum(0) - 1
    return Pieces(pieces.segment[piece[starts]], left[starts], right[starts.roll(-1)]), run

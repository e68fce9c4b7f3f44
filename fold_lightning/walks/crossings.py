"""Crossings of thresholds between rows of a grid, and pre-activations that are on a threshold, up to rounding, at a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.activations.rounding import CERTAIN, ROUNDED, Noise, Rounding, compare
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, Breakpoints
from fold_lightning.walks.sparse import any_set, set_bits

INSIDE = 0.381966
"""Relative position in an interval at which terms are evaluated."""

ALONG_APART = 1e-10
"""Distance in t above which crossings are certainly different: far above `MERGE_TOLERANCE`, and above the rounding of
`interval + position` with 1e5 intervals."""

SAMPLED_ROWS = 8
"""Step between the breakpoints from which the size of a layer on a piece is read: reading all would take a tenth of a pass."""


class Judge(Protocol):
    """Protocol that decides which pre-activations near a threshold are on it, up to rounding."""

    def screen(self, z: Tensor) -> Tensor:
        """Return the distance from a threshold (R, 1) or (R, n) within which z (R, n) has to be judged."""

    def near_row(self, z: Tensor, threshold: float, row: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return which z[row, unit] (E,) are on the threshold, and which can't be decided."""

    def spread(self, interval: Tensor, unit: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far, in t, rounding moves crossings of units (E,) in intervals, and which can't be decided."""


class ExactJudge:
    """Judge of bends that give no bit: values are taken as computed, and positions close together as one."""

    def screen(self, z: Tensor) -> Tensor:
        """Return 0."""
        return z.new_zeros(1, 1)

    def near_row(self, z: Tensor, threshold: float, row: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return all as on the threshold, none as undecided."""
        on = torch.ones_like(row, dtype=torch.bool)
        return on, ~on

    def spread(self, interval: Tensor, unit: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return half the merging distance for all, and none as undecided."""
        return torch.full_like(slope, MERGE_TOLERANCE / 2), torch.zeros_like(slope, dtype=torch.bool)


class LayerJudge:
    """Judge of a layer's pre-activations by their own terms, in the intervals on both sides of a row.

    The side with the smaller terms decides: a unit whose terms are 1 before a row and 1e12 after it is computed with an
    error of 1e-16 before the row, and therefore at it.

    Args:
        rounding: Rounding of the model.
        layer: The layer.
        grid: The rows.
        reach: Size of the inputs of each piece (P, 1).
        points: Noise, piece (K,) and position (K,) -> inputs (K, ...) with errors.
    """

    def __init__(
        self,
        rounding: Rounding,
        layer: str,
        grid: Breakpoints,
        reach: Tensor,
        points: Callable[[Noise, Tensor, Tensor], Tensor],
    ) -> None:
        self._rounding, self._layer = rounding, layer
        self._grid, self._reach, self._points = grid, reach, points
        self._size = reach

    def screen(self, z: Tensor) -> Tensor:
        """Return the distance from a threshold (R, 1) or (R, n) within which z (R, n) has to be judged."""
        pieces, piece = self._grid.num_pieces, self._grid.piece
        between = torch.arange(2 * pieces, len(z), SAMPLED_ROWS, device=z.device)
        rows = torch.cat([torch.arange(2 * pieces, device=z.device), between])
        size = self._rounding.size(self._layer, z[rows])
        self._size = self._reach.scatter_reduce(0, piece[rows, None], size, "amax")
        return self._rounding.screen(self._layer, self._size[piece])

    def near_row(self, z: Tensor, threshold: float, row: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return which z[row, unit] (E,) are on the threshold, and which can't be decided."""
        distance = z[row, unit] - threshold
        on, doubtful = distance == 0, torch.zeros_like(row, dtype=torch.bool)
        absorbs = self._rounding.may_absorb(self._size)
        some = (~on).nonzero().squeeze(1)
        some = some[self._is_near(z, row[some], unit[some], distance[some])] if len(some) else some
        some = torch.cat([some, on.nonzero().squeeze(1)]) if absorbs else some
        if len(some):
            terms = self._terms(row[some], unit[some]) + abs(threshold)
            on[some], doubtful[some] = compare(distance[some], terms)
            if absorbs:
                doubtful[some] |= on[some] & (terms > self._rounding.absorbing)
        return on | doubtful, doubtful

    def spread(self, interval: Tensor, unit: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far, in t, rounding moves crossings of units (E,) in intervals, and which can't be decided."""
        terms = self._rounding.terms(self._layer, self._inside, interval, unit)
        return ROUNDED * terms / slope, terms > self._rounding.absorbing

    def _is_near(self, z: Tensor, row: Tensor, unit: Tensor, distance: Tensor) -> Tensor:
        """Return which distances are within the screen of their own row and its neighbours."""
        order = self._grid.order
        size = torch.maximum(self._rounding.size(self._layer, z), self._reach[self._grid.piece])[order]
        around = size.clone()
        around[1:] = torch.maximum(around[1:], size[:-1])
        around[:-1] = torch.maximum(around[:-1], size[1:])
        screen = self._rounding.screen(self._layer, around)[self._grid.places()[row]]
        return distance.abs() <= (screen.squeeze(1) if screen.shape[1] == 1 else screen.gather(1, unit[:, None]).squeeze(1))

    def _terms(self, row: Tensor, unit: Tensor) -> Tensor:
        """Return the terms of units (E,) at rows (E,)."""
        place = self._grid.places()[row]
        interval, units = torch.cat([place - 1, place]), unit.repeat(2)
        joined = F.pad(self._grid.joined, (1, 1))[interval + 1]
        terms = torch.full_like(interval, torch.inf, dtype=torch.float64)
        terms[joined] = self._rounding.terms(self._layer, self._inside, interval[joined], units[joined])
        return torch.minimum(*terms.chunk(2))

    def _inside(self, noise: Noise, interval: Tensor) -> Tensor:
        left, right = self._grid.order[interval], self._grid.order[interval + 1]
        position = torch.lerp(self._grid.position[left], self._grid.position[right], INSIDE)
        return self._points(noise, self._grid.piece[left], position)


class Crossings:
    """Crossings of one threshold by pre-activations that are affine between the rows of a grid.

    A pre-activation is above, below or exactly on the threshold at each row. Between a row where it is above and a neighbouring one
    where it is below it crosses. A crossing within the merging distance of a row moves to the row if the unit, up to rounding, is on
    the threshold there.

    Args:
        grid: The rows.
        z: Pre-activations (R, n); those found to be on the threshold are set to it exactly.
        threshold: The threshold.
        screen: Distance from it within which a pre-activation is judged, (R, 1) or (R, n).
        judge: Decides which of these are on the threshold.

    Attributes:
        interval: int64 (K,) the intervals in which units cross, as indices of their left ends in the grid's order.
        position: float64 (K,) the crossings in t.
        unit: int64 (K,) the units that cross.
        doubtful_pieces: int64, pieces with a pre-activation whose side of the threshold can't be decided.
    """

    def __init__(self, grid: Breakpoints, z: Tensor, threshold: float, screen: Tensor, judge: Judge) -> None:
        self._grid, self._judge = grid, judge
        self.doubtful_pieces = grid.piece[:0]
        above, not_below = z > threshold + screen, z >= threshold - screen
        on = not_below ^ above
        is_any_on = any_set(on)
        if is_any_on:
            self._judge_rows(above, on, z, threshold)
        self._above = above[grid.order]
        self._on = on[grid.order] if is_any_on else None
        self._find(z, threshold)
        if self._on is not None:
            self._settle(self._on, z, threshold)

    def _judge_rows(self, above: Tensor, on: Tensor, z: Tensor, threshold: float) -> None:
        row, unit = set_bits(on)
        is_on, doubtful = self._judge.near_row(z, threshold, row, unit)
        self._doubt(row[doubtful])
        row, unit = row[~is_on], unit[~is_on]
        on[row, unit], above[row, unit] = False, z[row, unit] > threshold

    def _find(self, z: Tensor, threshold: float) -> None:
        grid = self._grid
        interval, unit = set_bits(self._above[:-1] ^ self._above[1:])
        keep = grid.joined[interval]
        if self._on is not None:
            keep &= ~(self._on[interval, unit] | self._on[interval + 1, unit])
        interval, unit = interval[keep], unit[keep]
        left, right = grid.order[interval], grid.order[interval + 1]
        before, after = z[left, unit] - threshold, z[right, unit] - threshold
        begin, end = grid.position[left], grid.position[right]
        self.interval, self.unit = interval, unit
        self.position = begin + (end - begin) * (before / (before - after))
        at_left, at_right = self.position - begin <= MERGE_TOLERANCE, end - self.position <= MERGE_TOLERANCE
        near = at_left | at_right
        if bool(near.any()):
            self._snap(z, threshold, torch.where(at_left, interval, interval + 1), near)
        if len(self.position) > 1:
            self._unite(z)

    def _snap(self, z: Tensor, threshold: float, place: Tensor, near: Tensor) -> None:
        """Put units that cross near a row on the threshold there, if rounding allows it or no row fits in between."""
        row = self._grid.order[place]
        near = near.nonzero().squeeze(1)
        on, doubtful = self._judge.near_row(z, threshold, row[near], self.unit[near])
        forced = ~on & (self.position[near] == self._grid.position[row[near]])
        self._doubt(row[near[doubtful | forced]])
        self._put_on(place[near[on | forced]], self.unit[near[on | forced]])

    def _doubt(self, row: Tensor) -> None:
        self.doubtful_pieces = torch.cat([self.doubtful_pieces, self._grid.piece[row]])

    def _put_on(self, place: Tensor, unit: Tensor) -> None:
        if self._on is None:
            self._on = torch.zeros_like(self._above)
        self._on[place, unit] = True
        self._above[place, unit] = False
        on = self._on[self.interval, self.unit] | self._on[self.interval + 1, self.unit]
        self.interval, self.unit, self.position = self.interval[~on], self.unit[~on], self.position[~on]

    def _unite(self, z: Tensor) -> None:
        """Give one position to crossings of an interval that rounding cannot separate."""
        along = (self.interval + self.position).sort().values  # keeps about 11 digits
        if bool((along[1:] - along[:-1] > ALONG_APART).all()):
            return
        by_position = torch.argsort(self.position)
        by_place = by_position[torch.argsort(self.interval[by_position], stable=True)]
        interval, position = self.interval[by_place], self.position[by_place]
        gap = (position[1:] - position[:-1]).where(interval[1:] == interval[:-1], torch.inf)
        close = gap <= MERGE_TOLERANCE
        if not bool(close.any()):
            return
        spread = torch.zeros_like(position)
        some = (F.pad(close, (1, 0)) | F.pad(close, (0, 1))).nonzero().squeeze(1)
        left, right = self._grid.order[interval[some]], self._grid.order[interval[some] + 1]
        unit = self.unit[by_place[some]]
        length = self._grid.position[right] - self._grid.position[left]
        spread[some], lost = self._judge.spread(interval[some], unit, (z[right, unit] - z[left, unit]).abs() / length)
        reach = spread[1:] + spread[:-1]
        self._doubt(self._grid.order[interval[some[lost]]])
        self._doubt(self._grid.order[interval[1:][(gap > reach) & (gap * ROUNDED < CERTAIN * reach)]])
        first = F.pad(gap > reach, (1, 0), value=True)
        self.position[by_place] = position[first][first.cumsum(0) - 1]

    def _settle(self, on: Tensor, z: Tensor, threshold: float) -> None:
        """Set pre-activations that are on the threshold, up to rounding, to it exactly, for the layers after this one."""
        place, unit = set_bits(on)
        z[self._grid.order[place], unit] = threshold

    def touched(self) -> tuple[Tensor, Tensor]:
        """Return rows and units (K,) of switches at existing rows: on the threshold there, and above it on one side only."""
        if self._on is None or len(self._on) < 3:
            nothing = self.unit[:0]
            return nothing, nothing
        interior = (self._grid.joined[:-1] & self._grid.joined[1:])[:, None]
        switches = self._on[1:-1] & (self._above[:-2] ^ self._above[2:]) & interior
        place, unit = set_bits(switches)
        return self._grid.order[place + 1], unit

    def first_bits(self) -> Tensor:
        """Return the bits just after each piece's start, bool (P, n)."""
        start = torch.cat([self._grid.joined.new_ones(1), ~self._grid.joined]).nonzero().squeeze(1)
        if self._on is None:
            return self._above[start]
        return self._above[start] | (self._on[start] & self._above[start + 1])

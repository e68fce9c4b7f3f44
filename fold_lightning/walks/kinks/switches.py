"""Switches of counted units in a pass with kinks, and doubts about those that are close together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fold_lightning.activations.rounding import CERTAIN, ROUNDED, Noise, Rounding
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, order_by
from fold_lightning.walks.kinks.bends import Sides
from fold_lightning.walks.kinks.boxes import FeatureMapShape
from fold_lightning.walks.kinks.events import EventList
from fold_lightning.walks.kinks.scan import Scan


class Switches:
    """Switches and first codes, layer by layer.

    Args:
        events: Events of the pass, whose pieces are marked as doubtful.
        rounding: Rounding of the model.
        points: Noise, piece (K,) and position (K,) -> inputs (K, ...) with errors.
    """

    def __init__(self, events: EventList, rounding: Rounding, points: Callable[[Noise, Tensor, Tensor], Tensor]) -> None:
        self._events, self._rounding, self._points = events, rounding, points
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._first: list[Tensor] = []

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return piece, position and unit of each switch (E,), in no particular order."""
        piece, position, unit = (torch.cat(part) for part in zip(*self._found, strict=True))
        return piece, position, unit

    def first_codes(self) -> Tensor:
        """Return the first code of each piece, bool (P, N)."""
        return torch.cat(self._first, dim=1)

    def add(self, piece: Tensor, position: Tensor, unit: Tensor) -> None:
        """Add switches (K,)."""
        self._found.append((piece, position, unit))

    def add_at_rows(self, scan: Scan, side: Sides, plane: FeatureMapShape, column: int) -> None:
        """Add a layer's first codes, and its switches at events of layers before.

        Args:
            scan: Scan of the layer.
            side: Sides of a threshold.
            plane: Shape of the layer.
            column: Column of its first unit.
        """
        bits = scan.by_position(side.left[: len(scan.last)]).view(-1, plane.area, plane.channels)
        self._first.append(bits.transpose(1, 2).reshape(len(bits), -1))
        if side.is_on:
            row, channel = _odd(scan, *side.touches())
            unit = channel * plane.area + scan.position[row] % plane.area
            self.add(scan.pieces(row), scan.t[row], unit + column)

    def united(self, layer: str, piece: Tensor, t: Tensor, unit: Tensor, slope: Tensor) -> Tensor:
        """Return positions of a layer's crossings (K,), with one position for those that rounding cannot separate.

        Args:
            layer: The layer.
            piece: Their pieces.
            t: Their positions.
            unit: Units of the layer, without their thresholds.
            slope: Slopes with which the units cross.
        """
        order = order_by(piece, t)
        gap = (t[order[1:]] - t[order[:-1]]).where(piece[order[1:]] == piece[order[:-1]], torch.inf)
        close = (gap > 0) & (gap <= MERGE_TOLERANCE)
        if not bool(close.any()):
            return t
        no = close.new_zeros(1)
        some = order[torch.cat([close, no]) | torch.cat([no, close])]
        cluster = torch.cat([no, gap > MERGE_TOLERANCE]).cumsum(0)
        point = torch.empty_like(order)
        point[order] = order[torch.searchsorted(cluster, cluster)]  # one for all that are close
        terms = self._rounding.terms(layer, lambda noise, k: self._points(noise, piece[k], t[k]), point[some], unit[some])
        spread = torch.zeros_like(t)
        spread[some] = ROUNDED * terms / slope[some]
        reach = spread[order[1:]] + spread[order[:-1]]
        self._events.doubt(piece[order[1:]][close & (gap > reach) & (gap * ROUNDED < CERTAIN * reach)])
        self._events.doubt(piece[some[terms > self._rounding.absorbing]])
        is_first = torch.cat([~no, (gap > reach) | (gap > MERGE_TOLERANCE)])
        united = torch.empty_like(t)
        united[order] = t[order][is_first][is_first.cumsum(0) - 1]
        return united

    def doubt_close(self) -> None:
        """Doubt pieces with switches of several layers that are closer than `MERGE_TOLERANCE`."""
        if not self._found:
            return
        piece, position, _ = self.all()
        order = order_by(piece, position)
        piece, position = piece[order], position[order]
        gap = position[1:] - position[:-1]
        self._events.doubt(piece[1:][(piece[1:] == piece[:-1]) & (gap > 0) & (gap <= MERGE_TOLERANCE)])


def _odd(scan: Scan, row: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """Return one row for each position, channel and t at which the channel's switches (K,) do not cancel."""
    order = order_by(scan.position[row] * scan.value.shape[1] + channel, scan.t[row])
    row, channel = row[order], channel[order]
    keys = torch.stack([scan.position[row].double(), channel.double(), scan.t[row]])
    is_first = torch.ones_like(row, dtype=torch.bool)
    is_first[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    keep = torch.bincount(is_first.cumsum(0) - 1) % 2 == 1
    return row[is_first][keep], channel[is_first][keep]

"""Breakpoints of many pieces at once, kept in the order in which they were found.

A row is one point of one piece. Rows are only appended: a tensor computed earlier has values at the first rows, and gets those at
the later ones by interpolation.
"""

from __future__ import annotations

import torch
from torch import Tensor

MERGE_TOLERANCE = 1e-12
"""Distance in t up to which breakpoints of a piece count as one."""


class Breakpoints:
    """The breakpoints found so far on S pieces; at first, both ends of each piece.

    Attributes:
        piece: int64 (R,) the piece of each row.
        position: float64 (R,) its position, t in [0, 1].
        order: int64 (R,) the rows, sorted by piece and then by position.
        joined: bool (R - 1,) whether neighbours in that order belong to one piece, so that there is an interval between them.
    """

    def __init__(self, start: Tensor, end: Tensor) -> None:
        pieces = torch.arange(len(start), device=start.device)
        self.num_pieces = len(start)
        self.piece = torch.cat([pieces, pieces])
        self.position = torch.cat([start, end])
        self.order = torch.stack([pieces, pieces + len(start)], dim=1).flatten()
        self._brackets: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._index()

    def __len__(self) -> int:
        return len(self.piece)

    def insert(self, interval: Tensor, position: Tensor, closest: float = MERGE_TOLERANCE) -> Tensor:
        """Add a row for each distinct position inside given intervals.

        Args:
            interval: int64 (K,) intervals, as indices of their left ends in ``order``.
            position: float64 (K,) inside the intervals.
            closest: Distance up to which positions share a row.

        Returns:
            int64 (K,) the row of each position.
        """
        by_place = order_by(interval, position)
        interval, position = interval[by_place], position[by_place]
        fresh = torch.ones_like(interval, dtype=torch.bool)
        fresh[1:] = (interval[1:] != interval[:-1]) | (position[1:] - position[:-1] > closest)
        index = fresh.cumsum(0) - 1
        rows = torch.empty_like(index)
        rows[by_place] = index + len(self)
        self._append(interval[fresh], position[fresh])
        return rows

    def _append(self, interval: Tensor, position: Tensor) -> None:
        count = len(interval)
        new = torch.arange(len(self), len(self) + count, device=interval.device)
        places = interval + 1 + torch.arange(count, device=interval.device)
        order = torch.empty(len(self) + count, dtype=torch.int64, device=interval.device)
        old = torch.ones_like(order, dtype=torch.bool)
        old[places] = False
        order[places] = new
        order[old] = self.order
        self.piece = torch.cat([self.piece, self.piece[self.order[interval]]])
        self.position = torch.cat([self.position, position])
        self.order = order
        self._index()

    def _index(self) -> None:
        in_order = self.piece[self.order]
        self.joined = in_order[1:] == in_order[:-1]

    def places(self) -> Tensor:
        """Return the index of each row in the order, int64 (R,)."""
        places = torch.empty_like(self.order)
        places[self.order] = torch.arange(len(self), device=self.order.device)
        return places

    def lift(self, values: Tensor, rows: int | None = None) -> Tensor:
        """Interpolate values (R', ...), affine between the first R' rows, at the first `rows` rows, by default all."""
        known, rows = len(values), len(self) if rows is None else rows
        if known == rows:
            return values
        left, right, weight = (bracket[: rows - known] for bracket in self._brackets_of(known))
        lifted = values.new_empty(rows, *values.shape[1:])
        lifted[:known] = values
        new = torch.index_select(values, 0, left, out=lifted[known:])
        if values.is_floating_point() or values.is_complex():  # an index is the same in all rows
            new.lerp_(values.index_select(0, right), weight.to(values.dtype).view(-1, *[1] * (values.dim() - 1)))
        return lifted

    def _brackets_of(self, known: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return both neighbours of each later row among the first `known`, and its relative position between them."""
        key = (known, len(self))
        if key not in self._brackets:
            places = torch.arange(len(self), device=self.order.device)
            is_known = self.order < known
            left = torch.where(is_known, places, 0).cummax(0).values[~is_known]
            right = torch.where(is_known, places, len(self)).flip(0).cummin(0).values.flip(0)[~is_known]
            sides = torch.empty(2, len(left), dtype=torch.int64, device=self.order.device)
            sides[:, self.order[~is_known] - known] = self.order[torch.stack([left, right])]
            begin, end = self.position[sides]
            self._brackets[key] = sides[0], sides[1], (self.position[known:] - begin) / (end - begin)
        return self._brackets[key]

    def locate(self, piece: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows on both sides of given points, and each point's relative position between them."""
        ordered = self.order
        keys = 2.0 * self.piece[ordered] + self.position[ordered]
        place = torch.searchsorted(keys, 2.0 * piece + position, right=True).clamp(1, len(self) - 1)
        left, right = ordered[place - 1], ordered[place]
        begin, end = self.position[left], self.position[right]
        return left, right, ((position - begin) / (end - begin)).clamp(0.0, 1.0)


def order_by(*keys: Tensor) -> Tensor:
    """Return the indices that sort by the first key, then by the second, and so on.

    Example:
        >>> order_by(torch.tensor([1, 0, 1]), torch.tensor([0.5, 0.9, 0.1]))
        tensor([1, 2, 0])
    """
    order = torch.argsort(keys[-1])
    for key in reversed(keys[:-1]):
        order = order[torch.argsort(key[order], stable=True)]
    return order

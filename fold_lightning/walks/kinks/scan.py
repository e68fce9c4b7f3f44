"""Values of all channels at each event of each position.

A position has a row for the beginning of its piece and one for each event whose box covers it. Rows are in memory rank by rank: first
the beginnings of all positions, then the first event of each position, and so on. One step of the recursion along positions is
therefore a few operations on slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning._tensors import index_in_group
from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape
from fold_lightning.walks.kinks.events import EventList
from fold_lightning.walks.kinks.memory import Scratch, side_by_side

SMALL_RANK = 1000
"""Mean number of elements of a rank below which each position is summed by itself: the two calls for a rank take 8 us, and an element
takes 9 ns more if positions are summed one by one."""


@dataclass(frozen=True)
class Cells:
    """Kinks of one group, a row for each event and position that its box covers.

    Attributes:
        event: int64 (E,).
        position: int64 (E, n), in the plane of the event's piece; -1 outside.
        kinks: float64 (J, C / K), K parts of each row: all E n rows in order if K is 1, or the parts at `place`.
        place: int64 (J,), index of each part, numbered consecutively over the K parts of all cells; None for whole rows.
    """

    event: Tensor
    position: Tensor
    kinks: Tensor
    place: Tensor | None = None

    @classmethod
    def of(cls, boxes: Boxes, plane: FeatureMapShape) -> Cells:
        """Return the cells of boxes."""
        return cls(boxes.event, boxes.positions(plane).flatten(1), boxes.kinks.reshape(-1, boxes.kinks.shape[-1]))

    def write(self, kink: Tensor, row: Tensor) -> None:
        """Write parts of rows to the rows (E n,) of kinks (R + 1, C)."""
        assert self.place is not None
        parts = kink.shape[1] // self.kinks.shape[1]
        cell = torch.div(self.place, parts, rounding_mode="floor")
        target = row.index_select(0, cell).mul_(parts).add_(self.place).sub_(cell, alpha=parts)
        kink.view(-1, self.kinks.shape[1]).index_copy_(0, target, self.kinks)


class Scan:
    """Slopes and values at the rows of N positions, which are those of a plane for each of P pieces.

    Args:
        events: Events of the pass.
        cells: Kinks that bend the values.
        value: float64 (N, C), values where pieces begin.
        slope: float64 (N, C), slopes there.
        scratch: Memory of the scan, which the next scan overwrites.

    Attributes:
        t: float64 (R,), t of each row.
        t_next: float64 (R,), t at which its interval ends.
        position: int64 (R,), its position.
        previous: int64 (R,), the row before it; -1 for begins, which are the first N rows.
        following: int64 (R,), the row after it; itself for the last of each position.
        last: int64 (N,), the last row of each position, in the order of the first ones.
        source: int64 (R - N,), the cell of each row after the begins.
        cell_rows: int64 (E n,) for each group, the row of each cell; R outside the plane.
        kink: float64 (R + 1, C), change of slope at each row; kept only if cells are parts of rows.
        slope: float64 (R, C), slope after each row.
        value: float64 (R, C), value at each row.
    """

    def __init__(self, events: EventList, cells: list[Cells], value: Tensor, slope: Tensor, scratch: Scratch) -> None:
        self._events, self._num_positions = events, len(value)
        self._area = len(value) // events.num_pieces
        self._arrange(cells)
        channels = value.shape[1]
        self.slope, self.value = (scratch.take(name, value, len(self), channels) for name in ("slope", "value"))
        begins = self.position[: self._num_positions]
        torch.index_select(value, 0, begins, out=self.value[: self._num_positions])
        torch.index_select(slope, 0, begins, out=self.slope[: self._num_positions])
        if any(each.place is not None for each in cells):
            self.kink = scratch.take("kink", value, len(self) + 1, channels).zero_()
            for each, row in zip(cells, self.cell_rows, strict=True):
                each.write(self.kink, row)
            self.kink[-1] = 0.0  # where the cells outside the plane are written
        else:  # slopes are summed where the kinks are
            self.kink = self.slope
            if cells:
                kinks = side_by_side([each.kinks for each in cells])
                torch.index_select(kinks, 0, self.source, out=self.slope[self._num_positions :])
        if self.value.numel() < SMALL_RANK * len(self._ranks):
            self._sum_by_position()
        else:
            self._sum_by_rank()

    def __len__(self) -> int:
        return len(self.t)

    def _arrange(self, cells: list[Cells]) -> None:
        """Order the rows."""
        events, count, device = self._events, self._num_positions, self._events.begin.device
        position, key = self._keys(cells)
        inside = (position >= 0).nonzero().squeeze(1)
        cell = inside.index_select(0, torch.argsort(key.index_select(0, inside)))
        of_cells = [each.event.repeat_interleave(each.position.shape[1]) for each in cells]
        t = events.position.index_select(0, torch.cat(of_cells).index_select(0, cell)) if cells else events.position[:0]
        at = position.index_select(0, cell)
        per_position = torch.bincount(at, minlength=count)
        rank = index_in_group(at, per_position)
        by_count = per_position.argsort(descending=True, stable=True)
        place = torch.empty_like(by_count)
        place[by_count] = torch.arange(count, device=device)
        sizes = torch.bincount(rank)
        first = torch.cat([sizes.new_zeros(1), count + sizes.cumsum(0) - sizes])  # of the rank before
        self._ranks, self._first, self._place = sizes.tolist(), first, place
        at_place = place.index_select(0, at)
        before = first.index_select(0, rank).add_(at_place)
        row = first.index_select(0, rank.add_(1)).add_(at_place)
        rows = count + len(row)
        piece = torch.div(by_count, self._area, rounding_mode="floor")
        self.last = first.index_select(0, per_position.index_select(0, by_count)) + torch.arange(count, device=device)
        self.t, self.t_next = t.new_empty(rows), t.new_empty(rows)
        self.t[:count] = events.begin.index_select(0, piece)
        self.t.scatter_(0, row, t)
        self.t_next.scatter_(0, before, t).scatter_(0, self.last, events.end.index_select(0, piece))
        self.position, self.previous, self.following = by_count.new_empty(3, rows)
        self.position[:count], self.previous[:count] = by_count, -1
        self.position.scatter_(0, row, at)
        self.previous.scatter_(0, row, before)
        self.following.scatter_(0, before, row).scatter_(0, self.last, self.last)
        self.source = torch.empty_like(row).scatter_(0, row - count, cell)
        cell_rows = torch.full((len(position),), rows, device=device).scatter_(0, cell, row)
        self.cell_rows = cell_rows.split([each.position.numel() for each in cells])

    def _keys(self, cells: list[Cells]) -> tuple[Tensor, Tensor]:
        """Return the position of each cell, numbered consecutively over all pieces, and its key for sorting."""
        if not cells:
            nothing = torch.empty(0, dtype=torch.int64, device=self._events.begin.device)
            return nothing, nothing
        ranks = self._events.ranks()
        width = int(ranks.max()) + 1
        dtype = torch.int32 if self._num_positions * width < 2**31 else torch.int64  # sorts in half the time
        positions, keys = [], []
        for each in cells:
            first = self._events.piece[each.event] * self._area
            position = torch.where(each.position >= 0, each.position + first[:, None], -1)
            positions.append(position.flatten())
            keys.append((position * width + ranks[each.event, None]).to(dtype).flatten())
        return torch.cat(positions), torch.cat(keys)

    def _sum_by_rank(self) -> None:
        begin, length = 0, (self.t_next - self.t)[:, None]
        end = self._num_positions
        for size in self._ranks:
            before, here = slice(begin, begin + size), slice(end, end + size)
            torch.addcmul(self.value[before], self.slope[before], length[before], out=self.value[here])
            torch.add(self.slope[before], self.kink[here], out=self.slope[here])
            begin, end = end, end + size

    def _sum_by_position(self) -> None:
        order = torch.argsort(self._place[self.position], stable=True)  # the rows of each position side by side, by rank
        sizes = torch.bincount(self._place[self.position], minlength=self._num_positions).tolist()
        length = (self.t_next - self.t)[:, None]
        for rows in order.split(sizes):
            begin, others = rows[:1], rows[1:]
            slope = torch.cat([self.slope[begin], self.kink[others]]).cumsum(0)
            steps = slope[:-1] * length[rows[:-1]]
            self.slope[rows] = slope
            self.value[rows] = torch.cat([self.value[begin], steps]).cumsum(0)

    def pieces(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the piece of rows."""
        return torch.div(self.position[rows], self._area, rounding_mode="floor")

    def ends(self) -> Tensor:
        """Return values where pieces end, float64 (N, C), in the order of `last`."""
        length = (self.t_next - self.t)[self.last, None]
        return torch.addcmul(self.value[self.last], self.slope[self.last], length)

    def shifted(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Return for each row the values (R, ...) of the following one; for the last of each position, `ends` (N, ...)."""
        result = rows.index_select(0, self.following)
        result[self.last] = ends
        return result

    def by_position(self, begins: Tensor) -> Tensor:
        """Return values of begins (N, ...), given in the order of the first rows, in the order of positions."""
        return begins.index_select(0, self._place)

    def at(self, t: Tensor) -> Tensor:
        """Return the values of each piece at one point t (P,), float64 (P, area, C)."""
        t = t.repeat_interleave(self._area)
        seen = self.position[(self.t <= t.index_select(0, self.position)).nonzero().squeeze(1)]
        row = self._first.index_select(0, torch.bincount(seen, minlength=len(t)) - 1) + self._place
        return torch.addcmul(self.value[row], self.slope[row], (t - self.t[row])[:, None]).view(
            len(t) // self._area, self._area, -1
        )

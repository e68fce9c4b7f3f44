"""Values of all channels at each event of each position.

A position's rows are its values where the piece begins and at each event whose box covers it. Rows lie in memory rank by rank: those
of all begins, those of each position's first event, and so on, so that one step of the recursion is a few operations on slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.walks.kinks.boxes import Boxes, Plane
from fold_lightning.walks.kinks.events import Events

SMALL_RANK = 1000
"""Mean numbers of a rank below which sums along the rows of each position are faster: two calls for each rank take 8 us, and numbers
that are summed position by position 9 ns more each."""


@dataclass(frozen=True)
class Cells:
    """Kinks of one group, a row for each event and position that its box covers.

    Attributes:
        event: int64 (E,).
        position: int64 (E, n), in the plane of the event's piece; -1 outside.
        kinks: float64 (J, C / K), parts of rows: E n whole ones in order, or others at `place`.
        place: int64 (J,), which of the K parts of which cell each is, cell by cell; None for whole rows.
    """

    event: Tensor
    position: Tensor
    kinks: Tensor
    place: Tensor | None = None

    @classmethod
    def of(cls, boxes: Boxes, plane: Plane) -> Cells:
        """Return the cells of boxes."""
        return cls(boxes.event, boxes.positions(plane).flatten(1), boxes.kinks.reshape(-1, boxes.kinks.shape[-1]))

    def write(self, kink: Tensor, row: Tensor) -> None:
        """Write the kinks to the rows (E n,) of kinks (R, C)."""
        if self.place is None:
            kink.index_copy_(0, row, self.kinks)
            return
        parts = kink.shape[1] // self.kinks.shape[1]
        target = row[torch.div(self.place, parts, rounding_mode="floor")] * parts + self.place % parts
        kink.view(-1, self.kinks.shape[1]).index_copy_(0, target, self.kinks)


class Scan:
    """Slopes and values at the rows of N positions, which are those of a plane for each of P pieces.

    Args:
        events: Events of the pass.
        cells: Kinks that bend the values.
        value: float64 (N, C), values where pieces begin.
        slope: float64 (N, C), slopes there.

    Attributes:
        t: float64 (R,), where each row lies.
        t_next: float64 (R,), where its interval ends.
        position: int64 (R,), its position.
        previous: int64 (R,), the row before it; -1 for begins, which are the first N rows.
        following: int64 (R,), the row after it; R for the last of each position.
        last: int64 (N,), the last row of each position.
        kink: float64 (R + 1, C), change of slope at each row; 0 at begins and behind the last row.
        slope: float64 (R, C), slope behind each row.
        value: float64 (R, C), value at each row.
    """

    def __init__(self, events: Events, cells: list[Cells], value: Tensor, slope: Tensor) -> None:
        self._events, self._num_positions = events, len(value)
        self._area = len(value) // events.num_pieces
        self._arrange(cells)
        self.kink = value.new_empty(len(self) + 1, value.shape[1])
        self.kink[slice(None) if any(each.place is not None for each in cells) else slice(len(value))] = 0.0
        for each, row in zip(cells, self.cell_rows, strict=True):
            each.write(self.kink, row)
        self.kink[-1] = 0.0  # where the cells outside the plane are written
        self.slope, self.value = (value.new_empty(len(self), value.shape[1]) for _ in range(2))
        begins = self.position[: self._num_positions]
        torch.index_select(value, 0, begins, out=self.value[: self._num_positions])
        torch.index_select(slope, 0, begins, out=self.slope[: self._num_positions])
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
        cell = inside[torch.argsort(key[inside])]
        event = torch.cat([each.event.repeat_interleave(each.position.shape[1]) for each in cells])[cell] if cells else cell
        at = position[cell]
        per_position = torch.bincount(at, minlength=count)
        rank = torch.arange(len(at), device=device) - (per_position.cumsum(0) - per_position)[at]
        by_count = per_position.argsort(descending=True, stable=True)
        place = torch.empty_like(by_count)
        place[by_count] = torch.arange(count, device=device)
        sizes = torch.bincount(rank)
        first = torch.cat([sizes.new_zeros(1), count + sizes.cumsum(0) - sizes])  # of the rank before
        self._ranks, self._place = sizes.tolist(), place
        row = first[rank + 1] + place[at]
        before = first[rank] + place[at]
        rows = count + len(row)
        piece = torch.div(by_count, self._area, rounding_mode="floor")
        self.t = torch.cat([events.begin[piece], events.position.new_empty(len(row))])
        self.t[row] = events.position[event]
        self.position = torch.cat([by_count, torch.empty_like(row)])
        self.position[row] = at
        self.previous = torch.full((rows,), -1, device=device)
        self.previous[row] = before
        self.following = torch.full((rows,), rows, device=device)
        self.following[before] = row
        self.t_next = events.end[self.pieces()]
        self.t_next[before] = self.t[row]
        self.last = (self.following == rows).nonzero().squeeze(1)
        cell_rows = torch.full((len(position),), rows, device=device)
        cell_rows[cell] = row
        self.cell_rows = cell_rows.split([each.position.numel() for each in cells])

    def _keys(self, cells: list[Cells]) -> tuple[Tensor, Tensor]:
        """Return the position of each cell among all, and a number by which to sort them."""
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
        """Return for each row (R, ...) what the following one has; `ends` (N, ...) for the last of each position."""
        result = rows.index_select(0, self.following.clamp(max=len(rows) - 1))
        result[self.last] = ends
        return result

    def by_position(self, begins: Tensor) -> Tensor:
        """Return what begins have, (N, ...) in the order of the first rows, in the order of positions."""
        return begins.index_select(0, self._place)

    def at(self, t: Tensor) -> Tensor:
        """Return the values of each piece at one point t (P,), float64 (P, area, C)."""
        t = t.repeat_interleave(self._area)
        row = self._place.clone()
        seen = (self.t <= t[self.position]).nonzero().squeeze(1)
        row.scatter_reduce_(0, self.position[seen], seen, "amax")
        return torch.addcmul(self.value[row], self.slope[row], (t - self.t[row])[:, None]).view(
            len(t) // self._area, self._area, -1
        )

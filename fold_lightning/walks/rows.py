"""Tensors with one row for each of several things, side by side, which are indexed and joined together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fold_lightning.walks.breakpoints import order_by

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Rows:
    """N rows; each field of a subclass is a tensor (N, ...)."""

    @property
    def columns(self) -> list[Tensor]:
        """All fields, in order."""
        return [getattr(self, field.name) for field in fields(self)]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(*(column[index] for column in self.columns))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, in order."""
        return cls(*map(torch.cat, zip(*(part.columns for part in parts), strict=True)))


@dataclass(frozen=True)
class Events:
    """E events on N rows; further fields of a subclass are tensors (N, ...).

    Attributes:
        row: int64 (E,) the index of each event's row, in any order.
        position: float64 (E,) t at which a unit switches.
        unit: int64 (E,) the unit that switches.
    """

    row: Tensor
    position: Tensor
    unit: Tensor

    @property
    def _events(self) -> list[Tensor]:
        return [self.row, self.position, self.unit]

    @property
    def _known(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)[3:]]

    def of(self, rows: Tensor) -> Self:
        """Return the events of selected rows, bool (N,), which are renumbered consecutively."""
        row, *others = (column[rows[self.row]] for column in self._events)
        return type(self)((rows.cumsum(0) - 1)[row], *others, *(column[rows] for column in self._known))

    def merged(self, tolerance: float) -> Self:
        """Return the events, moving those of a row that lie within a tolerance of each other to the position of the first.

        Example:
            >>> events = Events(torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.375, 0.5]), torch.tensor([7, 8, 9]))
            >>> events.merged(0.25).position
            tensor([0.3750, 0.3750, 0.5000])
        """
        order = order_by(self.row, self.position)
        row, position = self.row[order], self.position[order]
        starts = torch.ones_like(row, dtype=torch.bool)
        starts[1:] = (row[1:] != row[:-1]) | (position[1:] - position[:-1] > tolerance)
        places = torch.empty_like(position)
        places[order] = position[starts][starts.cumsum(0) - 1]
        return replace(self, position=places)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the events of all parts; rows are renumbered consecutively."""
        sizes = torch.tensor([0, *(len(part._known[0]) for part in parts[:-1])]).cumsum(0).tolist()
        row = torch.cat([part.row + first for part, first in zip(parts, sizes, strict=True)])
        others = ([*part._events[1:], *part._known] for part in parts)
        return cls(row, *map(torch.cat, zip(*others, strict=True)))

"""Kinks of events in boxes of a plane.

A plane is the height and width that the feature maps of a layer have in common. An event bends the values of a layer only in a
small part of its plane, which grows from layer to layer. Its kinks, which are changes of slope, are stored for this part: a box
with all channels, or a single unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fold_lightning.walks.kinks.memory import blanks, side_by_side


class FeatureMapShape(NamedTuple):
    """Shape of one input's feature maps: C channels of height x width; a vector has one position, a sequence one column."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> FeatureMapShape:
        """Return the shape of feature maps from that of values (C, ...) without the batch dimension."""
        channels, *sides = shape or (1,)
        return cls(channels, *sides) if len(sides) == 2 else cls(channels, prod(sides), 1)

    @property
    def area(self) -> int:
        """Number of positions."""
        return self.height * self.width

    @property
    def numel(self) -> int:
        """Number of values."""
        return self.channels * self.area


@dataclass(frozen=True)
class Boxes:
    """Kinks of E events, each in a box.

    Attributes:
        event: int64 (E,), indices of events, ascending.
        y: int64 (E,), the first row of each box in the plane; a box may reach beyond the plane.
        x: int64 (E,), its first column.
        kinks: float64 (E, h, w, C), changes of slope.
        is_clipped: Whether kinks outside the plane are 0.
    """

    event: Tensor
    y: Tensor
    x: Tensor
    kinks: Tensor
    is_clipped: bool = True

    def __len__(self) -> int:
        return len(self.event)

    def __getitem__(self, index: slice | Tensor) -> Boxes:
        return Boxes(self.event[index], self.y[index], self.x[index], self.kinks[index], self.is_clipped)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of a box."""
        return self.kinks.shape[1], self.kinks.shape[2]

    @property
    def numel(self) -> int:
        """Number of kinks."""
        return self.kinks.numel()

    @property
    def like(self) -> Tensor:
        """A tensor of the same type and device."""
        return self.kinks

    def boxes(self, channels: int) -> Boxes:
        """Return these boxes."""
        return self

    def positions(self, plane: FeatureMapShape) -> Tensor:
        """Return the position in the plane of each place in the boxes, int64 (E, h, w); -1 outside."""
        device = self.y.device
        y = self.y[:, None] + torch.arange(self.sides[0], device=device)
        x = self.x[:, None] + torch.arange(self.sides[1], device=device)
        inside = ((y >= 0) & (y < plane.height))[:, :, None] & ((x >= 0) & (x < plane.width))[:, None]
        return torch.where(inside, y[:, :, None] * plane.width + x[:, None], -1)

    def clipped(self, plane: FeatureMapShape) -> Boxes:
        """Return boxes without kinks outside the plane."""
        if self.is_clipped:
            return self
        outside = self.positions(plane) < 0
        kinks = self.kinks.masked_fill(outside[..., None], 0.0) if bool(outside.any()) else self.kinks
        return Boxes(self.event, self.y, self.x, kinks)

    def moved(self, y: Tensor, x: Tensor, height: int, width: int) -> Boxes:
        """Return the kinks in other boxes, which begin at y (E,), x (E,); kinks outside them are dropped."""
        kinks = self.kinks.new_zeros(len(self), height, width, self.kinks.shape[-1])
        place = self.places_in(y, x, height, width)
        inside = place >= 0
        source = self.kinks.reshape(-1, self.kinks.shape[-1])
        target = kinks.view(-1, kinks.shape[-1])
        if bool(inside.all()):
            target.index_copy_(0, place.flatten(), source)
        else:
            target.index_copy_(0, place[inside], source[inside.flatten()])
        return Boxes(self.event, y, x, kinks, self.is_clipped)

    def places_in(self, y: Tensor, x: Tensor, height: int, width: int, row: Tensor | None = None) -> Tensor:
        """Return the flat index of each place in a tensor of other boxes (N, height, width), int64 (E, h, w); -1 outside.

        Args:
            y: int64 (E,), the first row of the other box.
            x: int64 (E,), its first column.
            height: Height of the other boxes.
            width: Their width.
            row: int64 (E,), the index of the other box; None for the same index.
        """
        device = self.y.device
        row = torch.arange(len(self), device=device) if row is None else row
        inner_y = (self.y - y)[:, None] + torch.arange(self.sides[0], device=device)
        inner_x = (self.x - x)[:, None] + torch.arange(self.sides[1], device=device)
        inside = ((inner_y >= 0) & (inner_y < height))[:, :, None] & ((inner_x >= 0) & (inner_x < width))[:, None]
        place = ((row[:, None] * height + inner_y)[:, :, None] * width) + inner_x[:, None]
        return torch.where(inside, place, -1)

    def widened(self, plane: FeatureMapShape, rows: bool, columns: bool) -> Boxes:
        """Return boxes that cover the whole height of the plane, its whole width, or both."""
        rows &= not (self.sides[0] == plane.height and not bool(self.y.any()))
        columns &= not (self.sides[1] == plane.width and not bool(self.x.any()))
        if not (rows or columns):
            return self
        y, height = (torch.zeros_like(self.y), plane.height) if rows else (self.y, self.sides[0])
        x, width = (torch.zeros_like(self.x), plane.width) if columns else (self.x, self.sides[1])
        return self.moved(y, x, height, width)

    def whole(self, plane: FeatureMapShape) -> Boxes:
        """Return boxes that cover the whole plane."""
        return self.widened(plane, True, True)

    def rows(self, plane: FeatureMapShape) -> Tensor:
        """Return the kinks as rows of a batch, float64 (E, C, height, width)."""
        return self.whole(plane).kinks.permute(0, 3, 1, 2).contiguous()

    @classmethod
    def concatenate(cls, parts: list[Boxes]) -> Boxes:
        """Return the boxes of all parts, of one size and with ascending events, without a copy if they lie side by side in memory."""
        event, y, x = (torch.cat([getattr(part, name) for part in parts]) for name in ("event", "y", "x"))
        return cls(event, y, x, side_by_side([part.kinks for part in parts]))

    @classmethod
    def of_rows(cls, event: Tensor, rows: Tensor) -> Boxes:
        """Return boxes of kinks (E, C, height, width) of whole planes."""
        zero = torch.zeros_like(event)
        return cls(event, zero, zero, rows.permute(0, 2, 3, 1).contiguous())


@dataclass(frozen=True)
class Units:
    """Kinks of E events, each of a single unit.

    Attributes:
        event: int64 (E,), indices of events, ascending.
        y: int64 (E,), the unit's row in the plane.
        x: int64 (E,), its column.
        channel: int64 (E,).
        kink: float64 (E,), its change of slope.
    """

    event: Tensor
    y: Tensor
    x: Tensor
    channel: Tensor
    kink: Tensor

    def __len__(self) -> int:
        return len(self.event)

    def __getitem__(self, index: slice | Tensor) -> Units:
        return Units(self.event[index], self.y[index], self.x[index], self.channel[index], self.kink[index])

    @property
    def numel(self) -> int:
        """Number of kinks."""
        return len(self)

    @property
    def like(self) -> Tensor:
        """A tensor of the same type and device."""
        return self.kink

    def boxes(self, channels: int) -> Boxes:
        """Return boxes of one position."""
        kinks = self.kink.new_zeros(len(self), channels).scatter_(1, self.channel[:, None], self.kink[:, None])
        return Boxes(self.event, self.y, self.x, kinks.view(len(self), 1, 1, channels))

    def rows(self, plane: FeatureMapShape) -> Tensor:
        """Return the kinks as rows of a batch, float64 (E, C, height, width)."""
        rows = self.kink.new_zeros(len(self), plane.numel)
        place = (self.channel * plane.height + self.y) * plane.width + self.x
        return rows.scatter_(1, place[:, None], self.kink[:, None]).view(-1, *plane)


Group = Boxes | Units
"""Kinks of events that were found by one operation of the network; their boxes have one size."""


class Signal:
    """Kinks of a tensor's values.

    Args:
        plane: Shape of one input's values, even if the tensor is flattened.
        groups: Origin, the index of the operation that found events -> their kinks.
    """

    def __init__(self, plane: FeatureMapShape, groups: dict[int, Group]) -> None:
        self.plane, self._groups = plane, groups

    @property
    def groups(self) -> dict[int, Group]:
        """Origin, the index of the operation that found events -> their kinks."""
        return self._groups

    @property
    def numel(self) -> int:
        """Number of kinks."""
        return sum(group.numel for group in self.groups.values())

    def scaled(self, scale: Tensor) -> Signal:
        """Return the signal times a number for each channel (C,), or for all (1,)."""
        groups: dict[int, Group] = {}
        some = [group for group in self.groups.values() if isinstance(group, Boxes)]
        products = iter(blanks(scale, [group.kinks.shape for group in some]))
        for origin, group in self.groups.items():
            if isinstance(group, Units):
                kink = group.kink * (scale[group.channel] if len(scale) > 1 else scale)
                groups[origin] = replace(group, kink=kink)
            else:
                groups[origin] = replace(group, kinks=torch.mul(group.kinks, scale, out=next(products)))
        return Signal(self.plane, groups)

    def rows(self, origin: int) -> Tensor:
        """Return kinks of one group as rows of a batch, float64 (E, C, height, width)."""
        return self.groups[origin].rows(self.plane)

    def as_plane(self, plane: FeatureMapShape) -> Signal:
        """Return the signal of the same values in the same order, seen as another plane."""
        if plane == self.plane:
            return self
        groups: dict[int, Group] = {
            origin: Boxes.of_rows(group.event, self.rows(origin).view(-1, *plane)) for origin, group in self.groups.items()
        }
        return Signal(plane, groups)

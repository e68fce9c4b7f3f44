"""Convolutions of kinks: each box becomes the box of all positions whose kernels overlap it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fold_lightning.walks.kinks.boxes import Boxes, Group, Plane, Units

CHUNK_BYTES = 2**20
"""Bytes of the products of a kernel's taps with boxes that are computed at once: they stay in the processor's cache."""


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution.

    Attributes:
        size: Number of positions before the convolution.
        out: Number of positions after it.
        taps: Number of taps of the kernel.
        stride: Distance from a position to the next.
        padding: Positions of padding before the first one.
        dilation: Distance from a tap to the next.
    """

    size: int
    out: int
    taps: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        """Distance from the first tap to the last."""
        return (self.taps - 1) * self.dilation

    def count(self, length: int) -> int:
        """Return the largest number of positions whose kernels overlap a box of a length."""
        return (length - 1 + self.reach) // self.stride + 1

    def first(self, begin: Tensor) -> Tensor:
        """Return the first position whose kernel may overlap a box that starts at `begin` (E,)."""
        return -torch.div(self.reach - self.padding - begin, self.stride, rounding_mode="floor")

    def tap(self, position: Tensor, begin: Tensor) -> Tensor:
        """Return the tap (E, n) of the kernels at positions (E, n) that lies on the places `begin` (E,); `taps` if none does."""
        offset = begin[:, None] + self.padding - self.stride * position
        tap = torch.div(offset, self.dilation, rounding_mode="floor")
        return torch.where((offset >= 0) & (tap * self.dilation == offset) & (tap < self.taps), tap, self.taps)

    def slices(self, tap: int, offset: int, length: int, count: int) -> tuple[slice, slice]:
        """Return those of `count` positions whose tap lies in a box, and the places of the box on which it lies.

        Args:
            tap: Number of the tap.
            offset: Place in the box of the first position's first tap.
            length: Length of the box.
            count: Number of positions.
        """
        place = offset + tap * self.dilation
        first = max(0, -(place // self.stride))
        last = min(count - 1, (length - 1 - place) // self.stride)
        if last < first:
            return slice(0), slice(0)
        begin = place + first * self.stride
        return slice(first, last + 1), slice(begin, begin + (last - first) * self.stride + 1, self.stride)


class Convolution:
    """A convolution of planes.

    Args:
        plane: Plane before it.
        out: Plane after it.
        weight: float64 (C_out, C_in / groups, K_y, K_x).
        stride: For y and x.
        padding: For y and x.
        dilation: For y and x.
        groups: Groups of channels.
    """

    def __init__(
        self,
        plane: Plane,
        out: Plane,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self.plane, self.out, self._groups = plane, out, groups
        self._weight = weight
        sizes = (plane.height, plane.width), (out.height, out.width), weight.shape[2:]
        self._y, self._x = (Axis(*numbers) for numbers in zip(*sizes, stride, padding, dilation, strict=True))

    def shape(self, group: Group) -> tuple[int, int, int, int]:
        """Return the shape of a group's kinks after the convolution."""
        height, width = (1, 1) if isinstance(group, Units) else group.sides
        out_height, out_width = min(self._y.count(height), self._y.out), min(self._x.count(width), self._x.out)
        return len(group), out_height, out_width, self.out.channels

    def __call__(self, group: Group, kinks: Tensor) -> Boxes:
        """Return a group after the convolution; its kinks are written to `kinks`, which has the shape `shape` returns."""
        return self._of_units(group, kinks) if isinstance(group, Units) else self._of_boxes(group, kinks)

    @cached_property
    def _table(self) -> Tensor:
        """Weights of each input channel at each tap, followed by 0: (C_in, K_y + 1, K_x + 1, C_out)."""
        per_group = self._weight.shape[1]
        table = self._weight.new_zeros(self.plane.channels, self._y.taps + 1, self._x.taps + 1, len(self._weight))
        outputs = len(self._weight) // self._groups
        for group in range(self._groups):
            channels, filters = (slice(group * n, (group + 1) * n) for n in (per_group, outputs))
            table[channels, :-1, :-1, filters] = self._weight[filters].permute(1, 2, 3, 0)
        return table

    @cached_property
    def _taps(self) -> Tensor:
        """Weights of each tap, (K_y, K_x, groups, C_in / groups, C_out / groups)."""
        taps: Tensor = self._weight.unflatten(0, (self._groups, -1)).permute(3, 4, 0, 2, 1)
        return taps.contiguous()

    @cached_property
    def _row_taps(self) -> Tensor:
        """Weights as a matrix of the taps of a row by those of a column, (K_x C_in, K_y C_out), for a convolution without groups."""
        return self._weight.permute(3, 1, 2, 0).reshape(self._x.taps * self.plane.channels, -1).contiguous()

    def _of_units(self, units: Units, out: Tensor) -> Boxes:
        channel = units.channel
        y, x = self._y.first(units.y), self._x.first(units.x)
        device = y.device
        tap_y = self._y.tap(y[:, None] + torch.arange(self._y.count(1), device=device), units.y)
        tap_x = self._x.tap(x[:, None] + torch.arange(self._x.count(1), device=device), units.x)
        place = (channel[:, None] * (self._y.taps + 1) + tap_y)[:, :, None] * (self._x.taps + 1) + tap_x[:, None]
        height, width = place.shape[1:]
        is_larger = height >= self.out.height, width >= self.out.width
        kinks = out.new_empty(*place.shape, self.out.channels) if any(is_larger) else out
        weights = self._table.view(-1, self.out.channels)
        torch.index_select(weights, 0, place.flatten(), out=kinks.view(-1, self.out.channels))
        boxes = Boxes(units.event, y, x, kinks.mul_(units.kink.view(-1, 1, 1, 1)), is_clipped=False)
        if not any(is_larger):
            return boxes
        boxes = boxes.widened(self.out, *is_larger)
        return replace(boxes, kinks=out.copy_(boxes.kinks))

    def _of_boxes(self, boxes: Boxes, kinks: Tensor) -> Boxes:
        boxes = boxes.clipped(self.plane)
        full_y, full_x = (axis.count(length) >= axis.out for axis, length in zip((self._y, self._x), boxes.sides, strict=True))
        boxes = boxes.widened(self.plane, full_y, full_x)
        y = torch.zeros_like(boxes.y) if full_y else self._y.first(boxes.y)
        x = torch.zeros_like(boxes.x) if full_x else self._x.first(boxes.x)
        offset_y = self._y.stride * y - self._y.padding - boxes.y
        offset_x = self._x.stride * x - self._x.padding - boxes.x
        kinks.zero_()
        least_y, least_x = int(offset_y.min()), int(offset_x.min())
        span = int(offset_x.max()) - least_x + 1
        case = (offset_y - least_y) * span + offset_x - least_x
        for number in case.unique().tolist():
            offsets = number // span + least_y, number % span + least_x
            some = (case == number).nonzero().squeeze(1)
            if len(some) == len(boxes):
                self._correlate(boxes.kinks, offsets, kinks)
            else:
                part = torch.zeros_like(kinks[: len(some)])
                self._correlate(boxes.kinks[some], offsets, part)
                kinks[some] = part
        return Boxes(boxes.event, y, x, kinks, is_clipped=full_y and full_x)

    def _correlate(self, kinks: Tensor, offsets: tuple[int, int], out: Tensor) -> None:
        """Add the convolution of boxes (E, h, w, C_in) to boxes (E, H, W, C_out) at offsets."""
        is_plain = self._y.stride == self._x.stride == self._x.dilation == self._groups == 1
        if is_plain and self._y.taps * self._x.taps > 1:
            self._correlate_rows(kinks, offsets, out)
        else:
            self._correlate_taps(kinks, offsets, out)

    def _correlate_rows(self, kinks: Tensor, offsets: tuple[int, int], out: Tensor) -> None:
        """Do so for stride 1 by a product of the places under a row of the kernel with the weights of all rows.

        Rows of boxes lie one after the other in memory, with zeros in between. The places under a row of the kernel are then `taps`
        neighbours in memory, and those that begin at every `taps`-th place are the rows of a matrix, without a copy.
        """
        (height, width, channels), taps, columns = kinks.shape[1:], self._x.taps, out.shape[2]
        before = -offsets[1]
        pitch = max(columns, width + max(before, columns - before + self._x.reach - width))
        step = min(len(kinks), max(1, CHUNK_BYTES // (8 * height * pitch * self._y.taps * self.out.channels)))
        places = step * height * pitch
        memory = kinks.new_zeros((before + places + 2 * taps) * channels)
        inner = memory[before * channels :][: places * channels].view(step, height, pitch, channels)[:, :, :width]
        products = kinks.new_empty(places + taps, self._y.taps * self.out.channels)
        rows = [self._y.slices(tap, offsets[0], height, out.shape[1]) for tap in range(self._y.taps)]
        for begin in range(0, len(kinks), step):
            part, target = kinks[begin : begin + step], out[begin : begin + step]
            inner[: len(part)].copy_(part)
            count = len(part) * height * pitch
            for first in range(taps):
                slices = memory[first * channels :][: -(-(count - first) // taps) * taps * channels].view(-1, taps * channels)
                torch.mm(slices, self._row_taps, out=products[first::taps][: len(slices)])
            of_rows = products[:count].view(len(part), height, pitch, self._y.taps, -1)[:, :, :columns]
            for tap, (out_y, in_y) in enumerate(rows):
                if out_y != slice(0):
                    target[:, out_y] += of_rows[:, in_y, :, tap]

    def _correlate_taps(self, kinks: Tensor, offsets: tuple[int, int], out: Tensor) -> None:
        """Do so by a product for each tap."""
        height, width = kinks.shape[1:3]
        step = max(1, CHUNK_BYTES // (16 * height * width * self.out.channels))
        taps = self._taps.flatten(0, 1)
        for begin in range(0, len(kinks), step):
            part, target = kinks[begin : begin + step], out[begin : begin + step]
            for number, (tap_y, tap_x) in enumerate((i, j) for i in range(self._y.taps) for j in range(self._x.taps)):
                out_y, in_y = self._y.slices(tap_y, offsets[0], height, out.shape[1])
                out_x, in_x = self._x.slices(tap_x, offsets[1], width, out.shape[2])
                if out_y != slice(0) and out_x != slice(0):
                    target[:, out_y, out_x] += self._product(part[:, in_y, in_x], taps[number])

    def _product(self, kinks: Tensor, weight: Tensor) -> Tensor:
        """Return boxes (E, h, w, C_in) times one tap's weights (groups, C_in / groups, C_out / groups)."""
        if len(weight) == 1:
            return (kinks.reshape(-1, kinks.shape[-1]) @ weight[0]).view(*kinks.shape[:-1], -1)
        if weight.shape[1:] == (1, 1):
            return kinks * weight.flatten()
        by_group = kinks.reshape(-1, len(weight), weight.shape[1]).transpose(0, 1)
        return torch.bmm(by_group, weight).transpose(0, 1).reshape(*kinks.shape[:-1], -1)


class Matrix:
    """A linear layer of flattened planes.

    Args:
        plane: Plane before it.
        weight: float64 (C_out, C height width).
    """

    def __init__(self, plane: Plane, weight: Tensor) -> None:
        self._plane = plane
        self._weight = weight.view(len(weight), *plane).permute(2, 3, 1, 0).reshape(plane.numel, -1).contiguous()

    def __call__(self, group: Group) -> Group:
        """Return the kinks after the layer."""
        zero = torch.zeros_like(group.y)
        if isinstance(group, Units):
            place = (group.y * self._plane.width + group.x) * self._plane.channels + group.channel
            kinks = self._weight.index_select(0, place).mul_(group.kink[:, None])
        else:
            kinks = self._of_boxes(group)
        return Boxes(group.event, zero, zero, kinks.view(len(group), 1, 1, -1))

    def _of_boxes(self, boxes: Boxes) -> Tensor:
        (height, width), plane = boxes.sides, self._plane
        y, x = (first.clamp(0, max(0, size - side)) for first, side, size in (
            (boxes.y, height, plane.height), (boxes.x, width, plane.width)
        ))  # fmt: skip
        height, width = min(height, plane.height), min(width, plane.width)
        boxes = boxes.clipped(plane)
        if not (torch.equal(y, boxes.y) and torch.equal(x, boxes.x) and boxes.sides == (height, width)):
            boxes = boxes.moved(y, x, height, width)
        weight = self._weight.view(*plane[1:], plane.channels, -1)
        kinks = boxes.kinks.new_empty(len(boxes), self._weight.shape[1])
        place = y * plane.width + x
        for number in place.unique().tolist():
            first_y, first_x = divmod(number, plane.width)
            here = (place == number).nonzero().squeeze(1)
            seen = weight[first_y : first_y + height, first_x : first_x + width].reshape(-1, kinks.shape[1])
            if len(here) == len(boxes):
                return torch.mm(boxes.kinks.reshape(len(here), -1), seen, out=kinks)
            kinks[here] = boxes.kinks.index_select(0, here).reshape(len(here), -1) @ seen
        return kinks

"""Kernels of convolutions: their axes, and products of boxes with all taps of a kernel at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
        """Return the positions, of `count`, whose tap lies in a box, and the places of the box on which it lies.

        Args:
            tap: Index of the tap.
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


@dataclass(frozen=True)
class AxisPart:
    """Every `step`-th tap of an axis, from `first` on: a kernel of stride 1 on every `step`-th place."""

    first: int
    step: int

    @classmethod
    def all_of(cls, axis: Axis) -> list[AxisPart]:
        """Return the parts of an axis."""
        return [cls(first, axis.stride) for first in range(min(axis.stride, axis.taps))]

    def first_of(self, offset: int) -> tuple[int, int]:
        """Return the first place of a box that this part covers, and the offset in units of its step."""
        number, begin = divmod(offset + self.first, self.step)
        return begin, number


class KernelPart:
    """Taps of a convolution that together form a convolution of stride 1.

    Args:
        weight: float64 (C_out, C_in, K_y, K_x).
        y: Rows of the taps.
        x: Their columns.

    Attributes:
        taps: K_y and K_x.
        matrix: float64 (K_x C_in, K_y C_out).
    """

    def __init__(self, weight: Tensor, y: AxisPart, x: AxisPart) -> None:
        self.y, self.x = y, x
        self.taps = weight.shape[2], weight.shape[3]
        self.matrix = weight.permute(3, 1, 2, 0).reshape(self.taps[1] * weight.shape[1], -1).contiguous()


def correlate_rows(kinks: Tensor, part: KernelPart, offsets: tuple[int, int], out: Tensor) -> None:
    """Add the convolution of boxes (E, h, w, C_in) with a part of a kernel to boxes (E, H, W, C_out) at offsets up to 0.

    Rows of boxes lie one after the other in memory, with zeros in between. The places under a row of the kernel are then `taps`
    neighbours in memory, and those that begin at every `taps`-th place are the rows of a matrix, without a copy.
    """
    (height, width, channels), columns, (row_taps, taps) = kinks.shape[1:], out.shape[2], part.taps
    before = -offsets[1]
    pitch = max(columns, width + max(before, columns - before + taps - 1 - width))
    step = min(len(kinks), max(1, CHUNK_BYTES // (8 * height * pitch * part.matrix.shape[1])))
    places = step * height * pitch
    memory = kinks.new_zeros((before + places + 2 * taps) * channels)
    inner = memory[before * channels :][: places * channels].view(step, height, pitch, channels)[:, :, :width]
    products = kinks.new_empty(places + taps, part.matrix.shape[1])
    for some in (slice(begin, begin + step) for begin in range(0, len(kinks), step)):
        boxes, target = kinks[some], out[some]
        inner[: len(boxes)].copy_(boxes)
        count = len(boxes) * height * pitch
        for first in range(taps):
            seen = memory[first * channels :][: -(-(count - first) // taps) * taps * channels].view(-1, taps * channels)
            torch.mm(seen, part.matrix, out=products[first::taps][: len(seen)])
        of_rows = products[:count].view(len(boxes), height, pitch, row_taps, -1)[:, :, :columns]
        for tap in range(row_taps):
            first, last = max(0, -offsets[0] - tap), min(out.shape[1], height - offsets[0] - tap)
            if first < last:
                target[:, first:last] += of_rows[:, first + offsets[0] + tap : last + offsets[0] + tap, :, tap]

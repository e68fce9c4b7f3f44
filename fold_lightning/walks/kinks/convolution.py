"""Convolutions of kinks: each box becomes the box of all positions whose kernels overlap it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Group, Signal, Units
from fold_lightning.walks.kinks.kernels import CHUNK_BYTES, Axis, AxisPart, KernelPart, correlate_rows
from fold_lightning.walks.kinks.memory import blanks


class Convolution:
    """A convolution of feature maps.

    Args:
        plane: Shape before it.
        out: Shape after it.
        weight: float64 (C_out, C_in / groups, K_y, K_x).
        stride: For y and x.
        padding: For y and x.
        dilation: For y and x.
        groups: Groups of channels.
    """

    def __init__(
        self,
        plane: FeatureMapShape,
        out: FeatureMapShape,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self.plane, self.out, self._groups = plane, out, groups
        self._weight, self._steps = weight, (stride, padding, dilation)
        sizes = (plane.height, plane.width), (out.height, out.width), weight.shape[2:]
        self._y, self._x = (Axis(*numbers) for numbers in zip(*sizes, stride, padding, dilation, strict=True))

    def shape(self, group: Group) -> tuple[int, int, int, int]:
        """Return the shape of a group's kinks after the convolution."""
        height, width = (1, 1) if isinstance(group, Units) else group.sides
        out_height, out_width = min(self._y.count(height), self._y.out), min(self._x.count(width), self._x.out)
        return len(group), out_height, out_width, self.out.channels

    def scaled(self, scale: Tensor) -> Convolution:
        """Return the convolution followed by a multiplication of each channel (C_out,), or of all (1,)."""
        return Convolution(self.plane, self.out, self._weight * scale.view(-1, 1, 1, 1), *self._steps, self._groups)

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
    def _parts(self) -> list[KernelPart]:
        """The kernel as kernels of stride 1 without groups or dilation, each on every `stride`-th place."""
        return [
            KernelPart(self._weight[:, :, y.first :: y.step, x.first :: x.step], y, x)
            for y in AxisPart.all_of(self._y)
            for x in AxisPart.all_of(self._x)
        ]

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
        has_gaps = any(axis.dilation > 1 for axis in (self._y, self._x))
        if self._groups > 1 or has_gaps or all(axis.taps <= axis.stride for axis in (self._y, self._x)):
            self._correlate_taps(kinks, offsets, out)
            return
        for part in self._parts:
            begin_y, offset_y = part.y.first_of(offsets[0])
            begin_x, offset_x = part.x.first_of(offsets[1])
            seen = kinks[:, begin_y :: part.y.step, begin_x :: part.x.step]
            if seen.numel():
                correlate_rows(seen, part, (offset_y, offset_x), out)

    def _correlate_taps(self, kinks: Tensor, offsets: tuple[int, int], out: Tensor) -> None:
        """Add the convolution of boxes to boxes at offsets, by one product per tap."""
        height, width = kinks.shape[1:3]
        step = max(1, CHUNK_BYTES // (16 * height * width * self.out.channels))
        taps = self._taps.flatten(0, 1)
        for begin in range(0, len(kinks), step):
            part, target = kinks[begin : begin + step], out[begin : begin + step]
            for index, (tap_y, tap_x) in enumerate((i, j) for i in range(self._y.taps) for j in range(self._x.taps)):
                out_y, in_y = self._y.slices(tap_y, offsets[0], height, out.shape[1])
                out_x, in_x = self._x.slices(tap_x, offsets[1], width, out.shape[2])
                if out_y != slice(0) and out_x != slice(0):
                    target[:, out_y, out_x] += self._product(part[:, in_y, in_x], taps[index])

    def _product(self, kinks: Tensor, weight: Tensor) -> Tensor:
        """Return boxes (E, h, w, C_in) times one tap's weights (groups, C_in / groups, C_out / groups)."""
        if len(weight) == 1:
            return (kinks.reshape(-1, kinks.shape[-1]) @ weight[0]).view(*kinks.shape[:-1], -1)
        if weight.shape[1:] == (1, 1):
            return kinks * weight.flatten()
        by_group = kinks.reshape(-1, len(weight), weight.shape[1]).transpose(0, 1)
        return torch.bmm(by_group, weight).transpose(0, 1).reshape(*kinks.shape[:-1], -1)


class ConvolvedSignal(Signal):
    """Kinks after a convolution, computed when first needed, so that a batch norm scales the smaller kernel instead.

    Args:
        convolution: The convolution.
        signal: Kinks before it.
    """

    def __init__(self, convolution: Convolution, signal: Signal) -> None:
        super().__init__(convolution.out, {})
        self._convolution, self._before = convolution, signal
        self._shapes: list[tuple[int, ...]] = [convolution.shape(group) for group in signal.groups.values()]
        self._is_known = False

    @property
    def groups(self) -> dict[int, Group]:
        """Origin, the index of the operation that found events -> their kinks."""
        if not self._is_known:
            before = self._before.groups
            if before:
                kinks = blanks(next(iter(before.values())).like, self._shapes)
                self._groups = {
                    origin: self._convolution(group, part) for (origin, group), part in zip(before.items(), kinks, strict=True)
                }
            self._is_known, self._before = True, Signal(self._before.plane, {})
        return self._groups

    @property
    def numel(self) -> int:
        """Number of kinks."""
        return sum(map(prod, self._shapes))

    def scaled(self, scale: Tensor) -> Signal:
        """Return the signal times a number for each channel (C,), or for all (1,)."""
        return super().scaled(scale) if self._is_known else ConvolvedSignal(self._convolution.scaled(scale), self._before)

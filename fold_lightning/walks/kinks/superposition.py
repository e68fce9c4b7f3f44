"""Sums of kinks of the same events, and concatenation of kinks over channels."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Group, Signal
from fold_lightning.walks.kinks.memory import blanks

Part = tuple[Group, int]
"""A group, and its first channel in a sum."""


class Superposition:
    """Sum of groups with common events; a group's channels are added from a first channel on.

    Args:
        parts: The groups.
        plane: Shape of the feature maps, with the channels of the sum.

    Attributes:
        shape: Shape of its kinks.
    """

    def __init__(self, parts: list[Part], plane: FeatureMapShape) -> None:
        self._first = [first for _, first in parts]
        self._boxes = boxes = [group.boxes(plane.channels).clipped(plane) for group, _ in parts]
        self._event = torch.cat([each.event for each in boxes]).unique()
        self._rows = [torch.searchsorted(self._event, each.event) for each in boxes]
        (self._y, height), (self._x, width) = (
            _common_side([(getattr(each, axis), each.sides[index]) for each in boxes], self._rows, len(self._event), size)
            for index, (axis, size) in enumerate((("y", plane.height), ("x", plane.width)))
        )
        self.shape = len(self._event), height, width, plane.channels

    def write(self, kinks: Tensor) -> Boxes:
        """Return the sum; its kinks are written to `kinks`, which has the shape `shape`."""
        parts = list(zip(self._boxes, self._rows, self._first, strict=True))
        whole = next((index for index, boxes in enumerate(self._boxes) if self._is_whole(boxes)), None)
        if whole is None:
            kinks.zero_()
        else:
            kinks.copy_(parts.pop(whole)[0].kinks)
        for boxes, row, first in parts:
            self._add(boxes, row, kinks[..., first : first + boxes.kinks.shape[3]])
        return Boxes(self._event, self._y, self._x, kinks)

    def _is_whole(self, boxes: Boxes) -> bool:
        """Return whether boxes are the same as those of the sum."""
        return boxes.kinks.shape == self.shape and torch.equal(boxes.y, self._y) and torch.equal(boxes.x, self._x)

    def _add(self, boxes: Boxes, row: Tensor, target: Tensor) -> None:
        """Add boxes to rows of the sum."""
        offsets = torch.stack([boxes.y - self._y[row], boxes.x - self._x[row]])
        (y, x), (_, height, width, channels) = offsets[:, 0].tolist(), target.shape
        fits = 0 <= y <= height - boxes.sides[0] and 0 <= x <= width - boxes.sides[1]
        if fits and bool((offsets == offsets[:, :1]).all()):  # all boxes have the same offset in the sum
            seen = target[:, y : y + boxes.sides[0], x : x + boxes.sides[1]]
            seen.add_(boxes.kinks) if len(boxes) == len(target) else seen.index_add_(0, row, boxes.kinks)
            return
        place = boxes.places_in(self._y[row], self._x[row], height, width, row).flatten()
        inside = place >= 0
        place, source = place[inside], boxes.kinks.reshape(-1, channels)[inside]
        flat = target.as_strided((len(target) * height * width, channels), target.stride()[2:], target.storage_offset())
        flat.index_add_(0, place, source)


def by_events(signals: list[Signal]) -> dict[int, list[tuple[int, Group]]]:
    """Group the signals' groups by common events: origin -> pairs of a signal's index and its group.

    A group of one signal may hold the events of several groups of another, because groups of whole planes are merged.
    """
    groups = [(origin, index, group) for index, signal in enumerate(signals) for origin, group in signal.groups.items()]
    ranges = sorted((int(group.event[0]), int(group.event[-1]), place) for place, (*_, group) in enumerate(groups))
    found: dict[int, list[tuple[int, Group]]] = {}
    origin, last = -1, -1
    for begin, end, place in ranges:
        if begin > last:
            origin = groups[place][0]
        last = max(last, end)
        found.setdefault(origin, []).append(groups[place][1:])
    return found


def superposed(sums: dict[int, list[Part]], plane: FeatureMapShape, like: Tensor) -> Signal:
    """Return the sum of the groups of each origin.

    Args:
        sums: Origin -> its groups, none of which is empty.
        plane: Shape of the feature maps, with the channels of the sums.
        like: A tensor of the same type and device.
    """
    found = {origin: Superposition(parts, plane) for origin, parts in sums.items()}
    kinks = blanks(like, [each.shape for each in found.values()])
    return Signal(plane, {origin: each.write(part) for (origin, each), part in zip(found.items(), kinks, strict=True)})


def _common_side(sides: list[tuple[Tensor, int]], rows: list[Tensor], count: int, size: int) -> tuple[Tensor, int]:
    """Return the first places of boxes that contain those of all parts, int64 (count,), and their length."""
    begin = torch.full((count,), size, device=rows[0].device)
    end = torch.full_like(begin, -size)
    for (first, length), row in zip(sides, rows, strict=True):
        begin[row] = torch.minimum(begin[row], first)
        end[row] = torch.maximum(end[row], first + length)
    side = int((end - begin).max())
    return (torch.zeros_like(begin), size) if side >= size else (begin, side)

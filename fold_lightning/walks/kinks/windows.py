"""Windows of a pooling call, axis by axis: the positions of a plane that each of them contains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.activations.choices import padded_lanes
from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape
from fold_lightning.walks.kinks.calls import RowCall
from fold_lightning.walks.kinks.scan import Cells


@dataclass(frozen=True)
class WindowAxis:
    """Windows along one axis.

    Attributes:
        places: int64 (O, K), the positions in each window, padded with -1.
        first: int64 (size,), the first window that contains a position or a later one.
        last: int64 (size,), the last window that contains a position or an earlier one.
    """

    places: Tensor
    first: Tensor
    last: Tensor

    @classmethod
    def of(cls, sees: Tensor) -> WindowAxis:
        """Return the windows from a mask of the places that each contains, bool (size, O)."""
        place, window = sees.nonzero(as_tuple=True)
        places = padded_lanes(window, place, sees.shape[1])
        begin = places.where(places >= 0, len(sees)).amin(1)
        all_places = torch.arange(len(sees), device=sees.device)
        first = torch.searchsorted(places.amax(1), all_places)
        return cls(places, first, torch.searchsorted(begin, all_places, right=True) - 1)

    def windows(self, begin: Tensor, length: int) -> tuple[Tensor, int]:
        """Return the first window that may contain a place of a box (E,), and the largest number of such windows."""
        size, count = len(self.first), len(self.places)
        first = self.first[begin.clamp(0, size - 1)]
        last = self.last[(begin + length - 1).clamp(0, size - 1)]
        most = max(1, int((last - first).max()) + 1)
        return (torch.zeros_like(first), count) if most >= count else (first, most)

    def places_in(self, first: Tensor, count: int, begin: Tensor, length: int) -> Tensor:
        """Return the place in a box of each place of a window, int64 (E, count, K); -1 if it is outside the box."""
        window = first[:, None] + torch.arange(count, device=first.device)
        places = self.places[window.clamp(0, len(self.places) - 1)]
        inner = places - begin[:, None, None]
        inside = (places >= 0) & (inner >= 0) & (inner < length) & (window < len(self.places))[..., None]
        return torch.where(inside, inner, -1)


class Windows:
    """Windows of a pooling call.

    Args:
        call: The call.
        plane: Shape of the feature maps that it pools.
        out: Shape of its result.
    """

    def __init__(self, call: RowCall, plane: FeatureMapShape, out: FeatureMapShape) -> None:
        x = call.varying[0]
        self._plane, self._out = plane, out
        sides = x.shape[2:]
        seen = []
        for axis in range(len(sides)):
            size = sides[axis]
            one_place = torch.eye(size, dtype=x.dtype, device=x.device).view(
                size, 1, *(size if a == axis else 1 for a in range(len(sides)))
            )
            images = call.on_planes(one_place.expand(-1, 1, *sides).contiguous())
            images = images.movedim(axis + 2, 1).flatten(2)
            seen.append(WindowAxis.of((images != 0).any(2)))
        alone = WindowAxis.of(torch.ones(1, 1, dtype=torch.bool, device=x.device))
        self._y, self._x = seen if len(seen) == 2 else (seen[0], alone)

    @property
    def elements(self) -> int:
        """Number of places in a window."""
        return self._y.places.shape[1] * self._x.places.shape[1]

    def of_planes(self, planes: Tensor, outside: float) -> Tensor:
        """Return the values in windows of planes (B, height, width, C): (B, out height, out width, K, C)."""
        rows = planes.index_select(1, self._y.places.flatten().clamp(min=0)).unflatten(1, self._y.places.shape)
        seen: Tensor = rows.index_select(3, self._x.places.flatten().clamp(min=0)).unflatten(3, self._x.places.shape)
        is_outside = (self._y.places < 0)[:, :, None, None] | (self._x.places < 0)
        seen = seen.masked_fill(is_outside[..., None], outside) if bool(is_outside.any()) else seen
        return seen.transpose(2, 3).flatten(3, 4)

    def of_boxes(self, boxes: Boxes) -> tuple[Boxes, Cells]:
        """Return the boxes of windows that overlap boxes, without kinks, and cells with a part for each place of a window."""
        (height, width), channels = boxes.sides, boxes.kinks.shape[-1]
        y, out_height = self._y.windows(boxes.y, height)
        x, out_width = self._x.windows(boxes.x, width)
        inner_y = self._y.places_in(y, out_height, boxes.y, height)[:, :, None, :, None]
        inner_x = self._x.places_in(x, out_width, boxes.x, width)[:, None, :, None, :]
        box = torch.arange(len(boxes), device=y.device).view(-1, 1, 1, 1, 1)
        source = ((box * height + inner_y) * width + inner_x).masked_fill((inner_y < 0) | (inner_x < 0), -1)
        place = (source.view(-1) >= 0).nonzero().squeeze(1)
        kinks = boxes.kinks.reshape(-1, channels).index_select(0, source.view(-1)[place])
        windows = Boxes(boxes.event, y, x, boxes.kinks.new_empty(0, out_height, out_width, channels), False)
        is_blind = (source < 0).flatten(3).all(3).flatten(1)
        position = windows.positions(self._out).flatten(1).masked_fill(is_blind, -1)
        return windows, Cells(boxes.event, position, kinks, place)

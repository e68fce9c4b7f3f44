"""Linear layers of kinks."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Group, Units


class Matrix:
    """A linear layer of flattened feature maps.

    Args:
        plane: Shape before it is flattened.
        weight: float64 (C_out, C height width).
    """

    def __init__(self, plane: FeatureMapShape, weight: Tensor) -> None:
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

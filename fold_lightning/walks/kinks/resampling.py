"""Averages, enlargements and padding of kinks: linear operations on each channel that treat rows and columns separately."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Group, Signal
from fold_lightning.walks.kinks.calls import RowCall
from fold_lightning.walks.kinks.windows import WindowAxis

ALIKE = 1e-14
"""Largest error, as a share of the result, up to which an operation is found to treat rows and columns separately."""


class Resampling:
    """A linear operation on each channel, given by a matrix for the rows and one for the columns.

    Args:
        rows: float64 (H, height).
        columns: float64 (W, width).
        plane: Shape before it.
        out: Shape after it.
    """

    def __init__(self, rows: Tensor, columns: Tensor, plane: FeatureMapShape, out: FeatureMapShape) -> None:
        self._plane, self._out = plane, out
        self._axes = tuple((matrix, WindowAxis.of((matrix != 0).T)) for matrix in (rows, columns))

    @classmethod
    def of(cls, call: RowCall, plane: FeatureMapShape, out: FeatureMapShape) -> Resampling | None:
        """Return the matrices of a call; None if it does not treat rows and columns separately."""
        x = call.varying[0]
        sides = x.shape[2:]
        zero = x.new_zeros(1, plane.height, plane.width)
        row = torch.eye(plane.height, dtype=x.dtype, device=x.device)[:, :, None].expand(-1, -1, plane.width)
        column = torch.eye(plane.width, dtype=x.dtype, device=x.device)[:, None].expand(-1, plane.height, -1)
        noise = torch.rand(1, plane.height, plane.width, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
        planes = torch.cat([row, column, torch.ones_like(zero), noise, zero])[:, None]
        images = call.on_planes(planes.expand(-1, plane.channels, -1, -1).reshape(-1, plane.channels, *sides))
        images = images.reshape(-1, *out)
        if images.shape[1] != plane.channels or not torch.equal(images, images[:, :1].expand_as(images)):
            return None
        images = images[:-1, 0] - images[-1, 0]
        by_row, by_column = images[: plane.height], images[plane.height : -2]
        everywhere, mixed = images[-2], images[-1]
        largest = int(everywhere.abs().argmax())
        y, x_place = largest // out.width, largest % out.width
        if everywhere[y, x_place] == 0:
            return None
        rows, columns = by_row[:, :, x_place].T, by_column[:, y].T / everywhere[y, x_place]
        error = (rows @ noise[0] @ columns.T - mixed).abs().max()
        exact = error <= ALIKE * plane.area * mixed.abs().max()
        return (
            cls(rows.contiguous(), columns.contiguous(), plane, out)
            if bool(exact) and _covers(rows) and _covers(columns)
            else None
        )

    def __call__(self, signal: Signal) -> Signal:
        """Return the kinks after the operation."""
        groups: dict[int, Group] = {}
        for origin, group in signal.groups.items():
            groups[origin] = self._of_boxes(group.boxes(self._plane.channels))
        return Signal(self._out, groups)

    def _of_boxes(self, boxes: Boxes) -> Boxes:
        boxes = boxes.clipped(self._plane)
        height, width = boxes.sides
        y, rows = _weights(*self._axes[0], boxes.y, height)
        x, columns = _weights(*self._axes[1], boxes.x, width)
        kinks = torch.bmm(rows, boxes.kinks.flatten(2)).view(len(boxes), -1, width, boxes.kinks.shape[-1])
        kinks = torch.matmul(columns[:, None], kinks)
        return Boxes(boxes.event, y, x, kinks)


def _weights(matrix: Tensor, axis: WindowAxis, begin: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the first place of each box's image (E,), and the weights of the box's places in it (E, n, length)."""
    first, count = axis.windows(begin, length)
    window = first[:, None] + torch.arange(count, device=first.device)
    place = begin[:, None] + torch.arange(length, device=first.device)
    inside = (window < len(matrix))[:, :, None] & ((place >= 0) & (place < matrix.shape[1]))[:, None]
    weights = matrix[window.clamp(max=len(matrix) - 1)[:, :, None], place.clamp(0, matrix.shape[1] - 1)[:, None]]
    return first, weights.masked_fill(~inside, 0.0)


def _covers(matrix: Tensor) -> bool:
    """Return whether the non-zero entries of each row begin and end no earlier than those of the row before."""
    sees = matrix != 0
    if not bool(sees.any(1).all()):
        return False
    begin = sees.int().argmax(1)
    end = matrix.shape[1] - sees.int().flip(1).argmax(1)
    return bool((begin.diff() >= 0).all() and (end.diff() >= 0).all())

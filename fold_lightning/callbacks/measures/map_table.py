"""A map of a plane as a table, for TensorBoard's Folding tab."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fold_lightning._tables import Array, small_integers
from fold_lightning._tables import Table as Columns
from fold_lightning.slice_maps import SliceMap

MAP_TABLE_BYTES = 2**18
"""Maximum size of the table before compression, 256 KiB: a map of 3,000 regions, 1,000 of them divided between classes, or of
4,000 undivided ones."""


def map_table(found: SliceMap | str, labels: Tensor | None) -> Columns:
    """Return a map as columns with one row per region, per corner of a region's polygon, per vertex or per input.

    R regions have at most 2 R + 4 vertices of 16 bytes and 6 R corners of 2 bytes, so that 3,000 take 180 KiB. The parts of
    regions by class are left out if the table would exceed `MAP_TABLE_BYTES` with them.

    Args:
        found: The map, or the reason why there is none.
        labels: Classes int64 (I,) of the map's inputs; None without labels.
    """
    if isinstance(found, str):
        return {"reason": np.asarray(found)}
    table: Columns = {"vertices": found.vertices.numpy(), "window": np.array(found.window), "marks": found.marks.numpy()}
    table |= {"corners": _numbers(found.corners), "starts": _numbers(found.starts)}
    table |= {"distance": found.distances.int().numpy(), "faces": found.neighbours.int().numpy()}
    if labels is not None:
        table["mark_class"] = labels[: len(found.marks)].numpy()
    if found.scores is None:
        return table
    table |= {"prediction": found.predictions.int().numpy(), "confidence": found.confidences.float().numpy()}
    divided = table | _parts_by_class(found)
    return divided if sum(column.nbytes for column in divided.values()) <= MAP_TABLE_BYTES else table


def _parts_by_class(found: SliceMap) -> Columns:
    """Return the parts by class of regions with several predicted classes, the borders of classes, and all vertices."""
    pieces = found.by_class()
    is_part = torch.bincount(pieces.regions, minlength=len(found))[pieces.regions] > 1
    polygons = [polygon for polygon, counts in zip(pieces.polygons, is_part.tolist(), strict=True) if counts]
    borders = pieces.borders.flatten(0, 1)
    vertices, numbers = _numbered(found.vertices, torch.cat([*polygons, borders]))
    corners, ends = numbers[: len(numbers) - len(borders)], numbers[len(numbers) - len(borders) :]
    return {
        "vertices": vertices.numpy(),
        "part_region": _numbers(pieces.regions[is_part]),
        "part_prediction": pieces.predictions[is_part].int().numpy(),
        "part_confidence": pieces.confidences[is_part].float().numpy(),
        "part_corners": _numbers(corners),
        "part_starts": np.cumsum([0, *map(len, polygons)], dtype=np.int16 if len(corners) < 2**15 else np.int32),
        "borders": _numbers(ends.view(-1, 2)),
    }


def _numbered(vertices: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return vertices (V, 2) extended by new ones among points (P, 2), and the index int64 (P,) of each point."""
    everything, place = torch.cat([vertices, points]).unique(dim=0, return_inverse=True)
    number = torch.full((len(everything),), -1)
    number[place[: len(vertices)]] = torch.arange(len(vertices))
    is_new = number < 0
    number[is_new] = len(vertices) + torch.arange(int(is_new.sum()))
    return torch.cat([vertices, everything[is_new]]), number[place[len(vertices) :]]


def _numbers(column: Tensor) -> Array:
    """Return row indices in 2 bytes each if all of them fit."""
    small = column.numel() == 0 or int(column.max()) < 2**15
    return column.short().numpy() if small else small_integers(column.numpy())

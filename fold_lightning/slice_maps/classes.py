"""Regions of a map, cut where the predicted class changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fold_lightning.slice_maps.bend_pass import VALUE_ROUNDING
from fold_lightning.slice_maps.bends import Lanes
from fold_lightning.slice_maps.cutting import SPARE, cut_by_choices
from fold_lightning.slice_maps.subdivision import Subdivision


@dataclass(frozen=True, eq=False)
class ClassPieces:
    """Pieces of regions in which one class is predicted: P convex polygons.

    Attributes:
        polygons: Corners float64 (v, 2) of each piece, counter-clockwise.
        regions: int64 (P,), the region of each piece.
        predictions: int64 (P,), the predicted class of each piece.
        confidences: float64 (P,), the softmax probability of that class at the mean of the corners.
        borders: float64 (K, 2, 2), end points of the straight segments between classes.
    """

    polygons: list[Tensor]
    regions: Tensor
    predictions: Tensor
    confidences: Tensor
    borders: Tensor


def cut_by_class(vertices: Tensor, corners: Tensor, starts: Tensor, scores: Tensor) -> ClassPieces:
    """Return the pieces of polygons in which one class is predicted.

    Args:
        vertices: float64 (V, 2).
        corners: int64 (K,), vertices of each polygon, counter-clockwise, one polygon after the other.
        starts: int64 (R + 1,), where each polygon begins in `corners`.
        scores: float64 (V, C), affine in each polygon.
    """
    regions, classes = len(starts) - 1, scores.shape[1]
    subdivision = Subdivision.of_polygons(vertices.numpy(), corners.numpy(), starts.numpy(), SPARE * regions * classes)
    values = scores.numpy()
    root = cut_by_choices(
        subdivision, Lanes(values[:, None], np.array([VALUE_ROUNDING * np.abs(values).max(initial=0.0)]), ranks=1)
    )
    at_centers = torch.from_numpy(subdivision.means(subdivision.lift(values)))
    chances = at_centers.softmax(1).max(1)
    corner, begins = subdivision.corners()
    polygons = torch.from_numpy(subdivision.points[corner]).split(np.diff(begins).tolist())
    sides = subdivision.sides
    predicted = chances.indices.numpy()
    between = (sides >= 0).all(1) & (predicted[sides[:, 0]] != predicted[sides[:, 1]])
    borders = torch.from_numpy(subdivision.points[subdivision.ends[between]])
    return ClassPieces(list(polygons), torch.from_numpy(root), chances.indices, chances.values, borders)

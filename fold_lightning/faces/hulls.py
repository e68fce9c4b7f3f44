"""Hulls by Qhull, which in few dimensions tell at once most of the rows that are no faces."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

MOST_DIMENSIONS = 7
"""Dimensions up to which hulls are made; beyond, a hull has more facets than linear programs of its rows take steps."""

FEWEST_ROWS = 64
"""Rows from which on hulls are made; linear programs of fewer rows are as fast."""

INSIDE = 1e-12
"""Least distance of a point inside the hull from its facets; no point is farther than 1 from 0."""

DIRECTIONS = 16

WELL_INSIDE = 1e-6
"""Depth inside a polygon from which on a point is no corner of the hull, nor equal to one up to rounding."""


def facets_of_hull(points: np.ndarray) -> np.ndarray | None:
    """Return the facets (normal, offset) of the hull of points (M, d); None if it is flat up to rounding."""
    if points.shape[1] == 1:
        return np.array([[1.0, -points.max()], [-1.0, points.min()]])
    try:
        facets: np.ndarray = ConvexHull(points).equations
    except QhullError:
        return None
    return facets


def inside_polygons(points: Tensor) -> Tensor:
    """Return a mask bool (B, M) of points (B, M, 2) that are no corners of their hull.

    They lie well inside the polygon of the points that are farthest in a few directions.
    """
    angles = torch.arange(DIRECTIONS, device=points.device).to(points) * (2 * math.pi / DIRECTIONS)
    farthest = (torch.stack([angles.cos(), angles.sin()], dim=1) @ points.mT).argmax(2)
    start = points.gather(1, farthest[..., None].expand(-1, -1, 2))
    along = start.roll(-1, dims=1) - start
    outward = torch.stack([along[..., 1], -along[..., 0]], dim=2)
    border = (outward * start).sum(2, keepdim=True) - WELL_INSIDE * outward.norm(dim=2, keepdim=True)
    is_edge = farthest != farthest.roll(-1, dims=1)
    below = (outward @ points.mT < border) | ~is_edge[..., None]
    inside: Tensor = below.all(1) & (is_edge.sum(1, keepdim=True) > 2)
    return inside


def inside_hulls(points: Tensor, real: Tensor) -> Tensor:
    """Return a mask bool (B, M) of points (B, M, d) inside the hull of the others: their rows are no faces.

    It is False everywhere in many dimensions, and where there are few rows.
    """
    inside = torch.zeros_like(real)
    m, d = points.shape[1:]
    if not 2 < d <= MOST_DIMENSIONS or m < FEWEST_ROWS:
        return inside
    for b, some in enumerate(points.cpu().numpy()):
        facets = facets_of_hull(some)
        if facets is not None:
            below = (some @ facets[:, :-1].T + facets[:, -1]).max(1) < -INSIDE
            inside[b] = torch.from_numpy(below).to(inside.device)
    return inside & real

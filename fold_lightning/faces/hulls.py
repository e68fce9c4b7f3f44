"""Convex hulls that rule out most rows that are not faces, in few dimensions."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

MAX_HULL_DIMENSIONS = 7
"""Most dimensions in which hulls are computed; in more, their many facets cost more than linear programs."""

FEWEST_ROWS = 64
"""Fewest rows for which hulls are computed; for fewer rows linear programs are as fast."""

INSIDE_DEPTH = 1e-12
"""Least distance from the facets at which a point counts as inside the hull; no point is farther than 1 from 0."""

DIRECTIONS = 16
"""Directions whose farthest points make the polygon."""

WELL_INSIDE = 1e-6
"""Depth inside a polygon at which a point is neither a corner of the hull nor equal to one up to rounding."""


def facets_of_hull(points: np.ndarray) -> np.ndarray | None:
    """Return the facets (normal, offset) of the hull of points (M, d), by Qhull; None if it is flat up to rounding."""
    if points.shape[1] == 1:
        return np.array([[1.0, -points.max()], [-1.0, points.min()]])
    try:
        facets: np.ndarray = ConvexHull(points).equations
    except QhullError:
        return None
    return facets


def inside_polygons(points: Tensor) -> Tensor:
    """Return a mask bool (B, M) of points (B, M, 2) that are surely not corners of their hull.

    They lie inside the polygon of the points that are farthest in a few directions, by at least `WELL_INSIDE`.
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
    """Return a mask bool (B, M) of points (B, M, d) inside the hull of all points: their rows are not faces.

    No hull is computed, and the mask is False, in fewer than 3 dimensions, in more than `MAX_HULL_DIMENSIONS`, or for few rows.
    """
    inside = torch.zeros_like(real)
    m, d = points.shape[1:]
    if not 2 < d <= MAX_HULL_DIMENSIONS or m < FEWEST_ROWS:
        return inside
    for b, some in enumerate(points.cpu().numpy()):
        facets = facets_of_hull(some)
        if facets is not None:
            below = (some @ facets[:, :-1].T + facets[:, -1]).max(1) < -INSIDE_DEPTH
            inside[b] = torch.from_numpy(below).to(inside.device)
    return inside & real

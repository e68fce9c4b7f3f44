"""Hulls by Qhull, which in few dimensions tell at once most of the rows that are no faces."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

MOST_DIMENSIONS = 7
"""Beyond, a hull has more facets than the programs of its rows take steps."""

FEWEST_ROWS = 64
"""Of fewer rows, programs are as fast."""

INSIDE = 1e-12
"""How far below all facets of the hull a point must lie; no point is farther than 1 from 0."""


def facets_of_hull(points: np.ndarray) -> np.ndarray | None:
    """The facets (normal, offset) of the hull of some points (M, d); None if it is as flat as rounding makes it."""
    if points.shape[1] == 1:
        return np.array([[1.0, -points.max()], [-1.0, points.min()]])
    try:
        facets: np.ndarray = ConvexHull(points).equations
    except QhullError:
        return None
    return facets


def inside_hulls(points: Tensor, real: Tensor) -> Tensor:
    """Which points (B, M, d) lie inside the hull of the others, a mask (B, M): their rows are no faces.

    None in many dimensions or of few rows.
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

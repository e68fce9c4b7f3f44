"""Faces of intervals and polygons: the corners of the convex hull of the dual points, without linear programs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.faces.half_spaces import compact, gather_rows, scatter_mask
from fold_lightning.faces.polytopes import MIN_CUT, Polytopes

FIRST_DIRECTIONS = 16
"""Directions whose farthest points are the first corners of the hull."""

ON_EDGE = 1e-14
"""Height up to which a point counts as on an edge of the hull, in lengths of the edge's normal; no point is longer than 1."""

PARALLEL = 1e-12
"""Height above an edge that may be rounding, as a share of the length of the edge's normal times that of the point."""


def interval_faces(polytopes: Polytopes) -> Tensor:
    """Return the faces bool (B, M) of polytopes of one dimension: the nearest row on each side."""
    points = polytopes.points[..., 0]
    ends = torch.stack([points.argmax(1), points.argmin(1)], dim=1)
    there = torch.stack([points.amax(1) > 0, points.amin(1) < 0], dim=1)
    return scatter_mask(there, ends, points.shape[1]) & polytopes.own


def polygon_faces(polytopes: Polytopes) -> tuple[Tensor, Tensor]:
    """Return the faces and the redundant rows of polytopes of two dimensions.

    A corner of the hull that stands out by less than `MIN_CUT` is in neither mask.

    The hull starts with the farthest points in a few directions. The farthest point outside each edge becomes another corner, until
    no edge has a point outside (Quickhull, for all polygons at once).

    Returns:
        Two masks bool (B, M).
    """
    points = polytopes.points
    angles = torch.arange(FIRST_DIRECTIONS, device=points.device).to(points) * (2 * math.pi / FIRST_DIRECTIONS)
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    corners = F.one_hot((directions @ points.mT).argmax(2), points.shape[1]).bool().any(1)
    while True:
        before, ring, after = _rings(points, corners)
        normals, heights = _edges(gather_rows(points, ring), gather_rows(points, after))
        scores = normals @ points.mT
        farthest, row = scores.max(2)
        grown = corners | scatter_mask(farthest > heights + ON_EDGE * normals.norm(dim=2), row, corners.shape[1])
        if (grown == corners).all():
            break
        corners = grown
    normals_without, heights_without = _edges(gather_rows(points, before), gather_rows(points, after))
    at = gather_rows(points, ring)
    rounding = PARALLEL * normals_without.norm(dim=2) * at.norm(dim=2)
    stands_out = (normals_without * at).sum(2) > (1 + MIN_CUT) * heights_without + rounding
    return scatter_mask(stands_out, ring, corners.shape[1]) & polytopes.own, ~corners & polytopes.own


def _rings(points: Tensor, corners: Tensor) -> list[Tensor]:
    """Return the corner before each corner, the corner, and the one after, counter-clockwise, int64 (B, V) each.

    The corners of polygons with fewer than V corners are repeated.
    """
    order, there = compact(corners)
    at = gather_rows(points, order)
    middle = (at * there[..., None]).sum(1, keepdim=True) / there.sum(1)[:, None, None]
    x, y = (at - middle).unbind(2)
    turn = order.gather(1, torch.atan2(y, x).where(there, torch.inf).argsort(1))
    place = torch.arange(turn.shape[1], device=turn.device)
    return [turn.gather(1, (place + step) % there.sum(1, keepdim=True)) for step in (-1, 0, 1)]


def _edges(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outward normals (B, V, 2) of counter-clockwise edges, and the heights (B, V) of the edges along them."""
    along = end - start
    normals = torch.stack([along[..., 1], -along[..., 0]], dim=2)
    return normals, (normals * start).sum(2)

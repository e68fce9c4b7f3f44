"""Faces of intervals and polygons, without linear programs: the corners of the convex hull of the dual points."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.faces.polytopes import TIE, Polytopes
from fold_lightning.faces.rows import in_columns, taken, together

FIRST_DIRECTIONS = 16

ROUNDING = 1e-14
"""Heights above an edge of the hull that are none, in lengths of its normal; no point is longer than 1."""

PARALLEL = 1e-12
"""Heights above an edge near 0, in lengths of its normal and of the point, that say nothing."""


def interval_faces(polytopes: Polytopes) -> Tensor:
    """Faces bool (B, M) of polytopes of one dimension: the nearest row on either side."""
    points = polytopes.points[..., 0]
    ends = torch.stack([points.argmax(1), points.argmin(1)], dim=1)
    there = torch.stack([points.amax(1) > 0, points.amin(1) < 0], dim=1)
    return in_columns(there, ends, points.shape[1]) & polytopes.own


def polygon_faces(polytopes: Polytopes) -> tuple[Tensor, Tensor]:
    """Faces, and rows that are none, of polytopes of two dimensions; a corner that hardly stands out is in neither.

    The hull grows from its corners in a few directions: the farthest point across each of its edges is another corner, until no
    edge has one (Quickhull's way, for all polygons at once).

    Returns:
        Two masks bool (B, M).
    """
    points = polytopes.points
    angles = torch.arange(FIRST_DIRECTIONS, device=points.device).to(points) * (2 * math.pi / FIRST_DIRECTIONS)
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    corners = F.one_hot((directions @ points.mT).argmax(2), points.shape[1]).bool().any(1)
    while True:
        before, ring, after = _rings(points, corners)
        normals, heights = _edges(taken(points, ring), taken(points, after))
        scores = normals @ points.mT
        farthest, row = scores.max(2)
        grown = corners | in_columns(farthest > heights + ROUNDING * normals.norm(dim=2), row, corners.shape[1])
        if (grown == corners).all():
            break
        corners = grown
    normals_without, heights_without = _edges(taken(points, before), taken(points, after))
    at = taken(points, ring)
    rounding = PARALLEL * normals_without.norm(dim=2) * at.norm(dim=2)
    stands_out = (normals_without * at).sum(2) > (1 + TIE) * heights_without + rounding
    return in_columns(stands_out, ring, corners.shape[1]) & polytopes.own, ~corners & polytopes.own


def _rings(points: Tensor, corners: Tensor) -> list[Tensor]:
    """For each corner, counter-clockwise, the one before, itself and the one after (B, V); where there are fewer, they come again."""
    order, there = together(corners)
    at = taken(points, order)
    middle = (at * there[..., None]).sum(1, keepdim=True) / there.sum(1)[:, None, None]
    x, y = (at - middle).unbind(2)
    turn = order.gather(1, torch.atan2(y, x).where(there, torch.inf).argsort(1))
    place = torch.arange(turn.shape[1], device=turn.device)
    return [turn.gather(1, (place + step) % there.sum(1, keepdim=True)) for step in (-1, 0, 1)]


def _edges(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The outward normals (B, V, 2) of edges that run counter-clockwise, and their heights (B, V) above 0."""
    along = end - start
    normals = torch.stack([along[..., 1], -along[..., 0]], dim=2)
    return normals, (normals * start).sum(2)

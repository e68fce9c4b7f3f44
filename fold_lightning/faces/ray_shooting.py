"""Rays that prove faces: a plane that a ray from inside a polytope meets first and alone is a face."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.faces.half_spaces import compact, gather_rows, scatter_mask
from fold_lightning.faces.linear_programs import POINT_ROUNDING
from fold_lightning.faces.polytopes import MIN_CUT, POLYTOPE_BYTES, Polytopes

ROUNDS = 6
"""Maximum number of corrections of a ray towards a row that it missed."""

STEP = 1.5
"""Length of a correction, as a multiple of the one after which the ray meets both rows at the same point: its own, and the one that
it met before."""


def met_alone(heights: Tensor, lengths: Tensor) -> Tensor:
    """Return the rows that some ray meets first and alone, by a margin above rounding.

    Args:
        heights: (B, R, M), heights of the rows' points along each ray: reciprocal distances at which the ray meets the rows.
        lengths: (B, R), lengths of the rays' directions.

    Returns:
        bool (B, M).
    """
    highest, rows = heights.topk(min(2, heights.shape[-1]), dim=-1)
    second = highest[..., 1:].sum(-1).clamp(min=0)
    return scatter_mask(highest[..., 0] > second * (1 + MIN_CUT) + POINT_ROUNDING * lengths, rows[..., 0], heights.shape[-1])


def rows_met(polytopes: Polytopes, seed: int = 0) -> Tensor:
    """Return the faces bool (B, M) that rays from the center prove.

    Some rays are random; one leads towards each row and is corrected where it misses that row. A correction moves the direction along
    the difference between the row's point and the point of the plane that it met instead (this project's own).
    """
    points = polytopes.points
    size = max(1, POLYTOPE_BYTES // (8 * points.shape[0] * points.shape[1]))
    random = torch.randn(points.shape, generator=torch.Generator().manual_seed(seed), dtype=points.dtype).to(points.device)
    faces = torch.zeros_like(polytopes.real)
    for directions in random.split(size, dim=1):
        faces |= met_alone(directions @ points.mT, directions.norm(dim=2))
    everything = torch.arange(points.shape[1], device=points.device).expand(points.shape[:2])
    for own in everything.split(size, dim=1):
        faces |= _met_on_the_way(polytopes, own, faces)
    return faces & polytopes.own


def _met_on_the_way(polytopes: Polytopes, own: Tensor, faces: Tensor) -> Tensor:
    """Return the faces that rays towards rows (B, R), and their corrections, prove."""
    points, directions = polytopes.points, gather_rows(polytopes.points, own)
    for _ in range(ROUNDS):
        heights = directions @ points.mT
        faces = faces | met_alone(heights, directions.norm(dim=2))
        missed, there = compact((polytopes.own & ~faces).gather(1, own))
        if not there.any():
            break
        own, directions = own.gather(1, missed), gather_rows(directions, missed)
        rival = gather_rows(heights, missed).scatter(2, own[..., None], -torch.inf).argmax(2)
        apart = gather_rows(points, own) - gather_rows(points, rival)
        behind = (apart * directions).sum(2, keepdim=True).clamp(max=0)
        directions = directions - STEP * behind / apart.square().sum(2, keepdim=True).clamp(min=1e-300) * apart
    return faces

"""Hit-and-run: a random walk inside a polytope along chords, whose ends lie on faces."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.faces.polytopes import Polytopes
from fold_lightning.faces.ray_shooting import met_alone

RADIUS = 4.0
"""Radius of the ball around the analytic center, in its metric, in which the walk stays: in an unbounded polytope it would otherwise
drift away from the faces and not return. Chords are not cut: their ends beyond the ball count too."""


def rows_met_at_random(polytopes: Polytopes, num_steps: int, seed: int) -> Tensor:
    """Return the faces bool (B, M) at the ends of random chords, each through a random point of the chord before it.

    "Deep ReLU Networks Have Surprisingly Simple Polytopes" (Fan et al. 2023) counts faces in this way. The count is a lower bound.
    """
    points, generator = polytopes.points, torch.Generator().manual_seed(seed)
    faces = torch.zeros_like(polytopes.real)
    slacks, at = torch.ones_like(points[..., 0]), torch.zeros_like(points[:, 0])
    for _ in range(num_steps):
        direction = torch.randn(len(points), points.shape[2], generator=generator, dtype=points.dtype).to(points.device)
        share = torch.rand(len(points), 1, generator=generator, dtype=points.dtype).to(points.device)
        rates = torch.einsum("bmd,bd->bm", points, direction)
        heights = torch.stack([rates / slacks, -rates / slacks], dim=1)
        faces |= met_alone(heights, direction.norm(dim=1, keepdim=True))
        ahead, behind = (1 / heights.amax(2).clamp(min=1e-300)).minimum(_lengths_to_ball(at, direction)).unbind(1)
        length = share * (ahead + behind)[:, None] - behind[:, None]
        slacks, at = slacks - length * rates, at + length * direction
    return faces & polytopes.own


def _lengths_to_ball(at: Tensor, direction: Tensor) -> Tensor:
    """Return the distances (B, 2) to the ball's surface, forwards and backwards along directions (B, d), in their lengths."""
    square = direction.square().sum(1)
    along, inside = (at * direction).sum(1), (RADIUS**2 - at.square().sum(1)).clamp(min=0)
    half = (along.square() + square * inside).sqrt()
    return torch.stack([half - along, half + along], dim=1) / square[:, None]

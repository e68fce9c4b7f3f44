"""Hit-and-run: a walk inside a polytope from chord to chord, whose ends are faces."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.faces.polytopes import Polytopes
from fold_lightning.faces.ray_shooting import met_alone

RADIUS = 4.0
"""Radius of the ball around the center, in its metric, in which the walk stays. In an unbounded polytope it would else leave for good
the part that has the faces. Chords are not cut: their ends beyond the ball are faces too."""


def rows_met_at_random(polytopes: Polytopes, num_steps: int, seed: int) -> Tensor:
    """Return the faces bool (B, M) among the ends of random chords, each through a random point of the one before.

    "Deep ReLU Networks Have Surprisingly Simple Polytopes" (Fan et al. 2023) counts faces so: a lower bound.
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
        ahead, behind = (1 / heights.amax(2).clamp(min=1e-300)).minimum(_to_the_ball(at, direction)).unbind(1)
        length = share * (ahead + behind)[:, None] - behind[:, None]
        slacks, at = slacks - length * rates, at + length * direction
    return faces & polytopes.own


def _to_the_ball(at: Tensor, direction: Tensor) -> Tensor:
    """Return how many directions (B, d) lead from points (B, d) to the ball's border, ahead and behind: (B, 2)."""
    square = direction.square().sum(1)
    along, inside = (at * direction).sum(1), (RADIUS**2 - at.square().sum(1)).clamp(min=0)
    half = (along.square() + square * inside).sqrt()
    return torch.stack([half - along, half + along], dim=1) / square[:, None]

"""Hit-and-run: a walk inside a polytope from chord to chord, whose ends are faces."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.faces.polytopes import Polytopes
from fold_lightning.faces.rays import met_alone

FAR = 1e3
"""Where a chord without an end is cut, in the metric of the center."""


def rows_met_at_random(polytopes: Polytopes, num_steps: int, seed: int) -> Tensor:
    """Faces bool (B, M) among the ends of random chords, each through a random point of the one before.

    "Deep ReLU Networks Have Surprisingly Simple Polytopes" (Fan et al. 2023) counts faces so: a lower bound.
    """
    points, generator = polytopes.points, torch.Generator().manual_seed(seed)
    faces = torch.zeros_like(polytopes.real)
    slacks = torch.ones_like(points[..., 0])
    for _ in range(num_steps):
        direction = torch.randn(len(points), points.shape[2], generator=generator, dtype=points.dtype).to(points.device)
        share = torch.rand(len(points), 1, generator=generator, dtype=points.dtype).to(points.device)
        rates = torch.einsum("bmd,bd->bm", points, direction)
        heights = torch.stack([rates / slacks, -rates / slacks], dim=1)
        faces |= met_alone(heights, direction.norm(dim=1, keepdim=True))
        ahead, behind = (1 / heights.amax(2).clamp(min=1 / FAR)).unbind(1)
        slacks = slacks - (share * (ahead + behind)[:, None] - behind[:, None]) * rates
    return faces & polytopes.own

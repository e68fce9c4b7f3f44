"""Ways out of a region, each through one of its faces."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.faces.interior_point import STEPS, Programs, gram_factors, heights, step
from fold_lightning.faces.polytopes import TIE, Frame, Polytopes
from fold_lightning.faces.rows import taken, together


def ways_across(polytopes: Polytopes, frame: Frame, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A way from the center through each of some faces, crossed where no other plane is; none through one too thin for any.

    A point across the face that satisfies all other rows, as an interior-point method meets it, shows the direction.

    Args:
        polytopes: B polytopes.
        frame: Where their coordinates lie.
        faces: bool (B, M), some of their faces.

    Returns:
        For each of F ways the polytope int64 (F,), the row int64 (F,) of its region, and the step (F, d) to the face.
    """
    own, there = together(faces)
    programs = Programs.begun(polytopes, own, there)
    gram = gram_factors(polytopes)
    across = torch.zeros_like(taken(polytopes.points, own))
    crossed = torch.zeros_like(there)
    for _ in range(STEPS):
        if (crossed | ~there).all():
            break
        step(polytopes, programs)
        reached = heights(programs)
        height = reached.gather(2, own[..., None])
        point = torch.cholesky_solve((reached @ polytopes.points).mT, gram).mT
        now = there & ~crossed & (height[..., 0] > 1 + TIE)
        across = torch.where(now[..., None], point / height, across)
        crossed |= now
    region, place = crossed.nonzero(as_tuple=True)
    return region, polytopes.rows.gather(1, own)[region, place], frame.steps(across)[region, place]

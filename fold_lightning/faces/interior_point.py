"""Linear programs for all undecided rows of all polytopes at once, each until it proves its answer.

The program of a row goes as far across its plane as the other rows let it. Each step of an interior-point method costs one matrix
product for all programs of a polytope, and none need reach its optimum: a point across the plane proves a face, a combination of
other rows that implies it proves that it is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.faces.half_spaces import compact, gather_rows, scatter_mask
from fold_lightning.faces.linear_programs import POINT_ROUNDING
from fold_lightning.faces.polytopes import CHUNK_BYTES, COMBINATION_ROUNDING, MIN_CUT, Polytopes, positive_factors
from fold_lightning.faces.ray_shooting import met_alone

STEPS = 24
"""Steps of a program: what 20 do not answer is a tie, which 60 do not either, and a solver of its own is faster."""

AT_ONCE = 256
"""Linear programs of a polytope that run at once; the faces that they meet on their way need none of their own."""

TEMPORARIES = 8
"""Tensors (B, U, M) that are held at once."""

TO_THE_WALL = 0.95
"""Length of a step, as a share of the one to the first wall."""

DENSE_MIN_PROGRAMS = 4
"""Dimensions for each linear program from which on its normal matrix is computed by itself, not from
all products of two coordinates."""

BLOCK = 8
"""Columns of the normal matrices that are computed at once, from the diagonal down."""


@dataclass
class Programs:
    """Linear programs, U of each of B polytopes.

    Each maximizes ``own . z`` where ``points . z <= 1`` holds for all rows but the own one, which is relaxed to 2.

    Attributes:
        rows: int64 (B, U), the own row of each program.
        open: bool (B, U), True for programs that are not answered yet.
        slacks: (B, U, M) of the rows at a point inside, above 0.
        weights: (B, U, M) of the rows, above 0, whose combination is the own row.
    """

    rows: Tensor
    open: Tensor
    slacks: Tensor
    weights: Tensor

    @classmethod
    def begun(cls, polytopes: Polytopes, rows: Tensor, there: Tensor) -> Programs:
        """Return programs at the point 0, with the weights nearest to equal ones that give the own row and stay above 0.

        The points' Gram matrix is nearly the identity and their sum nearly 0, so that there are such weights unless the polytope
        reaches to the walls; then the steps have to bring them about.
        """
        points = polytopes.points
        gram = _gram_factors(polytopes)
        centered = 1 - _solved(gram, points.sum(1))[:, None] @ points.mT
        products = torch.cholesky_solve(gather_rows(points, rows).mT, gram).mT @ points.mT
        even = (centered > 0.1).all(2, keepdim=True)
        centered = centered.where(even, 1.0)
        mu = 1.1 * (-products / centered).amax(2, keepdim=True).clamp(min=1e-3)
        slacks = torch.ones_like(products).scatter(2, rows[..., None], 2.0)
        return cls(rows, there, slacks, (mu * centered + products) * polytopes.real[:, None])

    def still_open(self) -> Programs:
        """Return the programs that are not answered, without gaps."""
        order, there = compact(self.open)
        if order.shape[1] == self.rows.shape[1]:
            return self
        return Programs(self.rows.gather(1, order), there, gather_rows(self.slacks, order), gather_rows(self.weights, order))


def decided(polytopes: Polytopes, undecided: Tensor) -> tuple[Tensor, Tensor]:
    """Return faces, and rows that are none, among the rows that a mask (B, M) names.

    The faces may hold rows that the mask does not name.

    A predictor and a corrector a step, as Mehrotra's; feasible from the start, in the metric of the analytic center (this project's
    own). A row that neither cuts by `MIN_CUT` nor stays away by it, as far as numbers tell, is in neither mask.

    Returns:
        Two masks bool (B, M).
    """
    faces, redundant, tried = (torch.zeros_like(undecided) for _ in range(3))
    size = max(1, min(AT_ONCE, CHUNK_BYTES // (8 * TEMPORARIES * undecided.numel())))
    while (left := undecided & ~faces & ~redundant & ~tried).any():
        rows, there = (part[:, :size] for part in compact(left))
        tried |= scatter_mask(there, rows, left.shape[1])
        programs = Programs.begun(polytopes, rows, there)
        for _ in range(STEPS):
            found, none = step(polytopes, programs)
            faces |= found
            redundant |= none
            programs.open = programs.open & ~(faces | redundant).gather(1, programs.rows)
            if not programs.open.any():
                break
            programs = programs.still_open()
    return faces & polytopes.own, redundant & ~faces & polytopes.own


def step(polytopes: Polytopes, programs: Programs) -> tuple[Tensor, Tensor]:
    """Move all programs one step, and return the faces and the redundant rows that this proves, bool (B, M) each."""
    points, slacks, weights = polytopes.points, programs.slacks, programs.weights
    own = gather_rows(points, programs.rows)
    stiffness = weights / slacks
    factors, failed = torch.linalg.cholesky_ex(_normal_matrices(stiffness, points))
    programs.open = programs.open & (failed == 0)

    approach = _solved(factors, own) @ points.mT
    implied = stiffness * approach  # the predictor's weights, which give the own row but for rounding
    redundant = (implied >= 0).all(2) & _imply(implied, own, polytopes, programs.rows)
    onward, onward_weights = _to_the_wall(slacks, approach, 1.0), _to_the_wall(weights, weights - implied, 1.0)
    count = polytopes.real.sum(1)[:, None, None]
    gap = (weights * slacks).sum(2, keepdim=True) / count
    then = ((weights + onward_weights * (implied - weights)) * (slacks - onward * approach)).sum(2, keepdim=True) / count
    target = (then / gap) ** 3 * gap
    correction = (target + approach * (implied - weights)) / slacks * polytopes.real[:, None]

    approach = _solved(factors, own - correction @ points) @ points.mT
    change = stiffness * approach - weights + correction
    programs.slacks = slacks - _to_the_wall(slacks, approach, TO_THE_WALL) * approach
    programs.weights = weights + _to_the_wall(weights, -change, TO_THE_WALL) * change
    redundant |= _imply(programs.weights, own, polytopes, programs.rows)
    # Walls make up for the rounding of a combination that implies a row without them, and take more for it than that is worth.
    alone = programs.weights * polytopes.own[:, None]
    redundant |= _imply(alone, own, polytopes, programs.rows, POINT_ROUNDING)
    relaxed = torch.ones_like(programs.slacks).scatter(2, programs.rows[..., None], 2.0)
    reached = relaxed - programs.slacks  # heights along the rays from 0 through the programs' points
    distance = reached.norm(dim=2)  # for the points' Gram matrix is the identity
    across = _own(programs.slacks, programs.rows) < 1 - MIN_CUT - POINT_ROUNDING * distance
    width = points.shape[1]
    faces = scatter_mask(across & programs.open, programs.rows, width)
    faces |= met_alone(reached, distance)
    return faces, scatter_mask(redundant & programs.open, programs.rows, width)


def _imply(weights: Tensor, own: Tensor, polytopes: Polytopes, rows: Tensor, rounding: float = COMBINATION_ROUNDING) -> Tensor:
    """Return whether combinations of the other rows imply the own rows, bool (B, U), up to `MIN_CUT`.

    The share of the own row in a combination is divided out.

    A combination that misses the own row by rounding implies it a little worse: no point of a bounded polytope is farther from the
    center than it has rows, in the center's metric.
    """
    missing: Tensor = (own - weights @ polytopes.points).norm(dim=2)
    loss = missing * polytopes.real.sum(1, keepdim=True)
    share = _own(weights, rows)
    near: Tensor = missing < rounding
    return near & (share < 0.5) & (weights.sum(2) - share + loss < (1 + MIN_CUT) * (1 - share))


def _own(values: Tensor, rows: Tensor) -> Tensor:
    return values.gather(2, rows[..., None])[..., 0]


def _to_the_wall(values: Tensor, decrease: Tensor, part: float) -> Tensor:
    """Return the longest step of at most 1 that decreases no value by more than a part of it."""
    steps: Tensor = (part * values / decrease).where(decrease > 0, 1.0)
    return steps.amin(2, keepdim=True).clamp(max=1.0)


def _solved(factors: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.cholesky_solve(right[..., None], factors)
    return solution[..., 0]


def _gram_factors(polytopes: Polytopes) -> Tensor:
    """Return the Cholesky factors (B, d, d) of the points' Gram matrices, which are nearly the identity."""
    matrices = _normal_matrices(polytopes.real[:, None].to(polytopes.points), polytopes.points)[:, 0]
    return positive_factors(matrices)


def _normal_matrices(stiffness: Tensor, points: Tensor) -> Tensor:
    """Return the lower triangles of the matrices ``sum_j stiffness_j p_j p_j^T`` (B, U, d, d).

    For many programs all products ``p p^T`` are computed first.
    """
    d, num_programs = points.shape[2], stiffness.shape[1]
    if DENSE_MIN_PROGRAMS * num_programs < d and 8 * stiffness.numel() * d <= CHUNK_BYTES:
        matrices = (points.mT[:, None] * stiffness[:, :, None]) @ points[:, None]
    else:
        matrices = points.new_zeros(*stiffness.shape[:2], d, d)
        for begin in range(0, d, BLOCK):
            end = min(d, begin + BLOCK)
            outer = points[..., begin:end, None] * points[..., None, :end]
            matrices[..., begin:end, :end] = (stiffness @ outer.flatten(2)).unflatten(2, (-1, end))
    empty = (points == 0).all(1)[:, None].expand(-1, stiffness.shape[1], -1)  # coordinates that a polytope does not have
    diagonal = torch.diagonal(matrices, dim1=2, dim2=3)
    diagonal += 1e-14 * diagonal.amax(2, keepdim=True)
    diagonal[empty] = 1.0
    return matrices

"""Linear programs of all undecided rows of all polytopes at once, by an interior-point method.

The program of a row seeks the point farthest across the row's plane that satisfies all other rows. A step costs one matrix product
for all programs of a polytope. A program stops before its optimum, as soon as it has a proof: a point across the plane proves that
the row is a face, a combination of other rows that implies the row proves that it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.faces.half_spaces import compact, gather_rows, scatter_mask
from fold_lightning.faces.linear_programs import POINT_ROUNDING
from fold_lightning.faces.polytopes import COMBINATION_ROUNDING, MIN_CUT, POLYTOPE_BYTES, Polytopes, positive_factors
from fold_lightning.faces.ray_shooting import met_alone

STEPS = 24
"""Most steps of a program. One that 20 steps do not answer is a tie, which 60 steps do not answer either; a separate solver is
faster for it."""

PROGRAMS_AT_ONCE = 256
"""Linear programs of a polytope that run at once. They also prove other faces, whose programs need not run."""

PROGRAM_TENSORS = 8
"""Tensors (B, U, M) that are in memory at once."""

BOUNDARY_SHARE = 0.95
"""Length of a step, as a share of the step at which the first slack or weight becomes 0."""

DENSE_MIN_PROGRAMS = 4
"""Dimensions per linear program above which each normal matrix is computed separately, not from shared products of coordinates."""

MATRIX_ROWS = 8
"""Rows of the normal matrices that are computed at once, up to the diagonal."""


@dataclass
class Programs:
    """Linear programs, U of each of B polytopes.

    Each maximizes ``own . z`` over ``points . z <= 1``, where ``own`` is the point of the row that the program decides. That row
    is relaxed to ``own . z <= 2``.

    Attributes:
        rows: int64 (B, U), the row that each program decides: its own row.
        open: bool (B, U), True for programs that are not answered yet.
        slacks: (B, U, M), slacks of the rows at a point inside, above 0.
        weights: (B, U, M), weights of the rows, above 0, whose combination is the own row.
    """

    rows: Tensor
    open: Tensor
    slacks: Tensor
    weights: Tensor

    @classmethod
    def begin(cls, polytopes: Polytopes, rows: Tensor, there: Tensor) -> Programs:
        """Return programs that start at the point 0, with nearly equal positive weights that give the own row.

        Such weights exist where the points' Gram matrix is nearly the identity and their sum nearly 0. If the polytope reaches to
        the walls, the first weights do not give the own row, and the steps correct them.
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
        """Return the programs that are not answered, moved to the front."""
        order, there = compact(self.open)
        if order.shape[1] == self.rows.shape[1]:
            return self
        return Programs(self.rows.gather(1, order), there, gather_rows(self.slacks, order), gather_rows(self.weights, order))


def decide_by_interior_point(polytopes: Polytopes, undecided: Tensor) -> tuple[Tensor, Tensor]:
    """Return the faces, and the redundant rows, among the rows that a mask (B, M) selects.

    The faces may include rows that the mask does not select.

    Each step is a predictor and a corrector, as in Mehrotra's method; programs are feasible from the start and run in the metric of
    the analytic center (this project's own). A row that rounding leaves undecided is in neither mask.

    Returns:
        Two masks bool (B, M).
    """
    faces, redundant, tried = (torch.zeros_like(undecided) for _ in range(3))
    size = max(1, min(PROGRAMS_AT_ONCE, POLYTOPE_BYTES // (8 * PROGRAM_TENSORS * undecided.numel())))
    while (left := undecided & ~faces & ~redundant & ~tried).any():
        rows, there = (part[:, :size] for part in compact(left))
        tried |= scatter_mask(there, rows, left.shape[1])
        programs = Programs.begin(polytopes, rows, there)
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
    """Move all programs by one step, and return the faces and the redundant rows that this proves, bool (B, M) each."""
    points, slacks, weights = polytopes.points, programs.slacks, programs.weights
    own = gather_rows(points, programs.rows)
    stiffness = weights / slacks
    factors, failed = torch.linalg.cholesky_ex(_normal_matrices(stiffness, points))
    programs.open = programs.open & (failed == 0)

    approach = _solved(factors, own) @ points.mT
    implied = stiffness * approach  # the predictor's weights, which give the own row up to rounding
    redundant = (implied >= 0).all(2) & _imply(implied, own, polytopes, programs.rows)
    onward, onward_weights = _step_to_boundary(slacks, approach, 1.0), _step_to_boundary(weights, weights - implied, 1.0)
    count = polytopes.real.sum(1)[:, None, None]
    gap = (weights * slacks).sum(2, keepdim=True) / count
    then = ((weights + onward_weights * (implied - weights)) * (slacks - onward * approach)).sum(2, keepdim=True) / count
    target = (then / gap) ** 3 * gap
    correction = (target + approach * (implied - weights)) / slacks * polytopes.real[:, None]

    approach = _solved(factors, own - correction @ points) @ points.mT
    change = stiffness * approach - weights + correction
    programs.slacks = slacks - _step_to_boundary(slacks, approach, BOUNDARY_SHARE) * approach
    programs.weights = weights + _step_to_boundary(weights, -change, BOUNDARY_SHARE) * change
    redundant |= _imply(programs.weights, own, polytopes, programs.rows)
    # Walls may correct the rounding of a combination at a cost above `MIN_CUT`: such a combination is tried without them too.
    alone = programs.weights * polytopes.own[:, None]
    redundant |= _imply(alone, own, polytopes, programs.rows, POINT_ROUNDING)
    relaxed = torch.ones_like(programs.slacks).scatter(2, programs.rows[..., None], 2.0)
    reached = relaxed - programs.slacks  # heights along the rays from 0 through the programs' points
    distance = reached.norm(dim=2)  # a length of z, because the points' Gram matrix is the identity
    across = _own(programs.slacks, programs.rows) < 1 - MIN_CUT - POINT_ROUNDING * distance
    width = points.shape[1]
    faces = scatter_mask(across & programs.open, programs.rows, width)
    faces |= met_alone(reached, distance)
    return faces, scatter_mask(redundant & programs.open, programs.rows, width)


def _imply(weights: Tensor, own: Tensor, polytopes: Polytopes, rows: Tensor, rounding: float = COMBINATION_ROUNDING) -> Tensor:
    """Return whether combinations of the other rows imply the own rows, bool (B, U), up to `MIN_CUT`.

    The own row's share of a combination is divided out.

    A combination may miss the own row by rounding. The bound that it implies is then larger by at most this distance times the
    number of rows: no point of a bounded polytope is farther from the center, in the center's metric.
    """
    missing: Tensor = (own - weights @ polytopes.points).norm(dim=2)
    loss = missing * polytopes.real.sum(1, keepdim=True)
    share = _own(weights, rows)
    near: Tensor = missing < rounding
    return near & (share < 0.5) & (weights.sum(2) - share + loss < (1 + MIN_CUT) * (1 - share))


def _own(values: Tensor, rows: Tensor) -> Tensor:
    return values.gather(2, rows[..., None])[..., 0]


def _step_to_boundary(values: Tensor, decrease: Tensor, part: float) -> Tensor:
    """Return the longest step of at most 1 that decreases no value by more than the given part of it."""
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

    With many programs, the products ``p p^T`` are computed first and shared.
    """
    d, num_programs = points.shape[2], stiffness.shape[1]
    if DENSE_MIN_PROGRAMS * num_programs < d and 8 * stiffness.numel() * d <= POLYTOPE_BYTES:
        matrices = (points.mT[:, None] * stiffness[:, :, None]) @ points[:, None]
    else:
        matrices = points.new_zeros(*stiffness.shape[:2], d, d)
        for begin in range(0, d, MATRIX_ROWS):
            end = min(d, begin + MATRIX_ROWS)
            outer = points[..., begin:end, None] * points[..., None, :end]
            matrices[..., begin:end, :end] = (stiffness @ outer.flatten(2)).unflatten(2, (-1, end))
    empty = (points == 0).all(1)[:, None].expand(-1, stiffness.shape[1], -1)  # coordinates that a polytope does not have
    diagonal = torch.diagonal(matrices, dim1=2, dim2=3)
    diagonal += 1e-14 * diagonal.amax(2, keepdim=True)
    diagonal[empty] = 1.0
    return matrices

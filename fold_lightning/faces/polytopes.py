"""Polytopes around 0, whose faces are the corners of a convex hull of dual points.

In coordinates z around a point strictly inside, each half-space is ``p . z <= 1``, with a dual point p for each row. A row is a face
if its dual point is a corner of the convex hull of 0 and all dual points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.faces.half_spaces import (
    NONE,
    HalfSpaces,
    compact,
    directions_inside,
    gather_rows,
    half_spaces_of,
    in_first_layer_coordinates,
    in_their_span,
    some_direction,
)
from fold_lightning.faces.hulls import inside_hulls, inside_polygons
from fold_lightning.regions import ActivationRegions

EQUAL = 1e-9
"""Distance of two planes up to which they count as equal, as a share of their distance from the center."""

MIN_CUT = 1e-10
"""Least depth that a plane must cut off to be a face, as a share of its distance from the center."""

CENTERING_STEPS = 60
"""Most Newton steps towards the analytic center."""

POLYTOPE_BYTES = 2**27
"""Bytes of the tensors that are in memory at once for a chunk of rows, 128 MiB."""

COMBINATION_ROUNDING = 1e-11
"""Largest distance between a combination of rows and the row that it implies, in the center's metric."""

RIDGE = 1e-15
"""Share of the largest diagonal element that is added to the diagonal so that Cholesky factors exist; ten times as much after each
failure."""

CENTERED = 0.5
"""Newton decrement below which a point is close enough to the analytic center."""

CENTER_BALL = 10.0
"""Radius of the ball that bounds how far away the center of an unbounded region lies, in median distances of the planes."""


@dataclass(frozen=True, eq=False)
class Polytopes:
    """B polytopes ``{z : points[b, j] . z <= 1 for all j}`` of d dimensions around 0.

    Attributes:
        points: float64 (B, M, d), all different; 0 for padding.
        rows: int64 (B, M), the number of each row among its region's half-spaces; `NONE` for padding, `WALL` for a wall.
    """

    points: Tensor
    rows: Tensor

    @property
    def real(self) -> Tensor:
        """Mask of the rows that are not padding, bool (B, M)."""
        return self.rows != NONE

    @property
    def own(self) -> Tensor:
        """Mask of the region's own rows, without walls and padding, bool (B, M)."""
        return self.rows >= 0

    def keeping(self, keep: Tensor) -> Polytopes:
        """Return the polytopes of the rows where a mask (B, M) is True, moved to the front."""
        order, there = compact(keep)
        points = gather_rows(self.points, order) * there[..., None]
        return Polytopes(points, self.rows.gather(1, order).where(there, NONE))


def ready_polytopes(regions: ActivationRegions) -> tuple[Tensor, Polytopes]:
    """Return the faces that need no further test, and the polytopes of the other rows.

    Of equal planes only the first is kept. A region without interior has no faces, so none of its rows are kept.

    Returns:
        bool (B, N), the faces found so far; and the polytopes.
    """
    rows = half_spaces_of(regions)
    first = next((part.stop for part in regions.layers.values() if part.stop > part.start), 0)
    lone, rows = in_first_layer_coordinates(rows, first)
    interior, steps = directions_inside(rows)
    rows = in_their_span(rows.moved(steps).keeping(rows.real & interior[:, None])).with_walls()
    points, _ = dual_points(rows)
    return lone & interior[:, None], without_redundant(points, rows)


def without_redundant(points: Tensor, rows: HalfSpaces) -> Polytopes:
    """Return the polytopes of dual points, without rows that are surely not faces.

    These are equal planes except the first, and rows whose points lie inside the hull of the others.
    """
    polytopes = Polytopes(points, rows.index)
    if points.shape[2] == 2:  # in a slice nearly all rows are far away and end here
        polytopes = polytopes.keeping(polytopes.real & ~inside_polygons(points))
    keep = first_of_equals(polytopes.points, polytopes.real)
    return polytopes.keeping(keep & ~inside_hulls(polytopes.points, keep))


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates z of B polytopes: ``center + inverse(cholesky).mT @ z``.

    Attributes:
        center: float64 (B, d), the analytic centers.
        cholesky: float64 (B, d, d), Cholesky factors of the metric at the centers.
    """

    center: Tensor
    cholesky: Tensor

    def steps(self, z: Tensor) -> Tensor:
        """Return the steps (B, U, d) from the centers to the points with coordinates z (B, U, d)."""
        steps: Tensor = torch.linalg.solve_triangular(self.cholesky.mT, z.mT, upper=True)
        return steps.mT


def dual_points(rows: HalfSpaces, ball: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Frame]:
    """Return the rows' dual points with respect to the analytic center, in the metric at that center.

    In this metric the planes lie around the center at similar distances, so rays meet many of them and numbers stay of similar size:
    the points' Gram matrix is the identity, except for the term of a ball, which keeps the center of an unbounded region near (this
    project's own).

    Args:
        rows: Half-spaces around points that lie on no plane.
        ball: Center (B, d) and radius (B, 1) or () of the ball; None takes a ball around the points.

    Returns:
        The dual points float64 (B, M, d), 0 for padding; and the frame of their coordinates.
    """
    normals, slacks = rows.normals, rows.slacks
    x = normals.new_zeros(len(normals), normals.shape[2])
    if ball is None:
        ball = x, CENTER_BALL * rows.distance
    middle, pull = ball[0], ball[1] ** -2
    for newton_step in range(CENTERING_STEPS):
        points = normals / slacks[..., None]
        gradient = points.sum(1) + pull * (x - middle)
        metric = points.mT @ points
        ridge = RIDGE * torch.diagonal(metric, dim1=1, dim2=2).amax(1, keepdim=True)
        cholesky = positive_factors(metric + torch.diag_embed((pull + ridge).expand_as(x)))
        step = -torch.cholesky_solve(gradient[..., None], cholesky)[..., 0]
        decrement = (-(gradient * step).sum(1)).clamp(min=0).sqrt()
        if decrement.max() < CENTERED or newton_step == CENTERING_STEPS - 1:
            break
        rate = torch.einsum("bmd,bd->bm", normals, step)
        reach = 1 / (rate / slacks).amax(1).clamp(min=1e-300)
        length = torch.maximum(1 / (1 + decrement), (0.7 * reach).clamp(max=1.0)).minimum(0.9 * reach)
        x = x + length[:, None] * step
        slacks = slacks - length[:, None] * rate
    whitened: Tensor = torch.linalg.solve_triangular(cholesky, points.mT, upper=False)
    return whitened.mT.contiguous(), Frame(x, cholesky)


def positive_factors(matrices: Tensor) -> Tensor:
    """Return Cholesky factors (B, d, d) of matrices that are positive definite up to rounding.

    If a matrix has none, its diagonal is increased by a share of its largest element, ten times as much until it has.
    """
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(matrices)
    ridge = RIDGE
    while failed.any() and ridge < 1:
        ridge *= 10
        diagonal = torch.diagonal(matrices, dim1=1, dim2=2)
        added = (ridge * diagonal.amax(1, keepdim=True)).clamp(min=1e-300) * (failed > 0)[:, None]
        matrices = matrices + torch.diag_embed(added.expand_as(diagonal))
        factors, failed = torch.linalg.cholesky_ex(matrices)
    return factors


def first_of_equals(points: Tensor, real: Tensor) -> Tensor:
    """Return a mask bool (B, M), True for the first of equal points (B, M, d): of equal planes only the first is a face."""
    order = torch.argsort((points @ some_direction(points)).where(real, torch.inf), dim=1)
    ordered = gather_rows(points, order)
    apart = (ordered[:, 1:] - ordered[:, :-1]).norm(dim=2) > EQUAL * ordered[:, 1:].norm(dim=2)
    group = F.pad(apart.cumsum(1), (1, 0))
    least = torch.full_like(order, points.shape[1]).scatter_reduce(1, group, order, "amin").gather(1, group)
    return torch.zeros_like(real).scatter(1, order, least == order) & real

"""Simplex pivots in few dimensions: one program for each row, of all polytopes at once.

The program of a row seeks the point across its plane that the other rows let be the farthest. Its basis is d rows whose cone holds
the row's dual point: as weights they may imply the row, and the point z where their planes meet is a ray that may meet the row first.
A pivot takes in the row that z oversteps most. Rays and weights are proofs by themselves, so that rounding within the basis makes no
answer wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.faces.half_spaces import FAR_AWAY, WALL, compact, gather_rows, scatter_mask
from fold_lightning.faces.linear_programs import POINT_ROUNDING
from fold_lightning.faces.polytopes import CHUNK_BYTES, COMBINATION_ROUNDING, MIN_CUT, Polytopes

MAX_DIMENSIONS = 7
"""Dimensions up to which pivots are made; beyond, an interior-point method takes fewer steps."""

MAX_PIVOTS = 64
"""Pivots of a program; most need fewer than ten, and what is open then is left to other methods."""

ARTIFICIAL = 1e-12
"""Length of the d artificial points that a basis begins with; the hull of the dual points reaches farther."""

OVERSTEPPED = 1e-13
"""Excess of z over a row of height 1 from which on z is no optimum."""

PIVOT = 1e-11
"""Least pivot, as a part of the lengths of the vectors whose product it is."""

CLEAR = 1.5
"""Least ratio of the distances at which a ray meets the other rows and its own, for a ray along which a face is crossed."""

NEARER_WALLS = ((1e2, 1.01), (1e5, 1.0001), (FAR_AWAY, 1.0))
"""Distances of walls, in median distances of the planes, between which crossings are looked for, and the ratio of heights that
is enough."""

TEMPORARIES = 4
"""Tensors (B, U, M) that are held at once."""


@dataclass
class Bases:
    """Bases of U programs of each of B polytopes.

    Attributes:
        rows: int64 (B, U), the own row of each.
        open: bool (B, U), programs that are not answered.
        basis: int64 (B, U, d), the rows in each basis; M stands for artificial points.
        inverse: (B, U, d, d), of the matrix whose columns are the basis' points.
        best: (B, U), the largest ratio of the own row's height along a ray to that of all others.
        rays: (B, U, d), the ray that has it.
    """

    rows: Tensor
    open: Tensor
    basis: Tensor
    inverse: Tensor
    best: Tensor
    rays: Tensor

    @classmethod
    def begin(cls, polytopes: Polytopes, rows: Tensor, there: Tensor) -> Bases:
        """Start at d artificial points around the direction of each own point, orthogonal to each other."""
        own = gather_rows(polytopes.points, rows)
        d = own.shape[2]
        middle = own.new_full((d,), d**-0.5)
        mirror = middle - F.normalize(own, dim=2)
        mirror = mirror / mirror.norm(dim=2, keepdim=True).clamp(min=1e-300)
        directions = torch.eye(d).to(own) - 2 * mirror[..., None] * mirror[:, :, None]
        basis = torch.full(own.shape, polytopes.points.shape[1], dtype=torch.int64, device=own.device)
        return cls(rows, there, basis, directions / ARTIFICIAL, torch.zeros_like(own[..., 0]), torch.zeros_like(own))

    def keeping(self, order: Tensor, there: Tensor) -> Bases:
        """Return the programs (B, u) that an order names; only some of its places are taken."""
        inverse = gather_rows(self.inverse.flatten(2), order).view(*order.shape, *self.inverse.shape[2:])
        rows, best = self.rows.gather(1, order), self.best.gather(1, order)
        return Bases(
            rows, there, gather_rows(self.basis, order), inverse, best.where(there, 0.0), gather_rows(self.rays, order)
        )


def pivoted(polytopes: Polytopes, undecided: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the rows that a mask (B, M) names are proved to be faces, and which to be none: two masks bool (B, M)."""
    ratios, _, redundant = _programs(polytopes, undecided, 1.0)
    faces = ratios > 1 + MIN_CUT
    return faces & polytopes.own, redundant & ~faces & polytopes.own


def crossing_points(polytopes: Polytopes, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return a point on each of some faces, near 0 and yet far from the other planes in units of their distances from 0.

    Of an unbounded face the farthest from the other planes may be at the walls; walls are nearer first.

    Args:
        polytopes: B polytopes.
        faces: bool (B, M), some of their faces.

    Returns:
        bool (B, M), the faces on which there is one, and the points (B, M, d).
    """
    crossed = torch.zeros_like(faces)
    crossings = torch.zeros_like(polytopes.points)
    walls = (polytopes.rows == WALL)[..., None]
    for distance, least in NEARER_WALLS:
        left = faces & ~crossed
        if not left.any():
            break
        nearer = replace(polytopes, points=torch.where(walls, FAR_AWAY / distance * polytopes.points, polytopes.points))
        ratios, rays, _ = _programs(nearer, left, CLEAR)
        found = left & (ratios > least)
        crossed |= found
        height = (rays * nearer.points).sum(2, keepdim=True)
        crossings = torch.where(found[..., None], rays / height, crossings)
    return crossed, crossings


def _programs(polytopes: Polytopes, wanted: Tensor, enough: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pivot until each program is answered and a face's ray is good enough.

    Args:
        polytopes: B polytopes.
        wanted: bool (B, M), rows to answer.
        enough: Ratio of heights at which a ray needs no better one.

    Returns:
        For each row the largest ratio found (B, M) of its height along a ray to that of all others, the ray (B, M, d), and which rows
        others imply, bool (B, M).
    """
    width = wanted.shape[1]
    ratios, redundant = torch.zeros_like(polytopes.points[..., 0]), torch.zeros_like(wanted)
    rays = torch.zeros_like(polytopes.points)
    size = max(1, CHUNK_BYTES // (8 * TEMPORARIES * max(1, wanted.numel())))
    order, there = compact(wanted)
    for rows, real in zip(order.split(size, dim=1), there.split(size, dim=1), strict=True):
        bases = Bases.begin(polytopes, rows, real)
        for _ in range(MAX_PIVOTS):
            implied = _pivot(polytopes, bases)
            redundant |= scatter_mask(implied, bases.rows, width)
            bases.open &= bases.best < max(enough, 1 + MIN_CUT)
            kept, still = compact(bases.open)
            if 2 * kept.shape[1] <= bases.rows.shape[1] or not bases.open.any():
                ratios, rays = _gathered(bases, ratios, rays)
                bases = bases.keeping(kept, still)
            if not bases.open.any():
                break
        else:
            ratios, rays = _gathered(bases, ratios, rays)
    return ratios, rays, redundant


def _gathered(bases: Bases, ratios: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Put what programs have found at their rows."""
    width = ratios.shape[1]
    place = bases.rows.where(bases.best > 0, width)
    wide, wide_rays = torch.cat([ratios, ratios[:, :1]], dim=1), torch.cat([rays, rays[:, :1]], dim=1)
    ratios = wide.scatter(1, place, bases.best)[:, :width]
    return ratios, wide_rays.scatter(1, place[..., None].expand_as(bases.rays), bases.rays)[:, :width]


def _highest_other(polytopes: Polytopes, bases: Bases, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest height (B, U) of the rows other than the own along each ray, and the row that has it."""
    heights = rays @ polytopes.points.mT
    highest, row = heights.scatter_(2, bases.rows[..., None], -torch.inf).max(2)
    return highest, row


def _keep_better(polytopes: Polytopes, bases: Bases, rays: Tensor, rivals: Tensor) -> None:
    """Keep rays (B, U, d) that meet the own row in less of the others' distance (of heights `rivals`) than those so far."""
    own = (gather_rows(polytopes.points, bases.rows) * rays).sum(2) - POINT_ROUNDING * rays.norm(dim=2)
    largest = rays.abs().amax(2)
    ratio = (own / rivals.clamp(min=1e-9).maximum(1e-9 * largest)).nan_to_num(0.0)
    better = bases.open & (ratio > bases.best) & (bases.best < CLEAR)
    bases.best = ratio.where(better, bases.best)
    bases.rays = torch.where(better[..., None], rays, bases.rays)


def _pivot(polytopes: Polytopes, bases: Bases) -> Tensor:
    """Exchange one row of each basis; return which own rows (B, U) the weights of the bases imply."""
    points = polytopes.points
    own = gather_rows(points, bases.rows)
    weights = (bases.inverse @ own[..., None])[..., 0]
    z = bases.inverse.sum(2)
    used = (points != 0).any(1)[:, None]
    z = z.where(used, 0.0)
    none = bases.open & _implied(polytopes, bases, own, weights)
    rivals, entering = _highest_other(polytopes, bases, z)
    _keep_better(polytopes, bases, z, rivals)
    point = gather_rows(points, entering)
    column = (bases.inverse @ point[..., None])[..., 0]
    least_pivot = PIVOT * bases.inverse.norm(dim=3) * point.norm(dim=2, keepdim=True)
    ratio = (weights.clamp(min=0) / column).where(column > least_pivot, torch.inf)
    least, leaving = ratio.min(2)
    moves = bases.open & ~none & (rivals > 1 + OVERSTEPPED) & least.isfinite()
    bases.open = moves
    place = leaving[..., None]
    row = _row(bases.inverse, leaving) / column.gather(2, place).where(moves[..., None], 1.0)
    update = bases.inverse - column[..., None] * row[:, :, None]
    update = update.scatter(2, place[..., None].expand(-1, -1, 1, points.shape[2]), row[:, :, None])
    bases.inverse = torch.where(moves[..., None, None], update, bases.inverse)
    bases.basis = torch.where(moves[..., None], bases.basis.scatter(2, place, entering[..., None]), bases.basis)
    return none


def _implied(polytopes: Polytopes, bases: Bases, own: Tensor, weights: Tensor) -> Tensor:
    """Return whether the rows of each basis, with these weights (B, U, d), imply the own row to a tie: bool (B, U).

    A combination that misses the own row by rounding implies it a little worse: no point of a bounded polytope is farther from the
    center than it has rows, in the center's metric.
    """
    implied = bases.open & (weights.clamp(min=0).sum(2) < 1 + MIN_CUT)
    region, place = implied.nonzero(as_tuple=True)
    basis = bases.basis[region, place]
    is_row = basis < polytopes.points.shape[1]
    basis = basis.where(is_row, 0)
    count = polytopes.real.sum(1)[region]
    certain = torch.zeros_like(is_row[:, 0])
    # Walls make up for the rounding of a combination that implies a row without them, and take more for it than that is worth.
    for usable, rounding in ((is_row, COMBINATION_ROUNDING), (is_row & polytopes.own[region[:, None], basis], POINT_ROUNDING)):
        some = weights[region, place].clamp(min=0) * usable
        combination = (some[..., None] * polytopes.points[region[:, None], basis]).sum(1)
        missing = (own[region, place] - combination).norm(dim=1)
        certain |= (missing < rounding) & (some.sum(1) + missing * count < 1 + MIN_CUT)
    implied[region, place] = certain
    return implied


def _row(matrices: Tensor, row: Tensor) -> Tensor:
    """Return a row (B, U, d) of each of some matrices (B, U, d, d)."""
    d = matrices.shape[3]
    found: Tensor = matrices.gather(2, row[..., None, None].expand(-1, -1, 1, d))[:, :, 0]
    return found

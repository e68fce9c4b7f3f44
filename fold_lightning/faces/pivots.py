"""Simplex pivots in few dimensions: one linear program for each row, of all polytopes at once.

The program of a row seeks the point farthest across the row's plane that satisfies all other rows. Its basis is d rows whose cone
contains the row's dual point. Their combination may imply the row, which proves that it is not a face. The ray through the point z
where their planes meet may meet the row first, which proves that it is a face. A pivot puts the row that z violates most into the
basis. Combinations and rays are checked as proofs by themselves, so rounding within the basis makes no answer wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.faces.half_spaces import FAR_AWAY, WALL, compact, gather_rows, scatter_mask
from fold_lightning.faces.linear_programs import POINT_ROUNDING
from fold_lightning.faces.polytopes import COMBINATION_ROUNDING, MIN_CUT, POLYTOPE_BYTES, Polytopes

MAX_DIMENSIONS = 7
"""Most dimensions for pivots; in more, an interior-point method takes fewer steps."""

MAX_PIVOTS = 64
"""Most pivots of a program. Most programs need fewer than ten; other methods decide the rows that are left."""

ARTIFICIAL = 1e-12
"""Length of the d artificial points of the first basis, short enough to lie inside the hull of the dual points."""

OVERSTEPPED = 1e-13
"""Excess of a row's height at z over 1 above which z violates the row."""

PIVOT = 1e-11
"""Least pivot, which is a scalar product, as a share of the product of its two vectors' lengths."""

CLEAR = 1.5
"""Ratio of the distances at which a ray meets the first other row and its own row, at which no better ray is sought."""

NEARER_WALLS = ((1e2, 1.01), (1e5, 1.0001), (FAR_AWAY, 1.0))
"""Distances of walls, in median distances of the planes, within which crossings are sought, and the ratio of heights that a
crossing then needs."""

PIVOT_TENSORS = 4
"""Tensors (B, U, M) that are in memory at once."""


@dataclass
class Bases:
    """Bases of U programs of each of B polytopes.

    Attributes:
        rows: int64 (B, U), the row that each program decides: its own row.
        open: bool (B, U), True for programs that are not answered yet.
        basis: int64 (B, U, d), the rows in each basis; M stands for an artificial point.
        inverse: (B, U, d, d), inverse of the matrix whose columns are the dual points of the basis.
        best: (B, U), the largest ratio found of the own row's height along a ray to the largest height of the other rows.
        rays: (B, U, d), the ray with that ratio.
    """

    rows: Tensor
    open: Tensor
    basis: Tensor
    inverse: Tensor
    best: Tensor
    rays: Tensor

    @classmethod
    def begin(cls, polytopes: Polytopes, rows: Tensor, there: Tensor) -> Bases:
        """Return programs whose bases are d orthogonal artificial points around the direction of the own row's point."""
        own = gather_rows(polytopes.points, rows)
        d = own.shape[2]
        middle = own.new_full((d,), d**-0.5)
        mirror = middle - F.normalize(own, dim=2)
        mirror = mirror / mirror.norm(dim=2, keepdim=True).clamp(min=1e-300)
        directions = torch.eye(d).to(own) - 2 * mirror[..., None] * mirror[:, :, None]
        basis = torch.full(own.shape, polytopes.points.shape[1], dtype=torch.int64, device=own.device)
        return cls(rows, there, basis, directions / ARTIFICIAL, torch.zeros_like(own[..., 0]), torch.zeros_like(own))

    def keeping(self, order: Tensor, there: Tensor) -> Bases:
        """Return the programs at the columns (B, u) of an order; entries where a mask is False are padding."""
        inverse = gather_rows(self.inverse.flatten(2), order).view(*order.shape, *self.inverse.shape[2:])
        rows, best = self.rows.gather(1, order), self.best.gather(1, order)
        return Bases(
            rows, there, gather_rows(self.basis, order), inverse, best.where(there, 0.0), gather_rows(self.rays, order)
        )


def decide_by_pivots(polytopes: Polytopes, undecided: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a mask (B, M) that are proved to be faces, and those proved redundant: two masks bool (B, M)."""
    ratios, _, redundant = _programs(polytopes, undecided, 1.0)
    faces = ratios > 1 + MIN_CUT
    return faces & polytopes.own, redundant & ~faces & polytopes.own


def crossing_points(polytopes: Polytopes, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return a point on each of some faces, far from the other planes relative to their distances from 0.

    On an unbounded face the point farthest from the other planes may lie at the walls. So nearer walls are tried first, to keep the
    point near 0.

    Args:
        polytopes: B polytopes.
        faces: bool (B, M), some of their faces.

    Returns:
        bool (B, M), the faces on which a point was found; and the points (B, M, d).
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
        enough: Ratio of heights at which no better ray is sought.

    Returns:
        For each row the largest ratio found (B, M) of its height along a ray to the largest height of the others, and the ray
        (B, M, d); and the rows that others imply, bool (B, M).
    """
    width = wanted.shape[1]
    ratios, redundant = torch.zeros_like(polytopes.points[..., 0]), torch.zeros_like(wanted)
    rays = torch.zeros_like(polytopes.points)
    size = max(1, POLYTOPE_BYTES // (8 * PIVOT_TENSORS * max(1, wanted.numel())))
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
    """Return the ratios (B, M) and rays (B, M, d) with the results of some programs written at their rows."""
    width = ratios.shape[1]
    place = bases.rows.where(bases.best > 0, width)
    wide, wide_rays = torch.cat([ratios, ratios[:, :1]], dim=1), torch.cat([rays, rays[:, :1]], dim=1)
    ratios = wide.scatter(1, place, bases.best)[:, :width]
    return ratios, wide_rays.scatter(1, place[..., None].expand_as(bases.rays), bases.rays)[:, :width]


def _highest_other(polytopes: Polytopes, bases: Bases, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest height (B, U) of the rows other than the own row along each ray, and which row has it."""
    heights = rays @ polytopes.points.mT
    highest, row = heights.scatter_(2, bases.rows[..., None], -torch.inf).max(2)
    return highest, row


def _keep_better(polytopes: Polytopes, bases: Bases, rays: Tensor, rivals: Tensor) -> None:
    """Keep rays (B, U, d) whose ratio of the own row's height to the highest other (`rivals`) is the largest so far."""
    own = (gather_rows(polytopes.points, bases.rows) * rays).sum(2) - POINT_ROUNDING * rays.norm(dim=2)
    largest = rays.abs().amax(2)
    ratio = (own / rivals.clamp(min=1e-9).maximum(1e-9 * largest)).nan_to_num(0.0)
    better = bases.open & (ratio > bases.best) & (bases.best < CLEAR)
    bases.best = ratio.where(better, bases.best)
    bases.rays = torch.where(better[..., None], rays, bases.rays)


def _pivot(polytopes: Polytopes, bases: Bases) -> Tensor:
    """Exchange one row of each basis, and return which own rows the bases imply, bool (B, U)."""
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
    """Return whether the rows of each basis, with weights (B, U, d), imply the own row up to `MIN_CUT`: bool (B, U).

    A combination may miss the own row by rounding. The bound that it implies is then larger by at most this distance times the
    number of rows: no point of a bounded polytope is farther from the center, in the center's metric.
    """
    implied = bases.open & (weights.clamp(min=0).sum(2) < 1 + MIN_CUT)
    region, place = implied.nonzero(as_tuple=True)
    basis = bases.basis[region, place]
    is_row = basis < polytopes.points.shape[1]
    basis = basis.where(is_row, 0)
    count = polytopes.real.sum(1)[region]
    certain = torch.zeros_like(is_row[:, 0])
    # Walls may correct the rounding of a combination at a cost above `MIN_CUT`: such a combination is tried without them too.
    for usable, rounding in ((is_row, COMBINATION_ROUNDING), (is_row & polytopes.own[region[:, None], basis], POINT_ROUNDING)):
        some = weights[region, place].clamp(min=0) * usable
        combination = (some[..., None] * polytopes.points[region[:, None], basis]).sum(1)
        missing = (own[region, place] - combination).norm(dim=1)
        certain |= (missing < rounding) & (some.sum(1) + missing * count < 1 + MIN_CUT)
    implied[region, place] = certain
    return implied


def _row(matrices: Tensor, row: Tensor) -> Tensor:
    """Return one row (B, U, d) of each matrix (B, U, d, d)."""
    d = matrices.shape[3]
    found: Tensor = matrices.gather(2, row[..., None, None].expand(-1, -1, 1, d))[:, :, 0]
    return found

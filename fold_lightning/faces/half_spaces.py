"""The half-spaces of many regions as rows, and the coordinates in which there is least to do.

Of each region only rows remain that can't be told at sight, in as few dimensions as they span, around a point off all planes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fold_lightning.faces.linear_programs import direction_inside
from fold_lightning.regions import ActivationRegions

NONE, WALL = -1, -2

FAR_AWAY = 1e8
"""Distance of the walls, in median distances of the planes; no face lies behind them."""

UNREACHED = 1e12
"""Distance of a plane, in those of the first layer's farthest, from which on its normal is the rounding of 0."""

DEPENDENT = 1e6
"""Condition number of the first layer from which on its pre-activations do not serve as coordinates."""

UNSEEN = 1e-12
"""Reach of normals in a direction, as a share of their largest, up to which the direction is not in their span."""

SPANNED = 1e-6
"""Cholesky factor, as a share of the largest, from which on normals surely span a coordinate: squares keep half the digits."""

UNTOUCHED = 1e-10
"""Coefficient in the coordinates of the first layer, as a share of the row's largest, that counts as 0."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The half-spaces ``normals . x <= slacks`` of B regions, in some coordinates x around a point of each.

    Attributes:
        normals: float64 (B, M, d), outwards, of length 1; 0 for rows that are none.
        slacks: float64 (B, M), at least 0; 1 for rows that are none.
        index: int64 (B, M), which row of its region each is; `NONE` for none, `WALL` for a wall far away.
    """

    normals: Tensor
    slacks: Tensor
    index: Tensor

    @property
    def real(self) -> Tensor:
        """Rows that are there and not padding, bool (B, M)."""
        return self.index != NONE

    @property
    def distance(self) -> Tensor:
        """Median distance (B, 1) of the region's own planes from the point; 1 if it has none."""
        own = self.slacks.where(self.index >= 0, torch.nan)
        return own.nanmedian(1, keepdim=True).values.nan_to_num(1.0)

    def with_walls(self) -> Rows:
        """Return the rows, and d + 1 walls around them at the distance `FAR_AWAY`.

        Planes that should be parallel are so but for rounding, and would meet each other at the other end of the world: what a plane
        cuts off behind the walls does not make it a face.
        """
        b, _, d = self.normals.shape
        eye = torch.eye(d, dtype=self.normals.dtype, device=self.normals.device)
        walls = torch.cat([-eye, torch.full_like(eye[:1], d**-0.5)]).expand(b, -1, -1)
        slacks = (FAR_AWAY * self.distance).expand(-1, d + 1)
        index = torch.full_like(slacks, WALL, dtype=torch.int64)
        return Rows(torch.cat([self.normals, walls], 1), torch.cat([self.slacks, slacks], 1), torch.cat([self.index, index], 1))

    def keeping(self, keep: Tensor) -> Rows:
        """Return the rows that a mask (B, M) keeps, without gaps."""
        order, there = compact(keep)
        normals = gather_rows(self.normals, order) * there[..., None]
        return Rows(normals, self.slacks.gather(1, order).where(there, 1.0), self.index.gather(1, order).where(there, NONE))

    def moved(self, steps: Tensor) -> Rows:
        """Return the rows around points that are steps (B, d) away."""
        return replace(self, slacks=self.slacks - torch.einsum("bmd,bd->bm", self.normals, steps))

    def in_coordinates(self, normals: Tensor) -> Rows:
        """Return the rows with normals in other coordinates around the same points, without those whose normal is 0 there."""
        length = normals.norm(dim=2)
        return _of_length_1(normals, self.slacks, self.index, length, self.real & (length > UNTOUCHED))


def rows_of(regions: ActivationRegions) -> Rows:
    """Return all half-spaces but those of units that are constant on their region."""
    length, slacks = regions.normals.norm(dim=2), regions.slacks.clamp(min=0)
    first = next(part for part in regions.layers.values() if part.stop > part.start)
    real = length > 0
    farthest = (slacks[:, first] / length[:, first]).where(real[:, first], 0.0).amax(1, keepdim=True)
    real &= (slacks <= UNREACHED * farthest * length) | (farthest == 0)
    index = torch.arange(length.shape[1], device=length.device).expand_as(length)
    return _of_length_1(-regions.normals, slacks, index, length, real)


def _of_length_1(normals: Tensor, slacks: Tensor, index: Tensor, length: Tensor, real: Tensor) -> Rows:
    """Return rows divided by the lengths of their normals, without those where a mask (B, M) is False."""
    divisor = length.where(real, torch.inf)
    return Rows(normals / divisor[..., None], (slacks / length).where(real, 1.0), index.where(real, NONE))


def in_first_layer_coordinates(rows: Rows, first: int) -> tuple[Tensor, Rows]:
    """Take the pre-activations of the first layer as coordinates, where they are independent and all rows depend on them alone.

    A row that alone has its coordinate, as those of inactive ReLU have, is a face: nothing else bounds that coordinate.

    Args:
        rows: All rows of B regions, in their order.
        first: n, how many of them are the first layer's.

    Returns:
        bool (B, N), which rows are faces for that reason, and the other rows; in the coordinates that these still have.
    """
    lone = torch.zeros_like(rows.real)
    normals, own = rows.normals, rows.normals[:, :first]
    if not 0 < first <= normals.shape[2] or not rows.real[:, :first].all():
        return lone, rows
    side = torch.sign(torch.einsum("bnd,nd->bn", own, own[0]))
    if (own - side[..., None] * own[0]).abs().max() > UNTOUCHED:  # not one affine layer for all inputs
        return lone, rows
    q, r = torch.linalg.qr(own[0].mT)
    if torch.linalg.cond(r) > DEPENDENT:
        return lone, rows
    seen = normals @ q
    anywhere = some_direction(normals)
    if (normals @ anywhere - seen @ (q.mT @ anywhere)).abs().max() > UNTOUCHED * normals.shape[2]:
        return lone, rows
    coefficients = torch.linalg.solve_triangular(r.mT, seen, upper=False, left=False)
    coefficients[:, :first] = torch.diag_embed(side)
    later = coefficients[:, first:].abs()
    touched = (later > UNTOUCHED * later.amax(2, keepdim=True)).any(1)
    lone[:, :first] = ~touched
    columns, there = compact(touched)
    used = gather_rows(coefficients.mT, columns) * there[..., None]
    return lone, rows.in_coordinates(used.mT).keeping(rows.real & ~lone)


def in_their_span(rows: Rows) -> Rows:
    """Return rows in coordinates of the normals' span, where that is less than all dimensions.

    Along a direction that no row sees but by rounding, a point would go as far as the walls, where rounding makes any plane through
    a corner cut something off.
    """
    if rows.normals.shape[1] < rows.normals.shape[2]:
        triangle = torch.linalg.qr(rows.normals.mT).R
        rows = replace(rows, normals=triangle.mT.contiguous())
    if _spans_all(rows.normals):
        return rows
    u, lengths, _ = torch.linalg.svd(rows.normals, full_matrices=False)
    lengths = lengths.where(lengths > UNSEEN * lengths[:, :1], 0.0)
    dimension = max(1, int((lengths > 0).sum(1).max()))
    return replace(rows, normals=(u * lengths[:, None])[..., :dimension].contiguous())


def _spans_all(normals: Tensor) -> bool:
    """Return whether the normals (B, M, d) of each region span all coordinates that it has.

    The Cholesky factors of their products tell.
    """
    products = normals.mT @ normals
    diagonal = torch.diagonal(products, dim1=1, dim2=2)
    diagonal += (diagonal == 0).to(diagonal)  # coordinates that a region does not have
    factors, failed = torch.linalg.cholesky_ex(products)
    lengths = torch.diagonal(factors, dim1=1, dim2=2)
    return not failed.any() and bool((lengths > SPANNED * lengths.amax(1, keepdim=True)).all())


def directions_inside(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return steps that lead off all planes, for points that lie on some.

    A step leads away from these planes, half the way to the next one.

    Returns:
        bool (B,), True for regions with an interior, and the steps (B, d), 0 for other points.
    """
    interior = torch.ones(len(rows.slacks), dtype=torch.bool, device=rows.slacks.device)
    steps = torch.zeros_like(rows.normals[:, 0])
    for b in (rows.slacks <= 0).any(1).nonzero().flatten().tolist():
        slacks = rows.slacks[b]
        way = direction_inside(rows.normals[b, slacks <= 0])
        if way is None:
            interior[b] = False
            continue
        speed = rows.normals[b] @ way
        reach = (slacks / speed)[(speed > 0) & (slacks > 0)]
        steps[b] = (reach.min() / 2 if len(reach) else 1.0) * way
    return interior, steps


def some_direction(vectors: Tensor) -> Tensor:
    """Return a direction (d,) drawn by a fixed seed: vectors (..., d) that agree along it almost surely agree."""
    direction = torch.randn(vectors.shape[-1], generator=torch.Generator().manual_seed(0), dtype=vectors.dtype)
    return direction.to(vectors.device)


def scatter_mask(mask: Tensor, columns: Tensor, width: int) -> Tensor:
    """Return the mask bool (B, width) that is True in the columns int64 (B, M) where a mask (B, M) is True."""
    wide = torch.zeros(len(mask), width + 1, dtype=torch.bool, device=mask.device)
    return wide.scatter(1, columns.where(mask, width), True)[:, :width]


def gather_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return the vectors (B, U, d) in rows int64 (B, U) of vectors (B, M, d)."""
    return vectors.gather(1, rows[..., None].expand(-1, -1, vectors.shape[2]))


def compact(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places int64 (B, m) that a mask (B, M) keeps, in front, and a mask of those that are filled.

    Places that are not filled are 0.
    """
    count = keep.sum(1, keepdim=True)
    most = min(keep.shape[1], max(1, int(count.max())))
    column = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    place = (keep.cumsum(1) - 1).where(keep, most)
    order = torch.zeros(len(keep), most + 1, dtype=torch.int64, device=keep.device).scatter(1, place, column)[:, :most]
    return order, torch.arange(most, device=keep.device) < count

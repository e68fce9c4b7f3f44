"""Half-spaces of many regions as rows, in coordinates that keep the linear programs small.

Rows that are faces for an obvious reason are taken out. The others are given in as few dimensions as they span, around a point
that lies on no plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fold_lightning.faces.linear_programs import direction_inside
from fold_lightning.regions import ActivationRegions

NONE, WALL = -1, -2

FAR_AWAY = 1e8
"""Distance of the walls, which bound every polytope, in median distances of the planes; faces farther away are not found."""

UNREACHED = 1e12
"""Distance beyond which a plane's normal counts as 0 up to rounding, in units of the distance of the first layer's farthest plane."""

DEPENDENT = 1e6
"""Largest condition number of the first layer at which its pre-activations serve as coordinates."""

UNSEEN = 1e-12
"""Singular value of the normals, as a share of the largest, up to which its direction counts as outside their span."""

SPANNED = 1e-6
"""Least diagonal element of the Cholesky factor, as a share of the largest, at which the normals surely span all coordinates. The
factor is that of a Gram matrix, which keeps half the digits."""

UNTOUCHED = 1e-10
"""Largest coefficient that counts as 0 in the coordinates of the first layer, as a share of the row's largest."""


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """The half-spaces ``normals . x <= slacks`` of B regions, in coordinates x whose origin is a point of the region.

    Attributes:
        normals: float64 (B, M, d), pointing outwards, of length 1; 0 for padding.
        slacks: float64 (B, M), at least 0; 1 for padding.
        index: int64 (B, M), the number of each row among its region's half-spaces; `NONE` for padding, `WALL` for a wall.
    """

    normals: Tensor
    slacks: Tensor
    index: Tensor

    @property
    def real(self) -> Tensor:
        """Mask of the rows that are not padding, bool (B, M)."""
        return self.index != NONE

    @property
    def distance(self) -> Tensor:
        """Median distance (B, 1) of the region's own planes from the point; 1 if it has none."""
        own = self.slacks.where(self.index >= 0, torch.nan)
        return own.nanmedian(1, keepdim=True).values.nan_to_num(1.0)

    def with_walls(self) -> HalfSpaces:
        """Return the rows and d + 1 walls around them, at the distance `FAR_AWAY`.

        Because of rounding, parallel planes meet far away. A plane that cuts off something only beyond the walls is not a face.
        """
        b, _, d = self.normals.shape
        eye = torch.eye(d, dtype=self.normals.dtype, device=self.normals.device)
        walls = torch.cat([-eye, torch.full_like(eye[:1], d**-0.5)]).expand(b, -1, -1)
        slacks = (FAR_AWAY * self.distance).expand(-1, d + 1)
        index = torch.full_like(slacks, WALL, dtype=torch.int64)
        return HalfSpaces(
            torch.cat([self.normals, walls], 1), torch.cat([self.slacks, slacks], 1), torch.cat([self.index, index], 1)
        )

    def keeping(self, keep: Tensor) -> HalfSpaces:
        """Return the rows where a mask (B, M) is True, moved to the front."""
        order, there = compact(keep)
        normals = gather_rows(self.normals, order) * there[..., None]
        return HalfSpaces(
            normals, self.slacks.gather(1, order).where(there, 1.0), self.index.gather(1, order).where(there, NONE)
        )

    def moved(self, steps: Tensor) -> HalfSpaces:
        """Return the rows with the origin moved by steps (B, d)."""
        return replace(self, slacks=self.slacks - torch.einsum("bmd,bd->bm", self.normals, steps))

    def in_coordinates(self, normals: Tensor) -> HalfSpaces:
        """Return the rows with normals in other coordinates of the same origin; rows whose normal is 0 there become padding."""
        length = normals.norm(dim=2)
        return _of_length_1(normals, self.slacks, self.index, length, self.real & (length > UNTOUCHED))


def half_spaces_of(regions: ActivationRegions) -> HalfSpaces:
    """Return all half-spaces except those of units that are constant on their region."""
    length, slacks = regions.normals.norm(dim=2), regions.slacks.clamp(min=0)
    first = next(part for part in regions.layers.values() if part.stop > part.start)
    real = length > 0
    farthest = (slacks[:, first] / length[:, first]).where(real[:, first], 0.0).amax(1, keepdim=True)
    real &= (slacks <= UNREACHED * farthest * length) | (farthest == 0)
    index = torch.arange(length.shape[1], device=length.device).expand_as(length)
    return _of_length_1(-regions.normals, slacks, index, length, real)


def _of_length_1(normals: Tensor, slacks: Tensor, index: Tensor, length: Tensor, real: Tensor) -> HalfSpaces:
    """Return rows divided by the lengths of their normals; rows where a mask (B, M) is False become padding."""
    divisor = length.where(real, torch.inf)
    return HalfSpaces(normals / divisor[..., None], (slacks / length).where(real, 1.0), index.where(real, NONE))


def in_first_layer_coordinates(rows: HalfSpaces, first: int) -> tuple[Tensor, HalfSpaces]:
    """Take the pre-activations of the first layer as coordinates, if they are independent and determine all rows.

    A first-layer row whose coordinate no later row uses is a face, because nothing else bounds that coordinate. Inactive
    ReLU units have such rows.

    Args:
        rows: All rows of B regions, in the order of the units.
        first: Number of rows of the first layer.

    Returns:
        bool (B, N), the rows that are faces for that reason; and the other rows, in the coordinates that they use. If the
        pre-activations do not serve as coordinates, no row is such a face and the rows are unchanged.
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


def in_their_span(rows: HalfSpaces) -> HalfSpaces:
    """Return rows in coordinates of the normals' span, if that has fewer dimensions than the space.

    Along a direction in which only rounding changes the rows, a point would move as far as the walls. At the walls,
    rounding would make any plane through a corner cut something off.
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
    """Return whether the normals (B, M, d) of every region span all coordinates that the region has.

    The Cholesky factors of the normals' Gram matrices decide.
    """
    products = normals.mT @ normals
    diagonal = torch.diagonal(products, dim1=1, dim2=2)
    diagonal += (diagonal == 0).to(diagonal)  # coordinates that a region does not have
    factors, failed = torch.linalg.cholesky_ex(products)
    lengths = torch.diagonal(factors, dim1=1, dim2=2)
    return not failed.any() and bool((lengths > SPANNED * lengths.amax(1, keepdim=True)).all())


def directions_inside(rows: HalfSpaces) -> tuple[Tensor, Tensor]:
    """Return steps into the interior for points that lie on planes.

    A step leads away from these planes, halfway to the next one.

    Returns:
        bool (B,), True for regions with an interior; and the steps (B, d), 0 for points that lie on no plane.
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
    """Return a random direction (d,) of a fixed seed: vectors (..., d) with equal products with it are almost surely equal."""
    direction = torch.randn(vectors.shape[-1], generator=torch.Generator().manual_seed(0), dtype=vectors.dtype)
    return direction.to(vectors.device)


def scatter_mask(mask: Tensor, columns: Tensor, width: int) -> Tensor:
    """Return a mask bool (B, width), True in those of the columns int64 (B, M) where a mask (B, M) is True."""
    wide = torch.zeros(len(mask), width + 1, dtype=torch.bool, device=mask.device)
    return wide.scatter(1, columns.where(mask, width), True)[:, :width]


def gather_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return the vectors (B, U, d) in rows int64 (B, U) of vectors (B, M, d)."""
    return vectors.gather(1, rows[..., None].expand(-1, -1, vectors.shape[2]))


def compact(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns int64 (B, m) where a mask (B, M) is True, and a mask of the entries that are filled.

    Each row's columns come first, in their order; entries that are not filled are 0.
    """
    count = keep.sum(1, keepdim=True)
    most = min(keep.shape[1], max(1, int(count.max())))
    column = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    place = (keep.cumsum(1) - 1).where(keep, most)
    order = torch.zeros(len(keep), most + 1, dtype=torch.int64, device=keep.device).scatter(1, place, column)[:, :most]
    return order, torch.arange(most, device=keep.device) < count

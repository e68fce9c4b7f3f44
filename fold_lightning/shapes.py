"""Shapes of regions in few dimensions: vertices, volume and number of simplices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.spatial import Delaunay, QhullError
from torch import Tensor

from fold_lightning.faces.half_spaces import FAR_AWAY, HalfSpaces, half_spaces_of
from fold_lightning.faces.hulls import facets_of_hull
from fold_lightning.faces.linear_programs import deepest_point
from fold_lightning.faces.polytopes import dual_points, first_of_equals
from fold_lightning.regions import ActivationRegions, check_regions

Cut = Literal["unbounded", "all"]

MAX_SHAPE_DIMENSIONS = 4
"""Most dimensions in which vertices are listed; in more, a polytope has too many."""

OWN_VERTICES = 0.1
"""Distance of a vertex, as a share of that of the walls, the planes that bound every region far away (`with_walls`), from which on
it comes from a wall, and the region is unbounded."""

MIN_CUT_OF_BOX = 1e-12
"""Least depth at which a plane counts as cutting a box, as a share of the box's largest coordinate."""

FLAT = 1e-12
"""Largest volume of a simplex that counts as 0, as a share of the polytope's volume."""


@dataclass(frozen=True, eq=False)
class RegionShape:
    """Shape of a region, or of its part in a box.

    Attributes:
        vertices: float64 (V, d), in the coordinates of the region; none for a region without interior.
        volume: Volume in d dimensions; infinite for an unbounded region that no box cuts.
        num_simplices: Number of simplices of a Delaunay triangulation of the vertices; 0 where the volume is 0 or infinite.
        bounded: Whether the region itself, without the box, is bounded.
    """

    vertices: Tensor
    volume: float
    num_simplices: int
    bounded: bool

    def __repr__(self) -> str:
        return (
            f"RegionShape(vertices={len(self.vertices)}, volume={self.volume:.6g}, num_simplices={self.num_simplices}, "
            f"bounded={self.bounded})"
        )


torch.serialization.add_safe_globals([RegionShape])  # for `torch.load(weights_only=True)`


def region_shapes(
    regions: ActivationRegions, *, box: tuple[float, float] | None = None, cut: Cut = "unbounded"
) -> list[RegionShape]:
    """Return vertices, volume and number of simplices of each region, by Qhull.

    "Deep ReLU Networks Have Surprisingly Simple Polytopes" (Fan et al. 2023) measures the simplicity of a region by the number of
    simplices in a triangulation of it. That number depends on the triangulation, which is Delaunay's here (this project's own).

    Args:
        regions: B regions of at most 4 dimensions.
        box: Lower and upper bound of every coordinate, at which regions are cut; in a slice, coordinates are 0 at the input.
        cut: Regions that the box cuts: only the "unbounded" ones, or "all".

    Returns:
        B shapes.

    Raises:
        ValueError: If the regions have more than 4 dimensions, the box is empty, or `cut` is unknown.
        TypeError: If `regions` is not an `ActivationRegions`.

    Example:
        >>> from fold_lightning import activation_regions
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        >>> _ = model[0].bias.data.copy_(torch.tensor([0.0, 0.0, 1.0]))
        >>> triangle, corner = region_shapes(activation_regions(model, torch.tensor([[0.2, 0.2], [-1.0, -1.0]])), box=(-2, 2))
        >>> triangle.num_simplices, round(triangle.volume, 9), len(triangle.vertices), triangle.bounded
        (1, 0.5, 3, True)
        >>> corner.num_simplices, round(corner.volume, 9), len(corner.vertices), corner.bounded
        (2, 4.0, 4, False)
    """
    check_regions(regions)
    d = regions.dimension
    if d > MAX_SHAPE_DIMENSIONS:
        raise ValueError(
            f"Regions must have at most {MAX_SHAPE_DIMENSIONS} dimensions, got {d}: with more they have too many vertices. "
            "Cut the regions with `activation_regions(..., subspace=)`."
        )
    if box is not None and not box[0] < box[1]:
        raise ValueError(f"`box` must be a lower and a larger upper bound, got {box}.")
    if cut not in get_args(Cut):
        raise ValueError(f"`cut` must be one of {', '.join(map(repr, get_args(Cut)))}, got {cut!r}.")
    return [_shape(normals, slacks, center, box, cut) for normals, slacks, center in _half_spaces(regions)]


def _half_spaces(regions: ActivationRegions) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield normals, slacks and center of each region, ``normals . x <= slacks`` relative to the center."""
    rows = half_spaces_of(regions)
    for normals, slacks, real, center in zip(rows.normals, rows.slacks, rows.real, regions.centers, strict=True):
        yield normals[real], slacks[real], center


def _shape(normals: Tensor, slacks: Tensor, center: Tensor, box: tuple[float, float] | None, cut: Cut) -> RegionShape:
    """Return the shape of a region ``normals . x <= slacks`` relative to a center."""
    if box is not None and cut == "all":
        vertices = _cut(normals, slacks, center, box)
        within = len(vertices) > 0 and bool(((vertices + center > box[0]) & (vertices + center < box[1])).all())
        bounded = within or _vertices(normals, slacks)[1]
    else:
        vertices, bounded = _vertices(normals, slacks)
        if not bounded and box is None:
            return RegionShape(vertices + center, math.inf, 0, False)
        if not bounded and box is not None:
            vertices = _cut(normals, slacks, center, box)
    if len(vertices) == 0:
        return RegionShape(vertices, 0.0, 0, bounded)
    sizes = _simplex_volumes((vertices - vertices.mean(0)).cpu().numpy())
    return RegionShape(vertices + center, float(sizes.sum()), int((sizes > FLAT * sizes.sum()).sum()), bounded)


def _cut(normals: Tensor, slacks: Tensor, center: Tensor, box: tuple[float, float]) -> Tensor:
    """Return the vertices of a region's part in a box, relative to the center."""
    if len(center) == 2:
        polygon = _clipped(normals.cpu().numpy(), slacks.cpu().numpy(), *((bound - center).cpu().numpy() for bound in box))
        return torch.from_numpy(polygon).to(normals)
    eye = torch.eye(len(center), dtype=center.dtype, device=center.device)
    walls = torch.cat([box[1] - center, center - box[0]])
    return _vertices(torch.cat([normals, eye, -eye]), torch.cat([slacks, walls]))[0]


def _clipped(normals: np.ndarray, slacks: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the corners (V, 2) of the part of a rectangle in half-planes.

    The half-planes cut one after the other, the deepest cut first.
    """
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    nothing = MIN_CUT_OF_BOX * np.abs(corners).max()
    while len(corners) > 2 and len(slacks):
        heights = corners @ normals.T - slacks
        most = heights.max(0).argmax()
        if heights[:, most].max() <= nothing:
            return corners
        corners = _below(corners, heights[:, most])
        corners = corners[np.abs(corners - np.roll(corners, -1, axis=0)).max(1) > nothing]
    return corners if len(corners) > 2 else corners[:0]


def _below(corners: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return the corners of the part of a convex polygon below a line, given heights (V,) of its corners above the line."""
    stays, behind = heights <= 0, np.roll(corners, -1, axis=0)
    crosses = stays != np.roll(stays, -1)
    share = heights / np.where(crosses, heights - np.roll(heights, -1), 1.0)
    points = np.stack([corners, corners + share[:, None] * (behind - corners)], axis=1)
    left: np.ndarray = points[np.stack([stays, crosses], axis=1)]
    return left


def _vertices(normals: Tensor, slacks: Tensor) -> tuple[Tensor, bool]:
    """Return the vertices (V, d) of ``normals . x <= slacks``, none if it has no interior, and whether it is bounded."""
    n, d = normals.shape
    if n == 0:
        return normals.new_empty(0, d), False
    inside = torch.zeros_like(normals[0]) if (slacks > 0).all() else deepest_point(normals, slacks)
    if inside is None:
        return normals.new_empty(0, d), True
    index = torch.arange(n, device=normals.device)[None]
    rows = HalfSpaces(normals[None], (slacks - normals @ inside)[None], index).with_walls()
    points, frame = dual_points(rows)
    facets = facets_of_hull(points[0].cpu().numpy())
    if facets is None or (facets[:, -1] >= 0).any():
        return normals.new_empty(0, d), False
    duals = torch.from_numpy(-facets[:, :-1] / facets[:, -1:]).to(normals)
    different = first_of_equals(duals[None], torch.ones(1, len(duals), dtype=torch.bool, device=normals.device))[0]
    steps = frame.steps(duals[None, different])[0] + frame.center[0]
    near = steps.norm(dim=1) < OWN_VERTICES * FAR_AWAY * rows.distance[0, 0]
    return steps[near] + inside, bool(near.all())


def _simplex_volumes(vertices: np.ndarray) -> np.ndarray:
    """Return the volumes of the simplices in the Delaunay triangulation of vertices (V, d)."""
    d = vertices.shape[1]
    if d == 1:
        length: np.ndarray = np.ptp(vertices, axis=0)
        return length
    try:
        simplices = Delaunay(vertices / np.abs(vertices).max()).simplices
    except QhullError:  # flat up to rounding
        return np.zeros(1)
    corners = vertices[simplices]
    sizes: np.ndarray = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / math.factorial(d)
    return sizes

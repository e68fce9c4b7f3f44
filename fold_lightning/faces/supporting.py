"""The half-spaces of regions that are faces."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, get_args

import torch
from torch import Tensor

from fold_lightning._checks import check_choice, check_integer
from fold_lightning._progress import progress_bar
from fold_lightning.faces.half_spaces import scatter_mask
from fold_lightning.faces.hit_and_run import rows_met_at_random
from fold_lightning.faces.interior_point import decided
from fold_lightning.faces.linear_programs import gain
from fold_lightning.faces.pivots import MAX_DIMENSIONS, pivoted
from fold_lightning.faces.polygons import interval_faces, polygon_faces
from fold_lightning.faces.polytopes import MIN_CUT, Polytopes, ready_polytopes
from fold_lightning.faces.ray_shooting import rows_met
from fold_lightning.regions import ActivationRegions, check_regions

Method = Literal["exact", "hit_and_run"]

PRODUCT_BYTES = 2**26
"""Bytes of the products of all rows of some regions with each other, or with the edges of polygons: 64 MiB."""

FEW_DIMENSIONS_ROWS = 128
"""Most rows of a region that are left in few dimensions: hulls leave fewer."""


def supporting_units(
    regions: ActivationRegions, *, method: Method = "exact", num_steps: int = 1000, seed: int = 0, progress: bool = False
) -> Tensor:
    """Return the units whose half-spaces are faces of the region around each input.

    A face is one of dimension d - 1, a facet: without its half-space the region would be another ("Characterizing the Discrete
    Geometry of ReLU Networks", Gaines and Bi 2026, 3.1). In general position crossing it switches its unit alone. Every answer is
    proved in float64: a face by a point across its plane that satisfies all other rows, its absence by a combination of other rows
    that implies it, or either by a linear program of its own where numbers leave that open.

    What is decided where papers are silent (this project's own): a unit that is constant on the region has no face (its normal is
    0 up to rounding, or its plane 1e12 times as far as all of the first layer's); of planes that agree to 1e-9
    of their distance from the region's analytic center the first has it; a plane that cuts off no more than 1e-10 of that distance,
    or touches the region in less than a face, has none, nor one that cuts only beyond 1e8 times the median distance of the planes,
    where those meet that are parallel but for rounding; and a region without interior, such as a single point, has none at all.

    Args:
        regions: B regions in d dimensions.
        method: "exact", or "hit_and_run", a lower bound: the planes that end random chords, which are faces ("Deep ReLU Networks Have
            Surprisingly Simple Polytopes", Fan et al. 2023).
        num_steps: Of hit-and-run: how many chords.
        seed: Of hit-and-run.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        bool (B, N).

    Raises:
        ValueError: If there is no such method, `num_steps` is less than 1, or half-spaces are not finite.
        TypeError: If these are no regions.
        RuntimeError: If a linear program can't be solved, for the numbers are too different in size.

    Example:
        >>> from fold_lightning import activation_regions
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])), model[0].bias.data.zero_()
        >>> supporting_units(activation_regions(model, torch.tensor([[1.0, 2.0], [-1.0, 2.0]])))
        tensor([[ True,  True, False],
                [ True, False,  True]])
    """
    check_regions(regions)
    check_choice("method", method, get_args(Method))
    check_integer("num_steps", num_steps, 1)
    if not (regions.normals.sum() + regions.offsets.sum()).isfinite():
        raise ValueError("`regions` must be finite, got NaN or infinite half-spaces: the model's weights may have diverged.")
    rows, dimension = regions.normals.shape[1:]
    size = max(1, PRODUCT_BYTES // (8 * max(1, rows) * (rows if dimension > MAX_DIMENSIONS else FEW_DIMENSIONS_ROWS)))
    parts = []
    with progress_bar(len(regions), "regions", progress) as bar:
        for begin in range(0, len(regions), size):
            known, polytopes = ready_polytopes(regions[begin : begin + size])
            faces = faces_of(polytopes) if method == "exact" else rows_met_at_random(polytopes, num_steps, seed + begin)
            parts.append(known | scatter_mask(faces, polytopes.rows, known.shape[1]))
            bar.update(len(known))
    return torch.cat(parts) if parts else regions.normals.new_zeros(regions.normals.shape[:2], dtype=torch.bool)


def face_counts(
    regions: ActivationRegions, *, method: Method = "exact", num_steps: int = 1000, seed: int = 0, progress: bool = False
) -> Tensor:
    """Return the number of faces of the region around each input: that of its `supporting_units`.

    The mean over **all** regions of a network is at most 2d, whatever its width and depth (Gaines and Bi 2026, Theorem 3.4);
    regions that hold data may have more, for inputs fall into large ones more often.

    Args:
        regions: As of `supporting_units`.
        method: As of `supporting_units`.
        num_steps: As of `supporting_units`.
        seed: As of `supporting_units`.
        progress: As of `supporting_units`.

    Returns:
        int64 (B,), at most N.

    Raises:
        ValueError: As of `supporting_units`.
        TypeError: As of `supporting_units`.
        RuntimeError: As of `supporting_units`.

    Example:
        >>> from fold_lightning import activation_regions
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> _ = model[0].bias.data.fill_(1.0)
        >>> face_counts(activation_regions(model, torch.zeros(1, 2)))  # a square
        tensor([4])
    """
    return supporting_units(regions, method=method, num_steps=num_steps, seed=seed, progress=progress).sum(1)


def faces_of(polytopes: Polytopes) -> Tensor:
    """Return the faces bool (B, M).

    Raises:
        RuntimeError: If a linear program can't be solved.
    """
    faces, undecided = _proved_faces(polytopes)
    for b, row in undecided.nonzero().tolist():
        faces[b, row] = _is_face(polytopes, b, row)
    return faces


def settled_faces(polytopes: Polytopes) -> tuple[Tensor, Tensor]:
    """Return the faces, and the rows whose linear programs can't be solved: two masks bool (B, M)."""
    faces, undecided = _proved_faces(polytopes)
    for b, row in undecided.nonzero().tolist():
        with suppress(RuntimeError):
            faces[b, row] = _is_face(polytopes, b, row)
            undecided[b, row] = False
    return faces, undecided


def _proved_faces(polytopes: Polytopes) -> tuple[Tensor, Tensor]:
    """Return faces, and rows that only a linear program of their own decides: two masks bool (B, M)."""
    dimension = polytopes.points.shape[2]
    if dimension == 1:
        return interval_faces(polytopes), torch.zeros_like(polytopes.own)
    if dimension == 2:
        faces, redundant = polygon_faces(polytopes)
        return faces, polytopes.own & ~faces & ~redundant
    if dimension <= MAX_DIMENSIONS:
        faces, redundant = pivoted(polytopes, polytopes.own)
    else:
        faces = rows_met(polytopes)
        redundant = torch.zeros_like(faces)
    found, none = decided(polytopes, polytopes.own & ~faces & ~redundant)
    return faces | found, polytopes.own & ~(faces | redundant | found | none)


def _is_face(polytopes: Polytopes, b: int, row: int) -> bool:
    real = polytopes.real[b]
    return gain(polytopes.points[b, real], int(real[:row].sum())) > 1 + MIN_CUT

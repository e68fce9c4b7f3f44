"""Faces of regions: which half-spaces are not redundant, and how many."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, get_args

import torch
from torch import Tensor

from fold_lightning._checks import check_choice, check_integer
from fold_lightning._progress import progress_bar
from fold_lightning.faces.half_spaces import scatter_mask
from fold_lightning.faces.hit_and_run import rows_met_at_random
from fold_lightning.faces.interior_point import decide_by_interior_point
from fold_lightning.faces.linear_programs import largest_height
from fold_lightning.faces.pivots import MAX_DIMENSIONS, decide_by_pivots
from fold_lightning.faces.polygons import interval_faces, polygon_faces
from fold_lightning.faces.polytopes import MIN_CUT, Polytopes, ready_polytopes
from fold_lightning.faces.ray_shooting import rows_met
from fold_lightning.regions import ActivationRegions, check_regions

Method = Literal["exact", "hit_and_run"]

PRODUCT_BYTES = 2**26
"""Bytes of the products of all rows of a chunk of regions with each other, or with the edges of polygons: 64 MiB."""

FEW_DIMENSIONS_ROWS = 128
"""Rows of a region that are assumed to be left in few dimensions, to size chunks; hulls leave fewer."""


def supporting_units(
    regions: ActivationRegions, *, method: Method = "exact", num_steps: int = 1000, seed: int = 0, progress: bool = False
) -> Tensor:
    """Return the units whose half-spaces are faces of the region around each input.

    A face has dimension d - 1 (a facet): without its half-space the region would be larger ("Characterizing the Discrete Geometry of
    ReLU Networks", Gaines and Bi 2026, 3.1). In general position, crossing a face switches its unit alone. Every answer is proved in
    float64: a face by a point across its plane that satisfies all other half-spaces, a redundant half-space by a combination of
    others that implies it. Where rounding leaves that open, a separate linear program decides.

    The papers leave some cases open. They are decided as follows (this project's own):

    - A unit that is constant on the region has no face: its normal is 0 up to rounding, or its plane is 1e12 times as far away as
      the farthest plane of the first layer.
    - Of planes that agree to 1e-9 of their distance from the region's analytic center, only the first is a face.
    - A plane is not a face if it cuts off at most 1e-10 of that distance, or touches the region in less than d - 1 dimensions.
    - A plane is not a face if it cuts off something only beyond 1e8 times the median distance of the planes, where rounding makes
      parallel planes meet.
    - A region without interior, such as a single point, has no faces.

    Args:
        regions: B regions in d dimensions.
        method: "exact"; or "hit_and_run", which finds some of the faces, at the ends of random chords ("Deep ReLU Networks Have
            Surprisingly Simple Polytopes", Fan et al. 2023).
        num_steps: Number of chords of hit-and-run.
        seed: Random seed of hit-and-run.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        bool (B, N), True for the units whose half-space is a face.

    Raises:
        ValueError: If `method` is unknown, `num_steps` is less than 1, or a half-space is not finite.
        TypeError: If `regions` is not an `ActivationRegions`, or `num_steps` is not an integer.
        RuntimeError: If a linear program can't be solved, because its numbers differ too much in size.

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
    """Return the number of faces of the region around each input: the number of its `supporting_units`.

    The mean over **all** regions of a network is at most 2d, for every width and depth (Gaines and Bi 2026, Theorem 3.4). The mean
    over regions that contain data may be larger, because inputs fall more often into large regions.

    Args:
        regions: See `supporting_units`.
        method: See `supporting_units`.
        num_steps: See `supporting_units`.
        seed: See `supporting_units`.
        progress: See `supporting_units`.

    Returns:
        int64 (B,), at most N.

    Raises:
        ValueError: See `supporting_units`.
        TypeError: See `supporting_units`.
        RuntimeError: See `supporting_units`.

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
    """Return the faces bool (B, M) of polytopes.

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
    """Return the proved faces, and the rows that only a separate linear program decides: two masks bool (B, M)."""
    dimension = polytopes.points.shape[2]
    if dimension == 1:
        return interval_faces(polytopes), torch.zeros_like(polytopes.own)
    if dimension == 2:
        faces, redundant = polygon_faces(polytopes)
        return faces, polytopes.own & ~faces & ~redundant
    if dimension <= MAX_DIMENSIONS:
        faces, redundant = decide_by_pivots(polytopes, polytopes.own)
    else:
        faces = rows_met(polytopes)
        redundant = torch.zeros_like(faces)
    found, none = decide_by_interior_point(polytopes, polytopes.own & ~faces & ~redundant)
    return faces | found, polytopes.own & ~(faces | redundant | found | none)


def _is_face(polytopes: Polytopes, b: int, row: int) -> bool:
    real = polytopes.real[b]
    return largest_height(polytopes.points[b, real], int(real[:row].sum())) > 1 + MIN_CUT

"""Maps of the activation regions in a plane, from a model and inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fold_lightning._checks import check_integer
from fold_lightning.activations.codes import check_inputs, codes_of
from fold_lightning.activations.evaluation import Forward, evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.regions import NoPolytopes
from fold_lightning.slice_maps.arrays import Mask
from fold_lightning.slice_maps.bends import HEIGHT_BYTES, Bends
from fold_lightning.slice_maps.cutting import Window, subdivide
from fold_lightning.slice_maps.planes import Plane
from fold_lightning.slice_maps.result import SliceMap
from fold_lightning.slice_maps.scores import scores_at
from fold_lightning.slice_maps.subdivision import Subdivision, TooManyRegions
from fold_lightning.slice_maps.windows import check_width, check_window, choose_window

COMPARED_AT_ONCE = 2**24
"""Bits of codes that are compared at once, one byte per bit: 16 MiB."""

CHECKED_REGIONS = 64
"""Most regions in which scores are checked to be affine."""

AFFINE_SCORES = 1e-9
"""Largest difference between a score at a region's center and the mean of that score over the corners, as a share of the largest
score, at which scores count as affine."""


def slice_map(
    model: nn.Module,
    inputs: Tensor,
    *,
    directions: Tensor | None = None,
    window: float | Window | None = None,
    max_regions: int = 3_000,
    forward: Forward = None,
    seed: int = 0,
) -> SliceMap:
    """Return all activation regions of a window of a plane, as exact polygons.

    The plane goes through three inputs, or through one input along two directions. Its window is cut by one layer after the other:
    pre-activations are evaluated at all vertices, and each unit's zero line cuts the polygons that it crosses. ExactLine (Sotoudeh
    and Thakur 2019) cuts a segment in this way; the method for planes is this project's own. Max pooling and clamps cut too, where
    their choice changes, so that the network is affine in each polygon. A region of one code in which it is not affine becomes
    several polygons.

    Args:
        model: A module of piecewise linear operations.
        inputs: Three inputs (3, ...), which are not on a line unless they have 2 features, or one (1, ...); of at least 2 features,
            on the model's device.
        directions: Two directions (2, ...) from one input, of any length and angle. None takes the coordinate axes for inputs with
            2 features, otherwise random directions.
        window: The part of the plane to map: half the width of a square around the first input, or (x0, x1, y0, y1) in coordinates
            of the plane. None takes a square around three inputs, 1.5 times as wide as their extent. With one input, or if that
            square holds more than `max_regions`, None tries up to 16 squares around the first input. It aims at a third of
            `max_regions` and takes the first square that holds at least an eighth, or all regions of the plane. If there is none,
            it takes the square with the most regions among those with at most `max_regions`.
        max_regions: Most regions; a window with more is refused. Maps are legible up to about 3,000.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        seed: Random seed of the directions.

    Returns:
        The map, on the CPU, in float64.

    Raises:
        ValueError: If three inputs of more than 2 features lie on a line; if inputs have fewer than 2 features or are not finite; if
            the network curves before its last activation; if `window`, or each square tried, holds more than `max_regions` regions;
            or if `window` reaches more than three million times as far from the first input as the farthest line of this input's
            region, or the farthest other input.
        TypeError: If `inputs` is not a floating-point tensor, or `max_regions` is not an integer.
        MemoryError: If the codes, or the values at all vertices of the units that bend in the window, need more than 1 GiB.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -2.0]]))
        >>> _ = model[0].bias.data.copy_(torch.tensor([0.0, 0.0, -1.0, 0.3]))
        >>> found = slice_map(model, torch.zeros(1, 2), window=2.0)  # four lines in general position
        >>> found, float(found.areas.sum())
        (SliceMap(11 regions, 16 edges, 4 units, window=(-2, 2, -2, 2)), 16.0)
    """
    check_inputs(inputs)
    check_integer("max_regions", max_regions, 1)
    with evaluate_on_replica(model, inputs, forward) as replica:
        structure = inspect(replica, inputs)  # first: it refuses one input without a batch dimension, which may look like three
        plane = Plane.of(inputs, directions, seed)
        given = None if window is None else check_window(window, plane.marks[0])
        if structure.unknown:
            raise NoPolytopes(
                "Regions are polygons only in piecewise linear networks. Not known to be piecewise linear: "
                f"{', '.join(structure.unknown)}. Pass a `forward=` with the part of the model before."
            )
        bends = Bends(replica, structure, plane)
        if given is not None:
            check_width(bends, given)
        window, subdivision = choose_window(bends, max_regions) if given is None else (given, _cut(bends, given, max_regions))
        return _finished(bends, window, subdivision)


def _cut(bends: Bends, window: Window, max_regions: int) -> Subdivision:
    """Return the regions of a given window."""
    try:
        return subdivide(bends, window, max_regions)
    except TooManyRegions as error:
        raise TooManyRegions(
            f"The window {window} holds {error}: take a smaller one, raise `max_regions=`, or leave `window=` out."
        ) from error


def _finished(bends: Bends, window: Window, subdivision: Subdivision) -> SliceMap:
    """Return the map of a subdivision, with codes at inner points and scores at vertices."""
    structure, count = bends.structure, subdivision.num_faces
    size = count * structure.num_units
    if size > HEIGHT_BYTES:
        raise MemoryError(
            f"The codes of {count:,} regions of {structure.num_units:,} units take {size / 2**30:.1f} GiB, and "
            f"at most {HEIGHT_BYTES / 2**30:.0f} GiB are kept: take a smaller `window=` or fewer `max_regions=`."
        )
    centers = subdivision.means(subdivision.points)
    codes = codes_of(bends.replica, structure, bends.inputs(centers)).cpu()
    if bends.only_units:
        codes = _merged(subdivision, codes)
    corners, starts = subdivision.corners()
    used, corners = np.unique(corners, return_inverse=True)
    number = np.full(len(subdivision.points), -1)
    number[used] = np.arange(len(used))
    inner = (subdivision.sides >= 0).all(1)
    edges = torch.from_numpy(subdivision.sides[inner])
    points = torch.from_numpy(subdivision.points[used])
    polygons = points, torch.from_numpy(corners), torch.from_numpy(starts)
    plane = bends.plane
    found = SliceMap(
        *polygons,
        codes,
        edges.sort(1).values,
        torch.from_numpy(number[subdivision.ends[inner]]),
        _first_difference(codes, edges),
        None,
        dict(structure.layers),
        window,
        *(part.cpu() for part in (plane.marks, plane.origin, plane.basis)),
    )
    return replace(found, scores=_scores(bends, found))


def _merged(subdivision: Subdivision, codes: Tensor) -> Tensor:
    """Merge neighbours with the same code, which rounding cut apart, and return the codes of the regions."""
    sides = subdivision.sides
    alike: Mask = np.all(sides >= 0, axis=1)
    alike[alike] = (_first_difference(codes, torch.from_numpy(sides[alike])) < 0).numpy()
    labels = torch.from_numpy(subdivision.merge(alike))
    return codes.new_empty(subdivision.num_faces, codes.shape[1]).index_copy_(0, labels, codes) if alike.any() else codes


def _first_difference(codes: Tensor, pairs: Tensor) -> Tensor:
    """Return the first unit int64 (E,) in which pairs (E, 2) of codes differ; -1 where they are equal."""
    found = [pairs.new_empty(0)]
    for some in pairs.split(max(1, COMPARED_AT_ONCE // max(1, codes.shape[1]))):
        differs = codes[some[:, 0]] ^ codes[some[:, 1]]
        found.append(differs.byte().argmax(1).where(differs.any(1), -1))
    return torch.cat(found)


def _scores(bends: Bends, found: SliceMap) -> Tensor | None:
    """Return the scores at the vertices, if they are affine in each region."""
    checked = torch.arange(0, len(found), -(-len(found) // CHECKED_REGIONS))
    scores = scores_at(bends, torch.cat([found.vertices, found.centers[checked]]))
    if scores is None:
        return None
    at_vertices, at_centers = scores.split([len(found.vertices), len(checked)])
    error = (found.means(at_vertices)[checked] - at_centers).abs().max()
    return at_vertices if bool(error <= AFFINE_SCORES * scores.abs().max()) else None

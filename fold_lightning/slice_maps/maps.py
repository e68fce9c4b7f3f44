"""A map of activation regions, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fold_lightning._checks import check_integer
from fold_lightning.activations.codes import check_inputs, codes_of
from fold_lightning.activations.evaluation import Forward, evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.regions import NoPolytopes
from fold_lightning.slice_maps.bends import MAX_BYTES, Bends
from fold_lightning.slice_maps.classes import ClassPieces, cut_by_class
from fold_lightning.slice_maps.cutting import Window, subdivide
from fold_lightning.slice_maps.planes import Plane
from fold_lightning.slice_maps.scores import scores_at
from fold_lightning.slice_maps.subdivision import Mask, Subdivision, TooManyRegions
from fold_lightning.slice_maps.windows import check_window, choose_window

COMPARED_AT_ONCE = 2**24
"""Bits of codes that are compared at once, a byte each: 16 MiB."""

CHECKED = 64
"""Regions in which scores are checked to be affine."""

AFFINE = 1e-9
"""Difference of a score at an inner point from the mean of the corners, as a share of the largest score, that is rounding."""


@dataclass(frozen=True, eq=False, repr=False)
class SliceMap:
    """The activation regions of a window of a plane: R convex polygons that fill it.

    Attributes:
        vertices: float64 (V, 2), in coordinates of the plane.
        corners: int64 (K,), vertices of each polygon in turn, counter-clockwise.
        starts: int64 (R + 1,), where each polygon begins in `corners`.
        codes: bool (R, N), the code at an inner point of each region.
        edges: int64 (E, 2), pairs of regions that share an edge, the smaller number first.
        edge_ends: int64 (E, 2), the vertices that an edge joins.
        edge_units: int64 (E,), the first unit whose bit switches across an edge; -1 where none does, but max pooling or a clamp
            bends. Twin units switch together: `codes[edges[e, 0]] != codes[edges[e, 1]]` are all that do.
        scores: float64 (V, C), the model's output at the vertices, less its mean over the classes; None where it is no matrix
            (inputs, classes), or not affine in each region.
        layers: Layer name -> its columns of the codes.
        window: Least and largest first coordinate, least and largest second one.
        marks: float64 (I, 2), where the given inputs lie.
        origin: float64 (...), the input at (0, 0).
        basis: float64 (2, ...), the inputs' change along each coordinate, orthonormal.
    """

    vertices: Tensor
    corners: Tensor
    starts: Tensor
    codes: Tensor
    edges: Tensor
    edge_ends: Tensor
    edge_units: Tensor
    scores: Tensor | None
    layers: dict[str, slice]
    window: Window
    marks: Tensor
    origin: Tensor
    basis: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __repr__(self) -> str:
        x0, x1, y0, y1 = self.window
        return (
            f"SliceMap({len(self):,} regions, {len(self.edges):,} edges, {self.codes.shape[1]:,} units, "
            f"window=({x0:.4g}, {x1:.4g}, {y0:.4g}, {y1:.4g}))"
        )

    @property
    def polygons(self) -> list[Tensor]:
        """The corners float64 (v, 2) of each region, counter-clockwise."""
        return list(self.vertices[self.corners].split(self.starts.diff().tolist()))

    @property
    def centers(self) -> Tensor:
        """float64 (R, 2), a point inside each region: the mean of its corners."""
        return self._means(self.vertices)

    @property
    def areas(self) -> Tensor:
        """float64 (R,), which sum to the window's."""
        region = self._regions
        start, end = self._sides()
        base = start[self.starts[:-1]][region]  # from a corner of each polygon, so that small areas keep their digits
        a, b = start - base, end - base
        return 0.5 * start.new_zeros(len(self)).index_add_(0, region, a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])

    @property
    def predictions(self) -> Tensor:
        """int64 (R,), the class with the largest score at each center.

        Raises:
            ValueError: If the model gave no scores.
        """
        return self._means(self._require_scores()).argmax(1)

    def find(self, points: Tensor) -> Tensor:
        """Return the region int64 (P,) in which each point (P, 2) lies; -1 for points outside the window.

        A point on an edge, up to rounding, lies in one of its regions.
        """
        start, end = self._sides()
        along = end - start
        normals = torch.stack([-along[:, 1], along[:, 0]], dim=1) / along.norm(dim=1, keepdim=True)
        points = points.to(start)
        distance = points @ normals.T - (start * normals).sum(1)  # from the line of each side, positive inside
        depth = distance.new_empty(len(points), len(self))
        depth.scatter_reduce_(1, self._regions.expand_as(distance), distance, "amin", include_self=False)
        deepest: Tensor = depth.argmax(1)
        x0, x1, y0, y1 = self.window
        low, high = points.new_tensor([x0, y0]), points.new_tensor([x1, y1])
        return torch.where(((points >= low) & (points <= high)).all(1), deepest, -1)

    def by_class(self) -> ClassPieces:
        """Return the parts of the regions in which one class is predicted, and the exact borders between classes.

        Raises:
            ValueError: If the model gave no scores.
        """
        return cut_by_class(self.vertices, self.corners, self.starts, self._require_scores())

    def inputs(self, points: Tensor) -> Tensor:
        """Return the inputs float64 (P, ...) at points (P, 2) of the plane."""
        inputs: Tensor = self.origin + torch.tensordot(points.to(self.basis), self.basis, dims=1)
        return inputs

    @property
    def _regions(self) -> Tensor:
        """int64 (K,), the region of each of `corners`."""
        return torch.repeat_interleave(torch.arange(len(self)), self.starts.diff())

    def _sides(self) -> tuple[Tensor, Tensor]:
        """Return the ends float64 (K, 2) of the side that begins at each of `corners`, counter-clockwise."""
        following = torch.arange(1, len(self.corners) + 1)
        following[self.starts[1:] - 1] = self.starts[:-1]
        return self.vertices[self.corners], self.vertices[self.corners[following]]

    def _means(self, values: Tensor) -> Tensor:
        """Return the mean of values (V, n) over the corners of each region (R, n)."""
        sums = values.new_zeros(len(self), values.shape[1]).index_add_(0, self._regions, values[self.corners])
        return sums / self.starts.diff()[:, None]

    def _require_scores(self) -> Tensor:
        if self.scores is None:
            raise ValueError(
                "This map has no scores of classes: the model's output is no matrix (inputs, classes), or curves after its last "
                "activation. Pass a `forward=` that returns logits."
            )
        return self.scores


torch.serialization.add_safe_globals([SliceMap, slice])  # `slice` is in `layers`


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

    The plane goes through three inputs, or through one along two directions. Its window is cut by one layer after the other, as
    ExactLine (Sotoudeh and Thakur 2019) cuts a segment: pre-activations are evaluated at all vertices, and each unit's line cuts
    the polygons that it crosses (in a plane this is the project's own). Max pooling and clamps cut too, where they choose
    otherwise, so that the network is affine in each polygon; a region of one code that falls into several such pieces is several
    polygons here.

    Args:
        model: A module of piecewise linear operations.
        inputs: Three inputs (3, ...) that are not on a line, or one (1, ...); of at least 2 features, on the model's device.
        directions: Two directions (2, ...) from one input, of any length and angle; None takes the coordinates of inputs of 2
            features, and otherwise random ones.
        window: The part of the plane that is cut: half the width of a square around the first input, or the least and largest
            first coordinate, and the least and largest second one. None takes a square around three inputs, half as large again
            as what they span; where that holds more than `max_regions`, or around one input, a square around the first one with
            an eighth to two thirds of them, or all that there are.
        max_regions: Regions beyond which a window is refused. Maps are legible up to about 3,000.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        seed: Seed of random directions.

    Returns:
        The map, on the CPU, in float64.

    Raises:
        ValueError: For inputs on a line, of fewer than 2 features or not finite; for a network that curves before its last
            activation; for a window with more than `max_regions` regions.
        TypeError: For inputs that are not a floating-point tensor.
        MemoryError: If the units that bend in the window need more than 1 GiB at its vertices, or the codes do.

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
    plane = Plane.of(inputs, directions, seed)
    given = None if window is None else check_window(window, plane.marks[0])
    with evaluate_on_replica(model, inputs, forward) as replica:
        structure = inspect(replica, inputs)
        if structure.unknown:
            raise NoPolytopes(
                f"Regions are polygons where a network is piecewise linear; this one has {', '.join(structure.unknown)}, which "
                "curves or is not known to be. Pass a `forward=` with the part of the model before it."
            )
        bends = Bends(replica, structure, plane)
        window, subdivision = choose_window(bends, max_regions) if given is None else (given, _cut(bends, given, max_regions))
        return _finished(bends, window, subdivision)


def _cut(bends: Bends, window: Window, max_regions: int) -> Subdivision:
    """Return the regions of a window that was given."""
    try:
        return subdivide(bends, window, max_regions)
    except TooManyRegions as error:
        raise TooManyRegions(
            f"The window {window} holds {error}: take a smaller one, raise `max_regions=`, or leave `window=` out and it is zoomed."
        ) from error


def _finished(bends: Bends, window: Window, subdivision: Subdivision) -> SliceMap:
    """Return the map of a subdivision: codes at inner points, and scores at vertices."""
    structure, count = bends.structure, subdivision.num_faces
    size = count * structure.num_units
    if size > MAX_BYTES:
        raise MemoryError(
            f"The codes of {count:,} regions of {structure.num_units:,} units take {size / 2**30:.1f} GiB, and "
            f"at most {MAX_BYTES / 2**30:.0f} GiB are kept: take a smaller `window=` or fewer `max_regions=`."
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
    """Join neighbours of one code, which rounding cut, and return the codes of the regions."""
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
    checked = torch.arange(0, len(found), -(-len(found) // CHECKED))
    scores = scores_at(bends, torch.cat([found.vertices, found.centers[checked]]))
    if scores is None:
        return None
    at_vertices, at_centers = scores.split([len(found.vertices), len(checked)])
    error = (found._means(at_vertices)[checked] - at_centers).abs().max()
    return at_vertices if bool(error <= AFFINE * scores.abs().max()) else None

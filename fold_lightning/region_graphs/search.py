"""Breadth-first search for all activation regions of a network with few inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fold_lightning._checks import check_integer
from fold_lightning._progress import progress_bar
from fold_lightning.activations.codes import check_inputs
from fold_lightning.activations.evaluation import Forward, Replica, evaluate_on_replica
from fold_lightning.activations.inspection import ModelStructure, inspect
from fold_lightning.faces.half_spaces import directions_inside, half_spaces_of
from fold_lightning.faces.linear_programs import deepest_point
from fold_lightning.faces.pivots import crossing_points
from fold_lightning.faces.polytopes import CENTER_BALL, dual_points, without_redundant
from fold_lightning.faces.supporting import settled_faces
from fold_lightning.region_graphs.graph import RegionGraph, code_keys
from fold_lightning.regions import ActivationRegions, NoPolytopes
from fold_lightning.regions.around_inputs import half_spaces

REGIONS_AT_ONCE = 512
"""Regions whose faces are found in one batch."""

FIRST_STEP, LAST_STEP = 1e-3, 1e-9
"""First and last distance beyond a face at which a point of the region behind it is tried, in lengths of the step from the center to
the face. Each distance is a tenth of the one before."""

FAR_REGION_BALL = 1e-2
"""Least radius of the ball around the start that keeps the center of an unbounded region near, as a share of the region's distance
from the start. With a smaller ball, the center of a region far away would lie in a corner, where the distances of planes differ too
much in size for linear programs. With a ball as large as the distance, it would lie so far out that faces near the corner look
thin."""

ON_THE_PLANE = 1e-8
"""Distance of a unit's plane from the crossing point up to which the unit may switch with the face, in lengths of the step to the
face."""


def region_graph(
    model: nn.Module, start: Tensor, *, max_regions: int = 10_000, forward: Forward = None, progress: bool = True
) -> RegionGraph:
    """Return the graph of all activation regions that can be reached over faces from the regions of given inputs.

    The search is breadth first. Two regions whose codes differ in one unit need not share a face, so edges are taken from the faces
    of each region (as in `supporting_units`). The region behind a face is found at a point just beyond it ("Characterizing the
    Discrete Geometry of ReLU Networks", Gaines and Bi 2026, searches in this way). In general position, crossing a face switches its
    unit alone; units with the same plane switch together. Where a layer is 0 on a whole region (no biases), a face may border
    several regions: the search finds one of them across this face, and the others across their own faces.

    Args:
        model: A module of piecewise linear operations, without max pooling and clamps, with few inputs: d up to about 6.
        start: Inputs (B, ...) to start from, usually one.
        max_regions: Number of regions at which to stop. Then `complete` is False, a warning says so, and the faces of the regions
            found are still counted.
        forward: How to call the model, as in `activation_regions`.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The graph.

    Raises:
        ValueError: If the network curves, pools or clamps, a region of `start` has no interior, or `max_regions` is less than 1.
        TypeError: If `start` is not a floating-point tensor, or `max_regions` is not an integer.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -2.0]]))
        >>> _ = model[0].bias.data.copy_(torch.tensor([0.0, 0.0, -1.0, 0.3]))
        >>> graph = region_graph(model, torch.zeros(1, 2) + 0.1)
        >>> graph.num_regions, graph.complete, graph.mean_faces  # four lines in general position: 11 regions, 32 faces in all
        (11, True, 2.909090909090909)
    """
    check_integer("max_regions", max_regions, 1)
    check_inputs(start, "start")
    with (
        evaluate_on_replica(model, start, forward) as replica,
        progress_bar(None, "regions", progress) as bar,
    ):
        structure = inspect(replica, start, given=("start", start))
        if structure.unknown or structure.bends:
            raise NoPolytopes(
                "`region_graph` needs a network that is affine where its code does not change. Not affine there: "
                f"{', '.join((*structure.unknown, *structure.bends))}. Pass a `forward=` with a part of the model without them."
            )
        search = _Search(replica, structure, start.shape[1:], max_regions)
        for found in search.run(start.detach().to(replica.device, torch.float64).flatten(1)):
            bar.update(found)
    if search.lost:
        warnings.warn(
            f"No region was found beyond {search.lost} faces, which are too thin for float64: regions may be missing.",
            stacklevel=2,
        )
    if search.stopped:
        warnings.warn(
            f"Stopped at `max_regions={max_regions}`, but the network has more regions: raise it to find them.", stacklevel=2
        )
    return search.graph()


class _Search:
    """A breadth-first search over the faces of regions.

    Args:
        replica: The model.
        structure: The model's activations.
        shape: Shape of an input.
        max_regions: Most regions to keep.

    Attributes:
        lost: Number of faces behind which no region was found.
        stopped: Whether there are more regions than were kept.
    """

    def __init__(self, replica: Replica, structure: ModelStructure, shape: torch.Size, max_regions: int) -> None:
        self.lost = 0
        self.stopped = False
        self._replica, self._structure, self._shape, self._max_regions = replica, structure, shape, max_regions
        self._number: dict[bytes, int] = {}  # code -> region
        self._behind: dict[bytes, int] = {}  # code with only the face's unit switched -> region, where others switch too
        self._codes: list[Tensor] = []
        self._points: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._edges: list[Tensor] = []

    def run(self, start: Tensor) -> Iterator[int]:
        """Search from points (B, d), and yield the number of regions that each batch adds."""
        rows = half_spaces_of(self._at(start)[0])
        interior, steps = directions_inside(rows)
        if not interior.all():
            raise ValueError(
                f"The region of input {int((~interior).nonzero()[0])} of `start` has no interior: many hyperplanes meet there. "
                "Start from another input."
            )
        points = start + steps
        self._start, self._far = points[0], CENTER_BALL * rows.moved(steps).distance[0]
        frontier = self._keep(self._at(points)[1], points)
        while len(frontier):
            yield len(frontier)
            frontier = torch.cat([self._expand(batch) for batch in frontier.split(REGIONS_AT_ONCE)])

    def graph(self) -> RegionGraph:
        """Return the regions and edges found so far."""
        pairs = torch.cat(self._edges) if self._edges else torch.empty(0, 2, dtype=torch.int64)
        edges = pairs.sort(1).values.unique(dim=0)
        codes, points, counts = (torch.cat(parts).cpu() for parts in (self._codes, self._points, self._counts))
        return RegionGraph(codes, points, counts, edges, self._structure.layers, not self.stopped and not self.lost)

    def _at(self, points: Tensor) -> tuple[ActivationRegions, Tensor]:
        """Return the regions around points (B, d), in coordinates relative to the points, and their codes."""
        normals, slacks, bits, _ = half_spaces(self._replica, self._structure, points.view(-1, *self._shape))
        return ActivationRegions(normals, slacks, torch.zeros_like(points), self._structure.layers), bits

    def _around(self, first: int, count: int) -> tuple[ActivationRegions, Tensor, Tensor]:
        """Return some regions in coordinates relative to a point inside each, their codes, and the points.

        A point that rounding has put on a plane is moved inside; in a thin region far away, planes may be only 1e-10 apart.
        """
        self._points, self._codes = [torch.cat(self._points)], [torch.cat(self._codes)]
        points, codes = (parts[0][first : first + count] for parts in (self._points, self._codes))
        regions, found = self._at(points)
        on_plane = (regions.slacks <= 0) & (regions.normals != 0).any(2)
        moved = (on_plane | (found != codes)).any(1).nonzero().flatten()
        if len(moved):
            at = points[moved].view(-1, *self._shape)
            normals, slacks, _, _ = half_spaces(self._replica, self._structure, at, codes=codes[moved])
            slacks = slacks.where(~on_plane[moved], 0.0)
            around = ActivationRegions(normals, slacks, torch.zeros_like(points[moved]), self._structure.layers)
            steps = directions_inside(half_spaces_of(around))[1]
            points[moved] += steps
            regions.normals[moved] = normals
            regions.offsets[moved] = slacks + torch.einsum("bnd,bd->bn", normals, steps)
        return regions, codes, points

    def _keep(self, codes: Tensor, points: Tensor) -> Tensor:
        """Add new codes, up to `max_regions`, and return the numbers (K,) of their regions."""
        fresh = []
        for i, key in enumerate(code_keys(codes)):
            if key in self._number:
                continue
            if len(self._number) == self._max_regions:
                self.stopped = True
                break
            self._number[key] = len(self._number)
            fresh.append(i)
        self._codes.append(codes[fresh])
        self._points.append(points[fresh])
        return torch.arange(len(self._number) - len(fresh), len(self._number))

    def _expand(self, numbers: Tensor) -> Tensor:
        """Count the faces of some regions, and return the numbers of the new regions behind these faces."""
        first = int(numbers[0])
        regions, bits, points = self._around(first, len(numbers))
        rows = half_spaces_of(regions).with_walls()
        inside = (rows.slacks > 0).all(1)
        if not bool(inside.all()):
            rows = rows.keeping(rows.real & inside[:, None])
        way_back = self._start - points
        radius = torch.maximum(self._far, FAR_REGION_BALL * way_back.norm(dim=1, keepdim=True))
        duals, frame = dual_points(rows, (way_back, radius))
        polytopes = without_redundant(duals, rows)
        faces, unsettled = settled_faces(polytopes)
        self.lost += int(unsettled.sum()) + int((~inside).sum())
        self._counts.append(faces.sum(1))
        region, place = faces.nonzero(as_tuple=True)
        keys = code_keys(_switched(bits[region], polytopes.rows[region, place]))
        once = {key: i for i, key in enumerate(keys) if key not in self._number and key not in self._behind}
        new = torch.tensor(list(once.values()), dtype=torch.int64)
        region_of, place_of = region[new], place[new]
        unknown = torch.zeros_like(faces)
        unknown[region_of, place_of] = True
        crossed, z = crossing_points(polytopes, unknown)
        way = frame.steps(z * crossed[..., None])[region_of, place_of]
        center = frame.center[region_of]
        fresh, found = self._look_behind(
            regions[region_of], bits[region_of], points[region_of], center, way, polytopes.rows[region_of, place_of]
        )
        self.lost += len(once) - found
        ends = [self._number.get(key, self._behind.get(key, -1)) for key in keys]
        pairs = torch.stack([first + region, torch.tensor(ends, dtype=torch.int64)], dim=1)
        self._edges.append(pairs[pairs[:, 1] >= 0])
        return fresh

    def _look_behind(
        self, regions: ActivationRegions, bits: Tensor, points: Tensor, center: Tensor, way: Tensor, unit: Tensor
    ) -> tuple[Tensor, int]:
        """Find the regions behind faces, one face for each given region.

        Try a point inside the region of the code with the face's unit switched, then points closer and closer to the face.

        Args:
            regions: F regions, in coordinates relative to the points.
            bits: Codes of the regions (F, N).
            points: A point inside each (F, d).
            center: Steps from the points to the centers of the regions (F, d).
            way: Steps from the centers to the faces (F, d); 0 where no point on the face was found.
            unit: Unit of each face (F,).

        Returns:
            The numbers of new regions, and the number of faces with a region behind them.
        """
        if len(unit) == 0:
            return self._keep(bits, points), 0
        at = points + center + way
        height = torch.einsum("fnd,fd->fn", regions.normals, center + way) + regions.slacks
        crossed = height.abs() <= ON_THE_PLANE * regions.normals.norm(dim=2) * way.norm(dim=1, keepdim=True)
        codes, inside = torch.zeros_like(bits), at.clone()
        pending = torch.arange(len(unit))

        def visit(beyond: Tensor) -> Tensor:
            """Accept points (P, d) at which only units crossed at the face have switched, and return the faces left."""
            behind, found = self._at(beyond)
            other = found != bits[pending]
            good = ((behind.slacks > 0) | (behind.normals == 0).all(2)).all(1)
            good &= other[torch.arange(len(pending)), unit[pending]] & ~(other & ~crossed[pending]).any(1)
            codes[pending[good]] = found[good]
            inside[pending[good]] = (beyond + _reach(behind, way[pending])[:, None] / 2 * way[pending])[good]
            return pending[~good]

        normals, slacks, _, _ = half_spaces(
            self._replica, self._structure, (points + center).view(-1, *self._shape), codes=_switched(bits, unit)
        )
        at_face = (slacks + torch.einsum("fnd,fd->fn", normals, way)).scatter(1, unit[:, None], 0.0)
        reach = _reach(ActivationRegions(normals, at_face, torch.zeros_like(points), self._structure.layers), way)
        pending = visit(at + reach[:, None] / 2 * way)
        part = FIRST_STEP
        while len(pending) and part >= LAST_STEP:
            pending = visit(at[pending] + part * way[pending])
            part /= 10
        for face in pending.tolist():
            step = _deepest(normals[face], slacks[face])
            if step is None:
                continue
            beyond = points[face] + center[face] + step
            found = self._at(beyond[None])[1]
            if torch.equal(found, _switched(bits[face, None], unit[face, None])):
                codes[face], inside[face] = found[0], beyond
                pending = pending[pending != face]
        seen = torch.ones(len(unit), dtype=torch.bool).scatter(0, pending, False)
        fresh = self._keep(codes[seen], inside[seen])
        for key, real in zip(code_keys(_switched(bits, unit)[seen]), code_keys(codes[seen]), strict=True):
            if key != real and real in self._number:
                self._behind[key] = self._number[real]
        return fresh, int(seen.sum())


def _switched(bits: Tensor, unit: Tensor) -> Tensor:
    """Return codes (F, N) with one unit of each switched."""
    return bits.scatter(1, unit[:, None], ~bits.gather(1, unit[:, None]))


def _reach(regions: ActivationRegions, way: Tensor) -> Tensor:
    """Return the share of a step (B, d) that lies within each region, at most 1."""
    rate = -torch.einsum("bnd,bd->bn", regions.normals, way)
    reach: Tensor = (regions.slacks / rate).where(rate > 0, 1.0)
    return reach.amin(1).clamp(max=1.0)


def _deepest(normals: Tensor, slacks: Tensor) -> Tensor | None:
    """Return the step (d,) to the deepest point of ``normals . step + slacks >= 0``; None if none is found."""
    length = normals.norm(dim=1)
    real = length > 0
    try:
        return deepest_point(-normals[real] / length[real, None], slacks[real] / length[real])
    except RuntimeError:  # the program can't be solved: the face counts as lost
        return None

"""Subdivision of a window of a plane into convex polygons, cut by one line at a time.

The subdivision is stored as edges, each with its two vertices and the faces to its left and right. Faces are polygons here. A line
splits each edge that it crosses once, so both faces share the new vertex and no gap opens. A face with vertices on both sides of the
line is cut by a chord between its two vertices on the line. New edges inherit left and right from the old ones, without a
computation, so polygons keep their orientation however thin they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from fold_lightning.slice_maps.arrays import Floats, Integers, Mask, Stack

OUTSIDE = -1
"""Number of the outside of the window, in place of a face."""

STRAIGHT = 1e-9
"""Sine of the angle between two edges up to which they count as parts of one line."""


class TooManyRegions(ValueError):
    """Error for a window that holds more regions than allowed."""


@dataclass(frozen=True)
class Cut:
    """Changes made by one line: k new vertices on edges, and m new faces.

    Attributes:
        start: int64 (k,), first vertex of each edge that was split.
        end: int64 (k,), second vertex of that edge.
        share: float64 (k,), position of the new vertex between them, in (0, 1).
        faces: int64 (m,), faces that were cut; their parts on the positive side are the new faces.
    """

    start: Integers
    end: Integers
    share: Floats
    faces: Integers

    def lift(self, values: Floats) -> Floats:
        """Return values (k, ...) at the new vertices, interpolated from values (V, ...) at the old ones, affine on each edge."""
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        start = values[self.start]
        lifted: Floats = start + share * (values[self.end] - start)
        return lifted


class Subdivision:
    """Convex polygons that fill a window.

    Args:
        window: (x0, x1, y0, y1).
        max_faces: Most faces; a cut that makes more raises `TooManyRegions`.
    """

    def __init__(self, window: tuple[float, float, float, float], max_faces: int) -> None:
        x0, x1, y0, y1 = window
        self.max_faces = max_faces
        self.num_faces = 1
        self._points = Stack(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64))
        self._ends = Stack(np.array([[0, 1], [1, 2], [2, 3], [3, 0]]))
        self._sides = Stack(np.array([[0, OUTSIDE]] * 4))
        self._cuts: list[Cut] = []

    @classmethod
    def of_polygons(cls, points: Floats, corners: Integers, begins: Integers, max_faces: int) -> Subdivision:
        """Return the subdivision of counter-clockwise polygons, whose `corners` follow one polygon after the other."""
        found = cls((0.0, 1.0, 0.0, 1.0), max_faces)
        found.num_faces = len(begins) - 1
        faces = np.repeat(np.arange(found.num_faces), np.diff(begins))
        following = np.arange(1, len(corners) + 1)
        following[begins[1:] - 1] = begins[:-1]
        starts, stops = corners, corners[following]
        keys, edge = np.unique(np.minimum(starts, stops) * len(points) + np.maximum(starts, stops), return_inverse=True)
        sides = np.full((len(keys), 2), OUTSIDE)
        sides[edge, np.where(starts < stops, 0, 1)] = faces
        found._points, found._sides = Stack(points.copy()), Stack(sides)
        found._ends = Stack(np.stack([keys // len(points), keys % len(points)], axis=1))
        return found

    @property
    def points(self) -> Floats:
        """Vertices, float64 (V, 2); after merging, some belong to no edge."""
        return self._points.rows

    @property
    def ends(self) -> Integers:
        """Start and end vertex of each edge, int64 (E, 2)."""
        return self._ends.rows

    @property
    def sides(self) -> Integers:
        """Faces to the left and to the right of each edge, int64 (E, 2); -1 outside."""
        return self._sides.rows

    def cut(self, heights: Floats, among: Mask | None = None) -> Cut:
        """Cut faces by the line on which heights are 0.

        Args:
            heights: float64 (V,), affine on each face; exactly 0 at vertices on the line.
            among: bool (F,), faces that may be cut; None allows all.

        Raises:
            TooManyRegions: If the cut leads to more than `max_faces` faces.
        """
        sign = np.sign(heights).astype(np.int8)
        allowed = np.ones(self.num_faces + 1, dtype=bool) if among is None else np.append(among, False)
        allowed[OUTSIDE] = False
        split = self._split(heights, sign, allowed)
        sign = np.append(sign, np.zeros(len(split.start), dtype=np.int8))
        faces = self._cut_faces(sign, self._straddling(sign, split) & allowed)
        if self.num_faces > self.max_faces:
            raise TooManyRegions(f"more than {self.max_faces:,} regions")
        return Cut(split.start, split.end, split.share, faces)

    def merge(self, edges: Mask) -> Integers:
        """Merge the faces on both sides of some edges, and return the new number int64 (F,) of each old face.

        A vertex that is left with two edges, parts of one straight line, is removed.
        """
        if not edges.any():
            return np.arange(self.num_faces)
        joined = self.sides[edges]
        graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(self.num_faces, self.num_faces))
        self.num_faces, labels = connected_components(graph, directed=False)
        became: Integers = labels.astype(np.int64)
        sides = np.append(became, OUTSIDE)[self.sides]
        kept = sides[:, 0] != sides[:, 1]
        self._ends, self._sides = Stack(self.ends[kept]), Stack(sides[kept])
        self._straighten()
        return became

    def means(self, values: Floats) -> Floats:
        """Return the mean of values (V, ...) over the vertices of each face: (F, ...)."""
        faces, vertices = self.incidences()
        matrix = csr_array((np.ones(len(faces)), (faces, vertices)), shape=(self.num_faces, len(values)))
        flat = matrix @ values.reshape(len(values), -1)
        means: Floats = (flat / np.bincount(faces, minlength=self.num_faces)[:, None]).reshape(-1, *values.shape[1:])
        return means

    def lift(self, values: Floats) -> Floats:
        """Return values (V, ...) at all vertices from values at the first vertices, affine on each face."""
        lifted, first = Stack(values), len(self.points) - sum(len(cut.start) for cut in self._cuts)
        for cut in self._cuts:
            if first >= len(values):
                lifted.add(cut.lift(lifted.rows))
            first += len(cut.start)
        return lifted.rows

    def incidences(self) -> tuple[Integers, Integers]:
        """Return all pairs of a face and one of its vertices, unordered: int64 (K,) and (K,)."""
        faces = self.sides.T.ravel()
        inside = faces != OUTSIDE
        return faces[inside], self.ends.T.ravel()[inside]  # the first vertex of each edge, counter-clockwise around the face

    def corners(self) -> tuple[Integers, Integers]:
        """Return the vertices (K,) of all faces, counter-clockwise, one face after the other, and where each begins (F + 1,)."""
        faces, starts = self.incidences()
        stops = self.ends[:, ::-1].T.ravel()[self.sides.T.ravel() != OUTSIDE]
        order = np.argsort(faces * len(self.points) + starts, kind="stable")
        faces, starts, stops = faces[order], starts[order], stops[order]
        keys = faces * len(self.points) + starts
        following = np.searchsorted(keys, faces * len(self.points) + stops)
        sizes = np.bincount(faces, minlength=self.num_faces)
        begins = np.concatenate([[0], np.cumsum(sizes)])
        corners = np.empty(len(starts), dtype=np.int64)
        current, pending = begins[:-1].copy(), np.arange(self.num_faces)
        for step in range(int(sizes.max())):
            pending = pending[sizes[pending] > step]
            corners[begins[pending] + step] = starts[current[pending]]
            current[pending] = following[current[pending]]
        return corners, begins

    def _split(self, heights: Floats, sign: NDArray[np.int8], allowed: Mask) -> Cut:
        """Put a new vertex on each edge of an allowed face that the line crosses."""
        ends, sides = self.ends, self.sides
        crossed = np.nonzero(sign[ends[:, 0]] * sign[ends[:, 1]] < 0)[0]
        crossed = crossed[allowed[sides[crossed]].any(1)]
        start, end = ends[crossed].T.copy()
        share = heights[start] / (heights[start] - heights[end])
        cut = Cut(start, end, share, np.empty(0, dtype=np.int64))
        if len(crossed):
            new = np.arange(len(self.points), len(self.points) + len(crossed))
            self._points.add(cut.lift(self.points))
            self._cuts.append(cut)
            ends[crossed, 1] = new
            self._ends.add(np.stack([new, end], axis=1))
            self._sides.add(sides[crossed])
        return cut

    def _straddling(self, sign: NDArray[np.int8], split: Cut) -> Mask:
        """Return a mask bool (F + 1,) of the faces with vertices on both sides of the line."""
        sides, of_ends = self.sides, sign[self.ends]
        above, below = np.zeros(self.num_faces + 1, dtype=bool), np.zeros(self.num_faces + 1, dtype=bool)
        touching = np.nonzero((of_ends == 0).any(1))[0]  # after the split, such a face has two vertices on the line
        total = of_ends[touching].sum(1)
        above[sides[touching[total > 0]].ravel()] = True
        below[sides[touching[total < 0]].ravel()] = True
        return above & below

    def _cut_faces(self, sign: NDArray[np.int8], straddles: Mask) -> Integers:
        """Cut faces by a chord between their two vertices on the line, and return the faces that were cut."""
        straddles[OUTSIDE] = False
        faces: Integers = np.nonzero(straddles)[0]
        if len(faces) == 0:
            return faces
        number = np.full(self.num_faces + 1, -1)
        number[faces] = np.arange(len(faces))
        near = np.nonzero(straddles[self.sides].any(1) & (sign[self.ends] > 0).any(1))[0]
        leaves, enters = (_Found(len(faces)) for _ in range(2))
        for side in (0, 1):
            face, start, stop = number[self.sides[near, side]], self.ends[near, side], self.ends[near, 1 - side]
            leaves.note(face, start, (face >= 0) & (sign[start] == 0))
            enters.note(face, stop, (face >= 0) & (sign[stop] == 0))
        good = (leaves.count == 1) & (enters.count == 1)  # rounding may leave a sliver without two such vertices: it is not cut
        faces, begin, end = faces[good], enters.vertex[good], leaves.vertex[good]
        moved = np.arange(self.num_faces + 1)
        moved[OUTSIDE] = OUTSIDE
        moved[faces] = self.num_faces + np.arange(len(faces))
        self.sides[near] = moved[self.sides[near]]
        self._ends.add(np.stack([begin, end], axis=1))
        self._sides.add(np.stack([moved[faces], faces], axis=1))
        self.num_faces += len(faces)
        return faces

    def _straighten(self) -> None:
        """Join edges that meet in a vertex with no other edge, if they are parts of one straight line."""
        ends = self.ends
        degree = np.bincount(ends.ravel(), minlength=len(self.points))
        first, edge = np.cumsum(degree) - degree, np.argsort(ends.ravel(), kind="stable") // 2
        vertices = np.nonzero(degree == 2)[0]
        pairs = edge[first[vertices, None] + np.arange(2)]
        others = ends[pairs].sum(2) - vertices[:, None]
        before, after = self.points[vertices] - self.points[others[:, 0]], self.points[others[:, 1]] - self.points[vertices]
        turn = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
        straight = turn <= STRAIGHT * np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        vertices, pairs = vertices[straight], pairs[straight]
        graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(ends), len(ends)))
        count, chain = connected_components(graph, directed=False)
        kept = np.empty(count, dtype=np.int64)
        kept[chain[::-1]] = np.arange(len(ends))[::-1]  # the first edge of each chain gives it its direction
        joined = np.zeros(len(self.points), dtype=bool)
        joined[vertices] = True
        self._ends, self._sides = Stack(self._ends_of_chains(joined, chain, kept)), Stack(self.sides[kept])

    def _ends_of_chains(self, joined: Mask, chain: Integers, kept: Integers) -> Integers:
        """Return the end vertices (C, 2) of chains of edges, in the direction of the edge that stands for each chain."""
        outer = ~joined[self.ends]
        order = np.argsort(chain[np.nonzero(outer)[0]], kind="stable")
        pairs = self.ends[outer][order].reshape(-1, 2)
        along = self.points[self.ends[kept, 1]] - self.points[self.ends[kept, 0]]
        across = self.points[pairs[:, 1]] - self.points[pairs[:, 0]]
        turned = (along * across).sum(1) < 0
        directed: Integers = np.where(turned[:, None], pairs[:, ::-1], pairs)
        return directed


class _Found:
    """The vertex found for each face, and the number of vertices found."""

    def __init__(self, count: int) -> None:
        self.vertex, self.count = np.full(count, -1), np.zeros(count, dtype=np.int64)

    def note(self, faces: Integers, vertices: Integers, where: Mask) -> None:
        """Record vertices of faces where a mask is True."""
        self.vertex[faces[where]] = vertices[where]
        self.count += np.bincount(faces[where], minlength=len(self.count))

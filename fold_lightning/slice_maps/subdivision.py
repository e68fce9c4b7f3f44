"""A window of a plane, cut into convex polygons by one line after the other.

The subdivision is kept as edges: each knows its two ends, and the faces to its left and right. A line splits each edge that it
crosses once, so both faces share the new vertex and no crack opens. A face that has vertices on both sides of the line is cut by
a chord between the two vertices that lie on it. Which side is left is handed on and never computed again, so polygons keep their
orientation however thin they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from fold_lightning.slice_maps.arrays import Floats, Integers, Mask, Stack

OUTSIDE = -1
"""The number of what lies beyond the frame."""

STRAIGHT = 1e-9
"""Sine of the angle between two edges up to which they are parts of one line."""


class TooManyRegions(ValueError):
    """A window holds more regions than are wanted."""


@dataclass(frozen=True)
class Cut:
    """The changes that a line made: k new vertices on edges, and m new faces.

    Attributes:
        start: int64 (k,), vertex from which an edge that was split leads.
        end: int64 (k,), vertex to which it leads.
        share: float64 (k,), place of the new vertex on the way, in (0, 1).
        faces: int64 (m,), faces that were cut; their parts on the positive side are the new faces.
    """

    start: Integers
    end: Integers
    share: Floats
    faces: Integers

    def lift(self, values: Floats) -> Floats:
        """Return the values (k, ...) at the new vertices of what is affine on each edge, from those at the old ones."""
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        start = values[self.start]
        lifted: Floats = start + share * (values[self.end] - start)
        return lifted


class Subdivision:
    """Convex polygons that fill a window.

    Args:
        window: Least and largest first coordinate, least and largest second one.
        max_faces: Faces beyond which a cut raises `TooManyRegions`.
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
        """Return the subdivision of polygons, counter-clockwise one after the other, as `corners` gives them."""
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
        """float64 (V, 2), the vertices; merging leaves some that no edge uses."""
        return self._points.rows

    @property
    def ends(self) -> Integers:
        """int64 (E, 2), the vertices that an edge leads from and to."""
        return self._ends.rows

    @property
    def sides(self) -> Integers:
        """int64 (E, 2), the faces to the left and to the right of an edge; -1 outside."""
        return self._sides.rows

    def cut(self, heights: Floats, among: Mask | None = None) -> Cut:
        """Cut faces by the line on which heights are 0.

        Args:
            heights: float64 (V,), affine on each face; exactly 0 for vertices on the line.
            among: bool (F,), faces that may be cut; None takes all.

        Raises:
            TooManyRegions: If there are more than `max_faces` now.
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
        """Join the faces on both sides of some edges, and return the face int64 (F,) that each has become.

        Vertices of which only two edges are left go too, where these are parts of one straight line.
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
        """Return values at all vertices (V, ...) of what is affine on each face, from those at the first vertices."""
        lifted, first = Stack(values), len(self.points) - sum(len(cut.start) for cut in self._cuts)
        for cut in self._cuts:
            if first >= len(values):
                lifted.add(cut.lift(lifted.rows))
            first += len(cut.start)
        return lifted.rows

    def incidences(self) -> tuple[Integers, Integers]:
        """Return each face with each of its vertices, in no order: int64 (K,) and (K,)."""
        faces = self.sides.T.ravel()
        inside = faces != OUTSIDE
        return faces[inside], self.ends.T.ravel()[inside]  # where an edge starts, going counter-clockwise around the face

    def corners(self) -> tuple[Integers, Integers]:
        """Return the vertices of all faces, counter-clockwise one face after the other, and where each face begins (F + 1,)."""
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
        """Put a vertex on each edge of an allowed face that the line crosses."""
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
        """Return which faces, bool (F + 1,), have vertices on both sides of the line."""
        sides, of_ends = self.sides, sign[self.ends]
        above, below = np.zeros(self.num_faces + 1, dtype=bool), np.zeros(self.num_faces + 1, dtype=bool)
        touching = np.nonzero((of_ends == 0).any(1))[0]  # a face that straddles has two vertices on the line by now
        total = of_ends[touching].sum(1)
        above[sides[touching[total > 0]].ravel()] = True
        below[sides[touching[total < 0]].ravel()] = True
        return above & below

    def _cut_faces(self, sign: NDArray[np.int8], straddles: Mask) -> Integers:
        """Cut faces by a chord between their two vertices on the line; return those that were."""
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
        good = (leaves.count == 1) & (enters.count == 1)  # rounding may leave a sliver without; it stays whole
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
        """Join edges that meet in a vertex of no other edge and are parts of one straight line."""
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
        """Return the ends (C, 2) of chains of edges, in the direction of the edge of each that is kept."""
        outer = ~joined[self.ends]
        order = np.argsort(chain[np.nonzero(outer)[0]], kind="stable")
        pairs = self.ends[outer][order].reshape(-1, 2)
        along = self.points[self.ends[kept, 1]] - self.points[self.ends[kept, 0]]
        across = self.points[pairs[:, 1]] - self.points[pairs[:, 0]]
        turned = (along * across).sum(1) < 0
        directed: Integers = np.where(turned[:, None], pairs[:, ::-1], pairs)
        return directed


class _Found:
    """A vertex for each of some faces, and how many were found."""

    def __init__(self, count: int) -> None:
        self.vertex, self.count = np.full(count, -1), np.zeros(count, dtype=np.int64)

    def note(self, faces: Integers, vertices: Integers, where: Mask) -> None:
        """Take the vertices of faces where a mask says so."""
        self.vertex[faces[where]] = vertices[where]
        self.count += np.bincount(faces[where], minlength=len(self.count))

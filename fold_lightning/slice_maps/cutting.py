"""Cutting a window into the regions in which a network is affine: bend after bend, line after line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fold_lightning.slice_maps.arrays import Floats, Integers, Mask, Stack
from fold_lightning.slice_maps.bends import Bends, Lanes, Lines, check_bytes
from fold_lightning.slice_maps.subdivision import Subdivision, TooManyRegions

INTERPOLATED = 1e-12
"""Share of the largest height in the window below which a height between two vertices is 0: lines that meet in a point."""

SPARE = 8
"""Faces for each region while max pooling is being resolved: its lines cut more than they must, and parts are joined again."""

BLOCK_BYTES = 2**26
"""Bytes of the elements of lanes that are compared at once, at all vertices of all faces: 64 MiB."""

Window = tuple[float, float, float, float]


def subdivide(bends: Bends, window: Window, max_regions: int) -> Subdivision:
    """Return the regions of a window.

    Raises:
        TooManyRegions: If there are more than `max_regions`.
        MemoryError: If the units that bend there need too much memory.
    """
    subdivision = Subdivision(window, max_regions)
    for number in range(len(bends)):
        values = bends.at(number, subdivision.points)
        if isinstance(values, Lines):
            cut_by_lines(subdivision, values)
        else:
            subdivision.max_faces = SPARE * max_regions
            cut_by_choices(subdivision, values)
            subdivision.max_faces = max_regions
    if subdivision.num_faces > max_regions:
        raise TooManyRegions(f"more than {max_regions:,} regions")
    return subdivision


def cut_by_lines(subdivision: Subdivision, lines: Lines) -> None:
    """Cut faces by the line of each unit."""
    rounding = np.maximum(lines.rounding, INTERPOLATED * np.abs(lines.heights).max(0, initial=0.0))
    heights = Stack(_settled(lines.heights, rounding))
    mixed = (heights.rows > 0).any(0) & (heights.rows < 0).any(0)
    for unit in np.nonzero(mixed)[0]:
        cut = subdivision.cut(heights.rows[:, unit])
        if len(cut.start):
            check_bytes((len(heights.rows) + len(cut.start)) * len(rounding))
            new = np.zeros((len(cut.start), len(rounding)))
            new[:, unit + 1 :] = _settled(cut.lift(heights.rows[:, unit + 1 :]), rounding[unit + 1 :])
            heights.add(new)


def cut_by_choices(subdivision: Subdivision, lanes: Lanes) -> Integers:
    """Cut faces until one ranking of each lane holds on each of them, and join the parts that were cut in vain.

    The ranking at the middle of a face holds on all of it if it holds at its vertices, for the largest of affine functions is
    convex. Where another element leads at a vertex, the line on which the two are equal cuts the face. Where one ranking holds on
    both sides of such a line, the parts are joined, and are convex again.

    Returns:
        The face int64 (F,) of the subdivision as it was that each face lies in.
    """
    spread = (lanes.values.max(2) - lanes.values.min(2)).max(0, initial=0.0)
    ranking = _Ranking(lanes.values, np.maximum(lanes.rounding, INTERPOLATED * spread), lanes.ranks)
    root = np.arange(subdivision.num_faces)
    found = ranking.contradictions(subdivision)
    ranking, found[:, 0] = ranking.only(found[:, 0])
    while len(found):
        before = origin = np.arange(subdivision.num_faces)
        for lane, first, second, faces in _lines_of(found):
            among = np.isin(before, faces)[origin]
            cut = subdivision.cut(ranking.difference(lane, first, second), among)
            origin = np.append(origin, origin[cut.faces])
            ranking.lift(cut.lift(ranking.values))
        root = root[origin]
        if len(origin) == len(before):  # all that is left is rounding
            break
        found = ranking.contradictions(subdivision)
    labels = subdivision.merge(ranking.holds_across(subdivision, root))
    merged = np.empty(subdivision.num_faces, dtype=np.int64)
    merged[labels] = root
    return merged


class _Ranking:
    """The order of the elements of lanes.

    Args:
        values: float64 (V, L, s), elements at the vertices of a subdivision.
        rounding: float64 (L,), differences that may be 0.
        ranks: The number of ranks k that count, from the largest.
    """

    def __init__(self, values: Floats, rounding: Floats, ranks: int) -> None:
        self.rounding, self.ranks = rounding, ranks
        self._values = Stack(values)

    @property
    def values(self) -> Floats:
        """The elements at all vertices by now."""
        return self._values.rows

    def lift(self, values: Floats) -> None:
        """Add the elements at new vertices."""
        check_bytes(self.values.size + values.size)
        self._values.add(values)

    def only(self, lanes: Integers) -> tuple[_Ranking, Integers]:
        """Return the ranking of some lanes alone, and their numbers in it."""
        kept, numbers = np.unique(lanes, return_inverse=True)
        return _Ranking(self.values[:, kept], self.rounding[kept], self.ranks), numbers

    def difference(self, lane: int, first: int, second: int) -> Floats:
        """Return how far one element leads another at the vertices (V,)."""
        return _settled(self.values[:, lane, first] - self.values[:, lane, second], self.rounding[lane])

    def contradictions(self, subdivision: Subdivision) -> Integers:
        """Return lane, two elements and face, int64 (K, 4), where one element leads in the middle and the other at a vertex."""
        faces, vertices = subdivision.incidences()
        found = [np.empty((0, 4), dtype=np.int64)]
        for block in self._blocks(len(faces)):
            ranked = self._ranked(subdivision.means(self.values[:, block]))
            rest = self.values[vertices, block]
            for rank in range(self.ranks):
                place = ranked[faces, :, rank, None]
                own = np.take_along_axis(rest, place, 2)[..., 0]
                np.put_along_axis(rest, place, -np.inf, 2)
                ahead, lane = np.nonzero(rest.max(2) - own > self.rounding[block])
                pair = np.sort(np.stack([place[ahead, lane, 0], rest[ahead, lane].argmax(1)], axis=1), axis=1)
                found.append(np.column_stack([lane + block.start, pair, faces[ahead]]))
        return np.unique(np.concatenate(found), axis=0)

    def holds_across(self, subdivision: Subdivision, root: Integers) -> Mask:
        """Return the edges, bool (E,), between parts of one root on which one ranking holds."""
        sides = subdivision.sides
        same: Mask = (sides >= 0).all(1) & (root[sides[:, 0]] == root[sides[:, 1]])
        for block in self._blocks(len(sides)):
            means = subdivision.means(self.values[:, block])
            ranked = self._ranked(means)
            edges = np.nonzero(same)[0]
            pairs = sides[edges]
            for here, there in (pairs.T, pairs[:, ::-1].T):
                own, other = (np.take_along_axis(means[here], ranked[face], 2) for face in (here, there))
                same[edges] &= (np.abs(own - other) <= self.rounding[block, None]).all((1, 2))
        return same

    def _ranked(self, values: Floats) -> Integers:
        """Return the places (n, L, k) of the largest elements."""
        best: Integers = values.argmax(2)[..., None]
        return best if self.ranks == 1 else np.argsort(-values, axis=2, kind="stable")[..., : self.ranks]

    def _blocks(self, rows: int) -> Iterator[slice]:
        """Yield slices of the lanes."""
        size = max(1, BLOCK_BYTES // (8 * max(1, rows * self.values.shape[2])))
        for begin in range(0, self.values.shape[1], size):
            yield slice(begin, begin + size)


def _lines_of(found: Integers) -> Iterator[tuple[int, int, int, Integers]]:
    """Yield lane, two elements and the faces that the line between these cuts, from rows (K, 4) that are sorted."""
    begins = np.nonzero((found[1:, :3] != found[:-1, :3]).any(1))[0] + 1
    for part in np.split(found, begins):
        lane, first, second = part[0, :3].tolist()
        yield lane, first, second, part[:, 3]


def _settled(heights: Floats, rounding: Floats | float) -> Floats:
    """Return heights with those that may be 0 exactly there."""
    return np.where(np.abs(heights) <= rounding, 0.0, heights)

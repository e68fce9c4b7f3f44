"""Cutting a window into the regions in which a network is affine, one bend and one line at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fold_lightning.slice_maps.arrays import Floats, Integers, Mask, Stack
from fold_lightning.slice_maps.bends import Bends, Lanes, Lines, check_bytes
from fold_lightning.slice_maps.subdivision import Subdivision, TooManyRegions

INTERPOLATED = 1e-12
"""Height at a new vertex up to which it counts as 0, as a share of the largest height in the window, so that lines that meet in one
point share its vertex."""

SPARE = 8
"""Faces allowed per region while max pooling cuts: its lines cut too much at first, and parts are merged again."""

BLOCK_BYTES = 2**26
"""Bytes of the elements of lanes that are compared at once, over the vertices of all faces: 64 MiB."""

Window = tuple[float, float, float, float]


def subdivide(bends: Bends, window: Window, max_regions: int) -> Subdivision:
    """Return the regions of a window.

    Raises:
        TooManyRegions: If there are more than `max_regions`.
        MemoryError: If the units that bend in the window need too much memory.
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
    """Cut faces until each lane has one ranking on each face, and merge parts that need not be separate.

    The ranking at the center of a face holds on the whole face if it holds at its vertices, because the maximum of affine functions
    is convex. If another element leads at a vertex, the line on which the two elements are equal cuts the face. If one ranking holds
    on both sides of such a line, the two parts are merged and their union is convex.

    Returns:
        int64 (F,), for each new face the face that it was part of before.
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
        if len(origin) == len(before):  # nothing was cut: only rounding is left
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
        rounding: float64 (L,), differences up to which two elements count as equal.
        ranks: Number k of largest elements whose order matters.
    """

    def __init__(self, values: Floats, rounding: Floats, ranks: int) -> None:
        self.rounding, self.ranks = rounding, ranks
        self._values = Stack(values)

    @property
    def values(self) -> Floats:
        """The elements at all vertices so far."""
        return self._values.rows

    def lift(self, values: Floats) -> None:
        """Add the elements at new vertices."""
        check_bytes(self.values.size + values.size)
        self._values.add(values)

    def only(self, lanes: Integers) -> tuple[_Ranking, Integers]:
        """Return the ranking of some lanes only, and the number of each lane in it."""
        kept, numbers = np.unique(lanes, return_inverse=True)
        return _Ranking(self.values[:, kept], self.rounding[kept], self.ranks), numbers

    def difference(self, lane: int, first: int, second: int) -> Floats:
        """Return the difference between two elements at the vertices, (V,)."""
        return _settled(self.values[:, lane, first] - self.values[:, lane, second], self.rounding[lane])

    def contradictions(self, subdivision: Subdivision) -> Integers:
        """Return (lane, two elements, face) int64 (K, 4) where one element leads at the center and the other at a vertex."""
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
        """Return a mask bool (E,) of the edges between two parts of one former face that have the same ranking."""
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
        """Return the indices (n, L, k) of the k largest elements in each lane."""
        best: Integers = values.argmax(2)[..., None]
        return best if self.ranks == 1 else np.argsort(-values, axis=2, kind="stable")[..., : self.ranks]

    def _blocks(self, rows: int) -> Iterator[slice]:
        """Yield slices of the lanes that need bounded memory."""
        size = max(1, BLOCK_BYTES // (8 * max(1, rows * self.values.shape[2])))
        for begin in range(0, self.values.shape[1], size):
            yield slice(begin, begin + size)


def _lines_of(found: Integers) -> Iterator[tuple[int, int, int, Integers]]:
    """Yield lane, two elements, and the faces that their line cuts, from sorted rows (K, 4) of `contradictions`."""
    begins = np.nonzero((found[1:, :3] != found[:-1, :3]).any(1))[0] + 1
    for part in np.split(found, begins):
        lane, first, second = part[0, :3].tolist()
        yield lane, first, second, part[:, 3]


def _settled(heights: Floats, rounding: Floats | float) -> Floats:
    """Return heights, set to 0 where they are 0 up to rounding."""
    return np.where(np.abs(heights) <= rounding, 0.0, heights)

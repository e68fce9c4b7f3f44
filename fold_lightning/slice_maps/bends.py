"""Places where a network bends, in the order of a forward pass, and their values at the vertices of a subdivision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning.activations.codes import CODES_MAX_BYTES
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.rounding import TENSORS_AT_ONCE, Rounding
from fold_lightning.slice_maps.arrays import Floats
from fold_lightning.slice_maps.bend_pass import VALUE_ROUNDING, BendPass, ChoiceBend, ClampBend, UnitsBend
from fold_lightning.slice_maps.planes import Plane

HELD_BYTES = 2**28
"""Most bytes of the heights of all units of a layer at once, 256 MiB; for larger layers, a first pass finds the units that change
sign."""

HEIGHT_BYTES = 2**30
"""Most bytes of the heights, at all vertices, of the units that change sign, 1 GiB; a map that needs more is refused."""


@dataclass(frozen=True)
class Lines:
    """Heights of units or bounds at the vertices; each cuts the window along the line where it is 0.

    Attributes:
        heights: float64 (V, m).
        rounding: float64 (m,), absolute heights up to which a height counts as 0.
    """

    heights: Floats
    rounding: Floats


@dataclass(frozen=True)
class Lanes:
    """Elements of lanes at the vertices; the largest elements of each lane are chosen.

    Attributes:
        values: float64 (V, L, s), the elements of each lane; an element may occur twice.
        rounding: float64 (L,), differences up to which two elements count as equal.
        ranks: Number of largest elements whose order matters.
    """

    values: Floats
    rounding: Floats
    ranks: int


class Bends:
    """The places where a network bends.

    Args:
        replica: The model.
        structure: The model's activations.
        plane: The plane of the map.

    Attributes:
        only_units: Whether all places are activations, so that codes alone distinguish the regions.
    """

    def __init__(self, replica: Replica, structure: ModelStructure, plane: Plane) -> None:
        self.plane, self.replica, self.structure = plane, replica, structure
        sample = plane.inputs(plane.marks).to(replica.device)
        self._rounding = Rounding(replica, structure, sample)
        survey = BendPass(replica, structure, None)
        survey.run(sample[:1])
        self._count = survey.count
        self.only_units = survey.count == survey.num_activations

    def __len__(self) -> int:
        return self._count

    def at(self, number: int, points: Floats) -> Lines | Lanes:
        """Return the values of a bend at points (V, 2) of the plane, only for units and lanes that may cut a polygon.

        Raises:
            MemoryError: If the values need more than `HEIGHT_BYTES`.
        """
        first = self._run(number, self.inputs(points[:1]))
        if isinstance(first, ChoiceBend):
            return self._lanes(number, points)
        return self._lines(number, points, first.heights().shape[1])

    def _lines(self, number: int, points: Floats, width: int) -> Lines:
        held, rounding = [], np.zeros(width)
        above, below = np.zeros(width, dtype=bool), np.zeros(width, dtype=bool)
        holds_all = 8 * width * len(points) <= HELD_BYTES
        for bend in self._bends(number, points):
            heights = bend.heights()
            above |= (heights > 0).any(0).cpu().numpy()
            below |= (heights < 0).any(0).cpu().numpy()
            rounding = np.maximum(rounding, bend.rounding(self._rounding).expand(width).cpu().numpy())
            if holds_all:
                held.append(heights.cpu().numpy())
        mixed = np.nonzero(above & below)[0]
        check_bytes(len(points) * len(mixed))
        if holds_all:
            return Lines(np.concatenate(held)[:, mixed], rounding[mixed])
        columns = torch.from_numpy(mixed).to(self.replica.device)
        held = [bend.heights()[:, columns].cpu().numpy() for bend in self._bends(number, points)]
        return Lines(np.concatenate(held), rounding[mixed])

    def _lanes(self, number: int, points: Floats) -> Lanes:
        winners: Tensor | None = None
        varies: Any = False
        for bend in self._bends(number, points):
            ranked = bend.winners()
            winners = ranked[:1] if winners is None else winners
            varies = varies | (ranked != winners).any(0)
        assert isinstance(bend, ChoiceBend)
        lanes = varies.view(-1, bend.choice.ranks).any(1).nonzero().squeeze(1)
        check_bytes(len(points) * len(lanes) * bend.choice.elements.shape[1])
        values = np.concatenate([bend.values(lanes).cpu().numpy() for bend in self._bends(number, points)])
        return Lanes(values, VALUE_ROUNDING * np.abs(values).max(axis=(0, 2)), bend.choice.ranks)

    def _bends(self, number: int, points: Floats) -> Iterator[Any]:
        """Yield the bend of each chunk of points."""
        return (self._run(number, chunk) for chunk in self.chunks(points))

    def chunks(self, points: Floats) -> Iterator[Tensor]:
        """Yield the inputs (B, ...) at points (V, 2) of the plane, in chunks for which a pass has memory."""
        rows = 1 if self.structure.is_row_by_row else max(1, CODES_MAX_BYTES // (8 * TENSORS_AT_ONCE * self.structure.widest))
        for begin in range(0, len(points), rows):
            yield self.inputs(points[begin : begin + rows])

    def inputs(self, points: Floats) -> Tensor:
        """Return the inputs (V, ...) at points (V, 2) of the plane, on the replica's device."""
        return self.plane.inputs(torch.from_numpy(points)).to(self.replica.device)

    def _run(self, number: int, inputs: Tensor) -> UnitsBend | ClampBend | ChoiceBend:
        found = BendPass(self.replica, self.structure, number)
        found.run(inputs)
        assert found.bend is not None
        return found.bend


def check_bytes(numbers: int) -> None:
    """Raise a MemoryError if so many float64 values need more than `HEIGHT_BYTES`."""
    if 8 * numbers > HEIGHT_BYTES:
        raise MemoryError(
            f"The units that bend in this window take {8 * numbers / 2**30:.1f} GiB at its vertices, and at most "
            f"{HEIGHT_BYTES / 2**30:.0f} GiB are allowed: pass a smaller `window=`, or without it a smaller `max_regions=`."
        )

"""The places where a network bends, in the order of a forward pass, and its values there at the vertices of a subdivision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning.activations.choosing import find_choice
from fold_lightning.activations.codes import CHUNK_BYTES
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.operations import CHOICES, CLAMPS
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import CERTAIN, SCREEN, TENSORS_AT_ONCE, Rounding
from fold_lightning.activations.tracking import depends_on_input, tensors_in
from fold_lightning.slice_maps.planes import Plane
from fold_lightning.slice_maps.subdivision import Floats
from fold_lightning.walks.piecewise_bends import clamp_bounds

ROUNDED = 1e-14
"""Share of a value below which its difference from another one, or from a bound, may be rounding."""

HELD_BYTES = 2**28
"""Bytes of the heights of all units of a layer, 256 MiB; of larger layers the units that change sign are found in a first pass."""

MAX_BYTES = 2**30
"""Bytes of the heights of the units that change sign at all vertices, 1 GiB; beyond, a map is refused."""


@dataclass(frozen=True)
class Lines:
    """Heights above the lines of units or bounds, which cut the window where they are 0.

    Attributes:
        heights: float64 (V, m).
        rounding: float64 (m,), heights that may be 0.
    """

    heights: Floats
    rounding: Floats


@dataclass(frozen=True)
class Lanes:
    """Values of which the largest are chosen.

    Attributes:
        values: float64 (V, L, s), the elements of each lane; some may stand there twice.
        rounding: float64 (L,), differences that may be 0.
        ranks: The number of ranks that decide, from the largest.
    """

    values: Floats
    rounding: Floats
    ranks: int


class Bends:
    """The places where a network bends.

    Args:
        replica: The model.
        structure: Its activations.
        plane: The plane that is looked at.

    Attributes:
        only_units: Whether all of them are activations, whose bits tell regions apart.
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
        """Return the values of a bend at points (V, 2) of the plane, of those units and lanes alone that may cut something.

        Raises:
            MemoryError: If they need more than `MAX_BYTES`.
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
        return Lanes(values, ROUNDED * np.abs(values).max(axis=(0, 2)), bend.choice.ranks)

    def _bends(self, number: int, points: Floats) -> Iterator[Any]:
        """Yield the bend of each chunk of points."""
        return (self._run(number, chunk) for chunk in self.chunks(points))

    def chunks(self, points: Floats) -> Iterator[Tensor]:
        """Yield the inputs (B, ...) at points (V, 2) of the plane, as many at once as a pass has memory for."""
        rows = 1 if self.structure.is_row_by_row else max(1, CHUNK_BYTES // (8 * TENSORS_AT_ONCE * self.structure.widest))
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
    """Raise if the values at all vertices need more than `MAX_BYTES`."""
    if 8 * numbers > MAX_BYTES:
        raise MemoryError(
            f"The units that bend in this window take {8 * numbers / 2**30:.1f} GiB at its vertices, and at most "
            f"{MAX_BYTES / 2**30:.0f} GiB are held: take a smaller `window=`, or fewer `max_regions=` where it is chosen."
        )


class BendPass(Interception):
    """A forward pass up to a place where the network bends.

    Args:
        replica: The model.
        structure: Its activations.
        number: Number of the place, counted from 0; None goes on to the end.

    Attributes:
        count: Number of places met.
        bend: The last of them.
    """

    def __init__(self, replica: Replica, structure: ModelStructure, number: int | None) -> None:
        super().__init__(replica)
        self.count = 0
        self.bend: UnitsBend | ClampBend | ChoiceBend | None = None
        self._structure, self._number = structure, number

    def run(self, inputs: Tensor) -> Any:
        """Pass inputs (B, ...) through the model."""
        self._inputs = inputs
        return super().run(inputs)

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Count an activation."""
        self._structure.check_layer(self.num_activations - 1, layer, z, self.num_inputs)
        if self._is_wanted():
            units = self._structure.per_input(layer, z, self.num_inputs)
            self._end(UnitsBend(layer, thresholds, units, self._inputs))
        return call(z)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count a choice or a clamp, unless the network has curved before it."""
        if not self.unknown and name in CLAMPS and depends_on_input(args[0]):
            if self._is_wanted():
                bounds = clamp_bounds(name, args[1:], kwargs)
                self._end(ClampBend(args[0], bounds, self.num_inputs))
        elif not self.unknown and name in CHOICES and any(map(depends_on_input, tensors_in((args, kwargs)))):
            choice = find_choice(name, args, kwargs)
            if choice is not None and self._is_wanted():
                self._end(ChoiceBend(choice, self.num_inputs))
        return function(*args, **kwargs)

    def _is_wanted(self) -> bool:
        self.count += 1
        return self.count - 1 == self._number

    def _end(self, bend: UnitsBend | ClampBend | ChoiceBend) -> None:
        self.bend = bend
        raise PassEnded


@dataclass(frozen=True)
class UnitsBend:
    """The pre-activations (B, n) of a layer, and the inputs they are of."""

    layer: str
    thresholds: Thresholds
    z: Tensor
    inputs: Tensor

    def heights(self) -> Tensor:
        """Return pre-activations less thresholds (B, n), side by side for each threshold."""
        return torch.cat([self.z - threshold for threshold in self.thresholds], dim=1)

    def rounding(self, rounding: Rounding) -> Tensor:
        """Return the heights (n,) or (1,) below which a sign may be wrong."""
        size = torch.maximum(rounding.size(self.layer, self.z), rounding.reach(self.inputs)).amax(0, keepdim=True)
        terms = (rounding.screen(self.layer, size)[0] / SCREEN).expand(self.z.shape[1])
        return torch.cat([CERTAIN * (terms + abs(threshold)) for threshold in self.thresholds])


@dataclass(frozen=True)
class ClampBend:
    """Values (R, ...) that are clamped for B inputs, and the bounds."""

    x: Tensor
    bounds: list[float | Tensor]
    num_inputs: int

    def heights(self) -> Tensor:
        """Return values less bounds (B, n), side by side for each bound."""
        return torch.cat([(self.x - bound).reshape(self.num_inputs, -1) for bound in self.bounds], dim=1)

    def rounding(self, rounding: Rounding) -> Tensor:
        """Return the heights (1,) below which a sign may be wrong."""
        sizes = [self.x, *(torch.as_tensor(bound) for bound in self.bounds)]
        return self.x.new_tensor([ROUNDED * max(float(size.abs().amax()) for size in sizes)])


@dataclass(frozen=True)
class ChoiceBend:
    """A choice of elements, in lanes of one or more rows for each of B inputs."""

    choice: Any
    num_inputs: int

    def winners(self) -> Tensor:
        """Return a number for the element of each rank in each lane, (B, L k)."""
        numbers: Tensor = self.choice.rank(self.choice.candidates())[0]
        return numbers.reshape(self.num_inputs, -1)

    def values(self, lanes: Tensor) -> Tensor:
        """Return the elements of some lanes (B, l, s), negative where the smallest are chosen; what a lane lacks repeats another."""
        elements = self.choice.elements
        places = torch.where(elements < 0, elements.amax(1, keepdim=True), elements)
        candidates = self.choice.candidates().reshape(self.num_inputs, -1, self.choice.candidates().shape[1])
        row, lane = lanes // len(places), lanes % len(places)
        values: Tensor = candidates[:, row[:, None], places[lane]]
        return values if self.choice.largest else -values

"""A forward pass up to a place where the network bends: an activation, a clamp, or a choice such as max pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.choices import Choice
from fold_lightning.activations.choosing import find_choice
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.operations import CHOICES, CLAMPS
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import CERTAIN, SCREEN, Rounding
from fold_lightning.activations.tracking import depends_on_input
from fold_lightning.walks.piecewise_bends import clamp_bounds

VALUE_ROUNDING = 1e-14
"""Difference of a value from another value or a bound that may be rounding, as a share of the value."""


class BendPass(Interception):
    """A forward pass up to a place where the network bends.

    Args:
        replica: The model.
        structure: The model's activations.
        number: Number of the place at which to stop, counted from 0; None runs to the end.

    Attributes:
        count: Number of places met so far.
        bend: The place at which the pass stopped.
    """

    looks_for_bends = True

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

    def operation(self, call: Call) -> Any:
        """Count a choice or a clamp, unless the network has curved before it."""
        if not self.unknown and call.name in CLAMPS and depends_on_input(call.args[0]):
            if self._is_wanted():
                self._end(ClampBend(call.args[0], clamp_bounds(call), self.num_inputs))
        elif not self.unknown and call.name in CHOICES and call.varying:
            choice = find_choice(call)
            if choice is not None and self._is_wanted():
                self._end(ChoiceBend(choice, self.num_inputs))
        return call()

    def _is_wanted(self) -> bool:
        self.count += 1
        return self.count - 1 == self._number

    def _end(self, bend: UnitsBend | ClampBend | ChoiceBend) -> None:
        self.bend = bend
        raise PassEnded


@dataclass(frozen=True)
class UnitsBend:
    """Pre-activations (B, n) of a layer, and the inputs that give them."""

    layer: str
    thresholds: Thresholds
    z: Tensor
    inputs: Tensor

    def heights(self) -> Tensor:
        """Return pre-activations minus each threshold, concatenated over the thresholds: (B, n)."""
        return torch.cat([self.z - threshold for threshold in self.thresholds], dim=1)

    def rounding(self, rounding: Rounding) -> Tensor:
        """Return the heights (n,) or (1,) below which rounding may change a sign."""
        size = torch.maximum(rounding.size(self.layer, self.z), rounding.reach(self.inputs)).amax(0, keepdim=True)
        terms = (rounding.screen(self.layer, size)[0] / SCREEN).expand(self.z.shape[1])
        return torch.cat([CERTAIN * (terms + abs(threshold)) for threshold in self.thresholds])


@dataclass(frozen=True)
class ClampBend:
    """Values (R, ...) that a clamp takes for B inputs, and its bounds."""

    x: Tensor
    bounds: list[float | Tensor]
    num_inputs: int

    def heights(self) -> Tensor:
        """Return values minus each bound, concatenated over the bounds: (B, n)."""
        return torch.cat([(self.x - bound).reshape(self.num_inputs, -1) for bound in self.bounds], dim=1)

    def rounding(self, rounding: Rounding) -> Tensor:
        """Return the height (1,) below which rounding may change a sign."""
        sizes = [self.x, *(torch.as_tensor(bound) for bound in self.bounds)]
        return self.x.new_tensor([VALUE_ROUNDING * max(float(size.abs().amax()) for size in sizes)])


@dataclass(frozen=True)
class ChoiceBend:
    """A choice such as max pooling, of elements in lanes, with one or more rows for each of B inputs."""

    choice: Choice
    num_inputs: int

    def winners(self) -> Tensor:
        """Return the number of the element at each of the k ranks in each of L lanes, (B, L k)."""
        numbers: Tensor = self.choice.rank(self.choice.candidates())[0]
        return numbers.reshape(self.num_inputs, -1)

    def values(self, lanes: Tensor) -> Tensor:
        """Return the elements of some lanes (B, l, s), negated where the smallest are chosen; short lanes repeat an element."""
        elements = self.choice.elements
        places = torch.where(elements < 0, elements.amax(1, keepdim=True), elements)
        candidates = self.choice.candidates().reshape(self.num_inputs, -1, self.choice.candidates().shape[1])
        row, lane = lanes // len(places), lanes % len(places)
        values: Tensor = candidates[:, row[:, None], places[lane]]
        return values if self.choice.largest else -values

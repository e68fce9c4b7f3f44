"""Forward passes with activations and choices frozen at one input, so that the network is affine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
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
from fold_lightning.activations.rounding import Noise, Rounding
from fold_lightning.activations.tracking import depends_on_input, tensors_in
from fold_lightning.walks.piecewise_bends import clamp_bounds

CONSTANT = 100.0
"""Largest change along a step at which a unit counts as constant, in roundings of its terms: those of several layers add up."""


class NoPolytopes(ValueError):
    """Error for a network whose regions are not known to be polytopes."""


class FrozenPass(Interception):
    """A forward pass over groups of rows, each frozen in the linear piece and the choices of its first row.

    So the network is affine on each group.

    Args:
        replica: The model.
        structure: The model's activations.
        rounding: Rounding of the model.
        points: The first row of each group (B, ...); the inputs are B groups of 1 + m rows.
        choices: Whether to record the half-spaces of max pooling and clamps too.
        codes: Bool (B, bits), codes of all activations. Each group is then frozen in the pieces of its code, not of its first row;
            slacks are negative where the first row is not inside.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        rounding: Rounding,
        points: Tensor,
        *,
        choices: bool = False,
        codes: Tensor | None = None,
    ) -> None:
        super().__init__(replica)
        self.bits: list[Tensor] = []
        self.rows_of_choices: dict[str, int] = {}
        self._of_units: list[tuple[Tensor, Tensor]] = []
        self._of_choices: list[tuple[Tensor, Tensor]] = []
        self._structure = structure
        self._rounding, self._points, self._groups = rounding, points, len(points)
        self._reach = rounding.reach(points)
        self._choices, self._codes = choices, codes

    @property
    def normals(self) -> list[Tensor]:
        """Change of the `slacks` from the first row to each other row of the group: (B, n, m) for each bit, then for each choice."""
        return [normals for normals, _ in self._of_units + self._of_choices]

    @property
    def slacks(self) -> list[Tensor]:
        """Signed pre-activations minus thresholds, then leads of choices, at the first rows: (B, n), at least 0 inside."""
        return [slacks for _, slacks in self._of_units + self._of_choices]

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        dim = self._structure.batch_dims[layer]
        values, tangents = self._split(z, dim)
        if self._codes is None:
            values = self._settled(layer, thresholds, values)
        if layer in self._structure.counted:
            self._record(layer, values, tangents, thresholds)
        if layer == self._structure.needed[-1]:
            raise PassEnded
        inside = values if self._codes is None else self._inside_pieces(layer, thresholds, values)
        inner = _towards_the_middle(inside, thresholds)
        here, there = (call(part.movedim(0, dim)).movedim(dim, 0) for part in (inside, inside + inner))
        slopes = (there - here) / inner
        if self._codes is not None:
            here = (here - slopes * inside) + slopes * values
        return self._join(here, slopes[:, None] * tangents, dim)

    def operation(self, call: Call) -> Any:
        if call.name in CHOICES and call.varying and (choice := find_choice(call)) is not None:
            return self._choose(choice, call)
        if call.name in CLAMPS and depends_on_input(call.args[0]):
            return self._clamp(call)
        return call()

    def _split(self, z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return the first row of each group (B, ...), and the differences of the other rows from it (B, m, ...)."""
        grouped = z.movedim(dim, 0).unflatten(0, (self._groups, -1))
        return grouped[:, 0], grouped[:, 1:] - grouped[:, :1]

    def _join(self, values: Tensor, tangents: Tensor, dim: int) -> Tensor:
        together = torch.cat([values[:, None], values[:, None] + tangents], dim=1)
        return together.flatten(0, 1).movedim(0, dim)

    def _settled(self, layer: str, thresholds: Thresholds, values: Tensor) -> Tensor:
        """Return pre-activations, set to a threshold where they equal it up to rounding."""
        flat = values.flatten(1).clone()
        screen = self._rounding.screen(layer, torch.maximum(self._rounding.size(layer, flat), self._reach))
        for threshold in thresholds:
            is_near = (flat - threshold).abs() <= screen
            flat[self._rounding.zeros(layer, threshold, flat, is_near, self._noisy)] = threshold
        return flat.view_as(values)

    def _bits(self, layer: str, thresholds: Thresholds) -> Tensor:
        """Return the bits of a layer in the codes: bool (B, thresholds, units)."""
        assert self._codes is not None
        bits: Tensor = self._codes[:, self._structure.layers[layer]].unflatten(1, (len(thresholds), -1))
        return bits

    def _inside_pieces(self, layer: str, thresholds: Thresholds, values: Tensor) -> Tensor:
        """Return values in the shape of `values`, each inside the linear piece of the codes."""
        ends = [thresholds[0] - 2, *thresholds, thresholds[-1] + 2]
        middles = values.new_tensor([(low + high) / 2 for low, high in itertools.pairwise(ends)])
        return middles[self._bits(layer, thresholds).sum(1)].view_as(values)

    def _without_rounding(self, layer: str, values: Tensor, growth: Tensor) -> Tensor:
        """Return changes (B, n, m), set to 0 for units that are constant up to rounding."""
        screen = self._rounding.screen(layer, torch.maximum(self._rounding.size(layer, values), self._reach))
        row, unit = (growth[:, :, 0].abs() <= screen).nonzero(as_tuple=True)  # the first step rules most units out
        largest = torch.zeros_like(values)
        largest[row, unit] = growth[row, unit].abs().amax(1)
        is_near = (largest <= screen) & (largest > 0)
        row, unit = self._rounding.zeros(layer, 0.0, largest, is_near, self._noisy, CONSTANT)
        if len(row):
            growth = growth.clone()
            growth[row, unit] = 0.0
        return growth

    def _noisy(self, noise: Noise, row: Tensor) -> Tensor:
        return noise.of(self._points[row])

    def _record(self, layer: str, values: Tensor, tangents: Tensor, thresholds: Thresholds) -> None:
        flat = values.flatten(1)
        growth = self._without_rounding(layer, flat, tangents.flatten(2).mT)
        for number, threshold in enumerate(thresholds):
            above = flat > threshold if self._codes is None else self._bits(layer, thresholds)[:, number]
            sign = torch.where(above, 1.0, -1.0)
            self.bits.append(above)
            self._of_units.append((sign[:, :, None] * growth, sign * (flat - threshold)))

    def _choose(self, choice: Choice, call: Call) -> Any:
        candidates = choice.candidates().unflatten(0, (self._groups, -1))
        places = choice.ranked_places(candidates[:, 0])
        chosen = _gather_candidates(candidates, places[..., choice.first :])
        if self._choices:
            leads = _leads(choice, candidates, places)
            self._keep_choice(call.name, (leads[:, 1:] - leads[:, :1]).mT, leads[:, 0])
        result = call()
        for tensor in tensors_in(result):
            if tensor.is_floating_point():
                tensor.copy_(choice.shaped(chosen.flatten(0, 1), tensor.shape))
            else:
                tensor.unflatten(0, (self._groups, -1)).copy_(tensor.unflatten(0, (self._groups, -1))[:, :1].clone())
        return result

    def _record_sides(self, name: str, values: Tensor, tangents: Tensor, bounds: list[float]) -> None:
        """Record the side of each bound on which values lie."""
        flat, growth = values.flatten(1), tangents.flatten(2).mT
        for bound in bounds:
            sign = torch.where(flat > bound, 1.0, -1.0)
            self._keep_choice(name, sign[:, :, None] * growth, sign * (flat - bound))

    def _keep_choice(self, name: str, normals: Tensor, slacks: Tensor) -> None:
        same = sum(kept.split("/")[0] == name for kept in self.rows_of_choices)
        self.rows_of_choices[name if not same else f"{name}/{same + 1}"] = slacks.shape[1]
        self._of_choices.append((normals, slacks))

    def _clamp(self, call: Call) -> Any:
        bounds, x = clamp_bounds(call), call.args[0]
        if any(isinstance(bound, Tensor) for bound in bounds):
            raise NoPolytopes(f"Regions need clamps with numbers as bounds, got `{call.name}` with tensors: use numbers.")
        values, tangents = self._split(x, 0)
        clamped = call.function(values.clone(), *call.args[1:], **call.kwargs)
        if self._choices:
            self._record_sides(call.name, values, tangents, [float(bound) for bound in bounds])
        result = self._join(clamped, (clamped == values)[:, None] * tangents, 0)
        return x.copy_(result) if call.is_in_place else result


def _gather_candidates(candidates: Tensor, places: Tensor) -> Tensor:
    """Return the candidates (B, r, n) at places (B, L, k), the same for the r rows of a group: (B, r, L, k)."""
    index = places.flatten(1)[:, None].expand(-1, candidates.shape[1], -1)
    taken: Tensor = candidates.gather(2, index).unflatten(2, places.shape[1:])
    return taken


def _leads(choice: Choice, candidates: Tensor, places: Tensor) -> Tensor:
    """Return the lead of each chosen element over each other element of its lane; negated where the other ranks before it.

    Args:
        choice: The choice.
        candidates: Its candidates (B, r, n).
        places: The places of the ranked elements (B, L, k).

    Returns:
        Float64 (B, r, K), at least 0 in the first of the r rows.
    """
    is_ranked = (places[..., None] == choice.elements[:, None]).long()
    ranks_before = (is_ranked.cumsum(2) - is_ranked)[:, :, choice.first :].bool()
    sign = torch.where(ranks_before == choice.largest, -1.0, 1.0)[:, None]
    lanes = candidates[:, :, choice.elements.clamp(min=0)]
    leads: Tensor = sign * (_gather_candidates(candidates, places[..., choice.first :])[..., None] - lanes[:, :, :, None])
    is_there = (choice.elements >= 0)[:, None].expand(leads.shape[2:])
    return leads[:, :, is_there]


def _towards_the_middle(values: Tensor, thresholds: Thresholds) -> Tensor:
    """Return a step from each value that stays in its linear piece; a value on a threshold belongs to the piece below."""
    size = torch.exp2(torch.log2(values.abs()).floor()).where(values != 0, 1.0)  # adding a smaller power of 2 loses no digits
    step = -size
    for low, high in zip(thresholds, [*thresholds[1:], float("inf")], strict=True):
        inside = values > low
        if high == float("inf"):
            step = torch.where(inside, size, step)
        else:
            to_low, to_high = (low - values) / 2, (high - values) / 2
            step = torch.where(inside, torch.where(to_high > -to_low, to_high, to_low), step)
    return step

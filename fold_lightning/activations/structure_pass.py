"""A pass that records a model's activations, and operations that may be activations or may hide some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fold_lightning.activations.calls import Call
from fold_lightning.activations.evaluation import Replica, undisturbed
from fold_lightning.activations.idioms import MAXIMA, MINIMA, keeps_comparison
from fold_lightning.activations.interception import Interception, RunningModule
from fold_lightning.activations.operations import CLAMPS, COMPARISONS, ELEMENTWISE, MULTILINEAR, bounds_of
from fold_lightning.activations.registry import Thresholds, activation_of
from fold_lightning.activations.tracking import comparison_of, depends_on_input, has_input_rows, tensors_in

PROBED_MASKS = 3
"""Number of times that a random half of a module's input is changed, to test whether it works element by element."""


@dataclass(frozen=True)
class FoundActivation:
    """An activation of a pass, its pre-activations `z`, and the attributes of the pass just before it."""

    thresholds: Thresholds
    z: Tensor
    num_calls: int
    unknown: dict[str, str]
    bends: tuple[str, ...]
    has_kinks: bool
    is_row_by_row: bool


class StructurePass(Interception):
    """A pass that records activations, operations that may be activations, and tensors that can't be traced from the input.

    Attributes:
        activations: Name -> activation.
        unlisted: Place of a calling module -> nonlinear operation on each element that is not a registered activation.
        untracked: (call, argument) -> name of the operation, and a tensor that has as many rows as the input but can't be
            traced from it. The operation is an activation, or has another argument that can be traced. Outputs of the model
            count as a call after the last one.
        largest: Number of elements of the largest tensor.
    """

    looks_for_bends = True

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self.activations: dict[str, FoundActivation] = {}
        self.unlisted: dict[str, str] = {}
        self._bending: list[tuple[nn.Module, Tensor]] = []
        # Place -> operation that bounds elements after a linear layer; None before the first one.
        self._bounded: dict[str, str] | None = None
        self.untracked: dict[tuple[int, int], tuple[str, Tensor]] = {}
        self.largest = 0

    def run(self, inputs: Tensor) -> None:
        """Pass inputs (B, ...) through the model."""
        output = super().run(inputs)
        self.num_calls += 1
        self._keep_untracked("return", [t for t in tensors_in(output) if not has_input_rows(t)])

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Record an activation."""
        before = dict(self.unknown), tuple(self.bends), self.has_kinks, self.is_row_by_row
        self.activations[layer] = FoundActivation(thresholds, z.clone(), self.num_calls, *before)
        return call(z)

    def on_untracked(self, call: Call, tensors: list[Tensor]) -> None:
        """Record arguments that may have been computed from the input outside torch."""
        if len(tensors) < len(call.tensors) or activation_of(call.name) is not None:
            self._keep_untracked(call.name, tensors)

    def on_module_exit(self, running: RunningModule, args: tuple[Any, ...]) -> None:
        """Record a module that may be an activation, to be tested after the pass."""
        bends = running.num_activations == self.num_activations and running.num_bends < self.num_bends
        if bends and args and isinstance(args[0], Tensor) and depends_on_input(args[0]):
            self._bending.append((running.module, args[0]))

    def elementwise_modules(self) -> list[str]:
        """Return the places of modules that bend each element of their input separately, without an activation of the table."""
        return [self.place(module) for module, x in self._bending if _bends_each_element(module, x)]

    def operation(self, call: Call) -> Any:
        """Record an operation that may be an activation, and the largest tensor."""
        if call.varying and not self.inside_registered:
            masks = [t for t in call.varying if comparison_of(t) is not None]
            chooses = 0 < len(masks) < len(call.varying) and call.name not in COMPARISONS and not keeps_comparison(call)
            steps = 0 < len(masks) == len(call.varying) and (call.name == "where" or call.name in MULTILINEAR)
            if chooses or steps or call.name in ELEMENTWISE:
                name = f"the comparison before {call.name}" if steps else call.name
                self.unlisted.setdefault(self.caller(), f"{name} in {self.caller()}")
            else:
                self._note_bounds(call)
        result = call()
        self.largest = max(self.largest, *(t.numel() for t in tensors_in((call.args, result)) if has_input_rows(t)), 0)
        return result

    def _note_bounds(self, call: Call) -> None:
        """Record a clamp to a range, or a maximum or minimum of a tensor and its multiple, between two linear layers.

        Other clamps are not activations: those of inputs and outputs, and of norms on one side.
        """
        if call.name in MULTILINEAR:
            for caller, name in (self._bounded or {}).items():
                self.unlisted.setdefault(caller, f"{name} in {caller}")
            self._bounded = {}
        elif self._bounded is not None and (
            (call.name in CLAMPS and None not in bounds_of(call))
            or (call.name in MAXIMA | MINIMA and _are_multiples(call.varying))
        ):
            self._bounded[self.caller()] = call.name

    def _keep_untracked(self, name: str, tensors: list[Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            if tensor.shape[:1] == (self.num_inputs,):
                self.untracked[self.num_calls, number] = name, tensor.clone()


def _are_multiples(tensors: list[Tensor]) -> bool:
    """Return whether each element of a tensor is the same multiple of the other tensor's for two different inputs."""
    if len(tensors) != 2 or tensors[0].shape != tensors[1].shape or tensors[0].shape[:1] < (2,):
        return False
    (x, y), (multiple_of_x, multiple_of_y) = (tensor[:2] for tensor in tensors)
    # For proportional inputs, every tensor may look like a multiple.
    are_alike = torch.allclose(x * y.flatten()[:1], y * x.flatten()[:1], rtol=1e-9, atol=0)
    return not are_alike and torch.allclose(x * multiple_of_y, y * multiple_of_x, rtol=1e-9, atol=0)


def _bends_each_element(module: nn.Module, x: Tensor) -> bool:
    """Return whether a module is a function of each element of its input separately, and is not affine."""
    if any(p.dim() > 1 for p in module.parameters()) or x.numel() == 0 or not x.is_floating_point():
        return False
    generator = torch.Generator().manual_seed(0)
    bends = False
    with undisturbed():
        for _ in range(PROBED_MASKS):
            changed = (torch.rand(x.shape, generator=generator) < 0.5).to(x)
            step = changed * (2 * x.abs() + 1)  # to the other side of 0, and away from it
            try:
                there, up, down = (module(value) for value in (x.clone(), x + step, x - step))
                if any(not isinstance(y, Tensor) or y.shape != x.shape for y in (there, up, down)):
                    return False
            except Exception:  # a module that refuses other values is not an activation
                return False
            if not torch.equal(up.where(step == 0, 0), there.where(step == 0, 0)):
                return False
            bends |= bool(((up + down - 2 * there).abs() > 1e-6 * (up.abs() + down.abs())).any())
    return bends

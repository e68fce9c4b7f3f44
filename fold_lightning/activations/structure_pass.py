"""A pass that records what a model is made of: its activations, and everything that may be one or may hide one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.idioms import find_part, keeps_comparison
from fold_lightning.activations.interception import Entered, Interception
from fold_lightning.activations.operations import COMPARISONS, ELEMENTWISE, operation_name
from fold_lightning.activations.registry import Thresholds, activation_of
from fold_lightning.activations.tracking import comparison_of, depends_on_input, has_input_rows, tensors_in


@dataclass(frozen=True)
class Met:
    """An activation that a pass met, and what came before it.

    Attributes:
        thresholds: Its thresholds.
        z: Its pre-activations.
        num_calls: Number of calls of functions before it.
        unknown: Operations before it that are not known to be piecewise linear -> place of the call.
        bends: Operations before it that bend without a bit.
        has_kinks: Whether a piecewise linear activation came before it.
        is_row_by_row: Whether values of the batch decided before it.
    """

    thresholds: Thresholds
    z: Tensor
    num_calls: int
    unknown: dict[str, str]
    bends: tuple[str, ...]
    has_kinks: bool
    is_row_by_row: bool


class RecordingPass(Interception):
    """A pass that records activations.

    Attributes:
        met: The activations by name.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self.met: dict[str, Met] = {}

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Record an activation."""
        before = dict(self.unknown), tuple(self.bends), self.has_kinks, self.is_row_by_row
        self.met[layer] = Met(thresholds, z.clone(), self.num_calls, *before)
        return call(z)


class StructurePass(RecordingPass):
    """A pass that also records what may be an activation, and tensors that can't be traced from the input.

    Attributes:
        unlisted: Operations that bend each element and are not in the table, by the module that calls them.
        curving: Modules that call unknown operations and no activation, with their inputs.
        skipped_activations: Name and shape of each activation of a tensor without rows of the input, such as a weight.
        untracked: Call and argument -> a tensor with as many rows as the input that could not be traced from it, and met one that
            could; outputs of the model as of one call more.
        largest: Numbers in the largest tensor.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self.unlisted: dict[str, str] = {}
        self.curving: list[tuple[nn.Module, Tensor]] = []
        self.skipped_activations: list[tuple[str, torch.Size]] = []
        self.untracked: dict[tuple[int, int], Tensor] = {}
        self.largest = 0

    def run(self, inputs: Tensor) -> None:
        """Pass inputs (B, ...) through the model."""
        with _OperatorsBeneath(self):
            output = super().run(inputs)
        self._keep_untracked(self.num_calls + 1, [t for t in tensors_in(output) if not has_input_rows(t)])

    def on_untracked(self, name: str, tensors: list[Tensor], num_tensors: int) -> None:
        """Keep arguments that may have left torch on their way from the input."""
        if len(tensors) == num_tensors and activation_of(name) is not None:
            self.skip_activation(name, tensors)
        if len(tensors) < num_tensors:
            self._keep_untracked(self.num_calls, tensors)

    def skip_activation(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Record an activation of tensors that have no rows of the input."""
        self.skipped_activations.extend((name, tensor.shape) for tensor in tensors)

    def on_module_exit(self, entered: Entered, args: tuple[Any, ...]) -> None:
        """Keep a module that may be an activation, to be tried when the pass is over."""
        curves = entered.num_activations == self.num_activations and entered.num_unknown < self.num_unknown
        if curves and args and isinstance(args[0], Tensor) and depends_on_input(args[0]):
            with self.unseen():
                self.curving.append((entered.module, args[0].detach().clone()))

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an operation that may be an activation, and the largest tensor."""
        varying = [t for t in tensors_in((args, kwargs)) if depends_on_input(t)]
        masks = [t for t in varying if comparison_of(t) is not None]
        chooses = 0 < len(masks) < len(varying) and name not in COMPARISONS and not keeps_comparison(name, args)
        rest = {key: value for key, value in kwargs.items() if key != "out"}
        is_part = len(rest) < len(kwargs) and find_part(name, args, rest) is not None
        if (chooses or name in ELEMENTWISE or is_part) and not self.inside_registered and varying:
            self.unlisted.setdefault(self.caller(), f"{name} in {self.caller()}")
        result = function(*args, **kwargs)
        self.largest = max(self.largest, *(t.numel() for t in tensors_in((args, result)) if has_input_rows(t)), 0)
        return result

    def _keep_untracked(self, call: int, tensors: list[Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            if tensor.shape[:1] == (self.num_inputs,):
                self.untracked[call, number] = tensor.clone()


class _OperatorsBeneath(TorchDispatchMode):
    """Sees the operators beneath torch's functions, and records activations that no function announced."""

    supports_higher_order_operators = True

    def __init__(self, found: StructurePass) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._found.inside_function and activation_of(name := operation_name(func)) is not None:
            self._found.skip_activation(name, tensors_in((args, kwargs)))
        return func(*args, **(kwargs or {}))

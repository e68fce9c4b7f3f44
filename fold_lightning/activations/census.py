"""What a forward pass meets: activations, what may be some, and what is hidden beneath torch's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fold_lightning.activations.borrowing import BorrowedModel
from fold_lightning.activations.following import follows, tensors_in
from fold_lightning.activations.interception import Interception, OutOfSightError
from fold_lightning.activations.operations import ELEMENTWISE, operation_name
from fold_lightning.activations.table import Thresholds, activation_of


class Census(Interception):
    """Takes note of activations and of what may be some.

    Attributes:
        met: Activation name -> its thresholds and pre-activations.
        unknown_before: Activation name -> what was unknown on the way to it.
        unlisted: What looks like an activation that the table lacks, by the module that holds or calls it.
        largest: Numbers in the largest tensor.
        lost: What of the model's output was not seen to follow the input.
    """

    def __init__(self, borrowed: BorrowedModel) -> None:
        super().__init__(borrowed)
        self.met: dict[str, tuple[Thresholds, Tensor]] = {}
        self.unknown_before: dict[str, tuple[str, ...]] = {}
        self.unlisted: dict[str, str] = {}
        self.largest = 0
        self.lost: list[Tensor] = []

    def run(self, inputs: Tensor) -> None:
        with _Undercurrent(self):
            output = super().run(inputs)
        self.lost = [t for t in tensors_in(output) if not follows(t) and t.is_floating_point() and t.dim() > 0]

    def module_left(self, module: nn.Module, args: tuple[Any, ...], output: Any, activations: int) -> None:
        if activations > 0 or not args or not isinstance(args[0], Tensor) or not follows(args[0]):
            return
        before = len(self.passed_over)
        if _bends_each_element(module, args[0]):
            self.unlisted[self.place(module)] = self.place(module)
        del self.passed_over[before:]  # what the look itself called

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        self.met[layer] = (thresholds, z.clone())
        self.unknown_before[layer] = tuple(self.unknown)
        self.largest = max(self.largest, z.numel())
        return call(z)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in ELEMENTWISE and not self.inside_registered:
            self.unlisted.setdefault(self.caller(), f"{name} in {self.caller()}")
        result = super().operation(name, function, args, kwargs)
        self.largest = max(self.largest, *(t.numel() for t in tensors_in((args, result)) if follows(t)), 0)
        return result


def take_census(borrowed: BorrowedModel, inputs: Tensor) -> Census:
    """Passes inputs (B, ...) through the model and takes note of what it meets.

    Raises:
        ValueError: If the model refuses them, or has activations that can't be seen.
    """
    census = Census(borrowed)
    try:
        census.run(inputs.to(borrowed.device, torch.float64))
    except OutOfSightError as error:
        raise ValueError(
            f"{error}: its activations can't be seen. Write it with modules or functions that torch calls one by one, or pass "
            "`forward=` with a part of the model that does without it."
        ) from error
    except Exception as error:
        raise ValueError(
            f"The model's forward pass refused a batch of shape {tuple(inputs.shape)}: {type(error).__name__}: {error} "
            "(expected: inputs as the model takes them, batch first; for a model that takes anything else, pass `forward=`)"
        ) from error
    return census


class _Undercurrent(TorchDispatchMode):
    """Sees the operators beneath torch's functions, and tells a census of activations that no function announced."""

    def __init__(self, census: Census) -> None:
        super().__init__()
        self._census = census

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operation_name(func)
        if not self._census.inside_function and activation_of(name) is not None:
            self._census.passed_over.extend((name, tensor.shape) for tensor in tensors_in((args, kwargs)))
        return func(*args, **(kwargs or {}))


def _bends_each_element(module: nn.Module, x: Tensor) -> bool:
    """Whether a module does the same to each element of its input, apart from the others, and is not affine."""
    if any(p.dim() > 1 for p in module.parameters()) or x.numel() == 0 or not x.is_floating_point():
        return False
    with torch._C.DisableTorchFunction():
        x = x.clone()  # without the mark of what follows the input, so that nothing here enters the census
    every_other = (torch.arange(x.numel(), device=x.device) % 2).view(x.shape).to(x.dtype)
    step = every_other * (2 * x.abs() + 1)  # to the other side of 0, and away from it
    try:
        there, up, down = (module(value) for value in (x.clone(), x + step, x - step))
        if any(not isinstance(y, Tensor) or y.shape != x.shape for y in (there, up, down)):
            return False
        alone = torch.equal(up.where(step == 0, 0), there.where(step == 0, 0))
        bend = (up + down - 2 * there).abs()
        return alone and bool((bend > 1e-6 * (up.abs() + down.abs())).any())
    except Exception:  # a module that refuses other values than its own is no such thing
        return False

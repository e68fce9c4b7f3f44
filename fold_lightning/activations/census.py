"""What a forward pass meets: activations, what may be some, and what is hidden beneath torch's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fold_lightning.activations.borrowing import BorrowedModel
from fold_lightning.activations.following import follows, tensors_in, varies
from fold_lightning.activations.interception import Interception, OutOfSightError
from fold_lightning.activations.operations import ELEMENTWISE, operation_name
from fold_lightning.activations.table import Thresholds, activation_of


class Census(Interception):
    """Takes note of activations and of what may be some.

    Attributes:
        met: Activation name -> its thresholds and pre-activations.
        before: Activation name -> what was on the way to it.
        unlisted: What looks like an activation that the table lacks, by the module that holds or calls it.
        passed_over: Name and shape of each activation of something that was not seen to follow the input, such as a weight.
        apart: Call and argument -> what has as many rows as the input, was not seen to follow it, and met what does; outputs as of
            the last call.
        largest: Numbers in the largest tensor.
    """

    def __init__(self, borrowed: BorrowedModel) -> None:
        super().__init__(borrowed)
        self.met: dict[str, tuple[Thresholds, Tensor]] = {}
        self.before: dict[str, Before] = {}
        self.unlisted: dict[str, str] = {}
        self.passed_over: list[tuple[str, torch.Size]] = []
        self.apart: dict[tuple[int, int], Tensor] = {}
        self.largest = 0
        self.calls = 0
        self._rows = 0
        self._looks_into_module = False

    def run(self, inputs: Tensor) -> None:
        self._rows = len(inputs)
        with _Undercurrent(self):
            output = super().run(inputs)
        self.calls += 1
        self._keep(t for t in tensors_in(output) if not follows(t))

    def beside(self, name: str, tensors: list[Tensor], arguments: int) -> None:
        if self._looks_into_module:
            return
        self.calls += 1
        if len(tensors) == arguments and activation_of(name) is not None:
            self.pass_over(name, tensors)
        if len(tensors) < arguments:
            self._keep(tensors)

    def pass_over(self, name: str, tensors: Iterable[Tensor]) -> None:
        """An activation is met whose tensors do not follow the input."""
        if not self._looks_into_module:
            self.passed_over.extend((name, tensor.shape) for tensor in tensors)

    def module_left(self, module: nn.Module, args: tuple[Any, ...], before: tuple[int, int]) -> None:
        curves = before[0] == self.num_activations and before[1] < self.num_unknown
        if not curves or not args or not isinstance(args[0], Tensor) or not varies(args[0]):
            return
        self._looks_into_module = True
        if _bends_each_element(module, args[0]):
            self.unlisted[self.place(module)] = self.place(module)
        self._looks_into_module = False

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        self.met[layer] = (thresholds, z.clone())
        self.before[layer] = Before(self.calls, tuple(self.unknown), tuple(self.bends))
        self.largest = max(self.largest, z.numel())
        return call(z)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in ELEMENTWISE and not self.inside_registered and any(map(varies, tensors_in((args, kwargs)))):
            self.unlisted.setdefault(self.caller(), f"{name} in {self.caller()}")
        result = super().operation(name, function, args, kwargs)
        self.largest = max(self.largest, *(t.numel() for t in tensors_in((args, result)) if follows(t)), 0)
        return result

    def _keep(self, tensors: Iterable[Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            if tensor.is_floating_point() and tensor.shape[:1] == (self._rows,):
                self.apart[self.calls, number] = tensor.clone()


@dataclass(frozen=True)
class Before:
    """What was met before an activation: calls of functions, names of unknown operations and of those that bend."""

    calls: int
    unknown: tuple[str, ...]
    bends: tuple[str, ...]


def lost_calls(two: Census, three: Census) -> list[int]:
    """The calls that took something that depends on the input and was not seen to, by what two and three inputs show."""
    lost = []
    for key in two.apart.keys() & three.apart.keys():
        small, large = two.apart[key], three.apart[key]
        same_rows = large.shape[1:] == small.shape[1:] and torch.allclose(large, small[[1, 0, 1]], rtol=1e-6)
        if same_rows and not torch.equal(small[0], small[1]):
            lost.append(key[0])
    return lost


class InputsRefused(ValueError):
    """The model raises when it is called."""


def take_census(borrowed: BorrowedModel, inputs: Tensor) -> Census:
    """Passes inputs (B, ...) through the model and takes note of what it meets.

    Raises:
        InputsRefused: If the model raises.
        ValueError: If it has activations that can't be seen.
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
        raise InputsRefused(
            f"The model's forward pass refused a batch of shape {tuple(inputs.shape)} in float64: {type(error).__name__}: {error} "
            "(expected: inputs as the model takes them, batch first; for a model that takes anything else, pass `forward=`)"
        ) from error
    return census


class _Undercurrent(TorchDispatchMode):
    """Sees the operators beneath torch's functions, and tells a census of activations that no function announced."""

    supports_higher_order_operators = True

    def __init__(self, census: Census) -> None:
        super().__init__()
        self._census = census

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operation_name(func)
        if not self._census.inside_function and activation_of(name) is not None:
            self._census.pass_over(name, tensors_in((args, kwargs)))
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

"""What a first look at a model tells: its activations, their units, and whether all else is piecewise linear."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fold_lightning.activations.interception import BorrowedModel, Interception, OutOfSightError, follows, tensors_in
from fold_lightning.activations.layers import Patterns, columns, select_layers
from fold_lightning.activations.operations import ELEMENTWISE, operation_name
from fold_lightning.activations.table import Thresholds, activation_of


@dataclass(frozen=True)
class Architecture:
    """The activations of a model, in execution order.

    Attributes:
        thresholds: Activation name -> its thresholds.
        units: Activation name -> units of one input, before thresholds are counted.
        batch_dims: Activation name -> the dimension of its pre-activations along which the inputs lie.
        counted: The activations whose bits count.
        unknown: Operations between the input and the last counted activation that are not known to be piecewise linear.
        widest: Numbers in the largest tensor that one input becomes.
    """

    thresholds: dict[str, Thresholds]
    units: dict[str, int]
    batch_dims: dict[str, int]
    counted: tuple[str, ...]
    unknown: tuple[str, ...]
    widest: int

    @property
    def layers(self) -> dict[str, slice]:
        """Counted layer -> its columns among all counted bits."""
        return columns({name: self.num_bits(name) for name in self.counted})

    @property
    def num_units(self) -> int:
        return sum(map(self.num_bits, self.counted))

    @property
    def needed(self) -> list[str]:
        """The activations up to the last counted one: those behind it bend nothing that counts."""
        names = list(self.thresholds)
        return names[: names.index(self.counted[-1]) + 1]

    def num_bits(self, layer: str) -> int:
        """Bits of a layer: its units, once for each threshold."""
        return self.units[layer] * len(self.thresholds[layer])

    def per_input(self, layer: str, z: Tensor, num_inputs: int) -> Tensor:
        """A layer's pre-activations as (B, n)."""
        return z.movedim(self.batch_dims[layer], 0).reshape(num_inputs, -1)


def inspect_model(borrowed: BorrowedModel, inputs: Tensor, layers: Patterns = None) -> Architecture:
    """Passes two and then three inputs through the model, and reports what it met.

    Two sizes of batch show along which dimension the inputs lie, and that no input sees the others.
    """
    census = _take_census(borrowed, inputs[[0, -1]])
    second = _take_census(borrowed, inputs[[-1, 0, -1]])
    two, three = census.met, second.met
    _check_nothing_escapes(census, second)
    _warn_of_lost_outputs(census, second)
    unlisted = ", ".join(census.unlisted.values())
    if not two:
        raise ValueError(
            "The forward pass meets no activation with a threshold (ReLU and its kin, GELU, SiLU, Tanh, ...)"
            f"{unlisted and f'; {unlisted} may be one, but is not in the table'}. Check that the model calls one of them on something that depends on its inputs; "
            "`register_activation` adds one of your own."
        )
    if unlisted:
        warnings.warn(
            f"{unlisted}: not in the table of activations, so its units do not count; "
            "`fold_lightning.register_activation` adds it, as a function of torch or as the class of a module.",
            stacklevel=3,
        )
    dims = {name: _batch_dim(name, z, three[name][1]) for name, (_, z) in two.items() if name in three}
    counted = tuple(select_layers(layers, list(two)))
    architecture = Architecture(
        thresholds={name: thresholds for name, (thresholds, _) in two.items()},
        units={name: z.numel() // 2 for name, (_, z) in two.items()},
        batch_dims=dims,
        counted=counted,
        unknown=census.unknown_before[counted[-1]],
        widest=census.largest // 2,
    )
    for name in architecture.needed:
        _check_independence(name, *(architecture.per_input(name, z[name][1], n) for z, n in ((two, 2), (three, 3))))
    return architecture


class _Census(Interception):
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


class _Undercurrent(TorchDispatchMode):
    """Sees the operators beneath torch's functions, and tells a census of activations that no function announced."""

    def __init__(self, census: _Census) -> None:
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


def _take_census(borrowed: BorrowedModel, inputs: Tensor) -> _Census:
    census = _Census(borrowed)
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


def _check_nothing_escapes(two: _Census, three: _Census) -> None:
    """What does not follow the input and yet grows with the batch has left torch on its way."""
    for (name, small), (_, large) in zip(two.passed_over, three.passed_over, strict=False):
        if small != large:
            raise ValueError(
                f"An activation ({name}, {tuple(small)} for 2 inputs) works on something that left torch's functions on its way "
                "from the input (through NumPy, Python numbers or a scripted function), so what it bends can't be seen. Keep it in "
                "torch, or pass `forward=` with a part of the model that does without."
            )


def _warn_of_lost_outputs(two: _Census, three: _Census) -> None:
    for small, large in zip(two.lost, three.lost, strict=False):
        if small.shape[0] == 2 and large.shape == (3, *small.shape[1:]):
            if torch.equal(large, small[[1, 0, 1]]) and not torch.equal(small[0], small[1]):
                warnings.warn(
                    "The model's output left torch's functions on its way from the input (through NumPy, say): what bends it there "
                    "is not seen.",
                    stacklevel=4,
                )
                return


def _batch_dim(name: str, two: Tensor, three: Tensor) -> int:
    changed = [dim for dim in range(two.dim()) if two.shape[dim] != three.shape[dim]]
    if len(changed) != 1 or 3 * two.shape[changed[0]] != 2 * three.shape[changed[0]]:
        raise ValueError(
            f"Layer {name!r} has no dimension along which its inputs lie: its pre-activations have shape {tuple(two.shape)} "
            f"for 2 inputs and {tuple(three.shape)} for 3. Leave it out with `layers=`, or pass a `forward=` that keeps them apart."
        )
    return changed[0]


def _check_independence(name: str, two: Tensor, three: Tensor) -> None:
    if not bool(torch.isfinite(two).all()):
        raise ValueError(f"Layer {name!r} has NaN or infinite pre-activations: the model's weights have diverged.")
    expected = two[[1, 0, 1]]
    if bool(((three - expected).abs() > 1e-6 * expected.abs().amax()).any()):
        raise ValueError(
            f"Layer {name!r} gives an input another pre-activation in a batch of 3 than in a batch of 2: it mixes the inputs of a "
            "batch, or draws random numbers. A code belongs to one input alone; pass a `forward=` that does neither. (A model that takes "
            "its batch in the second dimension, as torch's transformers do without `batch_first=True`, needs one that transposes: "
            "`forward=lambda model, x: model(x.transpose(0, 1))`.)"
        )

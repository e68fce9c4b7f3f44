"""What a first look at a model tells: its activations, their units, and whether all else is piecewise linear."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.activations.borrowing import BorrowedModel
from fold_lightning.activations.census import Census, lost_calls, take_census
from fold_lightning.activations.layers import Patterns, columns, select_layers
from fold_lightning.activations.table import Thresholds


@dataclass(frozen=True)
class Architecture:
    """The activations of a model, in execution order.

    Attributes:
        thresholds: Activation name -> its thresholds.
        units: Activation name -> units of one input, before thresholds are counted.
        batch_dims: Activation name -> the dimension of its pre-activations along which the inputs lie.
        counted: The activations whose bits count.
        unknown: Operations between the input and the last counted activation that are not known to be piecewise linear.
        bends: Operations on that way that bend without a bit.
        widest: Numbers in the largest tensor that one input becomes.
    """

    thresholds: dict[str, Thresholds]
    units: dict[str, int]
    batch_dims: dict[str, int]
    counted: tuple[str, ...]
    unknown: tuple[str, ...]
    bends: tuple[str, ...]
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

    Two sizes of batch show along which dimension the inputs lie, and that no input sees the others. A loan is looked at once.
    """
    key = inputs.shape[1:], repr(layers)
    if key not in borrowed.looks:
        borrowed.looks[key] = _inspect(borrowed, inputs, layers)
    architecture: Architecture = borrowed.looks[key]
    return architecture


def _inspect(borrowed: BorrowedModel, inputs: Tensor, layers: Patterns) -> Architecture:
    pair = _two_different(inputs)
    census, second = take_census(borrowed, pair), take_census(borrowed, pair[[1, 0, 1]])
    two, three = census.met, second.met
    _check_nothing_escapes(census, second)
    lost = lost_calls(census, second)
    unlisted = ", ".join(census.unlisted.values())
    if not two:
        raise ValueError(
            "The forward pass meets no activation with a threshold (ReLU and its kin, GELU, SiLU, Tanh, ...)"
            f"{unlisted and f'; {unlisted} may be one, but is not in the table'}. Check that the model calls one of them on "
            "something that depends on its inputs; `register_activation` adds one of your own."
        )
    if unlisted:
        warnings.warn(
            f"{unlisted}: bends each element, but is not in the table of activations, so its units do not count. If it is meant as "
            "one, `fold_lightning.register_activation` adds it, as a function of torch or as the class of a module.",
            stacklevel=4,
        )
    if lost:
        warnings.warn(
            "Something that depends on the input left torch's functions on its way (through NumPy, say), and what bends it there is "
            "not seen.",
            stacklevel=4,
        )
    dims = {name: _batch_dim(name, z, three[name][1]) for name, (_, z) in two.items() if name in three}
    counted = tuple(select_layers(layers, list(two)))
    before = census.before[counted[-1]]
    architecture = Architecture(
        thresholds={name: thresholds for name, (thresholds, _) in two.items()},
        units={name: z.numel() // 2 for name, (_, z) in two.items()},
        batch_dims=dims,
        counted=counted,
        unknown=before.unknown + ("something that left torch's functions",) * any(call <= before.calls for call in lost),
        bends=before.bends,
        widest=census.largest // 2,
    )
    for name in architecture.needed:
        _check_independence(name, *(architecture.per_input(name, z[name][1], n) for z, n in ((two, 2), (three, 3))))
    return architecture


def _two_different(inputs: Tensor) -> Tensor:
    """The first input and another; of one input, or of copies of it, one that is a little smaller."""
    others = (inputs != inputs[:1]).flatten(1).any(1).nonzero() if inputs.dim() > 1 else (inputs != inputs[0]).nonzero()
    return inputs[[0, int(others[-1])]] if len(others) else torch.stack([inputs[0], inputs[0] * 0.999])


def _check_nothing_escapes(two: Census, three: Census) -> None:
    """What does not follow the input and yet grows with the batch has left torch on its way."""
    for (name, small), (_, large) in zip(two.passed_over, three.passed_over, strict=False):
        if small != large:
            raise ValueError(
                f"An activation ({name}, {tuple(small)} for 2 inputs) works on something that left torch's functions on its way "
                "from the input (through NumPy, Python numbers or a scripted function), so what it bends can't be seen. Keep it in "
                "torch, or pass `forward=` with a part of the model that does without."
            )


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
            "batch, or draws random numbers. A code belongs to one input alone; pass a `forward=` that does neither. (A model that "
            "takes its batch in the second dimension, as torch's transformers do without `batch_first=True`, needs one that "
            "transposes: `forward=lambda model, x: model(x.transpose(0, 1))`.)"
        )

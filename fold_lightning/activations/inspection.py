"""Inspection of a model: its activations, their units, and whether all other operations are piecewise linear."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature

import torch
from torch import Tensor, nn

from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.interception import NotInterceptable
from fold_lightning.activations.layers import Patterns, columns, select_layers
from fold_lightning.activations.registry import Thresholds, activation_of
from fold_lightning.activations.structure_pass import StructurePass

SWAPPED = [1, 0, 1]
"""Rows of the second pass among the two inputs of the first: another batch size, and other positions in the batch."""

EXTREME = 8.0
"""Distance of extreme inputs from the others, in ranges of the inputs: enough to change any statistic of a batch."""


@dataclass(frozen=True)
class ModelStructure:
    """The activations of a model, in execution order.

    Attributes:
        thresholds: Activation name -> its thresholds.
        units: Activation name -> number of units per input, each of which has a bit for each threshold.
        dims: Activation name -> number of dimensions of its pre-activations.
        batch_dims: Activation name -> batch dimension of its pre-activations.
        counted: Names of the activations whose bits count.
        unknown: Operations before the last counted activation that are not known to be piecewise linear -> place of the call.
        bends: Operations before it that have kinks but no bits, such as max pooling.
        has_kinks: Whether an operation before it is known to have kinks: a piecewise linear activation, a clamp, a maximum.
        is_row_by_row: Whether the layers may depend on values of the batch (they select rows, or Python reads them), so that
            inputs must be passed one by one.
        is_whole: Whether the last counted activation is the model's last.
        constant_rows: (call, argument) of each tensor that `forward` makes with one row per input, all equal.
        widest: Number of elements per input of the largest tensor.
    """

    thresholds: dict[str, Thresholds]
    units: dict[str, int]
    dims: dict[str, int]
    batch_dims: dict[str, int]
    counted: tuple[str, ...]
    unknown: dict[str, str]
    bends: tuple[str, ...]
    has_kinks: bool
    is_row_by_row: bool
    is_whole: bool
    constant_rows: frozenset[tuple[int, int]]
    widest: int

    @property
    def layers(self) -> dict[str, slice]:
        """Counted layer -> its columns among all counted bits."""
        return columns({name: self.num_bits(name) for name in self.counted})

    @property
    def num_units(self) -> int:
        """Number of counted bits."""
        return sum(map(self.num_bits, self.counted))

    @cached_property
    def needed(self) -> list[str]:
        """Activations up to the last counted one; later ones do not affect its bits."""
        names = list(self.thresholds)
        return names[: names.index(self.counted[-1]) + 1]

    def num_bits(self, layer: str) -> int:
        """Return the number of bits of a layer: one per unit and threshold."""
        return self.units[layer] * len(self.thresholds[layer])

    def per_input(self, layer: str, z: Tensor, num_inputs: int) -> Tensor:
        """Reshape a layer's pre-activations to (B, n)."""
        return z.movedim(self.batch_dims[layer], 0).reshape(num_inputs, -1)

    def check_layer(self, number: int, layer: str, z: Tensor, num_inputs: int) -> None:
        """Raise if activation `number` of a pass is not the one that the inspection found, or has another width."""
        if number < len(self.needed) and layer != self.needed[number]:
            raise LayersVary(
                f"Expected layer {self.needed[number]!r}, as for other inputs, got layer {layer!r}. {VARYING_LAYERS}"
            )
        if number >= len(self.needed) and self.is_whole:
            raise LayersVary(f"Expected no further layer, as for other inputs, got layer {layer!r}. {VARYING_LAYERS}")
        if number >= len(self.needed):
            return
        rows = z.shape[self.batch_dims[layer]] if self.batch_dims[layer] < z.dim() else 1
        if rows % num_inputs or z.numel() != num_inputs * self.units[layer]:
            raise LayersVary(
                f"Layer {layer!r} must have {self.units[layer]} units for each of {num_inputs} inputs, got pre-activations of shape "
                f"{tuple(z.shape)}. {VARYING_LAYERS}"
            )

    def check_end(self, number: int) -> None:
        """Raise if a pass ended before the last counted layer."""
        if number < len(self.needed):
            raise LayersVary(
                f"The pass ended before layer {self.needed[number]!r}, which runs for other inputs. {VARYING_LAYERS}"
            )


VARYING_LAYERS = (
    "The layers that the model runs vary with its inputs (early exit, depth that depends on values, experts that inputs are routed "
    "to, a loop over the rows of a batch), but codes need the same units for every input: leave the layers that vary out with "
    "`layers=`, or pass a `forward=` that computes all of them for every input."
)

MIXED_BATCH = (
    "it mixes the inputs of a batch, or draws random numbers. A code must depend on one input alone: pass a `forward=` that does "
    "neither. (If the model takes its batch in the second dimension, as torch's transformers do without `batch_first=True`, "
    "transpose: `forward=lambda model, x: model(x.transpose(0, 1))`.)"
)


class LayersVary(ValueError):
    """Error for a pass that runs other layers than the inspection found."""


class InputsRefused(ValueError):
    """Error for inputs that the model does not take."""


class PassFailed(ValueError):
    """Error for a model whose float64 copy in evaluation mode fails on valid inputs, or whose activations can't be intercepted."""


def inspect(
    replica: Replica, inputs: Tensor, layers: Patterns = None, *, given: tuple[str, Tensor] | None = None
) -> ModelStructure:
    """Find the activations of a model with a few forward passes.

    Batches of several sizes show which dimension is the batch dimension. Batches in which an input stands beside others
    show that its pre-activations do not depend on them. Results are cached by input shape and `layers`.

    Args:
        replica: Replica of the model.
        inputs: Inputs (B, ...), of which two are passed.
        layers: Layers that count, as in `activation_codes`.
        given: Name and value of the user's argument that the inputs are from, for errors; None for `inputs` itself.

    Raises:
        InputsRefused: If the model does not take the inputs; the message says whether a batch dimension is missing.
        PassFailed: If it takes them, but not on a float64 copy in evaluation mode, or has activations that can't be intercepted.
        ValueError: If it has no activations, some that vary with the inputs, or mixes the inputs of a batch.
    """
    key = inputs.shape[1:], repr(layers)
    if key not in replica.structures:
        try:
            replica.structures[key] = _inspect(replica, inputs, layers)
        except InputsRefused as error:
            name, argument = given or ("inputs", inputs)
            if not replica.takes(argument[None]):
                raise
            raise InputsRefused(
                f"`{name}` must be a batch (B, ...), got shape {tuple(argument.shape)}, which the model takes as one input: "
                f"use `{name}[None]`."
            ) from error
    structure: ModelStructure = replica.structures[key]
    return structure


def _inspect(replica: Replica, inputs: Tensor, layers: Patterns) -> ModelStructure:
    pair = _two_different(inputs)
    first = record_pass(replica, pair)
    unlisted = ", ".join({**first.unlisted, **{place: place for place in first.elementwise_modules()}}.values())
    second = record_pass(replica, pair[SWAPPED])
    lost, constant_rows = _compare_untracked(first, second)
    if not first.activations:
        raise ValueError(
            "The forward pass has no activation with a threshold (such as ReLU, GELU, SiLU or Tanh)"
            f"{unlisted and f'; {unlisted} may be one, but is not registered'}. Check that the model applies one of them to values "
            "that depend on its inputs; `register_activation` adds others."
        )
    if unlisted:
        warnings.warn(
            f"{unlisted}: nonlinear in each element, but not a registered activation, so its units are not counted. If they should "
            "be, write it as a module and register its class with `fold_lightning.register_activation`; a function of torch, such as "
            "`torch.sin`, can be registered itself.",
            stacklevel=4,
        )
    if lost:
        warnings.warn(
            "Values that depend on the input were computed outside torch (such as by NumPy or a scripted function), where "
            "activations are not counted. Compute them in torch, or pass `forward=` with a part of the model without them.",
            stacklevel=4,
        )
    activations = first.activations
    names = list(activations)
    counted = tuple(select_layers(layers, names))
    last, is_whole = activations[counted[-1]], counted[-1] == names[-1]
    # `check_layer` raises for layers that only one of the passes runs.
    needed = [name for name in names[: names.index(counted[-1]) + 1] if name in second.activations]
    outside = {"an operation outside torch": "forward"} if any(call <= last.num_calls for call in lost) else {}
    structure = ModelStructure(
        thresholds={name: found.thresholds for name, found in activations.items()},
        units={name: found.z.numel() // 2 for name, found in activations.items()},
        dims={name: found.z.dim() for name, found in activations.items()},
        batch_dims={
            name: _batch_dim(name, activations[name].z, second.activations[name].z, last.is_row_by_row) for name in needed
        },
        counted=counted,
        unknown=last.unknown | outside,
        bends=last.bends,
        has_kinks=last.has_kinks or bool(last.bends),
        is_row_by_row=first.is_row_by_row if is_whole else last.is_row_by_row,
        is_whole=is_whole,
        constant_rows=constant_rows,
        widest=max(first.largest, *(found.z.numel() for found in activations.values())) // 2,
    )
    for other, rows in [(second, SWAPPED), *_in_other_batches(replica, pair, inputs)]:
        _check_in_other_batch(structure, first, other, rows)
    return structure


def _two_different(inputs: Tensor) -> Tensor:
    """Return the first input and one that differs from it; if none does, the first input times 0.999."""
    other = next((row for row in range(len(inputs) - 1, 0, -1) if not torch.equal(inputs[row], inputs[0])), None)
    return torch.stack([inputs[0], inputs[0] * 0.999 if other is None else inputs[other]])


def _in_other_batches(replica: Replica, pair: Tensor, inputs: Tensor) -> list[tuple[StructurePass, list[int]]]:
    """Pass each input with its copy, and both with extreme inputs; return passes and the rows of the pair that each begins with.

    A copy reveals a sum over the batch; extremes reveal a maximum or a rescaling.
    """
    low, high = inputs.aminmax()
    reach = EXTREME * ((high - low) + (high.abs() + low.abs()) / EXTREME**2).clamp(min=torch.finfo(inputs.dtype).eps)
    extremes = torch.stack([torch.full_like(pair[0], float(bound)) for bound in (high + reach, low - reach)])
    found = [(record_pass(replica, pair[[row, row]]), [row, row]) for row in (0, 1)]
    with suppress(InputsRefused):  # a model may refuse values out of its range
        found.append((record_pass(replica, torch.cat([pair, extremes])), [0, 1]))
    return found


def _batch_dim(name: str, two: Tensor, three: Tensor, is_row_by_row: bool) -> int:
    changed = [dim for dim in range(two.dim()) if two.dim() == three.dim() and two.shape[dim] != three.shape[dim]]
    if len(changed) != 1 or 3 * two.shape[changed[0]] != 2 * three.shape[changed[0]]:
        raise LayersVary(
            f"Layer {name!r} must have a batch dimension, got pre-activations of shape {tuple(two.shape)} for 2 inputs and "
            f"{tuple(three.shape)} for 3. "
            + (
                VARYING_LAYERS
                if is_row_by_row
                else "Leave it out with `layers=`, or pass a `forward=` that keeps inputs apart."
            )
        )
    return changed[0]


def _check_in_other_batch(structure: ModelStructure, first: StructurePass, other: StructurePass, rows: list[int]) -> None:
    """Raise if a pass that begins with these rows of the first pass runs other layers or has other pre-activations."""
    for number, (name, activation) in enumerate(other.activations.items()):
        structure.check_layer(number, name, activation.z, other.num_inputs)
        if number >= len(structure.needed):
            break
        expected = structure.per_input(name, first.activations[name].z, 2)[rows]
        found = structure.per_input(name, activation.z, other.num_inputs)[: len(rows)]
        if not bool(((found - expected).abs() <= 1e-6 * expected.abs().amax()).all()):
            if not bool(expected.isfinite().all()):
                raise ValueError(f"Layer {name!r} has NaN or infinite pre-activations: the model's weights have diverged.")
            raise ValueError(f"Layer {name!r} has pre-activations that depend on the other inputs of the batch: {MIXED_BATCH}")
    structure.check_end(len(other.activations))


def _compare_untracked(two: StructurePass, three: StructurePass) -> tuple[list[int], frozenset[tuple[int, int]]]:
    """Return the calls whose untracked arguments depend on the input, and the untracked tensors with equal rows.

    Raises:
        ValueError: If an untracked tensor with unequal rows goes into an activation, whose units would be missed.
    """
    lost, constant = [], set()
    for key in two.untracked.keys() & three.untracked.keys():
        (name, small), (_, large) = two.untracked[key], three.untracked[key]
        has_same_rows = large.shape[1:] == small.shape[1:]
        if has_same_rows and all(torch.equal(part, small[:1].expand_as(part)) for part in (small, large)):
            constant.add(key)
        elif activation_of(name) is not None:
            raise ValueError(
                f"The argument of an activation ({name}, shape {tuple(small.shape)} for 2 inputs) was computed outside torch (by "
                "NumPy, Python numbers or a scripted function), so it cannot be traced from the input. Compute it in torch, or pass "
                "`forward=` with a part of the model without it."
            )
        elif has_same_rows and small.is_floating_point() and torch.allclose(large, small[SWAPPED], rtol=1e-6):
            lost.append(key[0])
    return lost, frozenset(constant)


def record_pass(replica: Replica, inputs: Tensor) -> StructurePass:
    """Record the activations and operations of a forward pass of inputs (B, ...).

    Raises:
        InputsRefused: If the model does not take the inputs.
        PassFailed: If it takes them, but not on a float64 copy in evaluation mode, or has activations that can't be intercepted.
    """
    found = StructurePass(replica)
    try:
        found.run(inputs.to(replica.device, torch.float64))
    except NotInterceptable as error:
        raise PassFailed(
            f"{error}: its activations cannot be intercepted. Write it with separate modules or functions of torch, or pass "
            "`forward=` with a part of the model without it."
        ) from error
    except Exception as error:
        raise _explained(replica, inputs, error) from error
    return found


def _explained(replica: Replica, inputs: Tensor, error: Exception) -> ValueError:
    """Return an error that says what to do, depending on whether the model takes these inputs without interception."""
    said = f"{type(error).__name__}: {error}"
    shape = tuple(inputs.shape)
    quantized = [module for module in replica.module.modules() if type(module).__name__.endswith("FakeQuantize")]
    if quantized:
        return PassFailed(
            f"The model's forward pass failed in {type(quantized[0]).__name__}: {said} (Fake quantization does not take "
            "float64: measure the model before it is prepared for quantization.)"
        )
    if replica.takes(inputs):
        return PassFailed(
            f"The model takes a batch of shape {shape}, but its forward pass fails in measurements, which run a copy of the model in "
            f"float64 and evaluation mode: {said} (Let `forward` cast to the dtype of its weights instead of a fixed one, and find "
            "modules by attribute instead of identity; or pass `forward=` with a part of the model that does.)"
        )
    return InputsRefused(
        f"The model's forward pass refused a batch of shape {shape}: {said} (expected: inputs as the model takes them, batch first; "
        f"for a model that takes anything else, pass `forward=`{_keywords_hint(replica.module)})"
    )


def _keywords_hint(module: nn.Module) -> str:
    """Return an example of `forward=` for a model that takes keyword arguments, or "" for one that does not."""
    parameters = list(signature(module.forward).parameters.values())
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if [p.kind for p in parameters] == [Parameter.POSITIONAL_OR_KEYWORD]:
        return ""
    name = named[0] if named else "inputs"
    return f", such as `forward=lambda model, x: model({name}=x)`"

"""Codes of inputs: the signs of all pre-activations in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fold_lightning._checks import check_choice
from fold_lightning.activations.evaluation import Forward, Replica, evaluate_on_replica
from fold_lightning.activations.inspection import ModelStructure, inspect
from fold_lightning.activations.layer_pass import LayerPass
from fold_lightning.activations.layers import Patterns, describe_layers
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import TENSORS_AT_ONCE, Noise, Rounding

T = TypeVar("T")

CODES_MAX_BYTES = 2**27
"""Working memory of the passes that compute codes, in bytes: 128 MiB."""


@dataclass(frozen=True)
class ActivationCodes:
    """The codes of B inputs.

    Attributes:
        bits: bool (B, N), N units of all counted layers side by side; 1 iff the pre-activation is strictly above its threshold.
        layers: Layer name -> its columns, in execution order.

    `torch.load` reads saved codes once this class has been imported.
    """

    bits: Tensor
    layers: dict[str, slice]

    def __repr__(self) -> str:
        """Return the sizes and the layers, without the bits.

        Example:
            >>> ActivationCodes(torch.zeros(2, 5, dtype=torch.bool), {"low": slice(0, 3), "high": slice(3, 5)})
            ActivationCodes(inputs=2, units=5, layers={low: 3, high: 2})
        """
        return f"ActivationCodes(inputs={len(self.bits)}, units={self.bits.shape[-1]}, layers={describe_layers(self.layers)})"


torch.serialization.add_safe_globals([ActivationCodes, slice])  # for `torch.load(weights_only=True)`; `layers` has slices


def activation_codes(
    model: nn.Module,
    inputs: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    dtype: torch.dtype = torch.float64,
) -> ActivationCodes:
    """Return the activation pattern of each input: one bit for each hidden unit.

    A bit is 1 iff the unit's pre-activation is strictly positive ("ReLU Code Space", Definition 1). A pre-activation below
    1e-15 of the terms that it is computed from counts as 0, because rounding turns exact zeros into such values. Activations
    with two kinks (ReLU6, Hardtanh) give a bit for each, all low-threshold bits of a layer before its high ones (this project's
    reading). The model is evaluated in evaluation mode in float64, and is not changed.

    `dtype=torch.float32` computes in float32 on the inputs' own device, several times faster for convolutional networks on a
    CPU. Bits are then the computed signs, not corrected for rounding: bits of pre-activations near 0 may differ, and an exact
    zero may count as positive.

    Args:
        model: Any module; activations are found as modules (`nn.ReLU`) and as functions (`F.relu`, `x.relu_()`).
        inputs: Floating-point inputs (B, ...), B at least 1, on the model's device.
        layers: A layer's name, a glob pattern or a sequence of them; None counts every activation. A layer's name is its
            module's path, or the calling module's path and the function's name; a second call is `name/2`.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        dtype: torch.float64, or torch.float32 for speed.

    Returns:
        Codes of shape (B, N).

    Raises:
        ValueError: If inputs are not finite or on another device than the model, if a pattern matches no layer, if the model
            has no activations or refuses the inputs, and for another `dtype`.
        TypeError: If inputs are not a floating-point tensor.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]])), model[0].bias.data.zero_()
        >>> activation_codes(model, torch.tensor([[2.0], [-3.0], [0.0]])).bits.int()
        tensor([[1, 0],
                [0, 1],
                [0, 0]], dtype=torch.int32)
    """
    check_inputs(inputs)
    check_choice("dtype", dtype, (torch.float64, torch.float32))
    with evaluate_on_replica(model, inputs, forward) as replica:
        structure = inspect(replica, inputs, layers)
        if dtype == torch.float64:
            bits = codes_of(replica, structure, inputs)
    if dtype == torch.float32:
        with evaluate_on_replica(model, inputs, forward, dtype=dtype) as replica:
            bits = _float32_codes(replica, structure, inputs)
    return ActivationCodes(bits.to(inputs.device), structure.layers)


def _float32_codes(replica: Replica, structure: ModelStructure, inputs: Tensor) -> Tensor:
    codes = []
    for chunk in inputs.split(_rows(structure, itemsize=torch.float32.itemsize)):
        chunk = chunk.detach().to(torch.float32)
        check_inputs(chunk, "inputs.float()")
        codes.append(torch.cat([*signs_of(replica, structure, chunk).values()], 1))
    return torch.cat(codes)


def codes_and_outputs(
    model: nn.Module,
    inputs: Tensor,
    read: Callable[[Any], T],
    *,
    layers: Patterns = None,
    forward: Forward = None,
) -> tuple[ActivationCodes, list[T]]:
    """Return the codes of inputs, and `read(output)` of the model's output for each chunk of them, in order.

    Arguments and errors are those of `activation_codes`. Passes run to the end of the model.
    """
    check_inputs(inputs)
    with evaluate_on_replica(model, inputs, forward) as replica:
        structure = inspect(replica, inputs, layers)
        bits, found = [], []
        for some, output in _codes_in_chunks(replica, structure, inputs, CODES_MAX_BYTES, to_end=True):
            bits.append(some)
            found.append(read(output))
    return ActivationCodes(torch.cat(bits).to(inputs.device), structure.layers), found


def check_inputs(inputs: Tensor, name: str = "inputs", *, finite: bool = True) -> None:
    """Raise unless inputs are a valid batch; `finite=False` does not check their values."""
    if not isinstance(inputs, Tensor):
        raise TypeError(f"`{name}` must be a tensor (B, ...), got {type(inputs).__name__}.")
    if inputs.layout is not torch.strided:
        raise TypeError(f"`{name}` must be a dense tensor, got layout {inputs.layout}: pass `{name}.to_dense()`.")
    if inputs.is_complex():
        raise TypeError(
            f"`{name}` must be real, got {inputs.dtype}: codes and segments need real inputs. Pass real and imaginary "
            "parts, as `torch.view_as_real(x)`, and `forward=lambda model, x: model(torch.view_as_complex(x))`."
        )
    if not inputs.is_floating_point():
        raise TypeError(
            f"`{name}` must be floating point, got {inputs.dtype}: codes and segments need real-valued inputs. Convert images "
            "with `.float()`; for token ids, embed them first and pass `forward=` with the rest of the model."
        )
    if inputs.dim() < 1 or inputs.shape[0] == 0:
        raise ValueError(f"`{name}` must hold at least one input along its first dimension, got shape {tuple(inputs.shape)}.")
    if inputs.is_meta:
        raise ValueError(f"`{name}` is on the meta device, which holds no values: make it on the model's device.")
    # The extremes take a tenth of the time of `torch.isfinite`.
    if finite and inputs.numel() and not all(map(math.isfinite, inputs.detach().aminmax())):
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values: clean or normalise the data first.")


def codes_of(replica: Replica, structure: ModelStructure, inputs: Tensor, max_bytes: int = CODES_MAX_BYTES) -> Tensor:
    """Return codes bool (B, N), on the replica's device, in chunks that take about `max_bytes` of memory."""
    return torch.cat([bits for bits, _ in _codes_in_chunks(replica, structure, inputs, max_bytes)])


def signs_of(replica: Replica, structure: ModelStructure, inputs: Tensor) -> dict[str, Tensor]:
    """Return layer name -> bits of inputs, bool (B, n), from one pass and not corrected for rounding."""
    found: dict[str, Tensor] = {}

    def read(layer: str, thresholds: Thresholds, units: Tensor) -> None:
        if layer in structure.counted:
            bits = [units > threshold for threshold in thresholds]
            found[layer] = bits[0] if len(bits) == 1 else torch.cat(bits, 1)

    LayerPass(replica, structure, read).run(inputs)
    return found


def _rows(structure: ModelStructure, max_bytes: int = CODES_MAX_BYTES, itemsize: int = 8) -> int:
    return 1 if structure.is_row_by_row else max(1, max_bytes // (itemsize * TENSORS_AT_ONCE * structure.widest))


def _codes_in_chunks(
    replica: Replica, structure: ModelStructure, inputs: Tensor, max_bytes: int, *, to_end: bool = False
) -> Iterator[tuple[Tensor, Any]]:
    """Yield the codes of each chunk of inputs, and the model's output, None unless the pass runs to the end."""
    rounding = Rounding(replica, structure, inputs)
    for chunk in inputs.split(_rows(structure, max_bytes)):
        yield _chunk_codes(replica, structure, rounding, chunk.to(replica.device, torch.float64), to_end=to_end)


def _chunk_codes(
    replica: Replica, structure: ModelStructure, rounding: Rounding, inputs: Tensor, *, to_end: bool
) -> tuple[Tensor, Any]:
    reach = rounding.reach(inputs)
    found: list[Tensor] = []

    def noisy(noise: Noise, row: Tensor) -> Tensor:
        return noise.of(inputs[row])

    def read(layer: str, thresholds: Thresholds, units: Tensor) -> None:
        if layer in structure.counted:
            screen = rounding.screen(layer, torch.maximum(rounding.size(layer, units), reach))
            for threshold in thresholds:
                distance = units - threshold
                found.append(distance > 0)
                margin = distance.abs_().sub_(screen)
                if not bool(margin.amin() > 0):  # checked first, because finding the few near ones takes three times as long
                    found[-1][rounding.zeros(layer, threshold, units, margin <= 0, noisy)] = False

    output = LayerPass(replica, structure, read, to_end=to_end).run(inputs)
    return torch.cat(found, dim=1), output

"""Rounding errors of pre-activations, from the size of their terms, which is found by Monte Carlo arithmetic.

A pre-activation that is exactly 0 is computed as about 1e-16 of its terms, the summands that cancel. Their size follows neither
from the result nor from other units. So the few pre-activations near their threshold are computed several more times, with
random relative errors on the input and on the result of every operation: their standard deviation is proportional to their
terms, whatever the operations are. This is Monte Carlo arithmetic (Parker 1997), with noise far above rounding, so that
rounding does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.layer_pass import LayerPass
from fold_lightning.activations.operations import CREATIONS
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.tracking import depends_on_input, memory_of, tensors_in

NOISE = 2.0**-40
"""Standard deviation of the relative error of each result in a noisy pass: 1e4 times rounding, and too small to reach a kink
that is 1e-11 away."""

REPEATS = 8
"""Noisy passes per input. The standard deviation of 8 is less than a fifth of the true one in 1 of 1e4 cases."""

FEW_REPEATS = 4
"""Noisy passes per input for the usual terms of units, which need not be exact."""

ROUNDED = 1e-15
"""Share of its terms up to which a pre-activation is 0: of 1,709 units that cancel, all were below 1e-15, most at 3e-17 to
3e-16."""

CERTAIN = 1e-14
"""Share of its terms above which the sign of a pre-activation is certain."""

SCREEN = 1e-11
"""Size of a pre-activation, as a share of its layer's largest, below which it is checked for rounding. Both are divided by their
unit's usual terms (`_usual_terms`)."""

ABSORBED = 1e-12
"""Share of a unit's terms below which a constant of the network may be lost in them, so that an exact 0 cannot be distinguished
from a value near 0. It is larger than `ROUNDED`, because the constant's effect on an input may be smaller than the constant. In
random networks with weights of 1e11 to 1e13, walks called exact were wrong in 3 of 60 with 1e-15, in 1 of 58 with 1e-14, and in
none of 57 with 1e-13."""

SIMILAR_RATIO = 1e3
"""Ratio of the largest to the smallest usual terms of a layer up to which one number represents all of its units."""

EVEN = 1e6
"""Largest ratio of the usual terms of a layer at which the rounding of its largest unit bounds that of all its units. CantorNet
reaches 1e4, and its walks are correct."""

SAMPLED = 8
"""Number of inputs from which the usual terms of units are found. Terms that come from a large unit are missed if none of these
inputs activates it."""

NOISY_PASS_BYTES = 2**27
"""Memory of a noisy pass, in bytes."""

TENSORS_AT_ONCE = 6
"""Number of tensors as large as the widest that a pass, noisy or not, is assumed to hold, to estimate its memory."""


class Noise:
    """Random relative errors, from a random generator of their own."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(0)

    def errors(self, like: Tensor) -> Tensor:
        """Return random errors in the shape of a tensor."""
        shape, device = like.shape, like.device
        return NOISE * torch.randn(shape, generator=self._generator, dtype=torch.float64, device=device)

    def of(self, x: Tensor) -> Tensor:
        """Return a tensor with random relative errors."""
        return x + x * self.errors(x)

    def add_to(self, x: Tensor) -> None:
        """Add random relative errors to a tensor in place."""
        x.data.mul_(1 + self.errors(x))  # `.data`, because autograd within `forward` may have saved it and forbid writing


class NoisyPass(LayerPass):
    """A forward pass in which the result of every operation that depends on the input has a random error.

    Args:
        noise: Source of errors.
        given: Positional arguments of `LayerPass`.
        last: Layer at which the pass ends.
    """

    def __init__(self, noise: Noise, *given: Any, last: str) -> None:
        super().__init__(*given, last=last)
        self._noise = noise

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Read the layer, and add errors to the result."""
        result = super().activation(layer, thresholds, z, call)
        self._noise.add_to(result)
        return result

    def operation(self, call: Call) -> Any:
        """Add errors to tensors that an operation computes or writes, but not to views."""
        result = call()
        if call.name in CREATIONS or not call.varying:
            return result
        memory = set(map(memory_of, call.tensors))
        computed = [t for t in tensors_in(result) if memory_of(t) not in memory]
        for tensor in (*computed, *call.written):
            if (tensor.is_floating_point() or tensor.is_complex()) and not _is_expanded(tensor):
                self._noise.add_to(tensor)
        return result


class ConstantsPass(LayerPass):
    """A forward pass that finds the smallest constant that operations use.

    Attributes:
        least: The smallest nonzero magnitude of a number, of a vector's element, or of the largest element of a row or column
            of weights.
    """

    least = math.inf

    def operation(self, call: Call) -> Any:
        """Record the constants among the arguments, except a batch norm's variance and epsilon, which only scale."""
        given = [*call.args, *call.kwargs.values()]
        for value in given if call.name != "batch_norm" else given[:2] + given[3:5]:
            if isinstance(value, float) and value:
                self.least = min(self.least, abs(value))
            elif isinstance(value, Tensor) and value.is_floating_point() and value.numel() and not depends_on_input(value):
                sizes = value.to_dense().abs()
                matrix = sizes.reshape(*sizes.shape[:2], -1).amax(-1) if sizes.dim() > 1 else sizes.view(1, -1)
                for some in (matrix.amax(0), matrix.amax(1)) if sizes.dim() > 1 else (matrix,):
                    self.least = min(self.least, float(some.where(some > 0, math.inf).amin()))
        return call()


def _is_expanded(tensor: Tensor) -> bool:
    """Return whether a tensor can't be written in place, because elements share memory or its layout is sparse."""
    if tensor.layout is not torch.strided:
        return True
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


Inputs = Callable[[Noise, Tensor], Tensor]
"""Function of noise and int64 (K,) indices of points that returns these points (K, ...), each with its own errors."""


class Rounding:
    """Tests of whether pre-activations are 0 up to the rounding of their own terms.

    Args:
        replica: Replica of the model.
        structure: Result of its inspection.
        sample: Inputs (B, ...), some of which are used to find the usual terms of each unit.
    """

    def __init__(self, replica: Replica, structure: ModelStructure, sample: Tensor) -> None:
        self._replica, self._structure = replica, structure
        self._sample = sample[:: max(1, len(sample) // SAMPLED)][:SAMPLED].detach().to(replica.device, torch.float64)
        key = "usual terms", tuple(structure.needed), sample.shape[1:]
        if key not in replica.structures:
            replica.structures[key] = float(self._sample.abs().amax()), self._usual_terms(self._sample)
        self._usual_size, self._usual = replica.structures[key]

    @property
    def absorbing(self) -> float:
        """Size of terms above which rounding may have absorbed a constant of the network."""
        last = self._structure.needed[-1]
        key = "absorbing", last, self._sample.shape[1:]
        if key not in self._replica.structures:
            found = ConstantsPass(self._replica.twin(), self._structure, lambda *_: None, last=last)
            found.run(self._sample[:1] if self._structure.is_row_by_row else self._sample)
            self._replica.structures[key] = found.least / ABSORBED
        return float(self._replica.structures[key])

    def may_absorb(self, size: Tensor) -> bool:
        """Return whether terms may exceed `absorbing` where pre-activations are of this size, in units of usual terms."""
        return float(size.amax()) * max(float(usual.amax()) for usual in self._usual.values()) > self.absorbing

    def _usual_terms(self, sample: Tensor) -> dict[str, Tensor]:
        """Return layer name -> usual terms of its units (n,), or one number (1,) where all are alike."""
        rows, usual = torch.arange(len(sample), device=sample.device), {}
        inputs: Inputs = lambda noise, row: noise.of(sample[row])  # noqa: E731
        layers = self._structure.needed
        chunks = rows.split(self._points_at_once(FEW_REPEATS))
        found = [self._terms(self._replica, layers, inputs, some, FEW_REPEATS) for some in chunks]
        for layer in layers:
            most = torch.cat([terms[layer] for terms in found]).amax(0)
            known = most[most > 0]
            most = most.where(most > 0, known.median() if len(known) else 1.0)
            usual[layer] = most if most.amax() > SIMILAR_RATIO * most.amin() else most.amax(0, keepdim=True)
        return usual

    def usual_terms(self, layer: str) -> float:
        """Return the largest usual terms of a layer's units."""
        return float(self._usual[layer].amax())

    def is_even(self, layer: str) -> bool:
        """Return whether a layer's largest pre-activation gives the rounding of all units: terms are alike, and below `absorbing`."""
        least, most = self._usual[layer].aminmax()
        return bool(most <= EVEN * least) and float(most) <= self.absorbing

    def reach(self, inputs: Tensor) -> Tensor:
        """Return the size of inputs (B, ...) as a multiple of the sample's largest, (B, 1)."""
        sizes = largest(inputs.reshape(len(inputs), -1))
        return sizes / self._usual_size if self._usual_size else torch.ones_like(sizes)

    def size(self, layer: str, z: Tensor) -> Tensor:
        """Return the largest of a layer's pre-activations (B, n) per row, in units of usual terms, (B, 1)."""
        usual: Tensor = self._usual[layer]
        return largest(z) / usual if len(usual) == 1 else largest(z / usual)

    def screen(self, layer: str, size: Tensor) -> Tensor:
        """Return the distance from a threshold (B, 1) or (B, n) within which to check for rounding in rows of a size (B, 1)."""
        usual: Tensor = self._usual[layer]
        return SCREEN * size * usual

    def terms(self, layer: str, inputs: Inputs, point: Tensor, unit: Tensor) -> Tensor:
        """Return the terms (E,) of units (E,) at points with these indices (E,)."""
        points, place = point.unique(return_inverse=True)
        found = torch.empty(len(unit), dtype=torch.float64, device=unit.device)
        size = self._points_at_once(REPEATS)
        for begin in range(0, len(points), size):
            here = (place >= begin) & (place < begin + size)
            terms = self._terms(self._replica.twin(), [layer], inputs, points[begin : begin + size])[layer]
            found[here] = terms[place[here] - begin, unit[here]]
        return found

    def zeros(
        self, layer: str, threshold: float, z: Tensor, near: Tensor, inputs: Inputs, times: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the row and the unit (K,) of the pre-activations in z (B, n) that equal a threshold up to rounding.

        Args:
            layer: The layer.
            threshold: The threshold.
            z: The pre-activations.
            near: Mask of those to check, bool (B, n).
            inputs: Function that returns the rows' inputs with errors.
            times: Rounding, as a multiple of the rounding of one computation.
        """
        row, unit = near.nonzero(as_tuple=True) if bool(near.any()) else near.new_empty(2, 0, dtype=torch.int64)
        distance = z[row, unit] - threshold
        is_zero = distance == 0
        apart = (~is_zero).nonzero().squeeze(1)
        if len(apart):
            terms = self.terms(layer, inputs, row[apart], unit[apart]) + abs(threshold)
            is_zero[apart], _ = compare(distance[apart], times * terms)
        return row[is_zero], unit[is_zero]

    def _points_at_once(self, repeats: int) -> int:
        return max(1, NOISY_PASS_BYTES // (8 * TENSORS_AT_ONCE * repeats * self._structure.widest))

    def _terms(
        self, replica: Replica, layers: Sequence[str], inputs: Inputs, points: Tensor, repeats: int = REPEATS
    ) -> dict[str, Tensor]:
        """Return the terms of all units of layers, in execution order, at points (K,): (K, n) each."""
        noise, found = Noise(replica.device), dict[str, list[Tensor]]()

        def read(layer: str, thresholds: Thresholds, units: Tensor) -> None:
            if layer in layers:
                found.setdefault(layer, []).append(units.clone())

        noisy = inputs(noise, points.repeat(repeats))
        for batch in noisy.split(1 if self._structure.is_row_by_row else len(noisy)):
            NoisyPass(noise, replica, self._structure, read, last=layers[-1]).run(batch)
        return {layer: _deviation(torch.cat(z).view(repeats, len(points), -1)) / NOISE for layer, z in found.items()}


def compare(distance: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks of the distances from a threshold that are 0 up to the rounding of terms, and of those that may be."""
    size = distance.abs()
    zero = size <= ROUNDED * terms
    return zero, ~zero & (size < CERTAIN * terms)


def _deviation(z: Tensor) -> Tensor:
    """Return the standard deviation along the first dimension, several times faster than `torch.std`."""
    z = z - z.mean(0)
    return z.square_().sum(0).div_(len(z) - 1).sqrt_()


def largest(z: Tensor) -> Tensor:
    """Return the largest |z| of each row (B, 1)."""
    # Four to ten times as fast as torch's maximum norm.
    return torch.maximum(z.amax(1, keepdim=True), -z.amin(1, keepdim=True))

"""Activation regions around inputs, by forward passes with frozen activations."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fold_lightning._checks import is_integer
from fold_lightning.activations.codes import TENSORS_AT_ONCE, check_inputs
from fold_lightning.activations.evaluation import Forward, Replica, evaluate_on_replica
from fold_lightning.activations.inspection import ModelStructure, inspect
from fold_lightning.activations.layers import Patterns, columns, describe_layers
from fold_lightning.activations.rounding import Rounding
from fold_lightning.regions.frozen_pass import FrozenPass, NoPolytopes

PASS_BYTES = 2**28
"""Bytes of the largest tensors in a pass over points and the steps from them, 256 MiB."""

COPIES = 3
"""Copies of the half-spaces that are in memory at once while parts are concatenated."""


@dataclass(frozen=True, eq=False)
class ActivationRegions:
    """Closed activation regions around B inputs, each the intersection of N half-spaces in d dimensions.

    Region b is ``{x : normals[b] @ x + offsets[b] >= 0}`` and contains its input. In a slice, x holds the k coordinates along the
    directions of the slice, with the input at the origin.

    Attributes:
        normals: float64 (B, N, d), one row per bit in the order of the codes; 0 for a unit that is constant on the region.
        offsets: float64 (B, N).
        inputs: float64 (B, features), flattened.
        layers: Layer name -> its rows; also the name of each pooling or clamp whose choices bound the regions -> its rows.
        basis: float64 (B, k, features), orthonormal directions of the slice; None for whole regions.
    """

    normals: Tensor
    offsets: Tensor
    inputs: Tensor
    layers: dict[str, slice]
    basis: Tensor | None = None

    def __repr__(self) -> str:
        return (
            f"ActivationRegions(regions={len(self)}, dimension={self.dimension}, half_spaces={self.normals.shape[1]}, "
            f"layers={describe_layers(self.layers)}, slice={self.basis is not None})"
        )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, regions: slice | Tensor) -> ActivationRegions:
        """Return some of the regions."""
        basis = None if self.basis is None else self.basis[regions]
        return replace(
            self, normals=self.normals[regions], offsets=self.offsets[regions], inputs=self.inputs[regions], basis=basis
        )

    @property
    def dimension(self) -> int:
        """Dimension d of the regions."""
        return self.normals.shape[2]

    @property
    def centers(self) -> Tensor:
        """Coordinates of the inputs, float64 (B, d); 0 in a slice."""
        return self.inputs if self.basis is None else self.inputs.new_zeros(len(self), self.dimension)

    @property
    def slacks(self) -> Tensor:
        """Values of ``normals @ x + offsets`` at the inputs, float64 (B, N), at least 0 up to rounding."""
        return torch.einsum("bnd,bd->bn", self.normals, self.centers) + self.offsets


torch.serialization.add_safe_globals([ActivationRegions, slice])  # for `torch.load(weights_only=True)`; `layers` has slices


def check_regions(regions: Any) -> None:
    """Raise a TypeError unless a value is an `ActivationRegions`."""
    if not isinstance(regions, ActivationRegions):
        raise TypeError(f"Expected `ActivationRegions`, got {type(regions).__name__}: make them with `activation_regions`.")


def activation_regions(
    model: nn.Module,
    inputs: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    subspace: int | Tensor | None = None,
    choices: bool = False,
    seed: int = 0,
) -> ActivationRegions:
    """Return the half-spaces of the activation region around each input.

    In the region of an input the network is affine. Each unit gives one half-space, in which its pre-activation stays on its side of
    the threshold ("ReLU Code Space", Shepeleva et al. 2020, App. A.3; "Characterizing the Discrete Geometry of ReLU Networks",
    Gaines and Bi 2026, 3.1). A unit exactly on its threshold has bit 0, so its half-space is the one below the threshold. An
    activation with two thresholds gives two half-spaces per unit.

    Max pooling and clamps are frozen in the choice that they make at the input. By default these choices bound no region: where
    another choice would hold inside a region, the network bends there, and half-spaces of later layers are those that hold around
    the input. With `choices=True` they bound regions too, so that the network is affine in each region: max pooling then gives one
    row per element of a window, which says that the winner is at least as large as this element. Both readings are this project's
    own.

    With a `subspace`, each region is cut along k random orthonormal directions through its input, and d becomes k. For images,
    only slices are affordable (an extension of this project).

    Args:
        model: A module of piecewise linear operations.
        inputs: Floating-point inputs (B, ...), on the model's device.
        layers: Layers whose bits count: a name, a glob pattern or a sequence of them; None counts all. Other layers are frozen too,
            but do not bound regions.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        subspace: Number k of random directions, from 1 to the number of features; or orthonormal directions (B, k, features); None
            takes whole regions.
        choices: Whether the choices of max pooling and clamps bound regions. Their rows come after those of the units, under the
            operation's name in `layers`.
        seed: Random seed of the directions.

    Returns:
        The regions, in float64.

    Raises:
        ValueError: If the network curves before a layer that counts, inputs are not finite or on another device than the model, a
            pattern matches no layer, or `subspace` has the wrong shape or is not orthonormal.
        TypeError: If `inputs` is not a floating-point tensor.
        MemoryError: If the half-spaces need more memory than the machine has.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.eye(2)), model[0].bias.data.copy_(torch.tensor([-1.0, 0.0]))
        >>> regions = activation_regions(model, torch.tensor([[0.5, 2.0]]))
        >>> regions.normals[0], regions.offsets[0]  # x_0 <= 1 and x_1 >= 0
        (tensor([[-1., -0.],
                [ 0.,  1.]], dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))
    """
    check_inputs(inputs)
    features = inputs[0].numel()
    basis = None if subspace is None else _basis(subspace, len(inputs), features, seed)
    with evaluate_on_replica(model, inputs, forward) as replica:
        structure = inspect(replica, inputs, layers)
        if structure.unknown:
            raise NoPolytopes(
                "Regions are polytopes only in piecewise linear networks. Not known to be piecewise linear: "
                f"{', '.join(structure.unknown)}. Choose `layers=` before, or use `segment_walks`, which also takes curved networks."
            )
        points = inputs.detach().to(replica.device, torch.float64)
        _check_memory(len(points) * structure.num_units * (features if basis is None else basis.shape[1]), len(points))
        basis = None if basis is None else basis.to(points.device)
        normals, slacks, _, extra = half_spaces(replica, structure, points, basis, choices=choices)
    flat = points.flatten(1)
    offsets = slacks if basis is not None else slacks - torch.einsum("bnd,bd->bn", normals, flat)
    layers_and_choices = columns({name: part.stop - part.start for name, part in structure.layers.items()} | extra)
    normals, offsets, flat = (part.to(inputs.device) for part in (normals, offsets, flat))
    return ActivationRegions(normals, offsets, flat, layers_and_choices, None if basis is None else basis.to(inputs.device))


def random_directions(count: int, subspace: int, features: int, seed: int) -> Tensor:
    """Return random orthonormal directions, float64 (count, subspace, features).

    Raises:
        ValueError: If `subspace` is not an integer from 1 to `features`.

    Example:
        >>> directions = random_directions(5, 2, 3, seed=0)
        >>> torch.allclose(directions @ directions.mT, torch.eye(2).double())
        True
    """
    if not is_integer(subspace, 1) or subspace > features:
        raise ValueError(f"`subspace` must be an integer from 1 to the inputs' {features} features, got {subspace!r}.")
    random = torch.randn(count, features, subspace, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(random).Q
    return directions.mT.contiguous()


def _basis(subspace: int | Tensor, count: int, features: int, seed: int) -> Tensor:
    if not isinstance(subspace, Tensor):
        return random_directions(count, subspace, features, seed)
    basis = subspace.detach().double()
    if basis.dim() != 3 or basis.shape[::2] != (count, features) or not 1 <= basis.shape[1] <= features:
        raise ValueError(f"Directions of `subspace` must be ({count}, k, {features}), got {tuple(basis.shape)}.")
    if not torch.allclose(basis @ basis.mT, torch.eye(basis.shape[1]).to(basis), atol=1e-6):
        raise ValueError("Directions of `subspace` must be orthonormal: take `torch.linalg.qr(directions.mT).Q.mT`.")
    return basis


def _check_memory(numel: int, count: int) -> None:
    """Raise a MemoryError if half-spaces need more memory than this machine has."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    needed, there = 8 * COPIES * numel, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise MemoryError(
            f"The half-spaces of {count} regions take {needed / 2**30:.1f} GiB, but this machine has {there / 2**30:.1f}: take fewer "
            "inputs at once, `layers=` of fewer units, or a slice with `subspace=`."
        )


def half_spaces(
    replica: Replica,
    structure: ModelStructure,
    points: Tensor,
    basis: Tensor | None = None,
    *,
    choices: bool = False,
    codes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, dict[str, int]]:
    """Return the half-spaces ``normals . step + slacks >= 0`` around points, in passes of bounded memory.

    Args:
        replica: The model.
        structure: The model's activations.
        points: float64 (B, ...), on the model's device.
        basis: float64 (B, k, features), the directions of steps; None takes all coordinates.
        choices: Whether to add the half-spaces of max pooling and clamps.
        codes: Bool (B, bits), codes of the regions whose half-spaces are returned; all activations must count. Slacks are negative
            at points outside these regions. None takes the region of each point.

    Returns:
        The normals (B, N, k), the slacks (B, N), the codes bool (B, bits), and the number of rows of each choice by its name.
    """
    rows = 1 + (points[0].numel() if basis is None else basis.shape[1])
    numel = rows * max(TENSORS_AT_ONCE * structure.widest, structure.num_units)
    size = max(1, PASS_BYTES // (8 * numel))
    rounding = Rounding(replica, structure, points)
    normals: list[Tensor] = []
    slacks: list[Tensor] = []
    bits: list[Tensor] = []
    for begin in range(0, len(points), size):
        some = points[begin : begin + size]
        some_codes = None if codes is None else codes[begin : begin + size]
        frozen = FrozenPass(replica, structure, rounding, some, choices=choices, codes=some_codes)
        length = _step_lengths(some)
        frozen.run(_with_steps(some, length, None if basis is None else basis[begin : begin + size]))
        normals.append(torch.cat(frozen.normals, 1).div_(length[:, None, None]))
        slacks.append(torch.cat(frozen.slacks, 1))
        bits.append(torch.cat(frozen.bits, 1))
    return _joined(normals), _joined(slacks), _joined(bits), frozen.rows_of_choices


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _step_lengths(points: Tensor) -> Tensor:
    """Return step lengths (B,): powers of 2 of about the size of the points' largest coordinates.

    With steps of this size, differences of values have as many digits as the values.
    """
    largest = points.flatten(1).abs().amax(1).clamp(min=1.0)
    lengths: Tensor = torch.exp2(torch.ceil(torch.log2(largest)))
    return lengths


def _with_steps(points: Tensor, length: Tensor, basis: Tensor | None) -> Tensor:
    """Return each point followed by the points one step away from it in each direction: ((1 + k) B, ...)."""
    flat = points.flatten(1)
    if basis is None:
        rows = flat[:, None].repeat(1, 1 + flat.shape[1], 1)
        rows[:, 1:].diagonal(dim1=1, dim2=2).add_(length[:, None])
    else:
        rows = torch.cat([flat[:, None], flat[:, None] + length[:, None, None] * basis], dim=1)
    return rows.reshape(-1, *points.shape[1:])

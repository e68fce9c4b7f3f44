"""Activation regions: the half-spaces that bound the region around each input.

Where every activation is frozen in the piece that an input takes, a piecewise linear network is affine. So one forward pass over
each input and over a step from it in each direction gives all pre-activations as affine functions, and each unit's sign a half-space.
"""

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
"""Bytes of the largest tensors of a pass over points and their steps, 256 MiB."""

COPIES = 3
"""Copies of the half-spaces that are held at once, while they are joined."""


@dataclass(frozen=True, eq=False)
class ActivationRegions:
    """The closed activation regions around B inputs, each the intersection of N half-spaces in d dimensions.

    Region b is ``{x : normals[b] @ x + offsets[b] >= 0}``; its input lies inside. In a slice, x are the k coordinates along its
    directions, and the input is their origin.

    Attributes:
        normals: float64 (B, N, d), a row for each bit in the order of the codes; 0 for a unit that is constant on the region.
        offsets: float64 (B, N).
        inputs: float64 (B, features), the inputs, flattened.
        layers: Layer name -> its rows; and those of choices, if they bound the regions.
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
        """Coordinates float64 (B, d) of the inputs."""
        return self.inputs if self.basis is None else self.inputs.new_zeros(len(self), self.dimension)

    @property
    def slacks(self) -> Tensor:
        """Affine functions of the half-spaces at the inputs, float64 (B, N), at least 0."""
        return torch.einsum("bnd,bd->bn", self.normals, self.centers) + self.offsets


torch.serialization.add_safe_globals([ActivationRegions, slice])  # for `torch.load(weights_only=True)`; `layers` has slices


def check_regions(regions: Any) -> None:
    """Raise a TypeError unless a value is regions."""
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

    In the region of an input the network is affine, and each unit gives one half-space: its pre-activation stays on the side of
    the threshold on which it is ("ReLU Code Space", Shepeleva et al. 2020, App. A.3; "Characterizing the Discrete Geometry of ReLU
    Networks", Gaines and Bi 2026, 3.1). A unit that is exactly on its threshold has bit 0, so its half-space is that below it.
    Activations of two thresholds give two. Max pooling and clamps are frozen in the choice that they make at the input, which
    bounds no region: where they choose otherwise inside one, the network bends there, and the half-spaces behind them are those at
    the input. With `choices` they bound regions too, which then are those in which the network is affine: a row for each element
    of a window, which says that the winner is as large (this project's readings).

    With a `subspace`, regions are cut by k random orthonormal directions through each input, and d becomes k: what can be
    afforded in image dimensions (this project's own).

    Args:
        model: A module of piecewise linear operations.
        inputs: Floating-point inputs (B, ...), on the model's device.
        layers: Whose bits count: a layer's name, a glob pattern or a sequence of them; None counts all. The others are frozen all the
            same, but bound nothing.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        subspace: k, from 1 to the number of features; or orthonormal directions of your own (B, k, features), as of
            `random_directions`; None takes whole regions.
        choices: Whether the choices of max pooling and clamps bound regions; their rows come after those of the units, by the
            operation's name in `layers`.
        seed: Of the directions.

    Returns:
        The regions, in float64.

    Raises:
        ValueError: For a network that curves before a layer that counts, for inputs that are not finite or elsewhere than the
            model, for a pattern that meets no layer, or a subspace of another dimension.
        TypeError: For inputs that are not a floating-point tensor.
        MemoryError: If there are more half-spaces than the machine has memory for.

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
                f"Regions are polytopes where a network is piecewise linear; this one has {', '.join(structure.unknown)}, which "
                "curves or is not known to be. Take `layers=` before it, or measure walks, which refine."
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
        ValueError: If there are not so many dimensions.

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
    """Raise `MemoryError` if half-spaces take more memory than this machine has."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    needed, there = 8 * COPIES * numel, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise MemoryError(
            f"The half-spaces of {count} regions take {needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f}: take fewer "
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
    """Return the half-spaces ``normals . step + slacks >= 0`` around points, in as many passes as memory asks for.

    Args:
        replica: The model.
        structure: Its activations.
        points: float64 (B, ...), on the model's device.
        basis: float64 (B, k, features), the directions of steps; None takes all coordinates.
        choices: Whether to add those of max pooling and clamps.
        codes: Bool (B, bits), of regions whose half-spaces these are in place of the points' own; all activations must count. The
            slacks of points outside are negative.

    Returns:
        The normals (B, N, k), the slacks (B, N), the codes bool (B, bits), and how many rows each kind of choice has.
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
    """Return step lengths (B,): powers of 2, about as long as the points.

    So a difference of values has as many digits as the values have.
    """
    largest = points.flatten(1).abs().amax(1).clamp(min=1.0)
    lengths: Tensor = torch.exp2(torch.ceil(torch.log2(largest)))
    return lengths


def _with_steps(points: Tensor, length: Tensor, basis: Tensor | None) -> Tensor:
    """Return each point followed by the points one step away in each direction: ((1 + k) B, ...)."""
    flat = points.flatten(1)
    if basis is None:
        rows = flat[:, None].repeat(1, 1 + flat.shape[1], 1)
        rows[:, 1:].diagonal(dim1=1, dim2=2).add_(length[:, None])
    else:
        rows = torch.cat([flat[:, None], flat[:, None] + length[:, None, None] * basis], dim=1)
    return rows.reshape(-1, *points.shape[1:])

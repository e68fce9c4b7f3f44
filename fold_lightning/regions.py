"""Activation regions: the half-spaces that bound the region around each input.

Where every activation is frozen in the piece that an input takes, a piecewise linear network is affine. So one forward pass over
each input and over a step from it in each direction gives all pre-activations as affine functions, and each unit's sign a half-space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fold_lightning.activations.architecture import Architecture, inspect_model
from fold_lightning.activations.borrowing import BorrowedModel, Forward, borrow
from fold_lightning.activations.codes import TENSORS_AT_ONCE, ZERO_TOLERANCE, check_inputs, magnitude
from fold_lightning.activations.following import varies
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.layers import Patterns
from fold_lightning.activations.operations import CLAMPS, MAX_POOLS, is_in_place
from fold_lightning.activations.table import Thresholds
from fold_lightning.walks.bends import MaxPool, clamp_bounds

MAX_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class ActivationRegions:
    """The closed activation regions around B inputs, each the intersection of N half-spaces of d dimensions.

    Region b is ``{x : normals[b] @ x + offsets[b] >= 0}``; its input lies inside. In a slice, x are the k coordinates along its
    directions, and the input is their origin.

    Attributes:
        normals: float64 (B, N, d), a row for each bit in the order of the codes; 0 for a unit that is constant on the region.
        offsets: float64 (B, N).
        inputs: float64 (B, features), the inputs, flattened.
        layers: Layer name -> its rows.
        basis: float64 (B, k, features), orthonormal directions of the slice; None for whole regions.
    """

    normals: Tensor
    offsets: Tensor
    inputs: Tensor
    layers: dict[str, slice]
    basis: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, regions: slice | Tensor) -> ActivationRegions:
        """Some of the regions."""
        basis = None if self.basis is None else self.basis[regions]
        return replace(
            self, normals=self.normals[regions], offsets=self.offsets[regions], inputs=self.inputs[regions], basis=basis
        )

    @property
    def dimension(self) -> int:
        """d, that of the polytopes."""
        return self.normals.shape[2]

    @property
    def centers(self) -> Tensor:
        """float64 (B, d), where the inputs lie among the half-spaces' coordinates."""
        return self.inputs if self.basis is None else self.inputs.new_zeros(len(self), self.dimension)

    @property
    def slacks(self) -> Tensor:
        """float64 (B, N), at least 0: each half-space's affine function at the input."""
        return torch.einsum("bnd,bd->bn", self.normals, self.centers) + self.offsets


def activation_regions(
    model: nn.Module,
    inputs: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    subspace: int | None = None,
    seed: int = 0,
) -> ActivationRegions:
    """The half-spaces of the activation region around each input.

    In the region of an input the network is affine, and each unit gives one half-space: its pre-activation stays on the side of
    the threshold on which it is ("ReLU Code Space", Shepeleva et al. 2020, App. A.3; "Characterizing the Discrete Geometry of ReLU
    Networks", Gaines and Bi 2026, 3.1). A unit that is exactly on its threshold has bit 0, so its half-space is that below it.
    Activations of two thresholds give two. Max pooling and clamps are frozen in the choice that they make at the input, which
    bounds no region: where they choose otherwise inside one, the network bends there, and the half-spaces behind them are those at
    the input (this project's reading).

    With a `subspace`, regions are cut by k random orthonormal directions through each input, and d becomes k: what can be
    afforded in image dimensions (this project's own).

    Args:
        model: A module of piecewise linear operations.
        inputs: Floating-point inputs (B, ...), on the model's device.
        layers: Whose bits count: a layer's name, a glob pattern or a sequence of them; None counts all. The others are frozen all the
            same, but bound nothing.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        subspace: k, from 1 to the number of features; None takes whole regions.
        seed: Of the directions.

    Returns:
        The regions, in float64.

    Raises:
        ValueError: For a network that curves, for inputs that are not finite or elsewhere than the model, for a pattern that meets
            no layer, or a subspace of another dimension.
        TypeError: For inputs that are not a floating-point tensor.

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
    if subspace is not None and (not isinstance(subspace, int) or not 1 <= subspace <= features):
        raise ValueError(f"`subspace` must be a whole number from 1 to the inputs' {features} features, got {subspace!r}.")
    with borrow(model, inputs, forward) as borrowed:
        architecture = inspect_model(borrowed, inputs, layers)
        if architecture.unknown:
            raise ValueError(
                f"Regions are polytopes where a network is piecewise linear; this one has {', '.join(architecture.unknown)}, which "
                "curves or is not known to be. Take `layers=` before it, or measure walks, which refine."
            )
        points = inputs.detach().to(borrowed.device, torch.float64)
        basis = None if subspace is None else _directions(len(points), subspace, features, seed).to(points.device)
        parts = [_regions(borrowed, architecture, *part) for part in _chunks(points, basis, architecture)]
    normals, offsets = (torch.cat(part).to(inputs.device) for part in zip(*parts, strict=True))
    flat = points.flatten(1).to(inputs.device)
    return ActivationRegions(normals, offsets, flat, architecture.layers, None if basis is None else basis.to(inputs.device))


def _directions(count: int, subspace: int, features: int, seed: int) -> Tensor:
    """Random orthonormal directions (B, k, features)."""
    random = torch.randn(count, features, subspace, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(random).Q
    return directions.mT.contiguous()


def _chunks(points: Tensor, basis: Tensor | None, architecture: Architecture) -> list[tuple[Tensor, Tensor | None]]:
    rows = 1 + (points[0].numel() if basis is None else basis.shape[1])
    numel = rows * max(TENSORS_AT_ONCE * architecture.widest, architecture.num_units)
    size = max(1, MAX_BYTES // (8 * numel))
    bases = [None] * len(points.split(size)) if basis is None else basis.split(size)
    return list(zip(points.split(size), bases, strict=True))


def _regions(
    borrowed: BorrowedModel, architecture: Architecture, points: Tensor, basis: Tensor | None
) -> tuple[Tensor, Tensor]:
    flat = points.flatten(1)
    steps = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device).expand(len(flat), -1, -1) if basis is None else basis
    rows = torch.cat([flat[:, None], flat[:, None] + steps], dim=1)
    frozen = FrozenPass(borrowed, architecture, len(points))
    frozen.run(rows.reshape(-1, *points.shape[1:]))
    normals, slacks = torch.cat(frozen.normals, 1), torch.cat(frozen.slacks, 1)
    if basis is None:
        return normals, slacks - torch.einsum("bnd,bd->bn", normals, flat)
    return normals, slacks


class FrozenPass(Interception):
    """A pass over groups of rows in which every choice is made by the first row of a group: what follows is affine in each group.

    Args:
        borrowed: The model.
        architecture: Its activations.
        groups: B; the inputs are B groups of 1 + m rows.

    Attributes:
        normals: For each bit (B, n, m): how its signed pre-activation grows along each other row of the group.
        slacks: (B, n), its signed pre-activation, less its threshold, at the first row; at least 0.
    """

    def __init__(self, borrowed: BorrowedModel, architecture: Architecture, groups: int) -> None:
        super().__init__(borrowed)
        self.normals: list[Tensor] = []
        self.slacks: list[Tensor] = []
        self._architecture = architecture
        self._groups = groups

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        dim = self._architecture.batch_dims[layer]
        values, tangents = self._split(z, dim)
        if layer in self._architecture.counted:
            self._record(values, tangents, thresholds)
        if layer == self._architecture.needed[-1]:
            raise PassEnded
        inner = _towards_the_middle(values, thresholds)
        here, there = (call(part.movedim(0, dim)).movedim(dim, 0) for part in (values, values + inner))
        slopes = (there - here) / inner
        return self._join(here, slopes[:, None] * tangents, dim)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in MAX_POOLS and varies(args[0]):
            return self._max_pool(MaxPool(name, args[1:], kwargs), args[0])
        if name in CLAMPS and varies(args[0]):
            return self._clamp(name, function, args, kwargs)
        return function(*args, **kwargs)

    def _split(self, z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """The first row of each group (B, ...), and the others' differences from it (B, m, ...)."""
        grouped = z.movedim(dim, 0).unflatten(0, (self._groups, -1))
        return grouped[:, 0], grouped[:, 1:] - grouped[:, :1]

    def _join(self, values: Tensor, tangents: Tensor, dim: int) -> Tensor:
        together = torch.cat([values[:, None], values[:, None] + tangents], dim=1)
        return together.flatten(0, 1).movedim(0, dim)

    def _record(self, values: Tensor, tangents: Tensor, thresholds: Thresholds) -> None:
        flat, growth = values.flatten(1), tangents.flatten(2).mT
        tolerance = ZERO_TOLERANCE * magnitude(flat)
        for threshold in thresholds:
            sign = torch.where(flat > threshold + tolerance, 1.0, -1.0)
            on = (flat - threshold).abs() <= tolerance
            self.slacks.append((sign * (flat - threshold)).masked_fill(on, 0.0))
            self.normals.append(sign[:, :, None] * growth)

    def _max_pool(self, pool: MaxPool, x: Tensor) -> Any:
        values, _ = self._split(x, 0)
        _, winners = pool(values)
        planes = x.unflatten(0, (self._groups, -1)).flatten(-pool.spatial_dims)
        chosen = winners.flatten(-pool.spatial_dims)[:, None].expand(*planes.shape[:-1], -1)
        result = planes.gather(-1, chosen).unflatten(-1, winners.shape[-pool.spatial_dims :]).flatten(0, 1)
        if not pool.returns_indices:
            return result
        return result, winners.repeat_interleave(planes.shape[1], 0)

    def _clamp(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(isinstance(bound, Tensor) for bound in clamp_bounds(name, args[1:], kwargs)):
            raise ValueError("Regions of a network that clamps between tensors can't be told: use numbers as bounds.")
        values, tangents = self._split(args[0], 0)
        clamped = function(values.clone(), *args[1:], **kwargs)
        result = self._join(clamped, (clamped == values)[:, None] * tangents, 0)
        if is_in_place(function, kwargs):
            args[0].copy_(result)
            return args[0]
        return result


def _towards_the_middle(values: Tensor, thresholds: Thresholds) -> Tensor:
    """A step from each value that stays in its piece; on a threshold the piece is the one below it."""
    step = torch.full_like(values, -1.0)
    for low, high in zip(thresholds, [*thresholds[1:], float("inf")], strict=True):
        inside = values > low
        if high == float("inf"):
            step = torch.where(inside, 1.0, step)
        else:
            to_low, to_high = (low - values) / 2, (high - values) / 2
            step = torch.where(inside, torch.where(to_high > -to_low, to_high, to_low), step)
    return step

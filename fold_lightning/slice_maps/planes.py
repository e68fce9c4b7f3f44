"""Planes in a network's input space, through three inputs or through one along two directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.regions import random_directions

ON_A_LINE = 16.0
"""Distance of the third input from the line through the others up to which they count as collinear, in roundings of their dtype."""


class InputsOnALine(ValueError):
    """Error for three inputs on one line, which determine no plane."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane in the input space: the point y stands for the input ``origin + y[0] * basis[0] + y[1] * basis[1]``.

    Attributes:
        origin: float64 (...), in the shape of an input.
        basis: float64 (2, ...), orthonormal directions.
        marks: float64 (I, 2), points of the inputs that the plane was made of.
    """

    origin: Tensor
    basis: Tensor
    marks: Tensor

    @classmethod
    def of(cls, inputs: Tensor, directions: Tensor | None, seed: int) -> Plane:
        """Return the plane of some inputs; with two features, that is the whole input space.

        Args:
            inputs: Three inputs (3, ...), or one (1, ...).
            directions: Two directions (2, ...) from one input; None takes the coordinate axes of 2 features, otherwise random ones.
            seed: Random seed of the directions.
        """
        if len(inputs) not in (1, 3):
            raise ValueError(
                f"`inputs` must be three inputs (3, ...), or one input (1, ...), which define a plane, got {len(inputs)}."
            )
        shape = inputs.shape[1:]
        if shape.numel() < 2:
            raise ValueError(
                f"A plane needs inputs of at least 2 features, got {shape.numel()}: use `segment_walks` on a line."
            )
        if directions is not None and len(inputs) == 3:
            raise ValueError(
                "`directions` go with one input, got three inputs, which define the plane: leave `directions` out."
            )
        flat = inputs.detach().double().flatten(1)
        if shape.numel() == 2 and directions is None:
            origin, basis = torch.zeros_like(flat[0]), torch.eye(2).to(flat)
        elif len(inputs) == 3:
            origin, basis = flat.mean(0), _through(flat, torch.finfo(inputs.dtype).eps)
        else:
            origin, basis = flat[0], _along(directions, shape, seed).to(flat)
        return cls(origin.view(shape), basis.view(2, *shape), (flat - origin) @ basis.mT)

    def inputs(self, points: Tensor) -> Tensor:
        """Return the inputs (P, ...) at points (P, 2) of the plane."""
        inputs: Tensor = self.origin + torch.tensordot(points.to(self.basis), self.basis, dims=1)
        return inputs


def _through(flat: Tensor, rounding: float) -> Tensor:
    """Return orthonormal directions (2, d) of the plane of three inputs (3, d); the first leads from input 0 to input 1."""
    first, second = flat[1] - flat[0], flat[2] - flat[0]
    length = first.norm()
    along = first / length if length > 0 else first
    across = second - (second @ along) * along
    across = across - (across @ along) * along  # again, because the first subtraction rounds
    if min(length, across.norm()) <= ON_A_LINE * rounding * flat.norm(dim=1).max():
        raise InputsOnALine(
            "The three inputs must define a plane, but lie on one line: pass three that do not, or one input and two "
            "`directions=`; `segment_walks` finds the regions on a line."
        )
    return torch.stack([along, across / across.norm()])


def _along(directions: Tensor | None, shape: torch.Size, seed: int) -> Tensor:
    """Return orthonormal directions (2, d) that span the given ones, or random ones."""
    if directions is None:
        return random_directions(1, 2, shape.numel(), seed)[0]
    if not isinstance(directions, Tensor) or directions.shape != (2, *shape):
        got = tuple(directions.shape) if isinstance(directions, Tensor) else type(directions).__name__
        raise ValueError(f"`directions` must be two directions {(2, *shape)} in the inputs' shape, got {got}.")
    flat = directions.detach().double().flatten(1)
    rounding = torch.finfo(directions.dtype).eps if directions.is_floating_point() else 0.0
    length = flat[0].norm()
    along = flat[0] / length
    across = flat[1] - (flat[1] @ along) * along
    across = across - (across @ along) * along
    if not bool(flat.isfinite().all()) or not length > 0 or across.norm() <= ON_A_LINE * rounding * flat[1].norm():
        raise ValueError(
            "`directions` must be finite and linearly independent, got one that is 0, not finite, or a multiple of the other."
        )
    return torch.stack([along, across / across.norm()])

"""Walks on segments and regions around inputs, found only by evaluating a float64 copy of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from helpers.random_models import Bend, Checkpointed

DIFFERS = 1e-11
"""Largest deviation of a pre-activation from a straight line, as a share of the layer's largest magnitude."""

SHORTEST = 1e-10
"""Length in t below which an interval is not halved."""

TIED, APART = 2e-10, 1e-8
"""Distances in t: crossings closer than the first are one step; the twin leaves those between the two undecided."""

THRESHOLDS = {nn.Hardsigmoid: (-3.0, 3.0), nn.Hardswish: (-3.0, 3.0)}
ACTIVATIONS = "ReLU LeakyReLU PReLU RReLU Hardtanh Hardsigmoid Softshrink GELU SiLU Tanh ELU Softplus Mish Sigmoid SELU CELU"
ACTIVATIONS += " Softsign Hardswish LogSigmoid"


class Twin:
    """A copy of a network in float64 and evaluation mode that records its pre-activations.

    Calling it with inputs (B, ...) returns pre-activations minus thresholds (B, N), and the largest magnitude of each layer (N,).
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = _without_compilation(copy.deepcopy(net)).double().eval()
        self._tape: list[Tensor] = []
        for module in self._net.modules():
            if isinstance(module, Bend):
                module.note = self._note
            elif isinstance(module, Checkpointed):
                module.always = False  # or it would run again in the backward pass
            elif type(module).__name__ in ACTIVATIONS.split() or isinstance(module, nn.ReLU6):
                module.register_forward_pre_hook(lambda module, args: self._note(args[0], _thresholds(module)))

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self._tape.clear()
        self.output = self._net(inputs.double())
        scales = [layer.abs().max().expand(layer.shape[1]) for layer in self._layers]
        return torch.cat([layer - t for layer, t in zip(self._layers, self._at, strict=True)], 1), torch.cat(scales).detach()

    def bits(self, inputs: Tensor) -> Tensor:
        """Return the codes (B, N) of inputs."""
        with torch.no_grad():
            margins, scales = self(inputs)
        return margins > 1e-12 * scales

    def half_spaces(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normals (N, d) and slacks (N,) of the region around an input (1, ...), by gradients."""
        x = x.detach().double().clone().requires_grad_()
        margins, _ = self(x * 1.0)
        sign = torch.where(margins[0] > 0, 1.0, -1.0)
        rows = [_gradient(margin, x) for margin in margins[0]]
        return sign[:, None] * torch.stack(rows), sign * margins[0].detach()

    def _note(self, z: Tensor, thresholds: tuple[float, ...]) -> None:
        self._tape.extend((z.flatten(1).clone(), t) for t in thresholds)

    @property
    def _layers(self) -> list[Tensor]:
        return [z for z, _ in self._tape]

    @property
    def _at(self) -> list[float]:
        return [t for _, t in self._tape]


def _gradient(margin: Tensor, x: Tensor) -> Tensor:
    if not margin.requires_grad:
        return torch.zeros(x.numel(), dtype=x.dtype)
    (gradient,) = torch.autograd.grad(margin, x, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x).flatten() if gradient is None else gradient.flatten()


def _thresholds(module: nn.Module) -> tuple[float, ...]:
    if isinstance(module, nn.Hardtanh):
        return (float(module.min_val), float(module.max_val))
    if isinstance(module, nn.Softshrink):
        return (-module.lambd, module.lambd)
    return THRESHOLDS.get(type(module), (0.0,))


def _without_compilation(net: nn.Module) -> nn.Module:
    for name, child in net.named_children():
        setattr(net, name, _without_compilation(getattr(child, "_orig_mod", child)))
    return net


@dataclass
class Steps:
    """A walk: positions of its steps, and the units that switch at each.

    Attributes:
        steps: (position, units) in order.
        is_told: Whether all crossings are far enough apart for the twin to order them.
    """

    steps: list[tuple[float, tuple[int, ...]]]
    is_told: bool

    @property
    def range_and_length(self) -> tuple[int, int]:
        """r1 and r2, computed step by step."""
        code: set[int] = set()
        reached = walked = 0
        for _, units in self.steps:
            code ^= set(units)
            reached, walked = max(reached, len(code)), walked + len(units)
        return reached, walked


def walk(twin: Twin, start: Tensor, end: Tensor, first: int = 17) -> Steps:
    """Return the walk between two inputs.

    Intervals are halved until all pre-activations are straight on them, or they are shorter than `SHORTEST`. A straight
    pre-activation crosses its threshold at most once, where its line does.
    """

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            weight = t.view(-1, *[1] * start.dim())
            return twin((1 - weight) * start.double() + weight * end.double())

    t = torch.linspace(0, 1, first, dtype=torch.float64)
    z, scale = at(t)
    left, right, at_left, at_right = t[:-1], t[1:], z[:-1], z[1:]
    crossings: list[tuple[float, int]] = []
    while len(left):
        settled = _is_straight(at, left, right, at_left, at_right, scale) | (right - left < SHORTEST)
        crossings += _crossings(left[settled], right[settled], at_left[settled], at_right[settled], 1e-12 * scale)
        left, right, at_left, at_right = (part[~settled] for part in (left, right, at_left, at_right))
        middle = (left + right) / 2
        if len(middle):
            at_middle, largest = at(middle)
            scale = torch.maximum(scale, largest)
            left, right = torch.cat([left, middle]), torch.cat([middle, right])
            at_left, at_right = torch.cat([at_left, at_middle]), torch.cat([at_middle, at_right])
    return _in_steps(sorted(crossings))


def _is_straight(
    at: Callable[[Tensor], Any], left: Tensor, right: Tensor, at_left: Tensor, at_right: Tensor, scale: Tensor
) -> Tensor:
    straight = torch.ones_like(left, dtype=torch.bool)
    for weight in (0.37, 0.52, 0.81):
        z, _ = at(torch.lerp(left, right, weight))
        straight &= ((z - torch.lerp(at_left, at_right, weight)).abs() <= DIFFERS * scale).all(1)
    return straight


def _crossings(left: Tensor, right: Tensor, at_left: Tensor, at_right: Tensor, zero: Tensor) -> list[tuple[float, int]]:
    interval, unit = ((at_left > zero) != (at_right > zero)).nonzero(as_tuple=True)
    a, b = at_left[interval, unit], at_right[interval, unit]
    position = torch.lerp(left[interval], right[interval], (a / (a - b)).clamp(0, 1))
    return list(zip(position.tolist(), unit.tolist(), strict=True))


def _in_steps(crossings: list[tuple[float, int]]) -> Steps:
    steps: list[tuple[float, tuple[int, ...]]] = []
    last, is_told = -1.0, True
    for position, unit in crossings:
        if position - last < TIED:
            steps[-1] = (steps[-1][0], (*steps[-1][1], unit))
        else:
            is_told &= position - last > APART
            steps.append((position, (unit,)))
        last = position
    is_told &= all(len(set(units)) == len(units) for _, units in steps)
    return Steps([(position, tuple(sorted(units))) for position, units in steps], is_told)

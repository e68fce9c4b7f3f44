"""The activations that count, and the thresholds of each.

A unit's bit is 1 iff its pre-activation is strictly above the threshold ("ReLU Code Space", Definition 1, for ReLU). For other
activations, "The Space Between" takes the sign of the pre-activation where it equals the sign of the output. Thresholds of
activations where it does not, and of those with two kinks and hence two thresholds, are this project's reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fold_lightning.activations.operations import operation_name

Thresholds = tuple[float, ...]


@dataclass(frozen=True)
class Activation:
    """Thresholds of an activation, and its shape between them.

    Attributes:
        thresholds: Function of the call's arguments after the input that returns the thresholds of the pre-activation.
        piecewise_linear: Whether it is continuous, and linear between its thresholds.
        pre_activation: Function that returns the part of the call's input that is the pre-activation; None takes all of it.
    """

    thresholds: Callable[..., Thresholds]
    piecewise_linear: bool = False
    pre_activation: Callable[..., Tensor] | None = None


def _at(*thresholds: float) -> Callable[..., Thresholds]:
    return lambda *_, **__: thresholds


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, *_: Any, **__: Any) -> Thresholds:
    return (float(min_val), float(max_val))


def _shrink(lambd: float = 0.5, *_: Any, **__: Any) -> Thresholds:
    return (-float(lambd), float(lambd))


RELU = Activation(_at(0.0), piecewise_linear=True)
"""Piecewise linear with its only kink at 0."""

_TABLE: dict[str, Activation] = {
    # Piecewise linear, with the only kink at 0: a PReLU with any slopes, an RReLU in evaluation mode.
    **dict.fromkeys("relu leaky_relu prelu rrelu abs absolute".split(), RELU),
    # Piecewise linear, with two kinks; `nn.ReLU6` arrives here as hardtanh(0, 6).
    "relu6": Activation(_at(0.0, 6.0), piecewise_linear=True),
    "hardtanh": Activation(_hardtanh, piecewise_linear=True),
    "hardsigmoid": Activation(_at(-3.0, 3.0), piecewise_linear=True),
    "softshrink": Activation(_shrink, piecewise_linear=True),
    # Curved. The output has the sign of the pre-activation, or always the same sign: then 0 is the middle of the bend.
    **dict.fromkeys(
        "gelu silu mish elu selu celu tanh softsign tanhshrink softplus sigmoid logsigmoid".split(), Activation(_at(0.0))
    ),
    # The sign of a gate's pre-activation says whether the gate is open.
    "glu": Activation(_at(0.0), pre_activation=lambda x, dim=-1: x.chunk(2, dim)[1]),
    # Curved, with two kinks.
    "hardswish": Activation(_at(-3.0, 3.0)),
    # Discontinuous.
    "hardshrink": Activation(_shrink),
    "threshold": Activation(lambda threshold, *_, **__: (float(threshold),)),
}

_BY_MODULE: dict[type[nn.Module], Activation] = {}


def activation_of(name: str) -> Activation | None:
    """Return the activation of a function's name, or None."""
    return _TABLE.get(name)


def module_activation_of(module: nn.Module) -> Activation | None:
    """Return the activation that was registered for a module's class or a base of it, or None."""
    return next((_BY_MODULE[cls] for cls in type(module).__mro__ if cls in _BY_MODULE), None)


def register_activation(
    function: Callable[..., Any] | type[nn.Module], thresholds: tuple[float, ...] = (0.0,), piecewise_linear: bool = False
) -> None:
    """Register an activation, so that its units count.

    Its pre-activation is its first argument; each threshold gives a bit, which is 1 iff the pre-activation is strictly above
    it.

    Args:
        function: A torch function, whose method and in-place forms count too, or the class of a module. Calls of a plain Python
            function can't be intercepted: wrap it in a module.
        thresholds: Thresholds of the pre-activation, at least one, ascending.
        piecewise_linear: Whether it is continuous, and linear between its thresholds. Walks through it are then exact where
            their own check confirms it; otherwise they are found by refinement.

    Raises:
        TypeError: If `function` is neither a torch function nor the class of a module.
        ValueError: If `thresholds` is not a sequence of finite, ascending numbers, at least one.

    Example:
        >>> class Snake(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x + x.sin() ** 2
        >>> register_activation(Snake)
        >>> from fold_lightning import activation_codes
        >>> activation_codes(torch.nn.Sequential(Snake()), torch.tensor([[-1.0, 2.0]])).bits
        tensor([[False,  True]])
    """
    numbers = [*thresholds] if isinstance(thresholds, Iterable) else []
    is_finite = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
    if not numbers or not is_finite or any(low >= high for low, high in pairwise(numbers)):
        raise ValueError(f"`thresholds` must be finite, ascending numbers, such as (0.0,) or (-3.0, 3.0), got {thresholds!r}.")
    activation = Activation(_at(*map(float, numbers)), piecewise_linear=piecewise_linear)
    if isinstance(function, type) and issubclass(function, nn.Module):
        _BY_MODULE[function] = activation
    elif function in torch.overrides.get_testing_overrides():
        _TABLE[operation_name(function)] = activation  # type: ignore[arg-type]
    else:
        raise TypeError(
            f"`function` must be a function of torch or the class of a module, got {function!r}: calls of anything else cannot be "
            "intercepted. Wrap it in an `nn.Module` and register its class."
        )

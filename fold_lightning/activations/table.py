"""The activations that count, and where each of them bends.

A unit's bit is 1 iff its pre-activation is strictly above the threshold ("ReLU Code Space", Definition 1, for ReLU; signs of
pre-activations for others, "The Space Between"). Two-threshold activations give two bits a unit; that is this project's
reading, the papers do not treat them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Thresholds = tuple[float, ...]


def _at_zero(*_: Any, **__: Any) -> Thresholds:
    return (0.0,)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, *_: Any, **__: Any) -> Thresholds:
    return (float(min_val), float(max_val))


def _softshrink(lambd: float = 0.5, *_: Any, **__: Any) -> Thresholds:
    return (-float(lambd), float(lambd))


THRESHOLDS: dict[str, Callable[..., Thresholds]] = {
    "relu": _at_zero,  # its only kink
    "leaky_relu": _at_zero,
    "prelu": _at_zero,  # wherever its learnt slopes have gone, the kink stays
    "rrelu": _at_zero,  # in evaluation mode a leaky ReLU with the mean slope
    "abs": _at_zero,  # folds at 0
    "absolute": _at_zero,
    "relu6": lambda *_, **__: (0.0, 6.0),
    "hardtanh": _hardtanh,  # both its kinks; `nn.ReLU6` arrives here as hardtanh(0, 6)
    "hardsigmoid": lambda *_, **__: (-3.0, 3.0),
    "softshrink": _softshrink,
}
"""Function name -> thresholds of the pre-activation, from the call's arguments after the input."""

NAMES = "ReLU, LeakyReLU, PReLU, RReLU, abs, ReLU6, Hardtanh, Hardsigmoid, Softshrink"
"""The table in words, for messages."""

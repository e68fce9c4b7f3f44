"""ReLUs written with other operations, and negative parts, which have their kink at the same place.

``x.clamp(min=0)``, ``maximum(x, 0)``, ``where(x > 0, x, 0)``, ``x * (x > 0)``, ``x.masked_fill(x < 0, 0)``, ``x[x < 0] = 0``, and
``x.clamp(max=0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.operations import CASTS, CLAMPS, bounds_of
from fold_lightning.activations.tracking import Comparison, comparison_of, depends_on_input, mark_comparison

MAXIMA = frozenset(["maximum", "fmax", "max"])
MINIMA = frozenset(["minimum", "fmin", "min"])
MASK_CASTS = CASTS | frozenset("int long short bool byte char int8 uint8".split())
PRODUCTS = frozenset(["mul", "multiply"])
NEGATIONS = frozenset("logical_not bitwise_not invert".split())
ABOVE = frozenset(["gt", "ge", "greater", "greater_equal"])
BELOW = frozenset(["lt", "le", "less", "less_equal"])


def find_part(call: Call) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """Return the tensor whose positive or negative part a call takes, and the function that takes it; None for other calls."""
    name, args = call.name, call.args
    if call.kwargs.get("out") is not None or not args or not isinstance(args[0], Tensor):
        return None
    if name in CLAMPS:
        low, high = bounds_of(call)
        if high is None and _is_zero(low):
            return args[0], torch.relu
        return (args[0], negative_part) if low is None and _is_zero(high) else None
    if name in MAXIMA | MINIMA:
        x = _other_than_zero(args[0], call.argument(1, "other"))
        return None if x is None else (x, torch.relu if name in MAXIMA else negative_part)
    if name == "threshold" and tuple(map(_number, args[1:3])) == (0, 0):
        return args[0], torch.relu
    for mask, x, y in _masked(name, args):
        comparison = comparison_of(mask)
        if comparison is not None and comparison.bound == 0:
            kept, other = (x, y) if comparison.above else (y, x)
            if comparison.is_of(kept) and _is_zero(other):
                return kept, torch.relu
    return None


def negative_part(x: Tensor) -> Tensor:
    """Return x where it is negative, else 0."""
    return -torch.relu(-x)


def _masked(name: str, args: tuple[Any, ...]) -> list[tuple[Any, Any, Any]]:
    """Return candidates for a mask, the values where it is True, and the values where it is False."""
    if name in PRODUCTS and len(args) == 2:
        return [(args[0], args[1], 0), (args[1], args[0], 0)]
    if name == "where" and len(args) == 3:
        return [args, (args[1], args[0], args[2])]  # torch.where and Tensor.where
    if name in ("masked_fill", "masked_scatter", "setitem") and len(args) == 3:
        return [(args[1], args[2], args[0])]
    return []


def note_comparison(call: Call, result: Any) -> None:
    """Mark a mask with the comparison that made it; casts and negations keep the mark."""
    name, args = call.name, call.args
    if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
        return
    known = comparison_of(args[0])
    if known is not None and name in MASK_CASTS | NEGATIONS:
        mark_comparison(result, replace(known, above=known.above if name in MASK_CASTS else not known.above))
    elif name in ABOVE | BELOW and (bound := _number(call.argument(1, "other"))) is not None:
        mark_comparison(result, Comparison(args[0], args[0]._version, bound, name in ABOVE))


def keeps_comparison(call: Call) -> bool:
    """Return whether a call casts or negates a mask that is marked with a comparison."""
    return call.name in MASK_CASTS | NEGATIONS and bool(call.args) and comparison_of(call.args[0]) is not None


def _other_than_zero(*pair: Any) -> Tensor | None:
    if not all(isinstance(item, Tensor) for item in pair):
        return None
    for x, other in (pair, pair[::-1]):
        if depends_on_input(x) and _is_zero(other) and x.dim() >= other.dim():
            return x  # type: ignore[no-any-return]
    return None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not depends_on_input(value) and not bool(value.any())
    return isinstance(value, (int, float)) and value == 0


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not depends_on_input(value) else None
    return float(value) if isinstance(value, (int, float)) else None

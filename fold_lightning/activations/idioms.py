"""ReLUs written with other operations, and negative parts, which bend at the same place.

``x.clamp(min=0)``, ``maximum(x, 0)``, ``where(x > 0, x, 0)``, ``x * (x > 0)``, ``x.masked_fill(x < 0, 0)``, ``x[x < 0] = 0``, and
``x.clamp(max=0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.operations import CASTS, CLAMPS
from fold_lightning.activations.tracking import Comparison, comparison_of, depends_on_input, mark_comparison

MAXIMA = frozenset(["maximum", "fmax", "max"])
MINIMA = frozenset(["minimum", "fmin", "min"])
MASK_CASTS = CASTS | frozenset("int long short bool byte char int8 uint8".split())
PRODUCTS = frozenset(["mul", "multiply"])
NEGATIONS = frozenset("logical_not bitwise_not invert".split())
ABOVE = frozenset(["gt", "ge", "greater", "greater_equal"])
BELOW = frozenset(["lt", "le", "less", "less_equal"])


@dataclass(frozen=True)
class Part:
    """The positive or the negative part of a tensor, as a function of it."""

    of: Tensor
    take: Callable[[Tensor], Tensor] = torch.relu


def find_part(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Part | None:
    """Return of which tensor a call takes the positive or the negative part; None for any other call.

    Args:
        name: Name of the operation, as of `operation_name`.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    if kwargs.get("out") is not None or not args or not isinstance(args[0], Tensor):
        return None
    if name in CLAMPS:
        return _clamped(name, args[0], args[1:], kwargs)
    if name in MAXIMA | MINIMA:
        x = _other_than_zero(*args[:2], *([kwargs["other"]] if "other" in kwargs else []))
        return None if x is None else Part(x, torch.relu if name in MAXIMA else negative_part)
    x = _positive(name, args)
    return None if x is None else Part(x)


def negative_part(x: Tensor) -> Tensor:
    """Return x where it is negative, else 0."""
    return -torch.relu(-x)


def _positive(name: str, args: tuple[Any, ...]) -> Tensor | None:
    if name in PRODUCTS and len(args) == 2:
        return _masked(args[0], args[1]) if isinstance(args[1], Tensor) else None
    if name == "where" and len(args) == 3:
        is_method = comparison_of(args[0]) is None  # x.where(mask, other)
        return _chosen(args[1], args[0], args[2]) if is_method else _chosen(*args)
    if name == "threshold" and tuple(map(_number, args[1:3])) == (0, 0):
        return args[0]  # type: ignore[no-any-return]
    is_zeroing = name in ("masked_fill", "masked_scatter", "setitem") and len(args) == 3
    return _zeroed(args[0], args[1], args[2]) if is_zeroing else None


def note_comparison(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Note on a mask what it compares with which number, and keep the note through casts."""
    if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
        return
    if keeps_comparison(name, args):
        known = comparison_of(args[0])
        assert known is not None
        above = known.above if name in MASK_CASTS else not known.above
        mark_comparison(result, Comparison(known.tensor, known.version, known.bound, above))
    elif name in ABOVE | BELOW and len(args) + len(kwargs) == 2:
        bound = _number(args[1] if len(args) == 2 else kwargs.get("other"))
        if bound is not None:
            mark_comparison(result, Comparison(args[0], args[0]._version, bound, name in ABOVE))


def keeps_comparison(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether a call casts or negates a mask that compares."""
    return name in MASK_CASTS | NEGATIONS and bool(args) and comparison_of(args[0]) is not None


def _clamped(name: str, x: Tensor, bounds: tuple[Any, ...], kwargs: dict[str, Any]) -> Part | None:
    names = {"clamp_min": ["min"], "clamp_max": ["max"]}.get(name, ["min", "max"])
    given = dict(zip(names, bounds, strict=False)) | kwargs
    low, high = given.get("min"), given.get("max")
    if low is not None and high is None and _is_zero(low):
        return Part(x)
    return Part(x, negative_part) if high is not None and low is None and _is_zero(high) else None


def _other_than_zero(*pair: Any) -> Tensor | None:
    if len(pair) != 2 or not all(isinstance(item, Tensor) for item in pair):
        return None
    for x, other in (pair, pair[::-1]):
        if depends_on_input(x) and _is_zero(other) and x.dim() >= other.dim():
            return x  # type: ignore[no-any-return]
    return None


def _masked(*pair: Tensor) -> Tensor | None:
    for x, mask in (pair, pair[::-1]):
        comparison = comparison_of(mask)
        if comparison is not None and comparison.bound == 0 and comparison.above and comparison.is_of(x):
            return x
    return None


def _chosen(mask: Any, x: Any, y: Any) -> Tensor | None:
    comparison = comparison_of(mask)
    if comparison is None or comparison.bound != 0:
        return None
    kept, other = (x, y) if comparison.above else (y, x)
    return kept if comparison.is_of(kept) and _is_zero(other) else None


def _zeroed(x: Any, mask: Any, value: Any) -> Tensor | None:
    comparison = comparison_of(mask)
    is_relu = comparison is not None and comparison.bound == 0 and not comparison.above and comparison.is_of(x)
    return x if is_relu and _is_zero(value) else None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not depends_on_input(value) and not bool(value.any())
    return isinstance(value, (int, float)) and value == 0


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not depends_on_input(value) else None
    return float(value) if isinstance(value, (int, float)) else None

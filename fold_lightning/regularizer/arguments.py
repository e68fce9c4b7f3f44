"""Checks of the regularizer's arguments and batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from torch import Tensor

from fold_lightning._checks import check_choice, check_integer, check_layers, is_number
from fold_lightning.activations.codes import check_inputs
from fold_lightning.regularizer.pairs import Between
from fold_lightning.regularizer.schedules import check_schedule

MINIMUM = {"warm_steps": 0, "every_n_steps": 1, "num_segments": 1, "num_points": 3, "seed": 0}
"""Minimum of each integer argument; walks of 2 points can't turn back."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise unless the arguments of a `FoldingRegularizer`, by name, are valid.

    Raises:
        ValueError: If a number is out of range, or a name unknown.
        TypeError: If a number is of another type, a count no integer, or `layers` are neither names nor patterns.
    """
    share, temperature, damping = (arguments[name] for name in ("share", "temperature", "damping"))
    until, until_epoch, layers = (arguments[name] for name in ("until", "until_epoch", "layers"))
    _check_number("weight", arguments["weight"], "a finite number")
    if share is not None:
        kind = "a finite number above 0, or None to add the term to the loss"
        _check_number("share", share, kind, _is_above_0, ": a `weight` below 0 pushes the other way")
    _check_number("temperature", temperature, "a finite number above 0", _is_above_0)
    _check_number("damping", damping, "a finite number of at least 0", lambda number: number >= 0)
    kind = "a share of the training in (0, 1]"
    _check_number("until", until, kind, lambda number: 0 < number <= 1, ": pass an epoch as `until_epoch`")
    if until_epoch is not None and until != 1:
        raise ValueError(f"`until={until!r}` and `until_epoch={until_epoch!r}` both say when the schedule ends: give one.")
    for name, least in (MINIMUM | ({} if until_epoch is None else {"until_epoch": 1})).items():
        check_integer(name, arguments[name], least)
    check_choice("between", arguments["between"], get_args(Between))
    check_layers(layers)
    check_schedule(arguments["schedule"])


def check_batch(inputs: Any, labels: Any) -> None:
    """Raise unless inputs are a floating-point tensor (B, ...), B at least 1, and labels None or integers (B,).

    Raises:
        ValueError: For an empty batch, and for labels of another shape.
        TypeError: For inputs that are not a floating-point tensor, or labels that are not integers.
    """
    check_inputs(inputs, finite=False)
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"`labels` must be a tensor of integer classes (B,), got {got}; pass None if there are no classes.")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"`labels` must have shape (B,), one class for each of {len(inputs)} inputs, got {tuple(labels.shape)}."
        )


def _is_above_0(number: float) -> bool:
    return number > 0


def _check_number(
    name: str, value: Any, kind: str, is_in_range: Callable[[float], bool] = math.isfinite, advice: str = ""
) -> None:
    """Raise a TypeError unless a value is a number, and a ValueError unless it is finite and in range."""
    message = f"`{name}` must be {kind}, got {value!r}{advice}."
    if not is_number(value):
        raise TypeError(message)
    if not (math.isfinite(value) and is_in_range(value)):
        raise ValueError(message)

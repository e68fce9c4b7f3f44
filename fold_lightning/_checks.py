"""Checks of arguments, shared by all modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_integer(value: Any, least: int) -> bool:
    """Return whether a value is an integer of at least `least`; a bool does not count.

    Example:
        >>> is_integer(1, 1), is_integer(True, 1), is_integer(1.0, 1)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or a float; a bool does not count.

    Example:
        >>> is_number(1), is_number(0.5), is_number(True), is_number("1")
        (True, True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_integer(name: str, value: Any, least: int, *, below: int | None = None) -> None:
    """Raise unless a value is an integer of at least `least`, and less than `below`; a bool does not count.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.

    Example:
        >>> check_integer("num_points", 129, 2)
        >>> check_integer("num_points", 1, 2)
        Traceback (most recent call last):
            ...
        ValueError: `num_points` must be an integer of at least 2, got 1.
    """
    limit = "" if below is None else f" and less than {below:,}"
    message = f"`{name}` must be an integer of at least {least}{limit}, got {value!r}."
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(message)
    if value < least or (below is not None and value >= below):
        raise ValueError(message)


def check_bool(name: str, value: Any) -> None:
    """Raise unless a value is True or False.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise unless a value is one of some choices.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> check_choice("method", "exakt", ("auto", "exact", "uniform"))
        Traceback (most recent call last):
            ...
        ValueError: `method` must be one of 'auto', 'exact', 'uniform', got 'exakt'.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_function(name: str, value: Any) -> None:
    """Raise unless a value is callable.

    Raises:
        TypeError: If it is not.
    """
    if not callable(value):
        raise TypeError(f"`{name}` must be a function, got {value!r}.")


def check_layers(layers: Any) -> None:
    """Raise unless a value is a name or glob pattern of layers, a list or tuple of them, or None.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If it is empty.

    Example:
        >>> check_layers(["encoder.*", "head"])
        >>> check_layers([])
        Traceback (most recent call last):
            ...
        ValueError: `layers` must hold names or glob patterns, got []: name a layer, or pass None for all of them.
    """
    if layers is None:
        return
    patterns = layers if isinstance(layers, (list, tuple)) else [layers]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`layers` must be names or glob patterns, got {pattern!r}.")
    if not patterns:
        raise ValueError(
            f"`layers` must hold names or glob patterns, got {layers!r}: name a layer, or pass None for all of them."
        )


def check_classes(
    name: str, classes: Any, num_rows: int, num_classes: int, *, row: str = "input", if_negative: str = ""
) -> None:
    """Raise unless a value is a tensor (num_rows,) of classes from 0 to `num_classes` - 1.

    Args:
        name: Name of the argument.
        classes: The value.
        num_rows: Number of rows.
        num_classes: Number of classes.
        row: Name of what each row has a class of, for the message.
        if_negative: Advice on rows whose class is negative, such as those of inputs without a class, for the message.

    Raises:
        TypeError: If it is not a tensor of integers.
        ValueError: If it has another shape, or a class is out of range.

    Example:
        >>> check_classes("labels", torch.tensor([0, 2]), 2, num_classes=2)
        Traceback (most recent call last):
            ...
        ValueError: `labels` must lie in 0 to 1 for `num_classes=2`, got 0 to 2.
    """
    is_tensor = isinstance(classes, Tensor)
    if not is_tensor or classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        got = classes.dtype if is_tensor else type(classes).__name__
        raise TypeError(f"`{name}` must be a tensor of integer classes ({num_rows},), got {got}.")
    if classes.shape != (num_rows,):
        raise ValueError(f"`{name}` must have shape ({num_rows},), one class for each {row}, got {tuple(classes.shape)}.")
    low, high = (int(classes.min()), int(classes.max())) if num_rows else (0, 0)
    if low < 0 or high >= num_classes:
        advice = f": {if_negative}" if low < 0 and if_negative else ""
        raise ValueError(
            f"`{name}` must lie in 0 to {num_classes - 1} for `num_classes={num_classes}`, got {low} to {high}{advice}."
        )

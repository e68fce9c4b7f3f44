"""Checks of arguments, each written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def is_integer(value: Any, least: int) -> bool:
    """Return whether a value is an integer of at least `least`; True is no integer.

    Example:
        >>> is_integer(1, 1), is_integer(True, 1), is_integer(1.0, 1)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_integer(name: str, value: Any, least: int, *, below: int | None = None) -> None:
    """Raise unless a value is an integer of at least `least`, and less than `below`; True is no integer.

    Raises:
        TypeError: If it is no integer.
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
        TypeError: If it is anything else.
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
    """Raise unless a value can be called.

    Raises:
        TypeError: If it can't.
    """
    if not callable(value):
        raise TypeError(f"`{name}` must be a function, got {value!r}.")

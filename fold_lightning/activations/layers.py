"""Layers: the activations of a forward pass, selected by the user's patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

Patterns = str | Sequence[str] | None

NAMED = 8
"""Maximum number of layers that a description names."""


def describe_layers(layers: Mapping[str, slice]) -> str:
    """Return the names of layers and their numbers of units, shortened for networks with many layers.

    Example:
        >>> describe_layers({"low": slice(0, 3), "high": slice(3, 9)})
        '{low: 3, high: 6}'
    """
    parts = [f"{name}: {columns.stop - columns.start}" for name, columns in list(layers.items())[:NAMED]]
    parts += [f"{len(layers) - NAMED} more"] if len(layers) > NAMED else []
    return f"{{{', '.join(parts)}}}"


def select_layers(patterns: Patterns, layers: Sequence[str]) -> list[str]:
    """Return the layers that a name, a glob pattern or a sequence of them selects, in execution order.

    Raises:
        TypeError: If a pattern is not a string.
        ValueError: If a pattern matches no layer, or there is no pattern.

    Example:
        >>> select_layers("encoder.*", ["encoder.0", "encoder.2", "head"])
        ['encoder.0', 'encoder.2']
    """
    if patterns is None:
        return list(layers)
    patterns = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`layers` must be names or glob patterns, got {pattern!r}.")
        if not any(_matches(pattern, layer) for layer in layers):
            raise ValueError(
                f"`layers` pattern {pattern!r} matches no activation. The model has: {', '.join(layers)}. "
                "Use one of these names, or a glob pattern such as 'encoder.*'."
            )
    if not patterns:
        raise ValueError(f"`layers` is empty: name one of {', '.join(layers)}, or pass None for all of them.")
    return [layer for layer in layers if any(_matches(pattern, layer) for pattern in patterns)]


def columns(widths: dict[str, int]) -> dict[str, slice]:
    """Return layer name -> columns, for layers side by side in execution order."""
    slices, start = {}, 0
    for layer, width in widths.items():
        slices[layer] = slice(start, start + width)
        start += width
    return slices


def _matches(pattern: str, layer: str) -> bool:
    return pattern == layer or fnmatchcase(layer, pattern)

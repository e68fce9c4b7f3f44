"""Which tensors follow the input, row for row: a mark on the tensor objects themselves, wherever they are nested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor

_T = TypeVar("_T")


def follow(tensor: _T, *, constant: bool = False) -> _T:
    """Marks a tensor as having a row for each input; a constant one has the same in each."""
    tensor._follows_input = "constant" if constant else "varying"  # type: ignore[attr-defined]
    return tensor


def follows(tensor: Tensor) -> bool:
    """Whether a tensor has a row for each input."""
    return hasattr(tensor, "_follows_input")


def varies(tensor: Tensor) -> bool:
    """Whether a tensor depends on the inputs."""
    return getattr(tensor, "_follows_input", None) == "varying"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nest of tuples, lists and dicts, with a function of each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, item) for item in value)
    if type(value) is dict:
        return {key: map_tensors(function, item) for key, item in value.items()}
    return value

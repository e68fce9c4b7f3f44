"""Marks on tensors during a pass: whether they have one row per input, depend on the inputs, or compare values with a bound.

A mark is an attribute of the tensor object itself, so it is found wherever the tensor is nested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

_T = TypeVar("_T")


def mark_rows(tensor: _T, *, constant: bool = False) -> _T:
    """Mark a tensor as having one row per input; a constant one has equal rows."""
    tensor._input_rows = "constant" if constant else "varying"  # type: ignore[attr-defined]
    return tensor


def has_input_rows(tensor: Tensor) -> bool:
    """Return whether a tensor has one row per input."""
    return hasattr(tensor, "_input_rows")


def depends_on_input(value: Any) -> bool:
    """Return whether a value is a tensor that depends on the inputs."""
    return getattr(value, "_input_rows", None) == "varying"


@dataclass(frozen=True)
class Comparison:
    """Comparison that made a mask: `tensor`, as it was at `version`, is above or below a bound."""

    tensor: Tensor
    version: int
    bound: float
    above: bool

    def is_of(self, tensor: Any) -> bool:
        """Return whether the mask compares the values of this tensor."""
        if not isinstance(tensor, Tensor) or self.tensor._version != self.version:
            return False
        same_memory = tensor.shape == self.tensor.shape and tensor.stride() == self.tensor.stride()
        return tensor is self.tensor or (same_memory and tensor.data_ptr() == self.tensor.data_ptr())


def mark_comparison(mask: Tensor, comparison: Comparison) -> None:
    """Mark a mask with the comparison that made it."""
    mask._comparison = comparison  # type: ignore[attr-defined]


def comparison_of(mask: Any) -> Comparison | None:
    """Return the comparison that made a mask, or None if it is unknown."""
    return getattr(mask, "_comparison", None)


def forget_marks(tensor: Tensor) -> None:
    """Remove all marks of a tensor, because its values are no longer those of the pass that marked it."""
    for mark in ("_input_rows", "_comparison"):
        vars(tensor).pop(mark, None)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for item in value for tensor in tensors_in(item)]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to each tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, item) for item in value)
    if type(value) is dict:
        return {key: map_tensors(function, item) for key, item in value.items()}
    return value


def memory_of(tensor: Tensor) -> int:
    """Return the address of a tensor's memory; 0 for one without memory of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse tensors and those of torch.func have none of their own
        return 0

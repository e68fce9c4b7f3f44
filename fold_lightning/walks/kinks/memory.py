"""Memory of large tensors, which is used again and laid out side by side: fresh pages and copies cost as much as arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")

CACHE_NUMEL = 2**15
"""Number of elements of one step of a chain of operations, so that they stay in a processor's cache: 256 KiB."""


class Scratch:
    """Memory and results that are used again by passes over one model.

    The next scan overwrites tensors that were taken from it.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}
        self._results: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result that is stored for a key, or make it."""
        if key not in self._results:
            self._results[key] = make()
        return cast("T", self._results[key])

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return an uninitialised tensor in the memory of the one taken before under this name.

        Args:
            name: Name of the memory.
            like: A tensor of the same type and device.
            shape: Its shape.
        """
        numel = prod(shape)
        if name not in self._memory or self._memory[name].numel() < numel:
            self._memory.pop(name, None)
            self._memory[name] = like.new_empty(numel)
        return self._memory[name][:numel].view(shape)


def blanks(like: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Return uninitialised tensors that lie side by side in memory."""
    sizes = [prod(shape) for shape in shapes]
    return [part.view(shape) for part, shape in zip(like.new_empty(sum(sizes)).split(sizes), shapes, strict=True)]


def side_by_side(tensors: list[Tensor]) -> Tensor:
    """Return contiguous tensors (n, C) concatenated, without a copy if they lie side by side in memory.

    Example:
        >>> one, other = blanks(torch.empty(0), [(2, 3), (1, 3)])
        >>> side_by_side([one, other]).data_ptr() == one.data_ptr()
        True
    """
    first = tensors[0]
    end = first.storage_offset()
    for tensor in tensors:
        if tensor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() or tensor.storage_offset() != end:
            return torch.cat(tensors)
        end += tensor.numel()
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())


def steps_of(count: int, numel: int) -> list[slice]:
    """Return slices of `count` rows with `numel` elements each; a slice fits the cache."""
    step = max(1, CACHE_NUMEL // max(1, numel))
    return [slice(begin, begin + step) for begin in range(0, count, step)]

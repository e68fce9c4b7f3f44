"""Max pooling by strided slices, and as a `Choice`.

The elementwise maximum of two or three views is several times faster than going window by window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.activations.choices import Choice, padded_lanes

MOST_ELEMENTS = 256
"""Maximum number of elements of a window, so that the index of the largest fits into a byte."""


@dataclass(frozen=True)
class Windows:
    """Windows of a max pooling call over the last dimensions.

    Attributes:
        kernel: Elements of a window along each dimension.
        stride: Step from a window to the next.
        padding: Padding on each side, with -inf.
        dilation: Step from an element of a window to the next.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, dims: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Windows | None:
        """Return the windows of a call from its arguments after the input; None for options that this class does not cover."""
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        given = dict(zip(names, args, strict=False)) | kwargs
        if "kernel_size" not in given or given.get("ceil_mode") or not given.keys() <= set(names):
            return None
        kernel = _each(given["kernel_size"], dims)
        stride = _each(given.get("stride") or kernel, dims)
        padding, dilation = _each(given.get("padding", 0), dims), _each(given.get("dilation", 1), dims)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):  # which torch refuses
            return None
        return cls(kernel, stride, padding, dilation) if prod(kernel) <= MOST_ELEMENTS else None

    def largest(self, x: Tensor) -> Tensor:
        """Return the largest value of each window.

        Example:
            >>> x = torch.randn(2, 3, 7, 7)
            >>> torch.equal(Windows.of(2, (3, 2), {}).largest(x), F.max_pool2d(x, 3, 2))
            True
        """
        x = self._padded(x, -torch.inf)
        for dim in range(-1, -len(self.kernel) - 1, -1):
            best, *others = self._slices(x, dim)
            x = best if others else best.clone()
            for other in others:
                x = torch.maximum(x, other)
        return x

    def choices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest value of each window and its index in the window, uint8; the first of equal ones."""
        x = self._padded(x, -torch.inf)
        choice = torch.zeros(1, dtype=torch.uint8, device=x.device)  # index in a window of one element, the same everywhere
        elements = 1
        for dim in range(-1, -len(self.kernel) - 1, -1):
            best, *others = self._slices(x, dim)
            x = best if others else best.clone()
            choice, *theirs = self._slices(choice, dim) if choice.dim() > 1 else [choice] * self.kernel[dim]
            for number, (other, their) in enumerate(zip(others, theirs, strict=True), 1):
                wins = (other > x).view(torch.uint8)
                choice = choice + wins * (their + number * elements - choice)  # several times faster than torch.where of bytes
                x = torch.maximum(x, other)
            elements *= self.kernel[dim]
        return x.contiguous(), choice.expand(x.shape).contiguous()

    def elements(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return the position of each element of each window in a flattened plane, int64 (Q, K); -1 in the padding."""
        places = torch.arange(shape.numel(), device=device).view(1, 1, *shape)
        found = [self._padded(places, -1)]
        for dim in range(-len(self.kernel), 0):
            found = [part for place in found for part in self._slices(place, dim)]
        return torch.stack([part.flatten() for part in found], dim=1)

    def _padded(self, x: Tensor, value: float) -> Tensor:
        if not any(self.padding):
            return x
        return F.pad(x, [p for p in self.padding[::-1] for _ in range(2)], value=value)

    def _slices(self, x: Tensor, dim: int) -> tuple[Tensor, ...]:
        """Return one slice for each element of a window along a dimension, with that element of every window."""
        length = self.dilation[dim] * (self.kernel[dim] - 1) + 1
        return x.unfold(dim, length, self.stride[dim])[..., :: self.dilation[dim]].unbind(-1)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """Return one value for each dimension, from a single one or from all."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values if len(values) == dims else values * dims


class MaxPooling(Choice):
    """Choice that a max pooling call makes: the largest element of each window.

    Args:
        name: The operation's name, such as "max_pool2d".
        x: The pooled tensor.
        args: Its other arguments.
        kwargs: Its keyword arguments.
    """

    def __init__(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> None:
        super().__init__((x,), self._lanes, largest=True)
        base = name.removesuffix("_with_indices")
        is_adaptive, dims = base.startswith("adaptive"), int(base[-2])
        self._pool: Callable[..., tuple[Tensor, Tensor]] = getattr(F, base)
        self._args = args[: 1 if is_adaptive else 5]
        self._kwargs = kwargs | {"return_indices": True}
        self._row, self._plane = x.shape[1:], x.shape[-dims:]
        in_slices = not is_adaptive and not kwargs.get("return_indices")
        self._windows = Windows.of(dims, self._args, kwargs) if in_slices else None

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a number for the largest element of each window (R, L), and the pooled values where slices compute them."""
        x = x.view(len(x), *self._row)
        if self._windows is None:
            return self._pool(x, *self._args, **self._kwargs)[1].flatten(1), None
        largest, winners = self._windows.choices(x)
        return winners.flatten(1), largest

    def places(self, numbers: Tensor, column: Tensor) -> Tensor:
        """Return the positions in a row of elements, from their numbers and the columns of these in the result of `rank`."""
        plane, window = column // self._per_plane, column % self._per_plane
        places = numbers if self._windows is None else self._in_plane[window, numbers.long()]
        return plane * self._plane.numel() + places

    @cached_property
    def _per_plane(self) -> int:
        """Number of windows of a plane."""
        return self._pool(torch.zeros(1, *self._plane), *self._args, **self._kwargs)[0].numel()

    @cached_property
    def _in_plane(self) -> Tensor:
        """Positions in a plane of the elements of each window; shorter windows are padded with -1."""
        device = self.sources[0].device
        if self._windows is not None:
            return self._windows.elements(self._plane, device)
        planes = torch.eye(self._plane.numel(), dtype=torch.float64, device=device).view(-1, 1, *self._plane)
        element, window = (self._pool(planes, *self._args, **self._kwargs)[0].flatten(1) > 0).nonzero(as_tuple=True)
        return padded_lanes(window, element, self._per_plane)

    def _lanes(self) -> Tensor:
        size = self._plane.numel()
        offset = torch.arange(0, self._row.numel(), size, device=self._in_plane.device).view(-1, 1, 1)
        return torch.where(self._in_plane < 0, -1, self._in_plane + offset).flatten(0, 1)

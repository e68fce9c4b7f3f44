"""Operations that bend a piecewise linear function without giving a bit: where they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.activations.codes import ZERO_TOLERANCE
from fold_lightning.activations.max_pooling import Windows
from fold_lightning.walks.sparse import set_bits


def clamp_bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[float | Tensor]:
    """Where a clamp bends, its lower bound first; `args` are those after its input."""
    names = {"clamp_min": ("min",), "clamp_max": ("max",)}.get(name, ("min", "max"))
    bounds = [*args, *(kwargs[key] for key in names if key in kwargs)]
    return [bound if isinstance(bound, Tensor) else float(bound) for bound in bounds if bound is not None]


class MaxPool:
    """A max pooling call whose winners show.

    Args:
        name: The operation's name, such as "max_pool2d".
        args: Its arguments after the input.
        kwargs: Its keyword arguments.
    """

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = base = name.removesuffix("_with_indices")
        adaptive = base.startswith("adaptive")
        self.spatial_dims = int(base[-2])
        self.returns_indices = name.endswith("_with_indices") or bool(kwargs.get("return_indices"))
        self._pool: Callable[..., tuple[Tensor, Tensor]] = getattr(F, base)
        self._args = args[: 1 if adaptive else 5]
        self._kwargs = kwargs | {"return_indices": True}
        in_slices = not adaptive and not self.returns_indices and args[5:6] != (True,)
        self._windows = Windows.of(self.spatial_dims, args, kwargs) if in_slices else None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value of each window, and the place of its element in the flattened plane."""
        return self._pool(x, *self._args, **self._kwargs)

    def winners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value of each window, and a number for its element, small where a byte can tell them apart."""
        return self(x) if self._windows is None else self._windows.choices(x)

    def places(self, winners: Tensor, window: Tensor, shape: torch.Size) -> Tensor:
        """Where in a flattened plane of a shape the elements are that were numbered as `winners` of some windows."""
        if self._windows is None:
            return winners
        return self._windows.elements(shape, winners.device)[window, winners.long()]

    def windows(self, shape: torch.Size) -> Tensor:
        """Which elements of a flattened plane of a shape lie in which windows: bool (P, Q)."""
        planes = torch.eye(shape.numel(), dtype=torch.float64).view(-1, 1, *shape)
        return self(planes)[0].flatten(1) > 0


def winner_changes(pool: MaxPool, x: Tensor, winners: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Where between neighbouring rows another element of a window becomes the largest.

    The maximum of affine functions is convex. So it is affine on an interval if the winner of one end is as large as the
    other at one of the ends; otherwise the two winners' lines cross inside.

    Args:
        pool: The max pooling.
        x: What it pools, R rows.
        winners: Of all windows, as from `MaxPool.winners`.
        left: int64 (I,), the row at the left end of each interval.
        right: int64 (I,), the row at its right end.

    Returns:
        The intervals that bend (K,), as indices into ``left``, and where in them the winners cross, in (0, 1).
    """
    shape = x.shape[-pool.spatial_dims :]
    planes = x.reshape(len(x), -1, shape.numel())
    winners = winners.reshape(*planes.shape[:2], -1)
    interval, plane, window = _changes(winners[left], winners[right])
    first, last = left[interval], right[interval]
    before, after = (pool.places(winners[row, plane, window], window, shape) for row in (first, last))
    lead = planes[first, plane, before] - planes[first, plane, after]
    lag = planes[last, plane, after] - planes[last, plane, before]
    scale = torch.maximum(planes[first, plane, before].abs(), planes[last, plane, after].abs())
    bends = (lead > ZERO_TOLERANCE * scale) & (lag > ZERO_TOLERANCE * scale)
    return interval[bends], (lead / (lead + lag))[bends]


def _changes(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, plane and window (K,) of what differs between two (I, G, Q)."""
    windows = before.shape[2]
    row, column = set_bits((before != after).flatten(1))
    return row, column // windows, column % windows

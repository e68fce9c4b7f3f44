"""Calls that choose elements of each row by their order, described by a `Choice`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.choices import Choice, lanes_along, padded_lanes
from fold_lightning.activations.max_pooling import MaxPooling
from fold_lightning.activations.operations import CHOICES, MAX_POOLS
from fold_lightning.activations.tracking import depends_on_input


def find_choice(call: Call) -> Choice | None:
    """Return the choice that a call makes within each row (first dimension); None if it makes none, or chooses between rows."""
    name, args, kwargs = call.name, call.args, call.kwargs
    if name not in CHOICES or kwargs.get("out") is not None or not args or not isinstance(args[0], Tensor):
        return None
    if args[0].dim() == 0 or not all(t.is_floating_point() for t in call.varying):
        return None
    if name in MAX_POOLS:
        return MaxPooling(name, *args, **kwargs)
    return _FINDERS[name](name, *args, **{_ALIASES.get(key, key): value for key, value in kwargs.items()})


def _extremum(name: str, x: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Choice | None:
    largest = name in ("max", "maximum", "fmax", "amax")
    other = dim if isinstance(dim, Tensor) else other
    return _along(x, dim, largest) if other is None else _of_two(x, other, largest)


def _of_two(x: Tensor, other: Tensor, largest: bool) -> Choice | None:
    both = torch.broadcast_tensors(x, other)
    shape = both[0].shape
    if any(depends_on_input(t) and (t.dim() != len(shape) or t.shape[0] != shape[0]) for t in (x, other)):
        return None
    return Choice(both, lambda: torch.arange(2 * shape[1:].numel(), device=x.device).view(2, -1).mT, largest)


def _sort(name: str, x: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Choice | None:
    return _along(x, dim, descending, ranks=x.shape[dim], several=True)


def _topk(name: str, x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Choice | None:
    return _along(x, dim, largest, ranks=k, several=True) if sorted else None


def _median(name: str, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Choice | None:
    return None if dim is None else _kth(name, x, (x.shape[dim] + 1) // 2, dim)


def _kth(name: str, x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Choice | None:
    from_top = x.shape[dim] - k + 1
    return _along(x, dim, largest=from_top < k, ranks=min(k, from_top))


def _along(x: Tensor, dim: Any, largest: bool, ranks: int = 1, several: bool = False) -> Choice | None:
    """Return the choice of the last rank, or of all ranks if `several`; None for no dimension or the batch dimension."""
    if dim is None or isinstance(dim, str):
        return None
    dims = sorted(d % x.dim() for d in (dim if isinstance(dim, (tuple, list)) else [dim]))
    if not dims or dims[0] == 0:
        return None
    lanes = partial(lanes_along, x.shape[1:], [d - 1 for d in dims], x.device)
    return Choice((x,), lanes, largest, ranks, 0 if several else ranks - 1, dims[0] if several else None)


def _scatter(
    name: str,
    x: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    reduce: Any = None,
    *,
    include_self: bool = True,
    source: Any = None,
) -> Choice | None:
    src = source if src is None else src
    if dim % x.dim() == 0 or reduce not in ("amax", "amin"):
        return None
    if name == "scatter_reduce":
        if len(index) != len(x) or not torch.equal(index, index[:1].expand_as(index)):
            return None
        index = index[0]
    lanes = partial(_scattered_lanes, x.shape[1:], src.shape[1:], dim % x.dim() - 1, index, include_self)
    return Choice((x, src), lanes, largest=reduce == "amax")


def _scattered_lanes(shape: torch.Size, source: torch.Size, dim: int, index: Tensor, include_self: bool) -> Tensor:
    """Return the candidates for each element of a row: itself, and source elements put there, whose positions follow the row's."""
    own = torch.arange(shape.numel(), device=index.device)
    places = shape.numel() + torch.arange(source.numel(), device=index.device).view(source)
    if index.dim() == len(shape):
        places = places[tuple(slice(size) for size in index.shape)]
        target = own.view(shape).gather(dim, index).flatten()
    else:
        target = own.view(shape).index_select(dim, index).flatten()
    kept = own if include_self else own[~torch.isin(own, target)]
    return padded_lanes(torch.cat([kept, target]), torch.cat([kept, places.flatten()]), len(own))


_ALIASES = {"axis": "dim", "keepdims": "keepdim"}

_FINDERS: dict[str, Callable[..., Choice | None]] = {
    **dict.fromkeys("max min amax amin maximum minimum fmax fmin".split(), _extremum),
    "sort": _sort,
    "topk": _topk,
    "kthvalue": _kth,
    **dict.fromkeys(("median", "nanmedian"), _median),
    **dict.fromkeys(("scatter_reduce", "index_reduce"), _scatter),
}

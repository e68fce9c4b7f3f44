"""Faster functions with the same results, for operations that torch computes slowly in float64 on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.max_pooling import Windows

CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}

POOLS = {"max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3}

COLUMNS_BYTES = 2**20
"""Maximum size of the unfolded inputs of a slice, in bytes, so that they stay in the CPU's cache; torch unfolds a whole
batch."""


def fast_kernel(call: Call) -> Callable[..., Any]:
    """Return a faster function with the same results, or the called function where torch is fast.

    Example:
        >>> x, weight = torch.randn(300, 4, 8, 8).double(), torch.randn(3, 4, 3, 3).double()
        >>> call = Call("conv2d", torch.conv2d, (x, weight), {})
        >>> torch.equal(fast_kernel(call)(x, weight), torch.conv2d(x, weight))
        True
    """
    name, args, kwargs = call.name, call.args, call.kwargs
    x = args[0] if args else None
    if not isinstance(x, Tensor) or x.dtype != torch.float64 or x.device.type != "cpu" or x.requires_grad:
        return call.function
    if name in CONVOLUTIONS and x.dim() == CONVOLUTIONS[name] + 2 and len(args) > 1:
        return partial(_in_slices, call.function)
    if name in POOLS and x.dim() == POOLS[name] + 2 and not kwargs.get("return_indices") and len(args) < 7:
        windows = Windows.of(POOLS[name], args[1:], kwargs)
        return call.function if windows is None else lambda x, *_, **__: windows.largest(x)
    return call.function


def _in_slices(convolution: Callable[..., Tensor], x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    columns = 8 * x[:1].numel() * weight[0, 0].numel()
    rows = max(1, COLUMNS_BYTES // max(1, columns))
    if len(x) <= rows:
        return convolution(x, weight, *args, **kwargs)
    return torch.cat([convolution(part, weight, *args, **kwargs) for part in x.split(rows)])

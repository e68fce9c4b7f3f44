"""Counts and Hamming distances of codes, which have one bit for each hidden unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fold_lightning._checks import is_integer

MAX_PAIR_BYTES = 2**28
"""Most bytes of intermediate values when codes are compared, 256 MiB."""

SUMMED_BYTES = 9
"""Bytes per unit and pair of codes: one for the comparison, and 8 for the int64 that torch makes of it for the sum."""

MIN_PRODUCT_ROWS = 32
"""Fewest codes on each side for which the distances of all pairs are computed by a matrix product. For 16 codes of 512 units on each
side, broadcasting takes 0.07 ms and the product 0.13 ms; for 64 codes, 2.9 ms and 0.25 ms."""

MAX_EXACT_FLOAT = 2**24
"""Most units that one float32 product may sum: all integers up to this one are exact in float32."""

MAX_UINT8 = 255
"""Most codes whose bits are summed in uint8. The sum of 1,000 codes of 100,000 units takes 0.1 s in uint8 and 2 s in int64."""


def hamming_distance(a: Tensor, b: Tensor, *, threshold: int | None = None) -> Tensor:
    """Return the number of units in which two codes differ.

    This is ``d_H`` in "ReLU Code Space" (Shepeleva et al. 2020, Definitions 1 and 2). With a threshold it is the truncated distance
    ``min(d_H, threshold)``. ``threshold=2`` gives the paper's adjacency distance: 0 for equal codes, 1 for codes that differ in one
    unit, 2 for all others.

    Args:
        a: Codes, bool ``(..., N)`` with N units along the last dimension.
        b: Codes, bool ``(..., N)``; the leading dimensions broadcast against those of ``a``.
        threshold: Largest distance that is returned, at least 1; None does not truncate.

    Returns:
        int64 ``(...)``. The distances of all pairs of many codes (``a[:, None]`` and ``b``, or ``(..., A, 1, N)`` and
        ``(..., 1, B, N)``) are computed by a matrix product, which needs little more memory than the distances.

    Raises:
        ValueError: If the codes have different numbers of units or do not broadcast, or `threshold` is not an integer of at least 1.
        TypeError: If the codes are not bool.

    Example:
        >>> import torch
        >>> a = torch.tensor([True, False, True])
        >>> b = torch.tensor([[True, False, True], [False, True, False]])
        >>> hamming_distance(a, b)
        tensor([0, 3])
        >>> hamming_distance(a, b, threshold=2)
        tensor([0, 2])
    """
    _check_bool(a)
    _check_bool(b)
    if a.shape[-1:] != b.shape[-1:] or a.dim() == 0:
        raise ValueError(
            f"Codes must have the same number of units, got shapes {tuple(a.shape)} and {tuple(b.shape)}: "
            "take both from the same model with the same `layers`."
        )
    if any(m != n and 1 not in (m, n) for m, n in zip(a.shape[-2::-1], b.shape[-2::-1], strict=False)):
        raise ValueError(
            f"The leading dimensions of codes must broadcast, got shapes {tuple(a.shape)} and {tuple(b.shape)}: for all pairs, "
            "pass `a[:, None]` and `b`."
        )
    if threshold is not None and not is_integer(threshold, 1):
        raise ValueError(f"`threshold` must be an integer of at least 1, got {threshold!r}: below that every distance is 0.")
    distance = _distance(a, b)
    return distance if threshold is None else distance.clamp(max=threshold)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    num_dims = max(a.dim(), b.dim()) - 1
    a, b = (codes.reshape((1,) * (num_dims + 1 - codes.dim()) + codes.shape) for codes in (a, b))
    shape = torch.broadcast_shapes(a.shape, b.shape)
    of_both = [dim for dim in range(num_dims) if a.shape[dim] == b.shape[dim] != 1]
    of_a = [dim for dim in range(num_dims) if b.shape[dim] == 1]
    of_b = [dim for dim in range(num_dims) if dim not in (*of_both, *of_a)]
    products, rows, columns = (math.prod(shape[dim] for dim in dims) for dims in (of_both, of_a, of_b))
    if min(rows, columns) < MIN_PRODUCT_ROWS or not products:
        return _distance_by_comparison(a, b)
    order = [*of_both, *of_a, *of_b]
    all_a = a.permute(*order, num_dims).reshape(products, rows, shape[-1])
    all_b = b.permute(*order, num_dims).reshape(products, columns, shape[-1])
    distance = torch.empty(products, rows, columns, dtype=torch.int64, device=a.device)
    for x, y, result in zip(all_a, all_b, distance, strict=True):
        _write_all_distances(x, y, result)
    return distance.view([shape[dim] for dim in order]).permute([order.index(dim) for dim in range(num_dims)])


def _distance_by_comparison(a: Tensor, b: Tensor) -> Tensor:
    """Return the distances of codes with the same number of dimensions, by broadcasting."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if len(shape) < 2 or SUMMED_BYTES * shape.numel() <= MAX_PAIR_BYTES:
        return (a != b).sum(-1)
    a, b = a.expand(shape), b.expand(shape)
    size = MAX_PAIR_BYTES // (SUMMED_BYTES * shape[1:].numel())
    if size == 0:
        return torch.stack([_distance_by_comparison(x, y) for x, y in zip(a, b, strict=True)])
    return torch.cat([(x != y).sum(-1) for x, y in zip(a.split(size), b.split(size), strict=True)])


def _write_all_distances(a: Tensor, b: Tensor, distance: Tensor) -> None:
    """Write the distances |a| + |b| - 2 a.b between A and B codes into int64 (A, B)."""
    torch.add(a.sum(1)[:, None], b.sum(1), out=distance)
    units = min(MAX_EXACT_FLOAT, max(1, MAX_PAIR_BYTES // (4 * (len(a) + len(b)))))
    rows = max(1, MAX_PAIR_BYTES // (16 * len(b)))
    with torch.autocast(a.device.type, enabled=False):  # half precision would round the sums
        for x, y in zip(a.split(units, dim=1), b.split(units, dim=1), strict=True):
            columns = y.float().T
            for part, some in zip(distance.split(rows), x.split(rows), strict=True):
                part -= (some.float() @ columns).long().mul_(2)


def count_active(bits: Tensor) -> Tensor:
    """Return the number of codes, out of B, in which each unit has a 1.

    Args:
        bits: Codes, bool (B, N).

    Returns:
        int64 (N,).

    Example:
        >>> import torch
        >>> count_active(torch.tensor([[True, False], [True, True]]))
        tensor([2, 1])
    """
    count = torch.zeros(bits.shape[1], dtype=torch.int64, device=bits.device)
    for some in bits.split(MAX_UINT8):
        count += some.sum(0, dtype=torch.uint8)
    return count


def check_bits(bits: Tensor) -> None:
    """Raise a TypeError or ValueError unless codes are bool (B, N)."""
    _check_bool(bits)
    if bits.dim() != 2:
        raise ValueError(f"Codes must have shape (inputs, units), got {tuple(bits.shape)}: flatten the rest into units.")


def _check_bool(bits: Tensor) -> None:
    if not isinstance(bits, Tensor):
        raise TypeError(f"Codes must be a bool tensor, got {type(bits).__name__}: take the `bits` of `activation_codes`.")
    if bits.dtype != torch.bool:
        raise TypeError(f"Codes must be a bool tensor, got {bits.dtype}: compare pre-activations with their threshold first.")

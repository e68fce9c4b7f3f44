"""Codes, one bit for each hidden unit: counts, distances, and 128-bit fingerprints."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning._checks import is_integer

WORD_BITS = 32

LOW_HALF = 0xFFFFFFFF
"""Mask of the low half of a 64-bit number."""

PACKING_FACTOR = 0x0102040810204080
"""Factor that packs eight bytes of 0 or 1 into bits: they are the highest byte of the product, the first byte lowest."""

CHUNK_BYTES = 2**21
"""Bytes of codes that are hashed at a time, 2 MiB, so that intermediate values stay in the processor's cache."""

SORTED_AT_ONCE = 2**21
"""Fingerprints that are sorted at a time, 32 MiB; sorting takes several times the memory of its numbers."""

MAX_PAIR_BYTES = 2**28
"""Bytes of intermediate values where codes are compared with codes, 256 MiB."""

SUMMED_BYTES = 9
"""Bytes of a unit of two codes that are compared: their difference, and the int64 that torch makes of it to sum them."""

MIN_PRODUCT_ROWS = 32
"""Codes on each side from which the distances of all pairs come from a matrix product. With 16 codes of 512 units on each side
broadcasting takes 0.07 ms and the product 0.13 ms, with 64 they take 2.9 ms and 0.25 ms."""

MAX_EXACT_FLOAT = 2**24
"""Largest integer up to which all integers are exact in float32, so units that one product may sum."""

MAX_UINT8 = 255
"""Codes whose bits uint8 can sum: 1,000 codes of 100,000 units take 0.1 s, summed as int64 2 s."""


def hamming_distance(a: Tensor, b: Tensor, *, threshold: int | None = None) -> Tensor:
    """Return the number of units in which two codes differ.

    ``d_H`` in "ReLU Code Space" (Shepeleva et al. 2020, Definitions 1 and 2). With a threshold it is the truncated
    distance ``min(d_H, threshold)``; ``threshold=2`` gives the paper's adjacency distance: 0 for the same region, 1 for
    codes one unit apart, 2 for everything else.

    Args:
        a: Codes, bool ``(..., N)`` with N units along the last dimension.
        b: Codes, bool ``(..., N)``; the leading dimensions broadcast against those of ``a``.
        threshold: Largest distance that is returned, at least 1; None does not truncate.

    Returns:
        int64 ``(...)``. All pairs of many codes (``a[:, None]`` and ``b``, or ``(..., A, 1, N)`` and ``(..., 1, B, N)``) are
        computed by a matrix product, and take little more memory than the distances themselves.

    Raises:
        ValueError: If the codes have different numbers of units or do not broadcast, or the threshold is no integer of
            at least 1.
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
    """Return the distances of codes with equally many dimensions, unit by unit."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if len(shape) < 2 or SUMMED_BYTES * shape.numel() <= MAX_PAIR_BYTES:
        return (a != b).sum(-1)
    a, b = a.expand(shape), b.expand(shape)
    size = MAX_PAIR_BYTES // (SUMMED_BYTES * shape[1:].numel())
    if size == 0:
        return torch.stack([_distance_by_comparison(x, y) for x, y in zip(a, b, strict=True)])
    return torch.cat([(x != y).sum(-1) for x, y in zip(a.split(size), b.split(size), strict=True)])


def _write_all_distances(a: Tensor, b: Tensor, distance: Tensor) -> None:
    """Write the distance of each of A codes to each of B, int64 (A, B): |a| + |b| - 2 a.b."""
    torch.add(a.sum(1)[:, None], b.sum(1), out=distance)
    units = min(MAX_EXACT_FLOAT, max(1, MAX_PAIR_BYTES // (4 * (len(a) + len(b)))))
    rows = max(1, MAX_PAIR_BYTES // (16 * len(b)))
    with torch.autocast(a.device.type, enabled=False):  # half precision would round the sums
        for x, y in zip(a.split(units, dim=1), b.split(units, dim=1), strict=True):
            columns = y.float().T
            for part, some in zip(distance.split(rows), x.split(rows), strict=True):
                part -= (some.float() @ columns).long().mul_(2)


def count_active(bits: Tensor) -> Tensor:
    """Return how many of B codes have a 1 for each unit.

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


def code_fingerprints(bits: Tensor) -> Tensor:
    """Return a 128-bit hash of each code, the same on every device, in every process and with every version of PyTorch.

    The bits are cut into 32-bit words w_j; each quarter of the hash is the upper half of ``r_0 + sum_j r_j w_j mod 2^64``, with
    64-bit numbers r of its own that are random and fixed once and for all (SHAKE-256). This family of hashes is strongly
    universal (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): over the choice of r, two different
    codes collide with probability 2^-128, so some two of n codes do with a probability of at most n^2 / 2^129, 1.5e-21 for a
    billion codes. Equal codes have equal fingerprints. Codes constructed to collide are not excluded.

    Args:
        bits: Codes, bool (B, N).

    Returns:
        int64 (B, 2).

    Raises:
        TypeError: If the codes are not bool.
        ValueError: If the codes are not (B, N).

    Example:
        >>> import torch
        >>> code_fingerprints(torch.tensor([[True, False], [False, True], [True, False]]))
        tensor([[-6260422260257928355,   995913058819629248],
                [ 5630485794218670064,  8081807842571389803],
                [-6260422260257928355,   995913058819629248]])
    """
    check_bits(bits)
    words = max(1, -(-bits.shape[1] // WORD_BITS))
    rows = max(1, CHUNK_BYTES // (words * WORD_BITS))
    random = torch.from_numpy(_random_numbers(words)).to(bits.device)
    return torch.cat([_fingerprints(chunk, random) for chunk in bits.split(rows)])


def distinct_fingerprints(fingerprints: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different fingerprints, and how often each occurs.

    Args:
        fingerprints: int64 (B, 2).

    Returns:
        int64 (D, 2), ascending by their first halves, and int64 (D,).

    Raises:
        ValueError: If they are not int64 (B, 2).

    Example:
        >>> import torch
        >>> distinct_fingerprints(torch.tensor([[5, 1], [3, 2], [5, 1]]))
        (tensor([[3, 2],
                [5, 1]]), tensor([1, 2]))
    """
    if not isinstance(fingerprints, Tensor) or fingerprints.dtype != torch.int64 or fingerprints.shape[1:] != (2,):
        got = (
            f"{fingerprints.dtype} {tuple(fingerprints.shape)}"
            if isinstance(fingerprints, Tensor)
            else type(fingerprints).__name__
        )
        raise ValueError(f"Fingerprints must be int64 (B, 2), got {got}: take them from `code_fingerprints`.")
    parts = [_distinct(fingerprints[share]) for share in _shares(fingerprints)]
    return torch.cat([part for part, _ in parts]), torch.cat([counts for _, counts in parts])


def distinct_in_groups(fingerprints: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different fingerprints of each group.

    Args:
        fingerprints: int64 (B, 2).
        groups: Integer (B,), the group of each.

    Returns:
        The fingerprints, int64 (D, 2), and the group of each, (D,). Those of a group lie side by side, or in 16 places where
        there are many.

    Example:
        >>> import torch
        >>> distinct_in_groups(torch.tensor([[5, 1], [5, 1], [5, 1]]), torch.tensor([1, 0, 1]))
        (tensor([[5, 1],
                [5, 1]]), tensor([0, 1]))
    """
    kept = []
    for share in _shares(fingerprints):
        some, group = fingerprints[share], groups[share]
        order, is_first = _in_order(some, group)
        chosen = order[is_first]
        kept.append((some[chosen], group[chosen]))
    return torch.cat([some for some, _ in kept]), torch.cat([group for _, group in kept])


def _shares(fingerprints: Tensor) -> Iterator[Tensor | slice]:
    """Yield indices of fingerprints in ranges of their first half, to bound the memory of sorting; of all if they are few."""
    if len(fingerprints) <= SORTED_AT_ONCE:
        yield slice(None)
        return
    shares = (fingerprints[:, 0] >> 60).to(torch.int8)
    for share in range(-8, 8):
        yield shares == share


def _distinct(fingerprints: Tensor) -> tuple[Tensor, Tensor]:
    order, is_first = _in_order(fingerprints)
    starts = is_first.nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(order)])[: len(starts)]])
    return fingerprints[order[starts]], ends - starts


def _in_order(fingerprints: Tensor, *groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return an order in which equal fingerprints of a group are side by side, and whether each is the first of them there."""
    first, second = fingerprints.T
    groups = tuple(group for group in groups if len(group) and group.amin() < group.amax())
    order = _lexicographic_order(first, *groups)
    same = _same_as_before(order, fingerprints, *(group[:, None] for group in groups))
    if bool((same[0][:, 0] & ~same[0][:, 1]).any()):  # probability 2^-64 for each pair: equal ones may be apart
        order = _lexicographic_order(second, first, *groups)
        same = _same_as_before(order, fingerprints, *(group[:, None] for group in groups))
    is_first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    is_first[1:] = ~torch.cat(same, 1).all(1)
    return order, is_first


def _same_as_before(order: Tensor, *keys: Tensor) -> list[Tensor]:
    """Return where the numbers of each key (n, k) are those of the row before it in an order: bool (n - 1, k) each."""
    return [(ordered := key[order])[1:] == ordered[:-1] for key in keys]


def _lexicographic_order(*keys: Tensor) -> Tensor:
    """Return the order by the last key, within it by the one before, and so on."""
    order = torch.argsort(keys[0])
    for key in keys[1:]:
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _fingerprints(bits: Tensor, random: Tensor) -> Tensor:
    padded = bits.new_zeros(len(bits), (len(random) - 1) * WORD_BITS)
    padded[:, : bits.shape[1]] = bits
    octets = (padded.view(torch.int64) * PACKING_FACTOR).bitwise_right_shift_(56).to(torch.uint8)
    words = octets.view(torch.int32).to(torch.int64).bitwise_and_(LOW_HALF)
    quarters = (words[:, None] * random[1:].T).sum(2) + random[0]
    return (quarters[:, 0::2] & ~LOW_HALF) | ((quarters[:, 1::2] >> 32) & LOW_HALF)


@lru_cache(maxsize=16)
def _random_numbers(words: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return r_0 and the factor of each word, for the four quarters of a fingerprint, int64 (words + 1, 4)."""
    stream = hashlib.shake_256(b"fold_lightning code fingerprints").digest(8 * 4 * (words + 1))
    return np.frombuffer(stream, dtype="<i8").astype(np.int64).reshape(words + 1, 4)


def check_bits(bits: Tensor) -> None:
    """Raise unless codes are bool (B, N)."""
    _check_bool(bits)
    if bits.dim() != 2:
        raise ValueError(f"Codes must have shape (inputs, units), got {tuple(bits.shape)}: flatten the rest into units.")


def _check_bool(bits: Tensor) -> None:
    if not isinstance(bits, Tensor):
        raise TypeError(f"Codes must be a bool tensor, got {type(bits).__name__}: take the `bits` of `activation_codes`.")
    if bits.dtype != torch.bool:
        raise TypeError(f"Codes must be a bool tensor, got {bits.dtype}: compare pre-activations with their threshold first.")

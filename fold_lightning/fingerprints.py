"""128-bit fingerprints of codes, with which distinct codes are counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning.codes import check_bits

WORD_BITS = 32

LOW_HALF = 0xFFFFFFFF
"""Mask of the low half of a 64-bit number."""

PACKING_FACTOR = 0x0102040810204080
"""Factor that packs eight bytes of 0 or 1 into the highest byte of the product, with the first byte in the lowest bit."""

HASHED_BYTES = 2**21
"""Bytes of codes that are hashed at once, 2 MiB, so that intermediate values stay in the processor's cache."""

SORTED_AT_ONCE = 2**21
"""Number of fingerprints (32 MiB) above which they are sorted in 16 parts, because sorting needs several times their memory."""


def code_fingerprints(bits: Tensor) -> Tensor:
    """Return a 128-bit hash of each code, the same on every device, in every process and with every version of PyTorch.

    The bits are cut into 32-bit words w_j. Each quarter of the hash is the upper half of ``r_0 + sum_j r_j w_j mod 2^64``, where
    each quarter has its own random 64-bit numbers r, which are fixed (SHAKE-256). This family of hashes is strongly universal
    (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): over the choice of r, two different codes collide with
    probability 2^-128. So the probability of any collision among n codes is at most n^2 / 2^129, which is 1.5e-21 for a billion
    codes. Equal codes have equal fingerprints. There is no protection against codes constructed to collide.

    Args:
        bits: Codes, bool (B, N).

    Returns:
        int64 (B, 2).

    Raises:
        TypeError: If the codes are not bool.
        ValueError: If the codes do not have shape (B, N).

    Example:
        >>> import torch
        >>> code_fingerprints(torch.tensor([[True, False], [False, True], [True, False]]))
        tensor([[-6260422260257928355,   995913058819629248],
                [ 5630485794218670064,  8081807842571389803],
                [-6260422260257928355,   995913058819629248]])
    """
    check_bits(bits)
    words = max(1, -(-bits.shape[1] // WORD_BITS))
    rows = max(1, HASHED_BYTES // (words * WORD_BITS))
    random = torch.from_numpy(_random_numbers(words)).to(bits.device)
    return torch.cat([_fingerprints(chunk, random) for chunk in bits.split(rows)])


def distinct_fingerprints(fingerprints: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct fingerprints, and how often each occurs.

    Args:
        fingerprints: int64 (B, 2).

    Returns:
        int64 (D, 2), ascending by their first halves, and int64 (D,).

    Raises:
        ValueError: If `fingerprints` are not int64 (B, 2).

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
    parts = [_distinct(fingerprints[part]) for part in _ranges(fingerprints)]
    return torch.cat([some for some, _ in parts]), torch.cat([counts for _, counts in parts])


def distinct_in_groups(fingerprints: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct fingerprints of each group.

    Args:
        fingerprints: int64 (B, 2).
        groups: Integer (B,), the group of each fingerprint.

    Returns:
        The fingerprints, int64 (D, 2), and the group of each, (D,). The fingerprints of a group are consecutive, or in up to 16 runs
        if there are more than `SORTED_AT_ONCE` fingerprints.

    Example:
        >>> import torch
        >>> distinct_in_groups(torch.tensor([[5, 1], [5, 1], [5, 1]]), torch.tensor([1, 0, 1]))
        (tensor([[5, 1],
                [5, 1]]), tensor([0, 1]))
    """
    kept = []
    for part in _ranges(fingerprints):
        some, group = fingerprints[part], groups[part]
        order, is_first = _in_order(some, group)
        chosen = order[is_first]
        kept.append((some[chosen], group[chosen]))
    return torch.cat([some for some, _ in kept]), torch.cat([group for _, group in kept])


def _ranges(fingerprints: Tensor) -> Iterator[Tensor | slice]:
    """Yield masks of fingerprints in 16 ranges of their first half, to bound the memory of sorting; one slice of all if few."""
    if len(fingerprints) <= SORTED_AT_ONCE:
        yield slice(None)
        return
    leading = (fingerprints[:, 0] >> 60).to(torch.int8)
    for four_bits in range(-8, 8):
        yield leading == four_bits


def _distinct(fingerprints: Tensor) -> tuple[Tensor, Tensor]:
    order, is_first = _in_order(fingerprints)
    starts = is_first.nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(order)])[: len(starts)]])
    return fingerprints[order[starts]], ends - starts


def _in_order(fingerprints: Tensor, *groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return an order in which equal fingerprints of a group are consecutive, and a mask of the first of each in it."""
    first, second = fingerprints.T
    groups = tuple(group for group in groups if len(group) and group.amin() < group.amax())
    order = _lexicographic_order(first, *groups)
    same = _same_as_before(order, fingerprints, *(group[:, None] for group in groups))
    if bool((same[0][:, 0] & ~same[0][:, 1]).any()):  # probability 2^-64 per pair: equal fingerprints may be apart
        order = _lexicographic_order(second, first, *groups)
        same = _same_as_before(order, fingerprints, *(group[:, None] for group in groups))
    is_first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    is_first[1:] = ~torch.cat(same, 1).all(1)
    return order, is_first


def _same_as_before(order: Tensor, *keys: Tensor) -> list[Tensor]:
    """Return masks bool (n - 1, k), True where a key (n, k) equals the row before it in an order."""
    return [(ordered := key[order])[1:] == ordered[:-1] for key in keys]


def _lexicographic_order(*keys: Tensor) -> Tensor:
    """Return the order that sorts by the last key, then by the one before it, and so on."""
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
    """Return r_0 and the factor r_j of each word for the four quarters of a fingerprint, int64 (words + 1, 4)."""
    stream = hashlib.shake_256(b"fold_lightning code fingerprints").digest(8 * 4 * (words + 1))
    return np.frombuffer(stream, dtype="<i8").astype(np.int64).reshape(words + 1, 4)

"""Codes: one bit for each hidden unit; distances between them, and fingerprints by which many are told apart."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORD_BITS = 32
HALF = 0xFFFFFFFF
"""The low half of a 64-bit number."""

GATHER = 0x0102040810204080
"""Times this, a number of eight bytes that are 0 or 1 has them as the bits of its highest byte, the first byte lowest."""

CHUNK_BYTES = 2**21
"""Codes looked at together, so that what is computed of them stays in the processor's cache."""

SORTED_AT_ONCE = 2**21
"""Fingerprints."""

MAX_PAIR_BYTES = 2**28
"""Bits compared at a time where codes are broadcast against each other."""


def hamming_distance(a: Tensor, b: Tensor, *, threshold: int | None = None) -> Tensor:
    """Number of units in which two codes differ.

    ``d_H`` in "ReLU Code Space" (Shepeleva et al. 2020, Definitions 1 and 2). With a threshold it is the truncated
    distance ``min(d_H, threshold)``; ``threshold=2`` gives the paper's adjacency distance: 0 for the same region, 1 for
    codes one unit apart, 2 for everything else.

    Args:
        a: Codes, bool ``(..., N)`` with N units along the last dimension.
        b: Codes, bool ``(..., N)``; the leading dimensions broadcast against those of ``a``.
        threshold: Largest distance that is told apart, at least 1; None does not truncate.

    Returns:
        int64 ``(...)``.

    Raises:
        ValueError: If the codes have different numbers of units or do not broadcast, or the threshold is no whole number of
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
    if threshold is not None and (not isinstance(threshold, int) or threshold < 1):
        raise ValueError(
            f"`threshold` must be a whole number of at least 1, got {threshold!r}: below that every distance is 0."
        )
    distance = _distance(a, b)
    return distance if threshold is None else distance.clamp(max=threshold)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if len(shape) < 2 or shape.numel() <= MAX_PAIR_BYTES:
        return (a != b).sum(-1)
    a, b = a.expand(shape), b.expand(shape)
    rows = max(1, MAX_PAIR_BYTES // shape[1:].numel())
    return torch.cat([(x != y).sum(-1) for x, y in zip(a.split(rows), b.split(rows), strict=True)])


def code_fingerprints(bits: Tensor) -> Tensor:
    """A 128-bit hash of each code, the same on every device, in every process and with every version of PyTorch.

    The bits are cut into 32-bit words w_j; each quarter of the hash is the upper half of ``r_0 + sum_j r_j w_j mod 2^64``, with
    64-bit numbers r of its own that are random and fixed once and for all (SHAKE-256). This family of hashes is strongly
    universal (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): over the choice of r, two different
    codes collide with probability 2^-128, so some two of n codes do with a probability of at most n^2 / 2^129, 1.5e-21 for a
    billion codes. Equal codes have equal fingerprints. This is no defence against codes made to collide.

    Args:
        bits: Codes, bool (B, N).

    Returns:
        int64 (B, 2).

    Raises:
        TypeError: If the codes are not bool.
        ValueError: If their shape is another.

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
    """The different ones among fingerprints, and how often each is there.

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
    if len(fingerprints) > SORTED_AT_ONCE:  # in shares of the first half's range, lest sorting take several times the memory
        shares = fingerprints[:, 0] >> 60
        parts = [_distinct(fingerprints[shares == share]) for share in range(-8, 8)]
        return torch.cat([part for part, _ in parts]), torch.cat([counts for _, counts in parts])
    return _distinct(fingerprints)


def _distinct(fingerprints: Tensor) -> tuple[Tensor, Tensor]:
    ordered = fingerprints[torch.argsort(fingerprints[:, 0])]
    same = ordered[1:] == ordered[:-1]
    if bool((same[:, 0] & ~same[:, 1]).any()):  # 2^-64 for each pair: first halves alone do not bring equals together
        by_second = fingerprints[torch.argsort(fingerprints[:, 1])]
        ordered = by_second[torch.argsort(by_second[:, 0], stable=True)]
        same = ordered[1:] == ordered[:-1]
    first = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    first[1:] = ~same.all(1)
    starts = first.nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(ordered)])[: len(starts)]])
    return ordered[starts], ends - starts


def _fingerprints(bits: Tensor, random: Tensor) -> Tensor:
    padded = bits.new_zeros(len(bits), (len(random) - 1) * WORD_BITS)
    padded[:, : bits.shape[1]] = bits
    octets = (padded.view(torch.int64) * GATHER).bitwise_right_shift_(56).to(torch.uint8)
    words = octets.view(torch.int32).to(torch.int64).bitwise_and_(HALF)
    quarters = (words[:, None] * random[1:].T).sum(2) + random[0]
    return (quarters[:, 0::2] & ~HALF) | ((quarters[:, 1::2] >> 32) & HALF)


@lru_cache(maxsize=16)
def _random_numbers(words: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 (words + 1, 4): r_0 and the factor of each word, for the four quarters of a fingerprint."""
    stream = hashlib.shake_256(b"fold_lightning code fingerprints").digest(8 * 4 * (words + 1))
    return np.frombuffer(stream, dtype="<i8").astype(np.int64).reshape(words + 1, 4)


def check_bits(bits: Tensor) -> None:
    _check_bool(bits)
    if bits.dim() != 2:
        raise ValueError(f"Codes must have shape (inputs, units), got {tuple(bits.shape)}: flatten the rest into units.")


def _check_bool(bits: Tensor) -> None:
    if not isinstance(bits, Tensor):
        raise TypeError(f"Codes must be a bool tensor, got {type(bits).__name__}: take the `bits` of `activation_codes`.")
    if bits.dtype != torch.bool:
        raise TypeError(f"Codes must be a bool tensor, got {bits.dtype}: compare pre-activations with their threshold first.")

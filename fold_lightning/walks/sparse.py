"""Set bits of a large mask, found or counted eight at a time: several times faster than one by one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_WORDS = 255
"""Words of eight bools whose sum as int64 keeps each of its bytes below 256."""


def any_set(mask: Tensor) -> bool:
    """Return whether any bit of a fresh, contiguous bool mask is set."""
    words, rest = _words(mask)
    return bool(words.any()) or bool(rest.any())


def set_bits(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of each set bit of a fresh, contiguous bool mask (R, n), row by row, as ``mask.nonzero()`` gives them.

    Example:
        >>> set_bits(torch.eye(3).bool())
        (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """
    words, rest = _words(mask)
    word = words.nonzero().squeeze(1)
    nth, bit = words[word].view(torch.bool).view(-1, 8).nonzero(as_tuple=True)
    place = torch.cat([8 * word[nth] + bit, 8 * len(words) + rest.nonzero().squeeze(1)])
    return place // mask.shape[1], place % mask.shape[1]


def rows_with_any(mask: Tensor) -> Tensor:
    """Return which rows of a fresh, contiguous bool mask (R, n) have a set bit, bool (R,).

    Example:
        >>> rows_with_any(torch.tensor([[False, True], [False, False]]))
        tensor([ True, False])
    """
    return (mask.view(torch.int64) if mask.shape[1] % 8 == 0 and mask.shape[1] else mask).any(1)


def count_bits(mask: Tensor) -> Tensor:
    """Return the number of set bits along the last dimension of a fresh, contiguous bool mask (..., n): int64 (...).

    Sums of eight bytes at once take a tenth of the time of ``mask.sum(-1)``.

    Example:
        >>> count_bits(torch.eye(3).bool())
        tensor([1, 1, 1])
    """
    words = -(-mask.shape[-1] // 8)
    groups = max(1, -(-words // MAX_WORDS))
    padded = 8 * groups * -(-words // groups)
    mask = mask if padded == mask.shape[-1] else F.pad(mask, (0, padded - mask.shape[-1]))
    sums = mask.view(torch.int64).unflatten(-1, (groups, -1)).sum(-1)
    counts: Tensor = sums.view(torch.uint8).sum(-1)
    return counts


def _words(mask: Tensor) -> tuple[Tensor, Tensor]:
    flat = mask.view(-1)
    whole = len(flat) // 8 * 8
    return flat[:whole].view(torch.int64), flat[whole:]

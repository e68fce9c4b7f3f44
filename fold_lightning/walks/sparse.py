"""Finding the few set bits of a large mask: eight at a time, several times faster than one by one."""

from __future__ import annotations

import torch
from torch import Tensor


def any_set(mask: Tensor) -> bool:
    """Whether any bit of a fresh, contiguous bool mask is set."""
    words, rest = _words(mask)
    return bool(words.any()) or bool(rest.any())


def set_bits(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each set bit of a fresh, contiguous bool mask (R, n), row by row, as ``mask.nonzero()`` gives them.

    Example:
        >>> set_bits(torch.eye(3).bool())
        (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """
    words, rest = _words(mask)
    word = words.nonzero().squeeze(1)
    nth, bit = words[word].view(torch.bool).view(-1, 8).nonzero(as_tuple=True)
    place = torch.cat([8 * word[nth] + bit, 8 * len(words) + rest.nonzero().squeeze(1)])
    return place // mask.shape[1], place % mask.shape[1]


def _words(mask: Tensor) -> tuple[Tensor, Tensor]:
    flat = mask.view(-1)
    whole = len(flat) // 8 * 8
    return flat[:whole].view(torch.int64), flat[whole:]

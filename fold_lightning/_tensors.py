"""Operations on rows that belong to groups."""

from __future__ import annotations

import torch
from torch import Tensor


def index_in_group(group: Tensor, sizes: Tensor) -> Tensor:
    """Return each row's index within its group.

    Args:
        group: int64 (N,), ascending.
        sizes: int64 (G,), number of rows of each group.

    Example:
        >>> index_in_group(torch.tensor([0, 0, 2, 2, 2]), torch.tensor([2, 0, 3]))
        tensor([0, 1, 0, 1, 2])
    """
    return torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes).index_select(0, group)


def longest_run(length: Tensor, group: Tensor, num_groups: int, least: float) -> Tensor:
    """Return the length of each group's longest run of neighbouring intervals of nonzero length.

    Args:
        length: float64 (N,), lengths of intervals, by group and position.
        group: int64 (N,), ascending.
        num_groups: G.
        least: Minimum of the result.

    Example:
        >>> longest_run(torch.tensor([0.1, 0.2, 0.0, 0.2]), torch.tensor([0, 0, 0, 1]), 2, 1e-10)
        tensor([0.3000, 0.2000])
    """
    starts = torch.ones_like(group, dtype=torch.bool)
    starts[1:] = (group[1:] != group[:-1]) | (length[1:] == 0) | (length[:-1] == 0)
    total = torch.zeros_like(length[starts]).scatter_add_(0, starts.cumsum(0) - 1, length)
    return length.new_full((num_groups,), least).scatter_reduce_(0, group[starts], total, "amax")

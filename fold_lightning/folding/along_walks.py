"""Folding of a walk through codes: its range compared with its length."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fold_lightning.walks.events import distances_from_start, folding_of, ranges
from fold_lightning.walks.walks import Walks

Statistic = Literal["mean", "median", "max", "fraction"]


def walk_range(walks: Walks) -> Tensor:
    """Return the largest Hamming distance that each walk reaches from its first code.

    ``r1 = max_i d_H(pi_1, pi_i)`` in "On Space Folds of ReLU Neural Networks" (Lewandowski et al. 2025).

    Args:
        walks: S walks.

    Returns:
        int64 (S,), in units (bits); 0 for a walk that stays in its region.

    Example:
        >>> there_and_back = torch.tensor([[[False, False], [True, False], [True, True], [False, True]]])
        >>> walk_range(Walks.from_codes(there_and_back))
        tensor([2])
    """
    _check_walks(walks)
    return ranges(walks.segment, walks.position, walks.unit, walks.num_segments, walks.num_units)


def walk_length(walks: Walks) -> Tensor:
    """Return the sum of Hamming distances from code to code along each walk.

    ``r2 = sum_i d_H(pi_i, pi_{i+1})`` in "On Space Folds of ReLU Neural Networks" (Lewandowski et al. 2025): the number of
    switches of units.

    Args:
        walks: S walks.

    Returns:
        int64 (S,), in units (bits); 0 for a walk that stays in its region.

    Example:
        >>> there_and_back = torch.tensor([[[False, False], [True, False], [True, True], [False, True]]])
        >>> walk_length(Walks.from_codes(there_and_back))
        tensor([3])
    """
    _check_walks(walks)
    return torch.bincount(walks.segment, minlength=walks.num_segments)


def space_folding(walks: Walks) -> Tensor:
    """Return the space folding measure chi of each walk.

    ``chi = 1 - r1 / r2`` (`walk_range` over `walk_length`), and 0 where ``r2 = 0``, after "On Space Folds of ReLU Neural
    Networks" (Lewandowski et al. 2025) and its authors' code. It lies in [0, 1) and is 0 iff no unit switches twice.

    Args:
        walks: S walks.

    Returns:
        float64 (S,), without unit.

    Example:
        >>> tent = torch.tensor([[[0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]]).bool()
        >>> space_folding(Walks.from_codes(tent))
        tensor([0.2500], dtype=torch.float64)
    """
    return folding_of(walk_range(walks), walk_length(walks))


def summarize_folding(chi: Tensor, statistic: Statistic = "mean") -> Tensor:
    """Summarize the folding of many segments in one number.

    Args:
        chi: Folding of S segments, (S,).
        statistic: "mean" or "max" over all of them; "median" over the non-zero ones, as others report of Space Folds (the mean of
            the two middle values if their number is even; 0 if none folds); "fraction" of segments that fold.

    Returns:
        float64 (), without unit; NaN for no segments.

    Raises:
        ValueError: For another statistic.
        TypeError: If chi is not a tensor.

    Example:
        >>> chi = torch.tensor([0.0, 0.2, 0.4, 0.0])
        >>> [round(summarize_folding(chi, statistic).item(), 3) for statistic in ("mean", "median", "max", "fraction")]
        [0.15, 0.3, 0.4, 0.5]
    """
    if statistic not in get_args(Statistic):
        raise ValueError(f"`statistic` must be one of {', '.join(map(repr, get_args(Statistic)))}, got {statistic!r}.")
    check_chi_is_tensor(chi)
    chi = chi.double()
    if chi.numel() == 0:
        return chi.new_tensor(torch.nan)
    if statistic == "mean":
        return chi.mean()
    if statistic == "max":
        return chi.amax()
    folded = chi[chi > 0]
    if statistic == "fraction":
        return chi.new_tensor(folded.numel() / chi.numel())
    return folded.quantile(0.5) if folded.numel() else chi.new_zeros(())


def folding_profile(walks: Walks, i: int) -> Tensor:
    """Return chi of segment `i` as it grows along the walk: chi of the part up to each code.

    Args:
        walks: S walks.
        i: Index of the segment.

    Returns:
        float64 (steps + 1,), one value for each code; the first is 0, the last is the segment's chi.

    Example:
        >>> there_and_back = torch.tensor([[[False], [True], [False]]])
        >>> folding_profile(Walks.from_codes(there_and_back), 0)
        tensor([0.0000, 0.0000, 0.5000], dtype=torch.float64)
    """
    _check_walks(walks)
    one = walks.only(i)
    walked = torch.cat([one.unit.new_zeros(1), one.step_ends().nonzero().squeeze(1) + 1])
    return folding_of(distance_profile(walks, i).cummax(0).values, walked)


def distance_profile(walks: Walks, i: int) -> Tensor:
    """Return the Hamming distance of each code of segment `i` from its first, int64 (steps + 1,).

    Example:
        >>> there_and_back = torch.tensor([[[False], [True], [False]]])
        >>> distance_profile(Walks.from_codes(there_and_back), 0)
        tensor([0, 1, 0])
    """
    _check_walks(walks)
    one = walks.only(i)
    distance = distances_from_start(one.segment, one.unit, 1, one.num_units)
    return torch.cat([distance.new_zeros(1), distance[one.step_ends()]])


def check_chi_is_tensor(chi: Any) -> None:
    """Raise a TypeError unless a value is a tensor, as chi of segments is."""
    if not isinstance(chi, Tensor):
        advice = "take chi from `space_folding(walks)`" if isinstance(chi, Walks) else "convert it with `torch.as_tensor`"
        raise TypeError(f"`chi` must be a tensor (S,), the folding of each segment, got {type(chi).__name__}: {advice}.")


def _check_walks(walks: Walks) -> None:
    if not isinstance(walks, Walks):
        raise TypeError(f"Expected `Walks`, got {type(walks).__name__}: make them with `segment_walks` or `Walks.from_codes`.")

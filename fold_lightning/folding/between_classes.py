"""Folding of a whole network between classes: a matrix over ordered pairs of classes, and one number."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fold_lightning._checks import check_choice, check_classes, check_integer
from fold_lightning.folding.along_walks import check_chi_is_tensor

Aggregate = Literal["max", "median", "mean"]


def global_folding(
    chi: Tensor,
    start_class: Tensor,
    end_class: Tensor,
    num_classes: int,
    *,
    within: Aggregate = "max",
    across: Aggregate = "median",
) -> tuple[Tensor, Tensor]:
    """Return Phi_N, the folding of a network between classes, and the matrix over class pairs that it aggregates.

    ``Phi[c, c']`` is the maximum (or median, or mean) of the non-zero chi of the segments from class c to class c', and
    ``Phi_N`` the median (or maximum, or mean) of ``Phi[c, c']`` over the ordered pairs ``c != c'``. "The Space Between"
    (Lewandowski et al. 2025) names a global folding Phi_N between classes; its own formula was not available. The formula here
    is **this project's reading** of descriptions by others of "On Space Folds of ReLU Neural Networks" (Lewandowski et al. 2025),
    one of which says "aggregated median of maximas of non-zero space folding across all pairs".

    A pair whose segments do not fold has 0. A pair without segments, such as one with a class without inputs, is NaN in the
    matrix and left out of Phi_N. The diagonal is in the matrix, but not in Phi_N. Without a pair of different classes with
    segments, Phi_N is NaN.

    Args:
        chi: Folding of S segments, (S,), in [0, 1), as from `space_folding`.
        start_class: int64 (S,), the class in which each segment starts.
        end_class: int64 (S,), the class in which it ends.
        num_classes: C; classes are 0 to C - 1.
        within: How the segments of one pair are aggregated: "max", "median" or "mean" over those that fold.
        across: How pairs are aggregated: "max", "median" or "mean". Medians are NumPy's, the mean of the two middle values.
            Means sum in the given order, so their last digit depends on it.

    Returns:
        Phi_N, float64 (), and the matrix, float64 (C, C), rows for the start.

    Raises:
        ValueError: For classes out of range, shapes that differ, chi outside [0, 1), or an unknown aggregate.
        TypeError: For classes that are not integers, or chi that is not a tensor.

    Example:
        >>> chi = torch.tensor([0.5, 0.2, 0.0, 0.3])
        >>> start, end = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 1, 0, 0])
        >>> phi, matrix = global_folding(chi, start, end, num_classes=2)
        >>> phi, matrix
        (tensor(0.2500, dtype=torch.float64), tensor([[0.3000, 0.5000],
                [0.0000,    nan]], dtype=torch.float64))
    """
    check_aggregates(within, across)
    check_num_classes(num_classes)
    check_folding(chi)
    pair = pairs_of(start_class, end_class, num_classes, len(chi), "value of `chi`")
    chi = chi.to(pair.device, torch.float64)
    matrix = fold_within(chi, pair, num_classes**2, within).view(num_classes, num_classes)
    return fold_across(matrix, across), matrix


def fold_within(chi: Tensor, group: Tensor, num_groups: int, within: Aggregate) -> Tensor:
    """Return the folding of each group of segments, float64 (G,): 0 if none folds, NaN for an empty group.

    Args:
        chi: float64 (S,).
        group: int64 (S,), from 0 to G - 1.
        num_groups: Number G of groups.
        within: "max", "median" or "mean" of the segments that fold.
    """
    is_empty = torch.bincount(group, minlength=num_groups) == 0
    folds = chi > 0
    folded, group = chi[folds], group[folds]
    number = torch.bincount(group, minlength=num_groups)
    if within == "max":
        value = folded.new_zeros(num_groups).scatter_reduce_(0, group, folded, "amax")
    else:
        value = (_medians if within == "median" else _means)(folded, group, number)
    return value.masked_fill(is_empty, torch.nan)


def fold_across(matrix: Tensor, across: Aggregate) -> Tensor:
    """Aggregate the ordered pairs of different classes that have segments, float64 (); NaN if there is none.

    Args:
        matrix: float64 (C, C), NaN for pairs without segments.
        across: "max", "median" or "mean".
    """
    pairs = matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]
    pairs = pairs[~pairs.isnan()]
    if len(pairs) == 0:
        return matrix.new_tensor(torch.nan)
    if across == "max":
        return pairs.amax()
    together, number = torch.zeros_like(pairs, dtype=torch.int64), torch.tensor([len(pairs)], device=pairs.device)
    return (_medians if across == "median" else _means)(pairs, together, number)[0]


def check_aggregates(within: str, across: str) -> None:
    """Raise unless both values are names of aggregates."""
    check_choice("within", within, get_args(Aggregate))
    check_choice("across", across, get_args(Aggregate))


def check_num_classes(num_classes: int) -> None:
    """Raise unless a value is a number of classes."""
    check_integer("num_classes", num_classes, 1)


def pairs_of(start_class: Tensor, end_class: Tensor, num_classes: int, num_segments: int, row: str) -> Tensor:
    """Check the classes of segments, and return the index int64 (S,) of each segment's ordered pair.

    Args:
        start_class: int64 (S,), the class in which each segment starts.
        end_class: int64 (S,), the class in which it ends.
        num_classes: Number of classes.
        num_segments: S.
        row: Name of what there is one of for each segment, for the message.
    """
    for name, classes in (("start_class", start_class), ("end_class", end_class)):
        check_classes(name, classes, num_segments, num_classes, row=row)
    return start_class.long() * num_classes + end_class.long()


def check_folding(chi: Tensor) -> None:
    """Raise unless a value is a tensor (S,) of chi."""
    check_chi_is_tensor(chi)
    if chi.dim() != 1:
        raise ValueError(f"`chi` must have shape (S,), a value for each segment, got {tuple(chi.shape)}.")
    if not bool(((chi >= 0) & (chi < 1)).all()):
        raise ValueError("`chi` must lie in [0, 1), got values outside or NaN: take it from `space_folding`.")


def _means(values: Tensor, group: Tensor, number: Tensor) -> Tensor:
    """Return the mean of each group, summed in the given order; 0 for an empty one."""
    return torch.bincount(group, weights=values, minlength=len(number)) / number.clamp(min=1)


def _medians(values: Tensor, group: Tensor, number: Tensor) -> Tensor:
    """Return NumPy's median of each group, 0 for an empty one; ``number`` (G,) is the size of each group."""
    order = torch.argsort(values)
    values = values[order[torch.argsort(group[order], stable=True)]]
    first = number.cumsum(0) - number
    medians = values.new_zeros(len(number))
    some = number > 0
    low, high = (first + (number - 1) // 2)[some], (first + number // 2)[some]
    medians[some] = (values[low] + values[high]) / 2
    return medians

"""Segments between inputs, spread evenly over pairs of classes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning._checks import check_integer

MAX_EVEN_PAIRS = 128
"""Maximum number of ordered pairs of classes (11 classes have 110) with which each pair has equally many segments."""

MAX_SEGMENTS = 1_000_000
"""Maximum number of segments of a sample, whose indices take 32 MB; limits `per_pair` with many classes."""


@dataclass(frozen=True)
class Segments:
    """S segments between inputs.

    Attributes:
        start: int64 (S,), indices of the inputs at which they start.
        end: int64 (S,), indices of the inputs at which they end.
        start_class: int64 (S,), the class of each start; None without labels.
        end_class: int64 (S,), the class of each end; None without labels.
        classes: int64 (C,), the classes that could be drawn, ascending; None without labels.
    """

    start: Tensor
    end: Tensor
    start_class: Tensor | None = None
    end_class: Tensor | None = None
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.start)

    def between_classes(self) -> BetweenClasses | None:
        """Return the class indices of each segment; None without labels."""
        if self.start_class is None or self.end_class is None or self.classes is None:
            return None
        classes = self.classes
        return BetweenClasses(classes, *(torch.searchsorted(classes, side) for side in (self.start_class, self.end_class)))

    def describe(self) -> str:
        """Describe the number of segments, in all and per pair of classes."""
        between = self.between_classes()
        if between is None:
            return f"{len(self)} segments between random inputs, without classes"
        count = len(between.classes)
        _, each = (between.start * count + between.end).unique(return_counts=True)
        least, most = int(each.min()), int(each.max())
        num_pairs = count * (count - 1)
        drawn = f"the {num_pairs}" if len(each) == num_pairs else f"{len(each)} of {num_pairs}"
        return (
            f"{len(self)} segments, {least if least == most else f'{least} to {most}'} for each of {drawn} ordered pairs of "
            f"{count} classes"
        )


@dataclass(frozen=True)
class BetweenClasses:
    """Class indices of segments.

    Attributes:
        classes: int64 (C,), ascending.
        start: int64 (S,), index in `classes` of the class in which each segment starts.
        end: int64 (S,), index in `classes` of the class in which each segment ends.
    """

    classes: Tensor
    start: Tensor
    end: Tensor


def class_segments(labels: Any, *, per_pair: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw equally many segments between inputs of each ordered pair of classes, as the monitor does.

    Phi_N grows with the number of segments per pair, because it takes the largest chi of each pair: only values with equal
    `per_pair` are comparable. Inputs are drawn with replacement, so a pair of small classes may have a segment twice.

    Args:
        labels: Integer classes (B,), negative where an input has none: a tensor, an array or a list.
        per_pair: Number of segments from each class to each other one.
        seed: Seed of the draw.

    Returns:
        Indices int64 (S,) of the inputs at which the segments start, and of the inputs at which they end.

    Raises:
        ValueError: If there are fewer than two classes, or more than 1,000,000 segments.
        TypeError: If the labels are not integers.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1, 2])
        >>> start, end = class_segments(labels, per_pair=2)
        >>> len(start), bool((labels[start] != labels[end]).all())
        (12, True)
    """
    given = np.asarray(labels) if not isinstance(labels, Tensor) else labels
    if not isinstance(given, Tensor) and given.dtype.kind in "biu":
        given = torch.from_numpy(given.astype(np.int64))
    if not isinstance(given, Tensor) or given.is_floating_point() or given.is_complex():
        raise TypeError(
            f"`labels` must be integer classes (B,), got {given.dtype} {tuple(given.shape)}: number them, such as with "
            "`torch.from_numpy(numpy.unique(labels, return_inverse=True)[1])`."
        )
    labels = given
    check_integer("per_pair", per_pair, 1)
    check_integer("seed", seed, 0)
    if labels.dim() != 1 or len(labels[labels >= 0].unique()) < 2:
        raise ValueError(
            f"Segments between classes need labels (B,) of at least 2 classes, got {tuple(labels.shape)} with "
            f"{len(labels[labels >= 0].unique())}."
        )
    segments = draw_segments(labels.long(), len(labels), count=per_pair, per_pair=per_pair, seed=seed)
    return segments.start, segments.end


def draw_segments(labels: Tensor | None, num_items: int, *, count: int, per_pair: int | None = None, seed: int = 0) -> Segments:
    """Draw segments between inputs, spread evenly over the ordered pairs of different classes if there are labels.

    Time and memory grow with the number of inputs and of segments, not with the number of pairs.

    Args:
        labels: int64 (B,), negative where an input has no class. None, or fewer than two classes, gives segments between any
            two inputs; otherwise inputs without a class are left out.
        num_items: Number B of inputs.
        count: Number of segments. With at most 128 ordered pairs of classes, it is raised so that each pair has equally many;
            with more, the segments go between as many different pairs as possible.
        per_pair: Number of segments per ordered pair of classes, instead of `count`; without two classes, `count` is used.
        seed: Seed of the draw.

    Raises:
        ValueError: If there are fewer than two inputs, or `per_pair` asks for more than 1,000,000 segments.

    Example:
        >>> segments = draw_segments(torch.tensor([0, 0, 1, 1, 2]), 5, count=8)
        >>> sorted(set(zip(segments.start_class.tolist(), segments.end_class.tolist())))
        [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
        >>> len(segments)
        12
    """
    check_several(num_items)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.empty(0, dtype=torch.int64) if labels is None else labels.cpu()
    labelled = (labels >= 0).nonzero().flatten()
    ordered, order = labels[labelled].sort(stable=True)
    classes, sizes = ordered.unique_consecutive(return_counts=True)
    if len(classes) < 2:
        start = torch.randint(num_items, (count,), generator=generator)
        end = (start + torch.randint(1, num_items, (count,), generator=generator)) % num_items
        return Segments(start, end)
    sides = draw_class_pairs(len(classes), count, per_pair, seed)
    start, end = (labelled[order[_one_of_each(side, sizes, generator)]] for side in sides)
    return Segments(start, end, classes[sides[0]], classes[sides[1]], classes)


def draw_class_pairs(num_classes: int, count: int, per_pair: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Draw ordered pairs of different classes, and return the indices of their classes, each int64 (S,).

    Args:
        num_classes: Number C of classes, at least 2.
        count: Number of pairs to draw, as in `draw_segments`.
        per_pair: How often each pair is drawn, instead of `count`.
        seed: Seed of the draw.
    """
    num_pairs = num_classes * (num_classes - 1)
    if per_pair is not None and per_pair * num_pairs > MAX_SEGMENTS:
        raise ValueError(
            f"{per_pair} segments for each of {num_pairs} ordered pairs of {num_classes} classes are more than {MAX_SEGMENTS}: "
            "take fewer, or leave `segments_per_pair` out to spread `num_segments` over the pairs."
        )
    each, rest = (per_pair, 0) if per_pair is not None else divmod(count, num_pairs)
    if per_pair is None and rest and num_pairs <= MAX_EVEN_PAIRS:
        each, rest = each + 1, 0
    drawn = random.Random(seed).sample(range(num_pairs), rest if each == 0 else num_pairs)
    pair = torch.tensor(drawn * each + drawn[:rest], dtype=torch.int64)
    start, end = pair // (num_classes - 1), pair % (num_classes - 1)
    return start, end + (end >= start)


def check_several(num_items: int, num_not_finite: int = 0, num_other_shapes: int = 0) -> None:
    """Raise if there are too few inputs for a segment; the message reports inputs that are not finite or of other shapes."""
    if num_items >= 2:
        return
    got = f"Segments need at least 2 inputs, got {num_items}"
    if num_not_finite:
        raise ValueError(f"{got}, and {num_not_finite} with NaN or infinite values: clean or normalise the data first.")
    if num_other_shapes:
        raise ValueError(f"{got}, and {num_other_shapes} of another shape or dtype: pad, crop or convert them.")
    raise ValueError(f"{got}: pass more data.")


def _one_of_each(wanted: Tensor, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """Return the position of a random input of each wanted class, among inputs that are sorted by class."""
    first = (sizes.cumsum(0) - sizes)[wanted]
    return first + (torch.rand(len(wanted), generator=generator, dtype=torch.float64) * sizes[wanted]).long()

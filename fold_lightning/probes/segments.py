"""Segments between inputs, spread evenly over pairs of classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """S segments between inputs.

    Attributes:
        start: Inputs (S, ...).
        end: Inputs (S, ...).
        start_class: int64 (S,) the class of each start; None without labels.
        end_class: int64 (S,), likewise.
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
        """Between which classes they go; None without labels."""
        if self.start_class is None or self.end_class is None or self.classes is None:
            return None
        classes = self.classes
        return BetweenClasses(classes, *(torch.searchsorted(classes, side) for side in (self.start_class, self.end_class)))

    def describe(self) -> str:
        """How many there are, and between how many pairs of classes."""
        between = self.between_classes()
        if between is None:
            return f"{len(self)} segments between random inputs, without classes"
        count = len(between.classes)
        each = torch.bincount(between.start * count + between.end)
        least, most = int(each[each > 0].min()), int(each.max())
        return (
            f"{len(self)} segments, {least if least == most else f'{least} to {most}'} for each of {int((each > 0).sum())} of "
            f"{count * (count - 1)} ordered pairs of {count} classes"
        )

    def of(self, rows: slice | Tensor) -> Segments:
        """Some of them."""
        start_class, end_class = (c if c is None else c[rows] for c in (self.start_class, self.end_class))
        return Segments(self.start[rows], self.end[rows], start_class, end_class, self.classes)


@dataclass(frozen=True)
class BetweenClasses:
    """The classes of segments, numbered.

    Attributes:
        classes: int64 (C,), ascending.
        start: int64 (S,), which of them each segment starts in.
        end: int64 (S,), which of them it ends in.
    """

    classes: Tensor
    start: Tensor
    end: Tensor


def draw_segments(inputs: Tensor, labels: Tensor | None, count: int, seed: int, *, per_pair: int | None = None) -> Segments:
    """Segments between inputs, spread evenly over the ordered pairs of different classes where there are labels.

    Args:
        inputs: (B, ...), B at least 2.
        labels: int64 (B,); None, or a single class, gives segments between any two inputs. Inputs with a negative label are left
            out.
        count: How many.
        seed: Of a generator of their own.
        per_pair: How many for each ordered pair of different classes, instead of a `count` in all; without two classes `count`
            holds.

    Raises:
        ValueError: If there are fewer than two inputs.

    Example:
        >>> segments = draw_segments(torch.arange(4.0)[:, None], torch.tensor([0, 0, 1, 1]), count=4, seed=0)
        >>> sorted(zip(segments.start_class.tolist(), segments.end_class.tolist()))
        [(0, 1), (0, 1), (1, 0), (1, 0)]
    """
    check_several(inputs)
    if labels is not None and bool((has_class := labels >= 0).any()):  # a negative label, such as -100, says that there is none
        inputs, labels = inputs[has_class], labels[has_class]
        check_several(inputs)
    generator = torch.Generator().manual_seed(seed)
    if labels is None or len(classes := labels.cpu().unique()) < 2:
        start = torch.randint(len(inputs), (count,), generator=generator)
        end = (start + torch.randint(1, len(inputs), (count,), generator=generator)) % len(inputs)
        return Segments(inputs[start], inputs[end])
    labels = labels.cpu()
    pairs = torch.cartesian_prod(classes, classes)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    pairs = pairs[torch.arange(count if per_pair is None else per_pair * len(pairs)) % len(pairs)]
    sides = [side.contiguous() for side in pairs.T]
    start, end = (_one_of_each(labels, classes, side, generator) for side in sides)
    return Segments(inputs[start], inputs[end], sides[0], sides[1], classes)


def check_several(inputs: Tensor) -> None:
    """Refuses too few inputs for a segment."""
    if len(inputs) < 2:
        raise ValueError(f"Segments need at least 2 inputs to go between, got {len(inputs)}: give more data or `probes=`.")


def _one_of_each(labels: Tensor, classes: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """For each wanted class the index of a random input of it; `classes` are all there are, ascending."""
    members = torch.argsort(labels, stable=True)
    number = torch.bincount(torch.searchsorted(classes, labels), minlength=len(classes))
    which = torch.searchsorted(classes, wanted)
    first = (number.cumsum(0) - number)[which]
    return members[first + (torch.rand(len(wanted), generator=generator, dtype=torch.float64) * number[which]).long()]

"""Random segments between inputs of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Between = Literal["classes", "same", "any"]


def draw_input_pairs(
    count: int, labels: Tensor | None, num_segments: int, between: Between, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw random segments: the indices int64 (S,) of the inputs at which they start and end.

    Args:
        count: Number B of inputs, at least 1.
        labels: Integers (B,), negative where an input has none; None without labels.
        num_segments: Number S of segments.
        between: Segments connect inputs of different "classes", of the "same" class, or "any" inputs. If labels allow no such
            segment, any inputs are connected; with a single input, segments have length 0.
        generator: Random generator, on the CPU.

    Example:
        >>> start, end = draw_input_pairs(4, torch.tensor([0, 0, 1, -1]), 100, "classes", torch.Generator().manual_seed(0))
        >>> sorted(set(zip(start.tolist(), end.tolist())))
        [(0, 2), (1, 2), (2, 0), (2, 1)]
    """
    if count == 1:
        return torch.zeros(num_segments, dtype=torch.int64), torch.zeros(num_segments, dtype=torch.int64)
    classes = torch.arange(count) if labels is None or between == "any" else labels.detach().cpu().long()
    _, number, size = classes.unique(return_inverse=True, return_counts=True)
    has_class = classes >= 0
    same = between == "same"
    starts = (has_class & (size[number] > 1 if same else size[number] < has_class.sum())).nonzero().flatten()
    if len(starts) == 0:
        return draw_input_pairs(count, None, num_segments, "any", generator)
    start = starts[torch.randint(len(starts), (num_segments,), generator=generator)]
    ends = has_class & ((classes == classes[start, None]) == same)
    ends[torch.arange(num_segments), start] = False
    return start, torch.multinomial(ends.float(), 1, generator=generator).flatten()

"""Events of walks as tensors: the ends of steps, distances from the first code, and measures of walks that follow from these.

In all functions `segment`, `position` and `unit` (E,) are as in `Walks`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning._tensors import index_in_group


def step_ends(segment: Tensor, position: Tensor) -> Tensor:
    """Return which events are the last of their step, bool (E,)."""
    ends = torch.ones_like(segment, dtype=torch.bool)
    ends[:-1] = (segment[1:] != segment[:-1]) | (position[1:] != position[:-1])
    return ends


def distances_from_start(segment: Tensor, unit: Tensor, num_segments: int, num_units: int) -> Tensor:
    """Return the Hamming distance from the walk's first code after each event, int64 (E,).

    A unit's odd switches lead away from the first code, its even ones back.
    """
    direction = 1 - 2 * (_earlier_switches(segment * num_units + unit) % 2)
    total = direction.cumsum(0)
    length = torch.bincount(segment, minlength=num_segments)
    before = torch.cat([total.new_zeros(1), total])[length.cumsum(0) - length]
    return total - before[segment]


def ranges(segment: Tensor, position: Tensor, unit: Tensor, num_segments: int, num_units: int) -> Tensor:
    """Return the largest distance from the first code that each walk has after a step, int64 (S,); 0 without steps."""
    distance, ends = distances_from_start(segment, unit, num_segments, num_units), step_ends(segment, position)
    farthest = torch.zeros(num_segments, dtype=torch.int64, device=segment.device)
    return farthest.scatter_reduce_(0, segment[ends], distance[ends], "amax")


def folding_of(reached: Tensor, walked: Tensor) -> Tensor:
    """Return chi of walks from their range and their length, float64."""
    # A walk that never leaves its region has length 0: no fold, not 0/0.
    return torch.where(walked > 0, 1.0 - reached.double() / walked.clamp(min=1), 0.0)


def reversed_events(
    segment: Tensor, position: Tensor, unit: Tensor, intervals: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the segments, positions and units of the events of the reversed walks, each (E,).

    Args:
        segment: As in `Walks`.
        position: As in `Walks`.
        unit: As in `Walks`.
        intervals: int64 (E,), number of intervals between equidistant points of each event's segment, where only these were
            evaluated: a reversed walk then has a switch one point after the mirrored position. None where switches
            were located.
    """
    ends = step_ends(segment, position)
    step = ends.cumsum(0) - ends.long()
    order = torch.argsort(unit, stable=True)
    order = order[torch.argsort(-step[order], stable=True)]
    order = order[torch.argsort(segment[order], stable=True)]
    if intervals is not None:
        back = (intervals - (position * intervals).round() + 1) / intervals
        return segment[order], back[order], unit[order]
    back = 1.0 - position[order]
    later = (step[order][1:] != step[order][:-1]) & (segment[order][1:] == segment[order][:-1])
    back = back.clamp(max=1.0 - torch.finfo(back.dtype).eps)
    while bool((equal := later & (back[1:] <= back[:-1])).any()):  # steps stay apart that 1 - t rounds to one position
        back[:-1][equal] = torch.nextafter(back[1:], torch.zeros_like(back[1:]))[equal]
    return segment[order], back, unit[order]


def _earlier_switches(unit: Tensor) -> Tensor:
    """Return the number of earlier events of the same unit, int64 (E,)."""
    order = torch.argsort(unit, stable=True)
    rank = index_in_group(unit[order], torch.bincount(unit))
    return torch.empty_like(rank).index_copy_(0, order, rank)

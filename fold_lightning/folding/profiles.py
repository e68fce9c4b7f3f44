"""Profiles of walks: distances from the first code along the walk, thinned to a fixed number of points."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning._tensors import index_in_group
from fold_lightning.walks import SampledDistances, Walks
from fold_lightning.walks.events import distances_from_start, step_ends


def thinned_profiles(walks: Walks | SampledDistances, num_points: int) -> Tensor:
    """Return position, distance and length after some of the steps of each walk.

    Steps are divided into equally long groups. The last step is kept, and from each group the nearest to the first code and the
    farthest from it, so that the kept points give the folding of the whole walk and show every peak.

    Args:
        walks: S walks, or sampled distances between their codes.
        num_points: Maximum number of points of a walk, at least 3.

    Returns:
        float64 (S, num_points, 3): position in [0, 1], Hamming distance from the first code, and number of switches so far; NaN
        after the last step.

    Example:
        >>> there_and_back = Walks.from_codes(torch.tensor([[[False], [True], [False]]]))
        >>> thinned_profiles(there_and_back, 3)
        tensor([[[0.5000, 1.0000, 1.0000],
                 [1.0000, 0.0000, 2.0000],
                 [   nan,    nan,    nan]]], dtype=torch.float64)
    """
    steps = _steps_of_walks(walks) if isinstance(walks, Walks) else _steps_of_distances(walks)
    num_segments, segment, position, distance, length = steps
    kept = _kept(segment, distance, num_segments, num_points)
    segment = segment[kept]
    profiles = torch.full((num_segments, num_points, 3), torch.nan, dtype=torch.float64, device=segment.device)
    values = torch.stack([position[kept], distance[kept].double(), length[kept].double()], 1)
    profiles[segment, index_in_group(segment, torch.bincount(segment, minlength=num_segments))] = values
    return profiles


def _steps_of_walks(walks: Walks) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """Return the number of segments, and each step's segment, position, distance from the first code and switches so far."""
    segment = walks.segment
    distance = distances_from_start(segment, walks.unit, walks.num_segments, walks.num_units)
    length = index_in_group(segment, torch.bincount(segment, minlength=walks.num_segments)) + 1
    ends = step_ends(segment, walks.position)
    return walks.num_segments, segment[ends], walks.position[ends], distance[ends], length[ends]


def _steps_of_distances(distances: SampledDistances) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    from_start = torch.stack([*distances.from_start.values()]).sum(0)
    from_previous = torch.stack([*distances.from_previous.values()]).sum(0)
    segment, point = (from_previous > 0).nonzero(as_tuple=True)
    position = (point + 1).double() / from_start.shape[1]
    return len(from_start), segment, position, from_start[segment, point], from_previous.cumsum(1)[segment, point]


def _kept(segment: Tensor, distance: Tensor, num_segments: int, num_points: int) -> Tensor:
    """Return the indices int64 of the steps to keep, ascending, at most `num_points` per segment."""
    count, place = torch.bincount(segment, minlength=num_segments), torch.arange(len(segment), device=segment.device)
    rank, groups = index_in_group(segment, count), (num_points - 1) // 2
    group = segment * groups + rank * groups // count[segment].clamp(min=1)
    spread = len(segment) + 1
    size = num_segments * groups
    high, low = distance * spread - place, distance * spread + place  # the first of equal ones
    farthest = high.new_zeros(size).scatter_reduce_(0, group, high, "amax", include_self=False)
    nearest = low.new_zeros(size).scatter_reduce_(0, group, low, "amin", include_self=False)
    is_last = torch.ones_like(segment, dtype=torch.bool)
    is_last[:-1] = segment[1:] != segment[:-1]
    keep = is_last | (count <= num_points)[segment]
    keep |= (high == farthest[group]) | (low == nearest[group])
    return keep.nonzero().flatten()

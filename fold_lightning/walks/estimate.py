"""A lower bound of the breakpoints that exact walks meet, from few points: the same count on every machine."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fold_lightning.activations.codes import CHUNK_BYTES, codes_of
from fold_lightning.activations.evaluation import Forward, evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.activations.layers import Patterns
from fold_lightning.walks.segments import check_segments, ends_to_inspect
from fold_lightning.walks.sparse import count_bits
from fold_lightning.walks.uniform import check_num_points


def count_switches(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    num_points: int = 9,
) -> Tensor:
    """Count the switches seen at a few equidistant points of each segment: a lower bound of an exact walk's breakpoints.

    All layers up to the last that counts are seen, since an exact walk stops at the switches of each of them. Where two units switch
    at one place the walk has one breakpoint for both. Choices of a max pooling, which bend a walk without a bit, are not seen.

    Args:
        model: Any module, as for `segment_walks`.
        start: Floating-point inputs (S, ...), on the model's device.
        end: As many inputs of the same shape.
        layers: The layers that count.
        forward: How to call the model.
        num_points: Points of each segment, at least 2: a unit that switches back between two of them is missed.

    Returns:
        int64 (S,), in float64 and up to rounding, so that it is the same on all machines.

    Raises:
        ValueError: As `segment_walks` does.
        TypeError: As `segment_walks` does.

    Example:
        >>> tent = lambda model, x: (x.relu() + (-x).relu() - 1).relu()
        >>> count_switches(torch.nn.Identity(), torch.tensor([[-2.0]]), torch.tensor([[2.0]]), forward=tent)
        tensor([4])
    """
    check_segments(start, end)
    check_num_points(num_points)
    with evaluate_on_replica(model, start, forward) as replica:
        structure = inspect(replica, ends_to_inspect(start, end), layers)
        structure = replace(structure, counted=tuple(structure.needed))
        start, end = (x.detach().to(replica.device, torch.float64)[:, None] for x in (start, end))
        position = torch.linspace(0, 1, num_points, dtype=torch.float64, device=start.device)
        position = position.view(-1, *[1] * (start.dim() - 2))
        segments = max(1, CHUNK_BYTES // (num_points * (8 * start[0].numel() + structure.num_units)))
        counts = []
        for a, b in zip(start.split(segments), end.split(segments), strict=True):
            bits = codes_of(replica, structure, torch.lerp(a, b, position).flatten(0, 1)).unflatten(0, (-1, num_points))
            counts.append(count_bits(bits[:, 1:] ^ bits[:, :-1]).sum(1))
    return torch.cat(counts)

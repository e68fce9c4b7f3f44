"""Folding of segments in one call, by exact walks or through equidistant points."""

from __future__ import annotations

from torch import Tensor, nn

from fold_lightning.activations.evaluation import Forward
from fold_lightning.activations.layers import Patterns
from fold_lightning.folding.per_segment import PerSegment
from fold_lightning.walks import Method, sampled_distances, segment_walks


def measure_segments(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    method: Method = "exact",
    num_points: int | None = None,
) -> PerSegment:
    """Return the measures of the walks along segments, and keep no walk.

    They equal ``PerSegment.of(segment_walks(...))``, whose arguments and errors these are. Equidistant points take the time of one
    forward pass over them, and the memory of one block of them.

    Example:
        >>> import torch
        >>> tent = lambda model, x: (x.relu() + (-x).relu() - 1).relu()
        >>> start, end = torch.tensor([[-2.0]]), torch.tensor([[2.0]])
        >>> measure_segments(torch.nn.Identity(), start, end, forward=tent, method="uniform", num_points=129).chi
        tensor([0.2500], dtype=torch.float64)
    """
    if method == "uniform" and num_points is not None:
        return PerSegment.of(sampled_distances(model, start, end, num_points=num_points, layers=layers, forward=forward))
    walks = segment_walks(model, start, end, layers=layers, forward=forward, method=method, num_points=num_points)
    return PerSegment.of(walks)

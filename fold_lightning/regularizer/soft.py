"""Soft folding: chi of a sampled walk with bits between 0 and 1, so that it has a gradient.

"The Space Between" (Lewandowski et al. 2025) outlines a regularizer of folding; all formulas here are this project's own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

DISTANCE_TEMPERATURE = 8.0
"""Temperature of the soft maximum over distances, in units (bits), as a multiple of the temperature of the bits."""

SMALLEST_SPREAD = 0.01
"""Minimum standard deviation of a layer, as a share of the largest layer's, so that gradients of layers that are nearly 0 are
bounded."""

SMALLEST_VARIANCE = 1e-20


def soft_bits(layers: Iterable[tuple[tuple[float, ...], Tensor]], temperature: float) -> Tensor:
    """Return the soft bit ``sigmoid((z - threshold) / (t s))``, between 0 and 1, of each pre-activation.

    ``t`` is the temperature, and ``s`` the standard deviation of all pre-activations of the layer, so that the scales of
    weights and inputs do not matter; ``s`` is at least a hundredth of the largest layer's. As ``t`` tends to 0, soft bits tend
    to the bits, unless ``z`` equals the threshold.

    Args:
        layers: The thresholds and pre-activations (B, n) of each layer.
        temperature: ``t``, above 0.

    Returns:
        (B, N), in float32 or float64. A layer gives all its low-threshold bits, then all high ones.

    Example:
        >>> z = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        >>> soft_bits([((0.0,), z)], temperature=0.5).round(decimals=2)
        tensor([[0.1200, 0.8800],
                [0.8800, 0.1200]])
    """
    wide: list[tuple[tuple[float, ...], Tensor]] = []
    variances: list[Tensor] = []
    for thresholds, z in layers:
        wide.append((thresholds, z if z.dtype == torch.float64 else z.float()))
        # Without this floor, differences of equal numbers by rounding would look like folding.
        floor = torch.finfo(z.dtype).eps * wide[-1][1].detach().square().mean() + SMALLEST_VARIANCE
        variances.append(wide[-1][1].var(correction=0) + floor)
    variance = torch.stack(variances)
    spreads = variance.maximum(SMALLEST_SPREAD**2 * variance.detach().max()).sqrt()
    scaled = [
        (z - threshold if threshold else z) / spread
        for (thresholds, z), spread in zip(wide, spreads, strict=True)
        for threshold in thresholds
    ]
    return torch.sigmoid(torch.cat(scaled, dim=1) / temperature)


def soft_folding(bits: Tensor, temperature: float, damping: float = 8.0) -> Tensor:
    """Return the folding of walks through soft bits, ``(r2 - r1) / (r2 + D t N)``, with a damping ``D``.

    With distances ``d(p, q) = sum |p - q|`` over units, ``r2`` is the sum of distances from each point to the next, and ``r1``
    the mean of distances from the first point to each other one, weighted by ``softmax(d / (8 t))``, and so at most ``r2``. As
    the temperature ``t`` tends to 0, and soft bits to bits, the folding tends to chi of the same points (`space_folding` of
    `Walks.from_codes`).

    The damping (this project's finding) lets the term raise the exact chi without harm to accuracy. Undamped, the quotient also
    rewards a small ``r1``, that is, codes that classes share, and accuracy falls; damped, it grows mostly if walks turn back.

    Args:
        bits: (S, T, N), S walks of T points, T at least 2, through N units, in [0, 1].
        temperature: ``t``, the temperature of the bits.
        damping: ``D``, at least 0.

    Returns:
        (S,), in [0, 1), without unit; 0 for a walk of equal points.

    Example:
        >>> tent = torch.tensor([[[0.0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]])
        >>> soft_folding(tent, temperature=1e-4).round(decimals=2), soft_folding(tent, temperature=0.125).round(decimals=2)
        (tensor([0.2500]), tensor([0.2000]))
    """
    length = (bits[:, 1:] - bits[:, :-1]).abs().sum((1, 2))
    distance = (bits[:, 1:] - bits[:, :1]).abs().sum(2)
    farthest = (torch.softmax(distance / (DISTANCE_TEMPERATURE * temperature), dim=1) * distance).sum(1)
    return (length - farthest) / (length + damping * temperature * bits.shape[2] + torch.finfo(bits.dtype).eps)

"""Soft folding: chi of a sampled walk whose bits are numbers between 0 and 1, so that it has a gradient.

"The Space Between" (Lewandowski et al. 2025) outlines a regularizer of folding; all formulas here are this project's own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BLUR = 8.0
"""Temperature of the soft maximum in units (bits), times that of the bits."""

SMALLEST_SPREAD = 0.01
"""Least spread of a layer, in spreads of the layer with the largest, so that gradients of layers that are nearly 0 stay bounded."""

SMALLEST_VARIANCE = 1e-20


def soft_bits(layers: Iterable[tuple[tuple[float, ...], Tensor]], temperature: float) -> Tensor:
    """Return soft bits between 0 and 1, ``sigmoid((z - threshold) / (t s))`` of each pre-activation.

    ``t`` is the temperature and ``s`` the standard deviation of all pre-activations of the layer, so that neither the scale of the
    weights nor that of the inputs matters, but at least a hundredth of the largest ``s`` of all layers. As ``t`` tends to 0 they
    tend to the bits, where ``z`` is not the threshold.

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
        # What rounding leaves of equal numbers is no spread: without this floor it would look like folding.
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

    With distances ``d(p, q) = sum |p - q|`` over units, ``r2`` is the sum of those from each point to the next, and ``r1`` the mean
    of those from the first point to each, weighted by ``softmax(d / (8 t))``, so never above ``r2``. As the temperature ``t``
    tends to 0, and soft bits to bits, it tends to chi of the same points (`space_folding` of `Walks.from_codes`).

    The damping (this project's finding) makes it move the exact measure without harm. Undamped, the quotient rewards a small ``r1``,
    codes that classes share, as well as a large ``r2``, and accuracy falls; damped, it grows mostly by walks that turn back.

    Args:
        bits: (S, T, N), S walks of T points, T at least 2, through N units, in [0, 1].
        temperature: ``t``, that of the bits.
        damping: ``D``, at least 0.

    Returns:
        (S,), in [0, 1), without unit; 0 for a walk that stays where it is.

    Example:
        >>> tent = torch.tensor([[[0.0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]])
        >>> soft_folding(tent, temperature=1e-4).round(decimals=2), soft_folding(tent, temperature=0.125).round(decimals=2)
        (tensor([0.2500]), tensor([0.2000]))
    """
    length = (bits[:, 1:] - bits[:, :-1]).abs().sum((1, 2))
    distance = (bits[:, 1:] - bits[:, :1]).abs().sum(2)
    farthest = (torch.softmax(distance / (BLUR * temperature), dim=1) * distance).sum(1)
    return (length - farthest) / (length + damping * temperature * bits.shape[2] + torch.finfo(bits.dtype).eps)

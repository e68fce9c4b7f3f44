"""Codes: one bit for each hidden unit, and distances between them."""

from __future__ import annotations

from torch import Tensor


def hamming_distance(a: Tensor, b: Tensor, *, threshold: int | None = None) -> Tensor:
    """Number of units in which two codes differ.

    ``d_H`` in "ReLU Code Space" (Shepeleva et al. 2020, Definitions 1 and 2). With a threshold it is the truncated
    distance ``min(d_H, threshold)``; ``threshold=2`` gives the paper's adjacency distance: 0 for the same region, 1 for
    codes one unit apart, 2 for everything else.

    Args:
        a: Codes, bool ``(..., N)`` with N units along the last dimension.
        b: Codes, bool ``(..., N)``; the leading dimensions broadcast against those of ``a``.
        threshold: Largest distance that is told apart, at least 1; None does not truncate.

    Returns:
        int64 ``(...)``.

    Raises:
        ValueError: If the codes have different numbers of units, or the threshold is below 1.

    Example:
        >>> import torch
        >>> a = torch.tensor([True, False, True])
        >>> b = torch.tensor([[True, False, True], [False, True, False]])
        >>> hamming_distance(a, b)
        tensor([0, 3])
        >>> hamming_distance(a, b, threshold=2)
        tensor([0, 2])
    """
    if a.shape[-1:] != b.shape[-1:]:
        raise ValueError(
            f"Codes must have the same number of units, got shapes {tuple(a.shape)} and {tuple(b.shape)}: "
            "take both from the same model with the same `layers`."
        )
    if threshold is not None and threshold < 1:
        raise ValueError(f"`threshold` must be at least 1, got {threshold}: below that every distance is 0.")
    distance = (a != b).sum(-1)
    return distance if threshold is None else distance.clamp(max=threshold)

"""Class scores of a model at points of a plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.interception import Interception
from fold_lightning.activations.tracking import tensors_in
from fold_lightning.slice_maps.bends import Bends

PROBABILITIES = 1e-9
"""Distance of a row's sum from 1 up to which nonnegative outputs count as probabilities."""


def scores_at(bends: Bends, points: Tensor) -> Tensor | None:
    """Return the class scores float64 (P, C) of a model at points (P, 2), minus their mean over the classes.

    Log-probabilities differ from logits only by a constant for each input, which subtracting the mean removes; so scores are affine
    where logits are. The logarithm of probabilities is taken first.

    Returns:
        The scores; None if the model's output contains no matrix (inputs, classes), or a score is not finite.
    """
    found = []
    for inputs in bends.chunks(points.numpy()):
        output = _matrix(Interception(bends.replica).run(inputs), len(inputs))
        if output is None:
            return None
        found.append(output.detach().double().cpu())
    scores = torch.cat(found)
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < PROBABILITIES).all()):
        scores = scores.log()
    if not bool(scores.isfinite().all()):
        return None
    return scores - scores.mean(1, keepdim=True)


def _matrix(output: Any, rows: int) -> Tensor | None:
    """Return the first floating-point matrix in a model's output with a row for each input and at least 2 columns."""
    matrices = (t for t in tensors_in(output) if t.dim() == 2 and len(t) == rows and t.shape[1] > 1 and t.is_floating_point())
    return next(matrices, None)

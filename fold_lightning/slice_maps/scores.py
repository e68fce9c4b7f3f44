"""The scores that a model gives to classes, at points of a plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.interception import Interception
from fold_lightning.activations.tracking import tensors_in
from fold_lightning.slice_maps.bends import Bends

PROBABILITIES = 1e-9
"""Distance of a row's sum from 1 up to which numbers of at least 0 are probabilities."""


def scores_at(bends: Bends, points: Tensor) -> Tensor | None:
    """Return the scores float64 (P, C) of a model's classes at points (P, 2), less their mean over the classes.

    Probabilities and their logarithms are logits up to a number for each input, which the mean takes away, so scores are affine
    where logits are.

    Returns:
        None if the model's output holds no matrix (inputs, classes).
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
    """Return the first tensor of a model's output that has a row for each input and a column for each class."""
    matrices = (t for t in tensors_in(output) if t.dim() == 2 and len(t) == rows and t.shape[1] > 1 and t.is_floating_point())
    return next(matrices, None)

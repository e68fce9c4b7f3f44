"""Walks along straight segments between inputs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fold_lightning.activations.architecture import inspect_model
from fold_lightning.activations.codes import check_inputs, codes_of
from fold_lightning.activations.interception import Forward, borrow
from fold_lightning.activations.layers import Patterns
from fold_lightning.walks.exact import ExactWalker
from fold_lightning.walks.record import Walks


def segment_walks(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    method: Literal["exact", "uniform"] = "exact",
    num_points: int | None = None,
    max_bytes: int = 2**27,
) -> Walks:
    check_inputs(start, "start"), check_inputs(end, "end")
    with borrow(model, start, forward) as borrowed:
        architecture = inspect_model(borrowed, start, layers)
        begin, finish = (x.to(borrowed.device, torch.float64) for x in (start, end))
        return ExactWalker(borrowed, architecture, begin, finish, max_bytes).walks()

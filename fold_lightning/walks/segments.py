"""The ends of segments: their checks, and those that an inspection of the model takes."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.activations.codes import check_inputs

INSPECTED = 32
"""Number of segments whose ends an inspection gets, to find two different inputs among them."""


def check_segments(start: Tensor, end: Tensor) -> None:
    """Raise for ends that are not valid inputs, or differ in shape or device."""
    check_inputs(start, "start")
    check_inputs(end, "end")
    if start.shape != end.shape:
        raise ValueError(
            f"`start` and `end` must have the same shape (S, ...), got {tuple(start.shape)} and {tuple(end.shape)}: "
            "segment i goes from start[i] to end[i]."
        )
    if start.device != end.device:
        raise ValueError(
            f"`start` and `end` must be on one device, got {start.device} and {end.device}: move one with `.to()`."
        )


def ends_to_inspect(start: Tensor, end: Tensor) -> Tensor:
    """Return ends of a few segments, among which an inspection finds two different inputs if there are any."""
    return torch.cat([start[:INSPECTED], end[:INSPECTED]])

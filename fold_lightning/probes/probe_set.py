"""The items that a run measures, with their labels, and the conversion to the model's inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fold_lightning.probes.model_input import ModelInput


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Items that are measured throughout a run.

    Attributes:
        items: Items (B, ...) on the CPU: inputs, or token ids that `model_input` embeds.
        labels: Class labels int64 (B,) on the CPU, negative where an item has none; None without classes.
        model_input: Conversion of items to the model's inputs.
        is_stream: Whether the items are from batches of a stream, which can't be read again.
        is_given: Whether the items are the user's own tensors, whose order may not be random.
    """

    items: Tensor
    labels: Tensor | None
    model_input: ModelInput
    is_stream: bool = False
    is_given: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @cached_property  # every checkpoint reads it
    def fingerprint(self) -> str:
        """Hash of the probes, reproducible across processes."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.items, self.labels, *self.model_input.held_tensors()):
            if part is not None:
                digest.update(str((part.dtype, tuple(part.shape))).encode())
                digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Size of `state()` in bytes."""
        return sum(part.nbytes for part in (self.items, self.labels, *self.model_input.held_tensors()) if part is not None)

    def state(self) -> dict[str, Any]:
        """Return plain tensors from which `ProbeSource.restore` rebuilds the probes, given a batch of the same form."""
        return {"items": self.items, "labels": self.labels, "held": self.model_input.held_tensors()}

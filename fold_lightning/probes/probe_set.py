"""The sample of a run: items, labels, and how the model takes them."""

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
    """Items that a run measures, from its beginning to its end.

    Attributes:
        items: Items (B, ...) on the CPU: inputs, or token ids that `model_input` embeds.
        labels: Class labels int64 (B,) on the CPU, negative where an item has none; None without classes.
        model_input: How the model takes items.
        is_stream: Whether the items are of batches that passed, which do not come again.
        is_given: Whether the items are the user's own, in an order that may mean something; others were drawn or passed.
    """

    items: Tensor
    labels: Tensor | None
    model_input: ModelInput
    is_stream: bool = False
    is_given: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @cached_property  # every checkpoint asks for it
    def fingerprint(self) -> str:
        """A hash that is the same for the same probes, in another process too."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.items, self.labels, *self.model_input.held_tensors()):
            if part is not None:
                digest.update(str((part.dtype, tuple(part.shape))).encode())
                digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of `state()`."""
        return sum(part.nbytes for part in (self.items, self.labels, *self.model_input.held_tensors()) if part is not None)

    def state(self) -> dict[str, Any]:
        """Return plain tensors from which `ProbeSource.restore` makes the same probes, with a batch of the same form."""
        return {"items": self.items, "labels": self.labels, "held": self.model_input.held_tensors()}

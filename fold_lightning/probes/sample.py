"""The items of several batches, up to a number and a size."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

MAX_ITEM_BYTES = 2**28
"""Bytes of items that are kept, 256 MiB: 1,000 images of 3 x 224 x 224 float32 numbers take 574 MiB, so 445 of them are kept."""


class Sample:
    """Collects items and labels of batches, on the CPU, without NaN and infinite values.

    Args:
        count: Most items to keep.
        max_bytes: Most bytes of items to keep; at least two items are kept.

    Example:
        >>> sample = Sample(count=3)
        >>> sample.add(torch.randn(2, 4), torch.tensor([0, 1]))
        >>> sample.add(torch.randn(2, 4), torch.tensor([1, 0]))
        >>> len(sample), sample.is_full, sample.labels
        (3, True, tensor([0, 1, 1]))
    """

    def __init__(self, count: float, max_bytes: float = MAX_ITEM_BYTES) -> None:
        self._count, self._max_bytes = count, max_bytes
        self._items: list[Tensor] = []
        self._labels: list[Tensor | None] = []
        self.num_other_shapes = 0
        """Items that were left out since their shape is not that of the first."""

    def __len__(self) -> int:
        return sum(map(len, self._items))

    def add(self, items: Tensor, labels: Tensor | None) -> None:
        """Keep the first items (B, ...) of a batch, as many as are needed."""
        items = items.detach().cpu()
        if self._items and (items.shape[1:] != self._items[0].shape[1:] or items.dtype != self._items[0].dtype):
            self.num_other_shapes += len(items)  # they fit into no table with the others
            return
        labels = None if labels is None else labels.detach().cpu()
        items, labels = finite_items(items, labels)
        self._limit(items)
        room = self._count - len(self)
        if room <= 0 or (len(items) == 0 and self._items):
            return
        room = int(min(room, len(items)))
        self._items.append(items[:room].clone())
        self._labels.append(None if labels is None else labels[:room].clone())

    @property
    def is_full(self) -> bool:
        """Whether nothing more is kept."""
        return len(self) >= self._count

    @property
    def items(self) -> Tensor:
        """The items (B, ...)."""
        return torch.cat(self._items)

    @property
    def labels(self) -> Tensor | None:
        """Class labels int64 (B,); None if some batch had none."""
        labels = [part for part in self._labels if part is not None]
        return torch.cat(labels) if labels and len(labels) == len(self._labels) else None

    def _limit(self, items: Tensor) -> None:
        if self._items or len(items) == 0 or self._count * items[0].nbytes <= self._max_bytes:
            return
        wanted, self._count = self._count, max(2, int(self._max_bytes // items[0].nbytes))
        rank_zero_info(
            f"FoldingMonitor keeps {self._count} inputs instead of {wanted}: each takes {items[0].nbytes / 2**20:.3g} MiB, and at "
            f"most {self._max_bytes / 2**20:.0f} MiB are kept."
        )


def finite_items(items: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the items without NaN and infinite values, and their labels."""
    good = torch.isfinite(items.flatten(1)).all(1) if items.dim() > 1 else torch.isfinite(items)
    return items[good], None if labels is None else labels[good.to(labels.device)]

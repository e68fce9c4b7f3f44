"""Collection of items from several batches, up to a number and a size."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from fold_lightning.probes.classes import as_classes

MAX_ITEM_BYTES = 2**28
"""Maximum size of the kept items in bytes, 256 MiB: of 1,000 float32 images of 3 x 224 x 224, which take 574 MiB, 445 are
kept."""


class ItemCollector:
    """Collector of items and labels of batches, on the CPU, without NaN and infinite values.

    Args:
        count: Maximum number of items to keep.
        max_bytes: Maximum size of the kept items, in bytes; at least two items are kept.

    Attributes:
        num_other_shapes: Number of items left out because their shape or dtype differs from the first item's.
        num_not_finite: Number of items left out because of NaN or infinite values.

    Example:
        >>> sample = ItemCollector(count=3)
        >>> sample.add(torch.randn(2, 4), torch.tensor([0, 1]))
        >>> sample.add(torch.randn(2, 4), torch.tensor([1, 0]))
        >>> len(sample), sample.is_full, sample.labels
        (3, True, tensor([0, 1, 1]))
    """

    def __init__(self, count: int, max_bytes: float = MAX_ITEM_BYTES) -> None:
        self._count, self._max_bytes = count, max_bytes
        self._table: Tensor | None = None
        self._labels: list[Tensor | None] = []
        self._counts: list[int] = []
        self._has_only_floats = True
        self._num_items = 0
        self.num_other_shapes = self.num_not_finite = 0

    def __len__(self) -> int:
        return self._num_items

    def add(self, items: Tensor, labels: Any) -> None:
        """Keep the first items (B, ...) of a batch, as many as are needed, and their labels if `as_classes` converts them."""
        if self._table is None:
            self._limit(items)
            self._table = torch.empty(self._count, *items.shape[1:], dtype=items.dtype)
        if items.shape[1:] != self._table.shape[1:] or items.dtype != self._table.dtype:
            self.num_other_shapes += len(items)
            return
        count = len(items)
        classes = as_classes(labels, count)
        is_float = isinstance(labels, Tensor) and labels.is_floating_point() and labels.shape[:1] == (count,)
        items, classes = finite_items(items.detach(), None if classes is None else classes.detach())
        self.num_not_finite += count - len(items)
        begin, end = self._num_items, min(self._num_items + len(items), self._count)
        if begin < end:
            self._table[begin:end] = items[: end - begin]
            self._labels.append(None if classes is None else classes[: end - begin].cpu().clone())
            self._counts.append(end - begin)
            self._has_only_floats &= is_float
        self._num_items = end

    @property
    def is_full(self) -> bool:
        """True if nothing more is kept."""
        return self._num_items >= self._count

    @property
    def items(self) -> Tensor:
        """The items (B, ...)."""
        if self._table is None:
            return torch.empty(0)
        # A clone, because a checkpoint of a slice would keep the whole table.
        return self._table if self.is_full else self._table[: self._num_items].clone()

    @property
    def labels(self) -> Tensor | None:
        """Class labels int64 (B,); None if some batch had none."""
        labels = [part for part in self._labels if part is not None]
        return torch.cat(labels) if labels and len(labels) == len(self._labels) else None

    @property
    def num_unlabelled(self) -> int:
        """Number of items that lack class labels, if others have some; 0 for the targets of a regression."""
        lacking = [count for count, part in zip(self._counts, self._labels, strict=True) if part is None]
        # Floating-point targets may be zeros and ones in some batches.
        return 0 if self._has_only_floats or len(lacking) == len(self._labels) else sum(lacking)

    def _limit(self, items: Tensor) -> None:
        bytes_each = items[:1].nbytes
        if self._count * bytes_each <= self._max_bytes:
            return
        wanted, self._count = self._count, min(self._count, max(2, int(self._max_bytes // bytes_each)))
        rank_zero_info(
            f"fold_lightning keeps {self._count} inputs instead of {wanted}: each takes {bytes_each / 2**20:.3g} MiB, and at "
            f"most {self._max_bytes / 2**20:.0f} MiB are kept."
        )


def finite_items(items: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the items that have no NaN or infinite values, and their labels."""
    if not items.is_floating_point() or items.numel() == 0:
        return items, labels
    least, most = items.flatten(1).aminmax(dim=1) if items.dim() > 1 else (items, items)  # NaN makes both NaN
    good = least.isfinite() & most.isfinite()
    if bool(good.all()):
        return items, labels
    return items[good], None if labels is None else labels[good.to(labels.device)]

"""The number of activation regions that a data set occupies, as a metric."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fold_lightning._checks import check_classes, check_integer
from fold_lightning.activations import ActivationCodes
from fold_lightning.fingerprints import code_fingerprints, distinct_in_groups
from fold_lightning.metrics.code_metric import CodeMetric, bits_of

MIN_PENDING = 2**18
"""Number of fingerprints, 4 MiB: duplicates are dropped when more than this, and more than were kept before, were added."""


MASK_OUT = "leave inputs without a class out with `mask=labels >= 0`"
"""Advice on negative labels of inputs that are counted, for error messages."""


class DistinctCodes(CodeMetric):
    """Number of different codes of the inputs seen, all or correctly classified: overall, by layer and by class.

    It is the number of activation regions that contain inputs. "ReLU Code Space" (Shepeleva et al. 2020) tracks it over the
    epochs, for all inputs and for those classified correctly, by layer and by class. The state is a 128-bit fingerprint
    (`code_fingerprints`, whose docstring has the probability of a collision) of each different code: 16 bytes, overall and once
    more for each layer, however many inputs share it. A code is stored once for each combination of class and correctness among
    its inputs. Processes and metrics with the same units, layers and classes merge by union.

    Args:
        num_classes: C, at least 1; classes are 0 to C - 1, and `update` takes labels. None: no counts by class.
        kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        TypeError: If the number of classes is not an integer.
        ValueError: If it is less than 1.

    Example:
        >>> import torch
        >>> from fold_lightning import DistinctCodes
        >>> codes = torch.tensor([[True, False], [False, True], [True, False]])
        >>> distinct = DistinctCodes(num_classes=2)
        >>> distinct.update(codes, labels=torch.tensor([0, 1, 1]), correct=torch.tensor([True, False, True]))
        >>> distinct.compute(), distinct.correct()
        (tensor(2), tensor(1))
        >>> distinct.per_class(), distinct.per_class(correct=True)
        (tensor([1, 2]), tensor([1, 1]))
    """

    arguments = ("num_classes",)

    num_inputs: Tensor
    fingerprints: list[Tensor]
    groups: list[Tensor]

    def __init__(self, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes is not None:
            check_integer("num_classes", num_classes, 1)
        self.num_classes = num_classes
        self.add_state("num_inputs", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # Fingerprints (n, 2) are stored in runs of one group; `groups` (runs, 2) has the group and the length of each run. A group
        # is (layer * C + class) * 2 + correct; layer 0 is the whole code. The first tensor has no duplicates.
        self.add_list("fingerprints", torch.empty(0, 2, dtype=torch.int64))
        self.add_list("groups", torch.empty(0, 2, dtype=torch.int64))

    def update(
        self,
        codes: ActivationCodes | Tensor,
        mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        correct: Tensor | None = None,
    ) -> None:
        """Add the codes of B inputs.

        Args:
            codes: Codes as from `activation_codes`, or bits alone, bool (B, N), which have no layers.
            mask: bool (B,), the inputs that are counted; None counts all.
            labels: Integer (B,), the class of each counted input; required with `num_classes`, ignored without.
            correct: bool (B,), the inputs that are classified correctly; None means none of them.

        Raises:
            ValueError: If the codes are not (B, N), have other layers or units than those before, another argument has another
                length, or labels are out of range.
            TypeError: If the codes, the mask or `correct` are not bool, or the labels no integers.
        """
        layout, bits = self.check_layout(codes), bits_of(codes)
        for name, chosen in (("mask", mask), ("correct", correct)):
            if chosen is not None:
                _check_mask(name, chosen, len(bits))
        group = self._group_of_inputs(bits, mask, labels, correct)
        group, order = group.sort(stable=True)
        order = order if mask is None else order[mask.to(order.device)[order]]
        group = group if mask is None else group[: len(order)]
        parts = [bits, *(bits[:, columns] for columns in layout.columns().values())]
        fingerprints = torch.cat([code_fingerprints(part)[order] for part in parts])
        layers = torch.arange(len(parts), device=group.device)[:, None] * self._groups_of_layer
        self.num_inputs = self.num_inputs + len(order)
        self.remember(layout)
        self._add(fingerprints, (layers + group).flatten())
        self._drop_many_duplicates()

    def compute(self) -> Tensor:
        """Return the number of different codes, int64 ()."""
        return self._count(correct=False, by_class=False)[0, 0]

    def correct(self) -> Tensor:
        """Return the number of different codes among the inputs classified correctly, int64 ()."""
        with self.gathered():
            return self._count(correct=True, by_class=False)[0, 0]

    def per_layer(self, *, correct: bool = False) -> dict[str, Tensor]:
        """Return layer name -> the number of different codes of that layer, int64 (); empty if no codes had layers.

        Args:
            correct: Whether only inputs classified correctly count.
        """
        return {name: count[0] for name, count in self._by_layer(correct=correct, by_class=False).items()}

    def per_class(self, *, correct: bool = False) -> Tensor:
        """Return the number of different codes of each class, int64 (C,).

        Args:
            correct: Whether only inputs classified correctly count.

        Raises:
            ValueError: If the metric was made without `num_classes`.
        """
        self._check_has_classes("per_class")
        with self.gathered():
            return self._count(correct=correct, by_class=True)[0]

    def per_layer_and_class(self, *, correct: bool = False) -> dict[str, Tensor]:
        """Return layer name -> the number of different codes of that layer for each class, int64 (C,).

        Args:
            correct: Whether only inputs classified correctly count.

        Raises:
            ValueError: If the metric was made without `num_classes`.
        """
        self._check_has_classes("per_layer_and_class")
        return self._by_layer(correct=correct, by_class=True)

    def all_inputs(self) -> Tensor:
        """Return the number of inputs counted, int64 ()."""
        with self.gathered():
            return self.num_inputs.clone()

    def compact(self) -> None:
        """Drop duplicates from the states, after other states were added to them."""
        super().compact()
        self._drop_many_duplicates()

    @property
    def _groups_of_layer(self) -> int:
        return 2 * (self.num_classes or 1)

    def _group_of_inputs(self, bits: Tensor, mask: Tensor | None, labels: Tensor | None, correct: Tensor | None) -> Tensor:
        """Return the group of each whole code, int64 (B,); the largest int64 for inputs that are not counted."""
        group = torch.zeros(len(bits), dtype=torch.int64, device=bits.device)
        if self.num_classes is not None:
            counted = labels
            if mask is not None and isinstance(labels, Tensor) and labels.shape == mask.shape:
                counted = labels.where(mask.to(labels.device), 0)
            check_classes("labels", counted, len(bits), self.num_classes, if_negative=MASK_OUT)
            assert counted is not None
            group += 2 * counted.to(bits.device)
        if correct is not None:
            group += correct.to(bits.device)
        return group if mask is None else group.masked_fill(~mask.to(bits.device), torch.iinfo(torch.int64).max)

    def _add(self, fingerprints: Tensor, groups: Tensor) -> None:
        if len(fingerprints):
            self.fingerprints.append(fingerprints.to(self.home))
            self.groups.append(torch.stack(groups.unique_consecutive(return_counts=True), 1).to(self.home))

    def _drop_many_duplicates(self) -> None:
        sizes = [len(some) for some in self.fingerprints]
        if sum(sizes[1:]) > max(MIN_PENDING, sum(sizes[:1])):
            self._drop_duplicates()

    def _drop_duplicates(self) -> None:
        members = self._members()
        self.fingerprints, self.groups = [], []
        self._add(*distinct_in_groups(*members))

    def _members(self) -> tuple[Tensor, Tensor]:
        """Return all fingerprints (n, 2), and the group of each, int32 (n,)."""
        groups, sizes = self.joined("groups").T
        return self.joined("fingerprints"), groups.int().repeat_interleave(sizes)

    def _by_layer(self, *, correct: bool, by_class: bool) -> dict[str, Tensor]:
        with self.gathered():
            layout = self.layout()
            counts = self._count(correct=correct, by_class=by_class)
        return dict(zip(layout.layers if layout else (), counts[1:], strict=True))

    def _count(self, *, correct: bool, by_class: bool) -> Tensor:
        """Return the number of different whole codes, then of those of each layer, int64 (L + 1, C or 1)."""
        layout = self.layout()  # raises if processes differ
        if not self._is_synced:  # gathered states must stay unchanged
            self._drop_duplicates()
        num_classes = self.num_classes or 1
        shape = 1 + len(layout.layers if layout else ()), num_classes if by_class else 1
        groups, sizes = self.joined("groups").T
        counted = groups % 2 == 1 if correct else torch.ones_like(groups, dtype=torch.bool)
        wider = groups // 2 if by_class else groups // self._groups_of_layer
        if self._is_synced or len(wider[counted].unique()) < len(groups[counted].unique()):
            chosen = counted.repeat_interleave(sizes)
            fingerprints, wider = self.joined("fingerprints")[chosen], wider.int().repeat_interleave(sizes)[chosen]
            _, wider = distinct_in_groups(fingerprints, wider)
            sizes = torch.ones_like(wider)
        else:
            wider, sizes = wider[counted], sizes[counted]
        number = torch.zeros(math.prod(shape), dtype=torch.int64, device=self.home)
        return number.index_add_(0, wider.long(), sizes.long()).view(shape).to(self.device)

    def _check_has_classes(self, name: str) -> None:
        if self.num_classes is None:
            raise ValueError(
                f"`{name}` needs `num_classes`: make the metric as `DistinctCodes(num_classes=...)`, and pass `labels` to `update`."
            )


def _check_mask(name: str, mask: Tensor, num_inputs: int) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`{name}` must be a bool tensor, got {got}.")
    if mask.shape != (num_inputs,):
        raise ValueError(f"`{name}` must have an entry for each of {num_inputs} inputs, got shape {tuple(mask.shape)}.")

"""The number of activation regions that a data set occupies, as a metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations import ActivationCodes
from fold_lightning.codes import code_fingerprints, distinct_fingerprints
from fold_lightning.metrics.code_metric import CodeMetric, bits_of
from fold_lightning.metrics.gathered import State

WHOLE = 0
"""The group of fingerprints of whole codes; those of layers follow."""

MIN_PENDING = 2**18
"""Fingerprints, 4 MiB: duplicates are dropped only when at least so many were added, and as many as there were."""


class DistinctCodes(CodeMetric):
    """The number of different codes among all inputs seen, overall and in each layer.

    It is the number of activation regions that hold inputs, which "ReLU Code Space" (Shepeleva et al. 2020) follows over the
    epochs, for all inputs and for those classified correctly. The state is a 128-bit fingerprint (`code_fingerprints`, whose
    docstring has the probability of a collision) of each different code: 16 bytes, overall and once more for each layer,
    however many inputs share it. Processes and metrics merge by union, if their units and layers are the same.

    Args:
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from fold_lightning import DistinctCodes
        >>> codes = torch.tensor([[True, False], [False, True], [True, False]])
        >>> distinct, correct = DistinctCodes(), DistinctCodes()
        >>> distinct.update(codes)
        >>> correct.update(codes, mask=torch.tensor([True, False, True]))
        >>> distinct.compute(), correct.compute()
        (tensor(2), tensor(1))
    """

    num_inputs: Tensor
    fingerprints: list[Tensor]
    groups: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("num_inputs", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # Each tensor (n, 2) of fingerprints has one group, said by a tensor [[group, n]].
        self.add_list("fingerprints", torch.empty(0, 2, dtype=torch.int64))
        self.add_list("groups", torch.empty(0, 2, dtype=torch.int64))

    def update(self, codes: ActivationCodes | Tensor, mask: Tensor | None = None) -> None:
        """Add the codes of B inputs.

        Args:
            codes: Codes as from `activation_codes`, or bits alone, bool (B, N), which have no layers.
            mask: bool (B,), the inputs that count, such as those classified correctly or those of one class; None counts all.

        Raises:
            ValueError: If the codes are not (B, N), have other layers or units than those before, or the mask another length.
            TypeError: If the codes or the mask are not bool.
        """
        layout, bits = self.check_layout(codes), bits_of(codes)
        if mask is not None:
            _check_mask(mask, len(bits))
        groups = [code_fingerprints(part) for part in (bits, *(bits[:, columns] for columns in layout.columns().values()))]
        if mask is not None:
            groups = [group[mask.to(group.device)] for group in groups]
        self.num_inputs = self.num_inputs + len(groups[WHOLE])
        self.remember(layout)
        for number, fingerprints in enumerate(groups):
            self._add(number, fingerprints)
        self._drop_many_duplicates()

    def compute(self) -> Tensor:
        """Return the number of different codes, int64 ()."""
        return self._counts().get(WHOLE, self._zero())

    def per_layer(self) -> dict[str, Tensor]:
        """Return layer name -> the number of different codes by its bits alone, int64 (); empty if no codes had layers."""
        with self.gathered():
            counts, layout = self._counts(), self.layout()
        return {
            name: counts.get(number, self._zero()) for number, name in enumerate(layout.layers if layout else (), WHOLE + 1)
        }

    def all_inputs(self) -> Tensor:
        """Return how many inputs were counted, int64 ()."""
        with self.gathered():
            return self.num_inputs.clone()

    def compact(self) -> None:
        """Drop what is twice in the states after states were added to them."""
        super().compact()
        self._drop_many_duplicates()

    def _add(self, group: int, fingerprints: Tensor) -> None:
        if len(fingerprints):
            self.fingerprints.append(fingerprints.to(self.home))
            self.groups.append(torch.tensor([[group, len(fingerprints)]], device=self.home))

    def _drop_many_duplicates(self) -> None:
        # Each update adds a tensor for each group, and so does dropping duplicates: the first tensors have none.
        layout, sizes = self.layout(), [len(chunk) for chunk in self.fingerprints]
        groups = 1 + len(layout.layers) if layout else 0
        if sum(sizes[groups:]) > max(MIN_PENDING, sum(sizes[:groups])):
            self._drop_duplicates()

    def _drop_duplicates(self) -> None:
        parts = self._parts()
        self.fingerprints, self.groups = [], []
        for group in list(parts):
            self._add(group, distinct_fingerprints(torch.cat(parts.pop(group)))[0])

    def _counts(self) -> dict[int, Tensor]:
        self.layout()  # raises if processes differ
        if not self._is_synced:  # gathered states are given back unchanged
            self._drop_duplicates()
            return {group: torch.tensor(len(chunks[0]), device=self.device) for group, chunks in self._parts().items()}
        distinct = {group: distinct_fingerprints(torch.cat(parts))[0] for group, parts in self._parts().items()}
        return {group: torch.tensor(len(fingerprints), device=self.device) for group, fingerprints in distinct.items()}

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.int64, device=self.device)

    def _parts(self) -> dict[int, list[Tensor]]:
        """Return group -> its fingerprints, in one tensor or several."""
        state: State = self.fingerprints
        groups = self.joined("groups").tolist()
        chunks = state if isinstance(state, list) else state.split([size for _, size in groups])
        parts: dict[int, list[Tensor]] = {}
        for (group, _), chunk in zip(groups, chunks, strict=True):
            parts.setdefault(group, []).append(chunk.to(self.home))
        return parts


def _check_mask(mask: Tensor, num_inputs: int) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a bool tensor, got {got}.")
    if mask.shape != (num_inputs,):
        raise ValueError(f"`mask` must have an entry for each of {num_inputs} inputs, got shape {tuple(mask.shape)}.")

"""How many activation regions a data set occupies, as a metric."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations import ActivationCodes
from fold_lightning.codes import code_fingerprints, distinct_fingerprints
from fold_lightning.metrics.gathered import GatheredMetric, State

WHOLE = 0
"""The group of fingerprints of whole codes; those of layers follow."""

FEWEST_PENDING = 2**18
"""Fingerprints are put together only when so many have come, and as many as there were."""


class DistinctCodes(GatheredMetric):
    """The number of different codes among all inputs seen, overall and in each layer.

    It is the number of activation regions that hold inputs, which "ReLU Code Space" (Shepeleva et al. 2020) follows over the
    epochs, for all inputs and for those classified correctly. The state is a 128-bit fingerprint (`code_fingerprints`, whose
    docstring has the probability of a collision) of each different code: 16 bytes, overall and once more for each layer,
    however many inputs share it. Processes and metrics merge by union, if their units and layers are the same.

    Args:
        kwargs: What `torchmetrics.Metric` takes.

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

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    plot_lower_bound: float = 0.0

    num_inputs: Tensor
    fingerprints: list[Tensor]
    groups: list[Tensor]
    layouts: list[Tensor]
    _known: str | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("num_inputs", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # Fingerprints (n, 2) of some group, and beside them [[group, n]]; the units and layers, lines of JSON.
        self.add_list("fingerprints", torch.empty(0, 2, dtype=torch.int64))
        self.add_list("groups", torch.empty(0, 2, dtype=torch.int64))
        self.add_list("layouts", torch.empty(0, dtype=torch.uint8))
        self._forget()

    def update(self, codes: ActivationCodes | Tensor, mask: Tensor | None = None) -> None:
        """Adds the codes of B inputs.

        Args:
            codes: Codes as from `activation_codes`, or bits alone, bool (B, N), which have no layers.
            mask: bool (B,), the inputs that count, such as those classified correctly or those of one class; None counts all.

        Raises:
            ValueError: If the codes are not (B, N), have other layers or units than those before, or the mask another length.
            TypeError: If the codes or the mask are not bool.
        """
        bits, layers = (codes.bits, codes.layers) if isinstance(codes, ActivationCodes) else (codes, {})
        if mask is not None:
            _check_mask(mask, len(bits))
        groups = [code_fingerprints(part) for part in (bits, *(bits[:, columns] for columns in layers.values()))]
        self._check_same(_layout_of(bits.shape[1], layers))
        if mask is not None:
            groups = [group[mask.to(group.device)] for group in groups]
        self.num_inputs = self.num_inputs + len(groups[WHOLE])
        for number, fingerprints in enumerate(groups):
            self._add(number, fingerprints)
        self._settle_many()

    def compute(self) -> Tensor:
        """The number of different codes, int64 ()."""
        return self._counts().get(WHOLE, self._none())

    def per_layer(self) -> dict[str, Tensor]:
        """Layer name -> the number of different codes seen through its bits alone, int64 (); empty if no codes had layers."""
        with self.gathered():
            counts, layout = self._counts(), self._only_layout()
        names = _layers_of(layout) if layout else []
        return {name: counts.get(number, self._none()) for number, name in enumerate(names, WHOLE + 1)}

    def all_inputs(self) -> Tensor:
        """How many inputs were counted, int64 ()."""
        with self.gathered():
            return self.num_inputs.clone()

    def reset(self) -> None:
        """Forgets all codes."""
        super().reset()
        self._forget()

    def arrived(self) -> None:
        """Keeps of states from elsewhere what is there once."""
        layout = self._only_layout()
        self.layouts = self.layouts[:1]
        # Every update adds one tensor for each group, and so does settling: the first of them are those that were settled.
        sizes = [len(chunk) for chunk in self.fingerprints]
        groups = 1 + len(_layers_of(layout)) if layout else 0
        self._known, self._settled, self._pending = layout, sum(sizes[:groups]), sum(sizes[groups:])
        self._settle_many()

    def _forget(self) -> None:
        self._known = None
        self._pending = self._settled = 0

    def _check_same(self, layout: str) -> None:
        if self._known is None:  # the states may be those of a compute group
            self._known = self._only_layout()
        if self._known is None:
            self._known = layout
            self.layouts.append(torch.tensor(list(f"{layout}\n".encode()), dtype=torch.uint8, device=self.home))
        elif self._known != layout:
            raise ValueError(
                f"Codes must have the same units and layers as those before, got {_described(layout)} after "
                f"{_described(self._known)}: use a metric for each choice of `layers`."
            )

    def _only_layout(self) -> str | None:
        """The units and layers of all codes in the states; None if there are no codes."""
        lines = bytes(self.joined("layouts").tolist()).decode().splitlines()
        layouts = list(dict.fromkeys(lines))
        if len(layouts) > 1:
            raise ValueError(
                f"Codes that are counted together must have the same units and layers, got {' and '.join(map(_described, layouts))}: "
                "use a metric for each choice of `layers`, and the same choice in every process."
            )
        return layouts[0] if layouts else None

    def _add(self, group: int, fingerprints: Tensor) -> None:
        if len(fingerprints) == 0:
            return
        self.fingerprints.append(fingerprints.to(self.home))
        self.groups.append(torch.tensor([[group, len(fingerprints)]], device=self.home))
        self._pending += len(fingerprints)

    def _settle_many(self) -> None:
        if self._pending > max(FEWEST_PENDING, self._settled):
            self._settle()

    def _settle(self) -> None:
        """Keeps each fingerprint once."""
        parts = self._parts()
        self.fingerprints, self.groups = [], []
        for group in list(parts):
            self._add(group, distinct_fingerprints(torch.cat(parts.pop(group)))[0])
        self._settled, self._pending = sum(map(len, self.fingerprints)), 0

    def _counts(self) -> dict[int, Tensor]:
        self._only_layout()
        if not self._is_synced:  # gathered states are joined, and given back as they were
            self._settle()
            return {group: torch.tensor(len(chunks[0]), device=self.device) for group, chunks in self._parts().items()}
        distinct = {group: distinct_fingerprints(torch.cat(parts))[0] for group, parts in self._parts().items()}
        return {group: torch.tensor(len(fingerprints), device=self.device) for group, fingerprints in distinct.items()}

    def _none(self) -> Tensor:
        return torch.zeros((), dtype=torch.int64, device=self.device)

    def _parts(self) -> dict[int, list[Tensor]]:
        """Group -> its fingerprints; those of gathered states are joined, and so may be those that came from elsewhere."""
        groups = self.joined("groups").tolist()
        sizes = [size for _, size in groups]
        state: State = self.fingerprints
        as_added = isinstance(state, list) and [len(chunk) for chunk in state] == sizes
        chunks = state if as_added else self.joined("fingerprints").split(sizes)
        parts: dict[int, list[Tensor]] = {}
        for (group, _), chunk in zip(groups, chunks, strict=True):
            parts.setdefault(group, []).append(chunk.to(self.home))
        return parts


def _layout_of(num_units: int, layers: dict[str, slice]) -> str:
    return json.dumps([num_units, {name: len(range(*columns.indices(num_units))) for name, columns in layers.items()}])


def _layers_of(layout: str) -> list[str]:
    return list(json.loads(layout)[1])


def _described(layout: str) -> str:
    num_units, widths = json.loads(layout)
    return f"{num_units} units in {[f'{name} ({width})' for name, width in widths.items()]}"


def _check_mask(mask: Tensor, num_inputs: int) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a bool tensor, got {got}.")
    if mask.shape != (num_inputs,):
        raise ValueError(f"`mask` must have an entry for each of {num_inputs} inputs, got shape {tuple(mask.shape)}.")

"""How many activation regions a data set occupies, as a metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from fold_lightning.activations import ActivationCodes
from fold_lightning.codes import code_fingerprints, distinct_fingerprints
from fold_lightning.metrics.gathered import GatheredMetric

WHOLE = 0
"""The group of fingerprints of whole codes; those of layers follow."""

FEWEST_PENDING = 2**18
"""Fingerprints are put together only when so many have come, and as many as there were."""


class DistinctCodes(GatheredMetric):
    """The number of different codes among all inputs seen, overall and in each layer.

    It is the number of activation regions that hold inputs, which "ReLU Code Space" (Shepeleva et al. 2020) follows over the
    epochs, for all inputs and for those classified correctly. The state is a 128-bit fingerprint (`code_fingerprints`, whose
    docstring has the probability of a collision) of each different code: 16 bytes, overall and once more for each layer,
    however many inputs share it. Processes merge by union.

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
    names: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("num_inputs", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # Fingerprints (n, 2) of some group, and beside them [[group, n]]; the layers' names in UTF-8, each ended by a 0.
        self.add_list("fingerprints", torch.empty(0, 2, dtype=torch.int64))
        self.add_list("groups", torch.empty(0, 2, dtype=torch.int64))
        self.add_list("names", torch.empty(0, dtype=torch.uint8))
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
        groups = [code_fingerprints(part) for part in (bits, *(bits[:, columns] for columns in layers.values()))]
        self._check_same(bits.shape[1], layers)
        if mask is not None:
            _check_mask(mask, len(bits))
            groups = [group[mask.to(group.device)] for group in groups]
        self.num_inputs += len(groups[WHOLE])
        for number, fingerprints in enumerate(groups):
            self._add(number, fingerprints.to(self.device))
        if self._pending > max(FEWEST_PENDING, self._settled):
            self._settle()

    def compute(self) -> Tensor:
        """The number of different codes, int64 ()."""
        return self._counts().get(WHOLE, self._none())

    def per_layer(self) -> dict[str, Tensor]:
        """Layer name -> the number of different codes seen through its bits alone, int64 (); empty if no codes had layers."""
        with self.gathered():
            names = _decoded(dim_zero_cat(self.names)) if len(self.names) else []
            counts = self._counts()
        return {name: counts.get(number, self._none()) for number, name in enumerate(names, WHOLE + 1)}

    def all_inputs(self) -> Tensor:
        """How many inputs were counted, int64 ()."""
        with self.gathered():
            return self.num_inputs.clone()

    def reset(self) -> None:
        """Forgets all codes."""
        super().reset()
        self._forget()

    def _forget(self) -> None:
        self._units: tuple[int, tuple[str, ...]] | None = None
        self._pending = self._settled = 0

    def _check_same(self, num_units: int, layers: dict[str, slice]) -> None:
        units = (num_units, tuple(layers))
        if self._units is None:
            self._units = units
            if layers:
                encoded = "".join(f"{name}\0" for name in layers).encode()
                self.names.append(torch.tensor(list(encoded), dtype=torch.uint8, device=self.device))
        elif self._units != units:
            raise ValueError(
                f"Codes must have the same units and layers as those before, got {num_units} units in {list(layers)} after "
                f"{self._units[0]} in {list(self._units[1])}: use a metric for each choice of `layers`."
            )

    def _add(self, group: int, fingerprints: Tensor) -> None:
        if len(fingerprints) == 0:
            return
        self.fingerprints.append(fingerprints)
        self.groups.append(torch.tensor([[group, len(fingerprints)]], device=self.device))
        self._pending += len(fingerprints)

    def _settle(self) -> None:
        """Keeps each fingerprint once."""
        parts = self._parts()
        self.fingerprints, self.groups = [], []
        for group in list(parts):
            self._add(group, distinct_fingerprints(torch.cat(parts.pop(group)))[0])
        self._settled, self._pending = sum(map(len, self.fingerprints)), 0

    def _counts(self) -> dict[int, Tensor]:
        if not self._is_synced:  # gathered states are joined, and given back as they were
            self._settle()
            return {group: torch.tensor(len(chunks[0]), device=self.device) for group, chunks in self._parts().items()}
        distinct = {group: distinct_fingerprints(torch.cat(parts))[0] for group, parts in self._parts().items()}
        return {group: torch.tensor(len(fingerprints), device=self.device) for group, fingerprints in distinct.items()}

    def _none(self) -> Tensor:
        return torch.zeros((), dtype=torch.int64, device=self.device)

    def _parts(self) -> dict[int, list[Tensor]]:
        """Group -> its fingerprints; gathered states are joined, those of one process lists."""
        if not len(self.groups):
            return {}
        groups = dim_zero_cat(self.groups).tolist()
        sizes = [size for _, size in groups]
        chunks = dim_zero_cat(self.fingerprints).split(sizes) if self._is_synced else filter(len, self.fingerprints)
        parts: dict[int, list[Tensor]] = {}
        for (group, _), chunk in zip(groups, chunks, strict=True):
            parts.setdefault(group, []).append(chunk)
        return parts


def _decoded(names: Tensor) -> list[str]:
    return list(dict.fromkeys(bytes(names.tolist()).decode().split("\0")[:-1]))


def _check_mask(mask: Tensor, num_inputs: int) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a bool tensor, got {got}.")
    if mask.shape != (num_inputs,):
        raise ValueError(f"`mask` must have an entry for each of {num_inputs} inputs, got shape {tuple(mask.shape)}.")

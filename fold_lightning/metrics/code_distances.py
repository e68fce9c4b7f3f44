"""The Hamming distances of codes within classes and between them, as a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fold_lightning._checks import check_bool, check_classes
from fold_lightning.activations import ActivationCodes
from fold_lightning.codes import count_active
from fold_lightning.figures import plot_code_distances
from fold_lightning.folding.between_classes import check_num_classes
from fold_lightning.metrics.code_metric import CodeMetric, bits_of
from fold_lightning.metrics.nearest_codes import nearest_agreement, pack_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_INPUTS = 2**31 - 1
"""Largest number of inputs of a metric: its state is int32, which takes half the memory of int64."""

CHUNK_ELEMENTS = 2**22
"""Number of counts that are converted to int64 at a time, 32 MiB."""


DROP_ROWS = "leave inputs without a class out of the codes and the labels, such as with `inputs[labels >= 0]`"
"""Advice on negative labels, for error messages."""


class CodeDistances(CodeMetric):
    """Mean Hamming distances of two inputs of one class and of two inputs of different classes, as shares of units.

    The Hamming distance is that of "ReLU Code Space" (Shepeleva et al. 2020, Definition 1); its means within and between
    classes are this project's own. They are exact means over all unordered pairs of the inputs seen, but no pair is visited: a
    unit that n1 of n inputs activate differs in n1 * (n - n1) pairs, so the distances of all pairs sum to the sum of
    n1 * (n - n1) over units. The inputs of each class give the sum within classes, all inputs give the sum over all pairs, and
    the difference is the sum between classes.

    The state is the number of inputs of each class that activate each unit, int32 (C, N): 400 MB for 1,000 classes and 100,000
    units, and as much again during an update. Processes and metrics with the same units and layers merge by addition, so the
    value is that of one process. Activations with two thresholds, such as ReLU6, have two bits a unit, and "unit" means a
    bit here.

    With `nearest` the metric also gives the share of inputs whose nearest other input, by the Hamming distance of their codes,
    has the same class (this project's own). If several others are equally near, an input counts as the share of them that have
    its class. This stores the codes, N / 8 + 8 bytes for each input, and takes time that grows with the square of the number of
    inputs: with one thread 0.2 s for 2,000 inputs of 512 units, 5 s for 10,000. Memory is bounded by blocks.

    `plot()` draws the distances of all units and of each layer.

    Args:
        num_classes: C, at least 1; classes are 0 to C - 1.
        nearest: Whether to keep all codes and give the share "nearest".
        kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        TypeError: If the number of classes is not an integer, or `nearest` is not a bool.
        ValueError: If the number of classes is less than 1.

    Example:
        >>> import torch
        >>> from fold_lightning import CodeDistances
        >>> codes = torch.tensor([[True, True, False, False], [True, False, False, False], [False, False, True, True]])
        >>> distances = CodeDistances(num_classes=2)
        >>> distances.update(codes, torch.tensor([0, 0, 1]))
        >>> {name: value.item() for name, value in distances.compute().items()}
        {'within': 0.25, 'between': 0.875}
        >>> distances = CodeDistances(num_classes=2, nearest=True)
        >>> distances.update(codes, torch.tensor([0, 0, 1]))
        >>> round(distances.compute()["nearest"].item(), 3)
        0.667
    """

    plot_upper_bound: float = 1.0

    arguments = ("num_classes", "nearest")

    num_inputs: Tensor
    num_active: Tensor
    packed: list[Tensor]
    labels: list[Tensor]

    def __init__(self, num_classes: int, nearest: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_num_classes(num_classes)
        check_bool("nearest", nearest)
        self.num_classes, self.nearest = num_classes, nearest
        self.add_state("num_inputs", default=torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_unit_counts("num_active", torch.zeros(num_classes, 1, dtype=torch.int32))
        if nearest:
            # Packed codes, flattened: a process that has seen none does not know their width.
            self.add_list("packed", torch.empty(0, dtype=torch.uint8))
            self.add_list("labels", torch.empty(0, dtype=torch.int64))

    def update(self, codes: ActivationCodes | Tensor, labels: Tensor) -> None:
        """Add the codes of B inputs.

        Args:
            codes: Codes as from `activation_codes`, or bits alone, bool (B, N), which have no layers.
            labels: Integer (B,), the class of each input.

        Raises:
            ValueError: If the codes are not (B, N), have other layers or units than those before, the labels have another
                length or are out of range, or the inputs are more than an int32 can count.
            TypeError: If the codes are not bool, or the labels no integers.
        """
        layout, bits = self.check_layout(codes), bits_of(codes)
        check_classes("labels", labels, len(bits), self.num_classes, if_negative=DROP_ROWS)
        labels = labels.to(bits.device).long()
        num_inputs = self.num_inputs + torch.bincount(labels, minlength=self.num_classes).to(self.device)
        if num_inputs.sum() > MAX_INPUTS:
            raise ValueError(
                f"The number of inputs must be at most {MAX_INPUTS:,}, got {int(num_inputs.sum()):,}: reset the metric."
            )
        num_active = self.num_active.expand(-1, layout.num_units).clone()
        for label in labels.unique():
            num_active[label] += count_active(bits[labels == label]).to(self.device)
        self.num_inputs, self.num_active = num_inputs, num_active
        if self.nearest:
            self.packed.append(pack_bits(bits).flatten().to(self.home))
            self.labels.append(labels.to(self.home))
        self.remember(layout)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean distances over all units, float64 () each.

        Returns:
            "within", the mean over pairs of two inputs of one class; "between", the mean over pairs of inputs of different
            classes; with `nearest` also "nearest", the share of inputs whose nearest other input has the same class. NaN if there
            is no such pair, or no units. Two inputs with the same code have distance 0.
        """
        layout = self.layout()
        return self._distances([slice(0, layout.num_units if layout else 0, 1)])[0]

    def per_layer(self) -> dict[str, dict[str, Tensor]]:
        """Return layer name -> the values of `compute` over the units of that layer; empty if no codes had layers."""
        with self.gathered():
            layout = self.layout()
            layers = layout.columns() if layout else {}
            return dict(zip(layers, self._distances(list(layers.values())), strict=True))

    def _figure(self) -> Figure:
        return plot_code_distances({"all units": self.compute()} | self.per_layer())

    def _distances(self, layers: list[slice]) -> list[dict[str, Tensor]]:
        """Return the values of `compute` over the units of each layer."""
        number = self.num_inputs.tolist()
        pairs = {"within": sum(n * (n - 1) // 2 for n in number), "between": _pairs_between(number)}
        differing = self._differing_pairs()
        found = []
        for columns in layers:
            units = {name: pairs_by_unit[columns] for name, pairs_by_unit in differing.items()}
            found.append({name: self._mean(_exact_sum(part), len(part) * pairs[name]) for name, part in units.items()})
            if self.nearest:
                found[-1]["nearest"] = self._nearest(columns)
        return found

    def _nearest(self, columns: slice) -> Tensor:
        """Return the share of inputs whose nearest other input, by these units alone, has the same class, float64 ()."""
        layout, labels = self.layout(), self.joined("labels")
        packed = self.joined("packed").view(len(labels), -(-layout.num_units // 8) if layout else 0)
        return nearest_agreement(packed, labels, columns).to(self.device)

    def _differing_pairs(self) -> dict[str, Tensor]:
        """Return the number of pairs in which each unit differs, int64 (N,), within classes and between them."""
        number, within, every = self.num_inputs[:, None], [], []
        for active in self.num_active.split(max(1, CHUNK_ELEMENTS // self.num_classes), dim=1):
            active, total = active.long(), active.sum(0)
            within.append((active * (number - active)).sum(0))
            every.append(total * (number.sum() - total))
        inside = torch.cat(within)
        return {"within": inside, "between": torch.cat(every) - inside}

    def _mean(self, distance: int, number: int) -> Tensor:
        return torch.tensor(distance / number if number else torch.nan, dtype=torch.float64, device=self.device)


def _pairs_between(number: list[int]) -> int:
    """Return the number of pairs of inputs of different classes."""
    return (sum(number) ** 2 - sum(n**2 for n in number)) // 2


def _exact_sum(values: Tensor) -> int:
    """Return the exact sum of non-negative int64 numbers: it may exceed int64, the sums of their 32-bit halves do not."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())

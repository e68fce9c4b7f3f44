"""Global folding of a network between classes, as a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fold_lightning.figures import plot_folding_matrix
from fold_lightning.folding import Aggregate, fold_across, fold_within, space_folding
from fold_lightning.folding.between_classes import check_aggregates, check_num_classes, pairs_of
from fold_lightning.metrics.gathered import GatheredMetric
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GlobalFolding(GatheredMetric):
    """Phi_N over all walks seen, and the matrix of class pairs that it summarises.

    Phi_N is the global folding between classes of "The Space Between" (Lewandowski et al. 2025), in this project's reading. The
    value is that of `global_folding` on all segments together; its docstring defines it and how pairs without segments
    count. The state has the size of the matrix, independent of the number of segments; with ``within="median"`` it is
    16 bytes for each segment that folds. Processes merge exactly (``"mean"`` up to the rounding of sums).

    `plot()` draws `matrix()`.

    Args:
        num_classes: C, at least 1; classes are 0 to C - 1.
        within: "max", "median" or "mean" over the segments of a pair that fold.
        across: "max", "median" or "mean" over ordered pairs of different classes.
        kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        ValueError: For an unknown aggregate, or fewer classes than 1.

    Example:
        >>> import torch
        >>> from fold_lightning import GlobalFolding, Walks
        >>> bits = torch.tensor([[[0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]], [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]])
        >>> folding = GlobalFolding(num_classes=2)
        >>> folding.update(Walks.from_codes(bits.bool()), torch.tensor([0, 1]), torch.tensor([1, 0]))
        >>> folding.compute()
        tensor(0.1250, dtype=torch.float64)
        >>> folding.matrix()
        tensor([[   nan, 0.2500],
                [0.0000,    nan]], dtype=torch.float64)
    """

    plot_upper_bound: float = 1.0

    arguments = ("num_classes", "within", "across")

    segments: Tensor
    largest: Tensor
    total: Tensor
    folded: Tensor
    chi: list[Tensor]
    pair: list[Tensor]

    def __init__(self, num_classes: int, within: Aggregate = "max", across: Aggregate = "median", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_aggregates(within, across)
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.within: Aggregate = within
        self.across: Aggregate = across
        pairs = num_classes**2
        self.add_state("segments", default=torch.zeros(pairs, dtype=torch.int64), dist_reduce_fx="sum")
        if within == "max":
            self.add_state("largest", default=torch.zeros(pairs, dtype=torch.float64), dist_reduce_fx="max")
        elif within == "mean":
            self.add_state("total", default=torch.zeros(pairs, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("folded", default=torch.zeros(pairs, dtype=torch.int64), dist_reduce_fx="sum")
        else:
            self.add_list("chi", torch.empty(0, dtype=torch.float64))
            self.add_list("pair", torch.empty(0, dtype=torch.int64))

    def update(self, walks: Walks, start_class: Tensor, end_class: Tensor) -> None:
        """Add the walks of S segments.

        Args:
            walks: S walks, as from `segment_walks`.
            start_class: int64 (S,), the class in which each segment starts.
            end_class: int64 (S,), the class in which each segment ends.

        Raises:
            ValueError: If classes are out of range, or their number is not S.
            TypeError: If walks are no `Walks`, or classes no integers.
        """
        chi = space_folding(walks)
        pair = pairs_of(self._here(start_class), self._here(end_class), self.num_classes, len(chi), "walk")
        chi = chi.to(pair.device)
        self.segments = self.segments + torch.bincount(pair, minlength=len(self.segments))
        chi, pair = chi[chi > 0], pair[chi > 0]
        if self.within == "max":
            self.largest = self.largest.scatter_reduce(0, pair, chi, "amax")
        elif self.within == "mean":
            self.total = self.total + torch.bincount(pair, weights=chi, minlength=len(self.total))
            self.folded = self.folded + torch.bincount(pair, minlength=len(self.folded))
        else:
            self.chi.append(chi)
            self.pair.append(pair)

    def compute(self) -> Tensor:
        """Return Phi_N, float64 (); NaN if no pair of different classes has segments."""
        return fold_across(self._matrix(), self.across)

    def matrix(self) -> Tensor:
        """Return the folding of each ordered pair of classes, float64 (C, C); NaN for pairs without segments."""
        with self.gathered():
            return self._matrix()

    def _figure(self) -> Figure:
        return plot_folding_matrix(self.matrix())

    def _here(self, classes: Tensor) -> Tensor:
        return classes.to(self.device) if isinstance(classes, Tensor) else classes

    def _matrix(self) -> Tensor:
        if self.within == "max":
            value = self.largest
        elif self.within == "mean":
            value = self.total / self.folded.clamp(min=1)
        else:
            value = fold_within(self.joined("chi"), self.joined("pair"), len(self.segments), "median").nan_to_num(0.0)
        is_empty = self.segments.to(value.device) == 0
        return value.masked_fill(is_empty, torch.nan).view(self.num_classes, self.num_classes)

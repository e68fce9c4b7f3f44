"""Space folding of segments, as a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from fold_lightning.figures import plot_folding
from fold_lightning.folding import Statistic, space_folding, summarize_folding
from fold_lightning.metrics.gathered import GatheredMetric
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SpaceFolding(GatheredMetric):
    """The space folding measure chi over all walks seen.

    chi is the measure of "On Space Folds of ReLU Neural Networks" (Lewandowski et al. 2025), as `space_folding` defines it. It
    lies in [0, 1), and is 0 for a segment that does not fold. The state is chi of each segment, 8 bytes; processes merge by
    concatenation, so the value is that of one process.

    `plot()` draws the distribution of chi over the segments.

    Args:
        statistic: "mean", "median" (of the segments that fold), "max", or "fraction" (of segments that fold).
        kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        ValueError: If the statistic is none of these.

    Example:
        >>> import torch
        >>> from fold_lightning import SpaceFolding, Walks
        >>> tent = Walks.from_codes(torch.tensor([[[0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]]).bool())
        >>> straight = Walks.from_codes(torch.tensor([[[0, 0], [0, 1], [1, 1]]]).bool())
        >>> folding = SpaceFolding("mean")
        >>> folding.update(tent)
        >>> folding.update(straight)
        >>> folding.compute()
        tensor(0.1250, dtype=torch.float64)
    """

    plot_upper_bound: float = 1.0

    arguments = ("statistic",)

    chi: list[Tensor]

    def __init__(self, statistic: Statistic = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if statistic not in get_args(Statistic):
            raise ValueError(f"`statistic` must be one of {', '.join(map(repr, get_args(Statistic)))}, got {statistic!r}.")
        self.statistic: Statistic = statistic
        self.add_list("chi", torch.empty(0, dtype=torch.float64))

    def update(self, walks: Walks) -> None:
        """Add the walks of S segments.

        Args:
            walks: S walks, as from `segment_walks`.
        """
        self.chi.append(space_folding(walks).to(self.device))

    def compute(self) -> Tensor:
        """Return the statistic over all segments seen, float64 (); NaN if there were none."""
        return summarize_folding(self.joined("chi"), self.statistic)

    def _figure(self) -> Figure:
        with self.gathered():
            return plot_folding(self.joined("chi"))

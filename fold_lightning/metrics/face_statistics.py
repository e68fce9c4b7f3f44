"""Statistics of regions' numbers of faces, as a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fold_lightning.figures import plot_face_counts
from fold_lightning.metrics.gathered import GatheredMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FaceStatistics(GatheredMetric):
    """Mean, median, maximum and minimum of the numbers of faces of the regions seen.

    The numbers are those of `face_counts`. The mean over **all** regions of a network with d input features is at most 2d
    ("Characterizing the Discrete Geometry of ReLU Networks", Gaines and Bi 2026, Theorem 3.4); over regions around data it may
    be more. The state is the number of faces of each region, 8 bytes; processes merge by concatenation, so the value is that of one
    process.

    `plot()` draws the distribution of the numbers of faces.

    Args:
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from fold_lightning import FaceStatistics
        >>> statistics = FaceStatistics()
        >>> statistics.update(torch.tensor([3, 4]))
        >>> statistics.update(torch.tensor([8]))
        >>> {name: value.item() for name, value in statistics.compute().items()}
        {'mean': 5.0, 'median': 4.0, 'max': 8.0, 'min': 3.0}
    """

    face_counts: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_list("face_counts", torch.empty(0, dtype=torch.int64))

    def update(self, face_counts: Tensor) -> None:
        """Add the face counts of B regions.

        Args:
            face_counts: Integer (B,), the number of faces of each region.

        Raises:
            TypeError: If they are not integers.
            ValueError: If they are not (B,), or some are less than 0.
        """
        if not isinstance(face_counts, Tensor) or face_counts.is_floating_point() or face_counts.dtype == torch.bool:
            got = face_counts.dtype if isinstance(face_counts, Tensor) else type(face_counts).__name__
            raise TypeError(f"`face_counts` must be integers (B,), got {got}: take them from `face_counts(regions)`.")
        if face_counts.dim() != 1 or (face_counts < 0).any():
            raise ValueError(
                f"`face_counts` must be (B,) and at least 0, got shape {tuple(face_counts.shape)}"
                f"{f' and {int(face_counts.min())}' if face_counts.numel() else ''}."
            )
        self.face_counts.append(face_counts.to(self.device, torch.int64))

    def compute(self) -> dict[str, Tensor]:
        """Return the statistics over all regions seen, float64 () each.

        Returns:
            "mean", "median" (NumPy's, the mean of the two middle values), "max" and "min"; NaN if there were no regions.
        """
        counts = self.joined("face_counts").double()
        if len(counts) == 0:
            return dict.fromkeys(("mean", "median", "max", "min"), counts.new_tensor(torch.nan))
        return {"mean": counts.mean(), "median": counts.quantile(0.5), "max": counts.max(), "min": counts.min()}

    def _figure(self) -> Figure:
        with self.gathered():
            return plot_face_counts(self.joined("face_counts"))

"""Faces of the activation regions around inputs."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fold_lightning._tables import bounded
from fold_lightning.callbacks.measures.base import Measure, MeasureResult, Table
from fold_lightning.callbacks.measures.sources import RegionSource, SeenRegions, Sources

MAX_BINS = 64


class FacesMeasure(Measure):
    """Mean and maximum number of faces, against the bound of their mean over all regions of a network."""

    tags = {
        "faces/mean": "Mean number of faces of the regions around the inputs; over points it may exceed the bound.",
        "faces/max": "Largest number of faces of a region around an input.",
        "faces/bound": "2d, or 2k in slices of k dimensions: bounds the mean over all regions of a network.",
    }
    charts = {
        "faces of a region, and the bound of their mean over all regions": ["faces/mean", "faces/bound"],
        "most faces of a region": ["faces/max"],
    }
    source: RegionSource

    @classmethod
    def create(cls, sources: Sources) -> FacesMeasure | None:
        return cls(sources.sample, sources.regions) if sources.settings.faces else None

    def reset(self, device: torch.device) -> None:
        self._table = Table().to(device)

    def update(self, seen: SeenRegions) -> None:
        self._table.update(seen.rows, seen.counts)

    def compute(self, model: LightningModule) -> MeasureResult:
        counts = self._table.compute().flatten()
        scalars = {"faces/mean": float(counts.mean()), "faces/max": float(counts.max())}
        scalars["faces/bound"] = 2.0 * self.sample.faces.dimension
        table = {"faces": counts.int().numpy(), "bound": np.asarray(2 * self.sample.faces.dimension)}
        return MeasureResult(scalars, {"faces/histogram": (counts, _bins(counts))}, tables={"faces": bounded(table)})

    def available_tags(self) -> dict[str, str]:
        what = self.sample.faces.describe()
        return {tag: f"{description} {what}" for tag, description in super().available_tags().items()}


def _bins(counts: Tensor) -> list[float]:
    """Return the edges of bins that each hold equally many integers."""
    least, most = int(counts.min()), int(counts.max())
    width = -(-(most - least + 1) // MAX_BINS)
    return [least - 0.5 + width * i for i in range((most - least) // width + 2)]

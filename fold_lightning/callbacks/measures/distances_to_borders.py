"""How far inputs lie from the borders of their regions."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule

from fold_lightning.callbacks.measures.base import Measure, MeasureResult, Table
from fold_lightning.callbacks.measures.sources import RegionSource, SeenRegions, Sources


class BorderDistancesMeasure(Measure):
    """Mean and median distance from inputs to the borders of their regions, which moves with training where face counts stay."""

    tags = {
        "regions/distance_mean": "Mean distance from an input to the border of its region, in the unit of the inputs.",
        "regions/distance_median": "Median distance from an input to the border of its region.",
    }
    charts = {"distance from an input to the border of its region": ["regions/distance_.*"]}
    source: RegionSource

    @classmethod
    def create(cls, sources: Sources) -> BorderDistancesMeasure | None:
        return cls(sources.sample, sources.regions) if sources.settings.faces else None

    def reset(self, device: torch.device) -> None:
        self._table = Table().to(device)

    def update(self, seen: SeenRegions) -> None:
        self._table.update(seen.rows, seen.distances)

    def compute(self, model: LightningModule) -> MeasureResult:
        distances = self._table.compute().flatten()
        bounded = distances[distances.isfinite()]
        if len(bounded) == 0:
            return MeasureResult()
        scalars = {"regions/distance_mean": float(bounded.mean()), "regions/distance_median": float(bounded.quantile(0.5))}
        return MeasureResult(scalars)

    def available_tags(self) -> dict[str, str]:
        what = self.sample.faces.describe()
        return {tag: f"{description} {what}" for tag, description in super().available_tags().items()}

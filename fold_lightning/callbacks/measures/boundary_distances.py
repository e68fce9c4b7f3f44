"""Distances from inputs to the boundaries of their regions."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from fold_lightning.callbacks.measures.base import MeasureResult
from fold_lightning.callbacks.measures.region_measure import RegionMeasure
from fold_lightning.callbacks.measures.sources import SeenRegions


class BoundaryDistancesMeasure(RegionMeasure):
    """Mean and median distance from inputs to the boundaries of their regions.

    It changes in training even if face counts do not.
    """

    tags = {
        "regions/distance_mean": "Mean distance from an input to the boundary of its region, in the unit of the inputs.",
        "regions/distance_median": "Median distance from an input to the boundary of its region.",
    }
    charts = {"distance from an input to the boundary of its region": ["regions/distance_.*"]}

    def update(self, seen: SeenRegions) -> None:
        self._table.update(seen.rows, seen.distances)

    def compute(self, model: LightningModule) -> MeasureResult:
        distances = self._table.compute().flatten()
        bounded = distances[distances.isfinite()]
        if len(bounded) == 0:
            return MeasureResult()
        scalars = {"regions/distance_mean": float(bounded.mean()), "regions/distance_median": float(bounded.quantile(0.5))}
        return MeasureResult(scalars)

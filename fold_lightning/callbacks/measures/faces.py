"""Faces of the activation regions around inputs."""

from __future__ import annotations

import numpy as np
from lightning.pytorch import LightningModule

from fold_lightning._tables import limit_size
from fold_lightning.callbacks.measures.base import MeasureResult
from fold_lightning.callbacks.measures.region_measure import RegionMeasure
from fold_lightning.callbacks.measures.sources import SeenRegions
from fold_lightning.figures import count_edges, plot_face_counts


class FacesMeasure(RegionMeasure):
    """Mean and maximum number of faces, with the bound of the mean over all regions of a network."""

    tags = {
        "faces/mean": "Mean number of faces of the regions around the inputs, which may exceed the bound.",
        "faces/max": "Largest number of faces of a region around an input.",
        "faces/bound": "2d, or 2k in slices of k dimensions: bounds the mean over all regions of a network.",
    }
    charts = {
        "faces of a region, and the bound of their mean over all regions": ["faces/mean", "faces/bound"],
        "most faces of a region": ["faces/max"],
    }
    pictures = {
        "faces/histogram": "Numbers of faces of the regions around the inputs.",
        "faces/counts": "Histogram of the number of faces of regions around inputs, with the bound of the mean over all regions.",
    }

    def update(self, seen: SeenRegions) -> None:
        self._table.update(seen.rows, seen.counts)

    def compute(self, model: LightningModule) -> MeasureResult:
        counts = self._table.compute().flatten()
        scalars = {"faces/mean": float(counts.mean()), "faces/max": float(counts.max())}
        bound, faces = 2 * self.sample.faces.dimension, self.sample.faces
        scalars["faces/bound"] = float(bound)
        slices = f" in random slices of {faces.subspace} dimensions" if faces.subspace else ""
        xlabel = f"faces of inputs' regions{slices}"
        return MeasureResult(
            scalars,
            {"faces/histogram": (counts, count_edges(counts))},
            {"faces/counts": lambda: plot_face_counts(counts.long(), bound, xlabel=xlabel)},
            tables={"faces": limit_size({"faces": counts.int().numpy(), "bound": np.asarray(bound)})},
        )

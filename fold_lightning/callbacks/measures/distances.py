"""Distances of codes between inputs of one class, and of different classes."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule

from fold_lightning._tables import limit_size
from fold_lightning.activations import ActivationCodes
from fold_lightning.callbacks.measures.base import Measure, MeasureResult
from fold_lightning.callbacks.measures.sources import InputSource, SeenCodes, Sources
from fold_lightning.figures import plot_code_distances
from fold_lightning.metrics import CodeDistances


class CodeDistancesMeasure(Measure):
    """Mean Hamming distance of the inputs' codes within and between classes."""

    tags = {
        "codes/within": "Mean Hamming distance of the codes of two inputs of one class, as a share of units.",
        "codes/between": "Mean Hamming distance of the codes of two inputs of different classes, as a share of units.",
    }
    charts = {"distance of codes": ["codes/within", "codes/between"]}
    pictures = {"codes/distances": "Mean distance of the codes of two inputs of one class, and of different classes, by layer."}
    source: InputSource

    @classmethod
    def create(cls, sources: Sources) -> CodeDistancesMeasure | None:
        has_classes = sources.sample.classes is not None and len(sources.sample.classes) > 0
        return cls(sources.sample, sources.inputs) if sources.settings.codes and has_classes else None

    def reset(self, device: torch.device) -> None:
        classes = self.sample.classes
        assert classes is not None
        self._classes = classes
        self._distances = CodeDistances(len(classes)).to(device)

    def update(self, seen: SeenCodes) -> None:
        assert seen.labels is not None
        has_class = seen.labels >= 0
        labels = torch.searchsorted(self._classes, seen.labels[has_class])
        bits = seen.codes.bits[has_class.to(seen.codes.bits.device)]
        self._distances.update(ActivationCodes(bits, seen.codes.layers), labels)

    def compute(self, model: LightningModule) -> MeasureResult:
        overall, per_layer = self._distances.compute(), self._distances.per_layer()
        values = {name: float(value) for name, value in overall.items() if not value.isnan()}
        table = {"layer": np.array(list(per_layer), dtype=np.str_)}
        table |= {name: np.array([float(layer[name]) for layer in per_layer.values()]) for name in values}
        scalars = {f"codes/{name}": value for name, value in values.items()}
        figures = {"codes/distances": lambda: plot_code_distances({"all units": overall} | per_layer)} if values else {}
        return MeasureResult(scalars, figures=figures, tables={"distances": limit_size(table)})

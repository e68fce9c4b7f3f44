"""Activity of units: shares of units that are never, always or sometimes active."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule

from fold_lightning._tables import limit_size
from fold_lightning.callbacks.measures.base import Measure, MeasureResult
from fold_lightning.callbacks.measures.sources import InputSource, SeenCodes, Sources
from fold_lightning.figures import plot_unit_activity
from fold_lightning.metrics import UnitActivity


class UnitsMeasure(Measure):
    """Dead units, units that are always active, and the mean activity, overall and by layer."""

    tags = {
        "units/dead": "Share of units that no input activates; a unit with two thresholds counts as two.",
        "units/always_active": "Share of units that every input activates: they are linear on the inputs.",
        "units/active": "Mean share of units that an input activates.",
        "units/dead/<layer>": "Share of a layer's units that no input activates.",
        "units/always_active/<layer>": "Share of a layer's units that every input activates.",
        "units/active/<layer>": "Mean share of a layer's units that an input activates.",
    }
    charts = {
        "units": ["units/dead$", "units/always_active$", "units/active$"],
        "dead units of each layer": ["units/dead/.*"],
        "always active units of each layer": ["units/always_active/.*"],
        "active units of each layer": ["units/active/.*"],
    }
    pictures = {"units/by_layer": "Shares of each layer's units that are never, always or sometimes active."}
    source: InputSource

    @classmethod
    def create(cls, sources: Sources) -> UnitsMeasure | None:
        return cls(sources.sample, sources.inputs) if sources.settings.units else None

    def reset(self, device: torch.device) -> None:
        self._activity = UnitActivity().to(device)

    def update(self, seen: SeenCodes) -> None:
        self._activity.update(seen.codes)

    def compute(self, model: LightningModule) -> MeasureResult:
        scalars = {f"units/{name}": float(value) for name, value in self._activity.compute().items()}
        per_layer = self._activity.per_layer()
        for layer, values in per_layer.items():
            scalars |= {f"units/{name}/{layer}": float(value) for name, value in values.items()}
        table = {"layer": np.array(list(per_layer), dtype=np.str_)}
        for name in ("dead", "always_active", "active"):
            table[name] = np.array([float(values[name]) for values in per_layer.values()])
        figures = {"units/by_layer": lambda: plot_unit_activity(per_layer)} if per_layer else {}
        return MeasureResult(scalars, figures=figures, tables={"units": limit_size(table)})

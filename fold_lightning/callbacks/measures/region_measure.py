"""The base class of measures of regions around inputs: a table with one row per region."""

from __future__ import annotations

import torch

from fold_lightning.callbacks.measures.base import Measure, Table
from fold_lightning.callbacks.measures.sources import RegionSource, Sources


class RegionMeasure(Measure):
    """A measure of the regions around inputs, or of slices of these; the descriptions of its tags say which."""

    source: RegionSource

    @classmethod
    def create(cls, sources: Sources) -> RegionMeasure | None:
        return cls(sources.sample, sources.regions) if sources.settings.faces else None

    def reset(self, device: torch.device) -> None:
        self._table = Table().to(device)

    def available_tags(self) -> dict[str, str]:
        what = self.sample.faces.describe()
        return {tag: f"{description} {what}" for tag, description in super().available_tags().items()}

"""Distinct codes: how many activation regions the inputs occupy."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule

from fold_lightning._tables import limit_size
from fold_lightning.activations import activation_codes
from fold_lightning.callbacks.measures.base import Embedding, Measure, MeasureResult
from fold_lightning.callbacks.measures.sources import InputSource, SeenCodes, Sources
from fold_lightning.metrics import DistinctCodes

EMBEDDED_BITS = 2**21
"""Maximum number of bits of an embedding, which TensorBoard stores as text of 2 bytes each: 4 MiB, and the same again for all
layers together. Wide networks get fewer inputs."""


class DistinctCodesMeasure(Measure):
    """Distinct codes of the inputs, overall, by layer, and of those classified correctly."""

    tags = {
        "codes/distinct": "Number of activation regions that the inputs occupy.",
        "codes/distinct_correct": "Number of regions that the correctly classified inputs occupy.",
        "codes/distinct_fraction": "Distinct codes per input, in (0, 1].",
        "codes/layer/<layer>": "Number of distinct codes of one layer's bits alone.",
    }
    charts = {
        "distinct codes": ["codes/distinct$", "codes/distinct_correct"],
        "distinct codes of each layer": ["codes/layer/.*"],
        "distinct codes per input": ["codes/distinct_fraction"],
    }
    source: InputSource

    @classmethod
    def create(cls, sources: Sources) -> DistinctCodesMeasure | None:
        return cls(sources.sample, sources.inputs) if sources.settings.codes else None

    def reset(self, device: torch.device) -> None:
        self._distinct = DistinctCodes().to(device)

    def update(self, seen: SeenCodes) -> None:
        self._distinct.update(seen.codes, correct=seen.correct)

    def compute(self, model: LightningModule) -> MeasureResult:
        distinct = self._distinct.compute()
        scalars = {"codes/distinct": distinct, "codes/distinct_fraction": distinct / self.source.num_rows}
        per_layer = self._distinct.per_layer()
        scalars |= {f"codes/layer/{layer}": count for layer, count in per_layer.items()}
        if self.source.classifies:
            scalars["codes/distinct_correct"] = self._distinct.correct()
        table = {"layer": np.array(list(per_layer), dtype=np.str_), "distinct": np.array([int(n) for n in per_layer.values()])}
        return MeasureResult(
            {tag: float(value) for tag, value in scalars.items()},
            embeddings=lambda: self._embeddings(model),
            tables={"codes": limit_size(table)},
        )

    def available_tags(self) -> dict[str, str]:
        missing = set() if self.source.classifies else {"codes/distinct_correct"}
        return {tag: description for tag, description in super().available_tags().items() if tag not in missing}

    def _embeddings(self, model: LightningModule) -> dict[str, Embedding]:
        """Return the codes of all units, and of each layer if there are several."""
        sample, settings = self.sample, self.sample.settings
        count = min(self.source.num_rows, max(2, EMBEDDED_BITS // self.source.num_units))
        codes = activation_codes(
            model, sample.inputs(model, sample.order[:count]), layers=settings.layers, forward=sample.probes.model_input.forward
        )
        labels = None if sample.probes.labels is None else sample.probes.labels[sample.order[:count]]
        layers = codes.layers if len(codes.layers) > 1 else {}
        parts = {"codes": codes.bits} | {f"codes/layer/{name}": codes.bits[:, columns] for name, columns in layers.items()}
        return {tag: Embedding(bits, labels) for tag, bits in parts.items()}

"""Folding along segments: chi, Phi_N, regions, by layer."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule

from fold_lightning.callbacks.measures.base import Measure, MeasureResult, Table
from fold_lightning.callbacks.measures.sources import SeenSegments, SegmentSource, Sources
from fold_lightning.figures import plot_folding_matrix, plot_walk
from fold_lightning.folding import PerSegment, global_folding, summarize_folding

CHI_BINS = [i / 50 for i in range(51)]


class FoldingMeasure(Measure):
    """Space folding of the segments, and of the network between classes."""

    tags = {
        "folding/chi_mean": "Mean of the space folding measure chi, in [0, 1), over the segments.",
        "folding/chi_median": "Median chi of the segments that fold; 0 if none does.",
        "folding/chi_max": "Largest chi of a segment.",
        "folding/fraction": "Share of the segments that fold.",
        "folding/phi": "Phi_N, folding between classes.",
        "folding/regions": "Mean number of activation regions on a segment.",
        "folding/exact": "Share of the segments whose walk is exact and verified itself.",
        "folding/complete": "Share of the segments that were walked to their end.",
        "folding/layer/<layer>": "Mean chi through the bits of one layer alone.",
    }
    charts = {
        "chi": ["folding/chi_mean", "folding/chi_median", "folding/chi_max", "folding/fraction", "folding/phi"],
        "chi of each layer": ["folding/layer/.*"],
        "regions on a segment": ["folding/regions"],
        "verified": ["folding/exact", "folding/complete"],
    }

    source: SegmentSource

    @classmethod
    def create(cls, sources: Sources) -> FoldingMeasure | None:
        return cls(sources.sample, sources.segments) if sources.settings.folding else None

    def reset(self, device: torch.device) -> None:
        self._table = Table().to(device)

    def update(self, seen: SeenSegments) -> None:
        self._table.update(seen.rows, seen.measures.rows)

    def compute(self, model: LightningModule) -> MeasureResult:
        source, between = self.source, self.sample.segments.between_classes()
        measures = PerSegment.from_rows(self._table.compute(), source.layers)
        chi = measures.chi
        scalars = {f"folding/chi_{name}": summarize_folding(chi, name) for name in ("mean", "median", "max")}
        scalars["folding/fraction"] = summarize_folding(chi, "fraction")
        scalars["folding/exact"], scalars["folding/complete"] = measures.exact.mean(), measures.complete.mean()
        scalars |= {f"folding/layer/{layer}": summarize_folding(values, "mean") for layer, values in measures.by_layer.items()}
        if self._counts_regions:
            scalars["folding/regions"] = measures.regions.mean()
        figures = {"folding/walk": lambda: plot_walk(source.walk(model, chi.argmax()[None]), 0)}
        if between is not None:
            how = {"within": self.sample.settings.within, "across": self.sample.settings.across}
            phi, matrix = global_folding(chi, between.start, between.end, len(between.classes), **how)
            scalars["folding/phi"] = phi
            names = [str(label) for label in between.classes.tolist()]
            figures["folding/phi_matrix"] = lambda: plot_folding_matrix(matrix, names)
        return MeasureResult(
            {tag: float(value) for tag, value in scalars.items() if not value.isnan()},
            {"folding/chi_histogram": (chi, CHI_BINS)},
            figures,
        )

    def available_tags(self) -> dict[str, str]:
        missing = set() if self.sample.segments.between_classes() is not None else {"folding/phi"}
        missing |= set() if self._counts_regions else {"folding/regions"}
        tags = {tag: description for tag, description in super().available_tags().items() if tag not in missing}
        return tags | ({"folding/phi": f"{tags['folding/phi']} {self._describe_phi()}"} if "folding/phi" in tags else {})

    def _describe_phi(self) -> str:
        settings, segments = self.sample.settings, self.sample.segments
        return (
            f"The {settings.across} over pairs of classes of the {settings.within} chi of each that is not 0; only values of equally "
            f"many segments of a pair compare: here {segments.describe()}."
        )

    @property
    def _counts_regions(self) -> bool:
        return self.sample.method == "exact"  # equidistant points miss regions

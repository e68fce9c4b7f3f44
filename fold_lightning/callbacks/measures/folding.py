"""Folding along segments: chi, Phi_N, regions, overall and by layer."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fold_lightning._tables import Table as Columns
from fold_lightning._tables import limit_size, small_integers
from fold_lightning.callbacks.measures.base import Measure, MeasureResult, Table
from fold_lightning.callbacks.measures.sources import SeenSegments, SegmentSource, Sources
from fold_lightning.figures import plot_folding_matrix, plot_folding_over_steps, plot_walk
from fold_lightning.folding import PerSegment, global_folding, summarize_folding, thinned_profiles
from fold_lightning.probes import name_of_class

CHI_BINS = [i / 50 for i in range(51)]

MAX_WALKS = 512
"""Maximum number of segments whose walks are in the table of walks; evenly spaced."""

WALK_BYTES = 2**18
"""Maximum size of the table of walks before compression, 256 KiB; each walk has an equal share."""

POINT_BYTES = 16
"""Bytes of a point of a walk in this table: four numbers of 4 bytes."""

MAX_WALK_POINTS = 512
"""Maximum number of points of a walk in this table: as many as its chart shows."""


class FoldingMeasure(Measure):
    """Space folding of the segments, and of the network between classes."""

    tags = {
        "folding/chi_mean": "Mean of the space folding measure chi, in [0, 1), over the segments.",
        "folding/chi_median": "Median chi of the segments that fold; 0 if none does.",
        "folding/chi_max": "Largest chi of a segment.",
        "folding/fraction": "Share of the segments that fold.",
        "folding/phi": "Phi_N, folding between classes.",
        "folding/regions": "Mean number of activation regions on a segment.",
        "folding/exact": "Share of the segments whose walk is exact and verified.",
        "folding/complete": "Share of the segments that were walked to their end.",
        "folding/layer/<layer>": "Mean chi of one layer's bits alone.",
    }
    charts = {
        "chi": ["folding/chi_mean", "folding/chi_median", "folding/chi_max", "folding/fraction", "folding/phi"],
        "chi of each layer": ["folding/layer/.*"],
        "regions on a segment": ["folding/regions"],
        "verified": ["folding/exact", "folding/complete"],
    }
    pictures = {
        "folding/chi_histogram": "The space folding measure chi of all segments.",
        "folding/walk": "The segment that folds most: its distance, that of a walk that does not fold, and chi so far.",
        "folding/chi_over_steps": "Distribution of chi over the segments, at all measurements so far.",
        "folding/phi_matrix": "Folding between each ordered pair of classes, which Phi_N aggregates; grey without segments.",
    }

    source: SegmentSource

    @classmethod
    def create(cls, sources: Sources) -> FoldingMeasure | None:
        return cls(sources.sample, sources.segments) if sources.settings.folding else None

    def reset(self, device: torch.device) -> None:
        self._table, self._profiles = Table().to(device), Table().to(device)

    def update(self, seen: SeenSegments) -> None:
        self._table.update(seen.rows, seen.measures.rows)
        has_walk = torch.isin(seen.rows, self._walked)
        profiles = thinned_profiles(seen.walks, self._points_per_walk)[has_walk.to(seen.measures.chi.device)]
        self._profiles.update(seen.rows[has_walk], profiles.flatten(1))

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
        tables = {
            "segments": limit_size(self._segments(measures)),
            "layers": limit_size(_layers(measures)),
            "walks": self._walks(),
        }
        figures = {"folding/walk": lambda: plot_walk(source.walk(model, chi.argmax()[None]), 0)}
        if between is not None:
            how = {"within": self.sample.settings.within, "across": self.sample.settings.across}
            phi, matrix = global_folding(chi, between.start, between.end, len(between.classes), **how)
            scalars["folding/phi"] = phi
            names = [name_of_class(label, self.sample.class_names) for label in between.classes.tolist()]
            tables["pairs"] = limit_size(_pairs(matrix, between.classes))
            figures["folding/phi_matrix"] = lambda: plot_folding_matrix(matrix, names)
        return MeasureResult(
            {tag: float(value) for tag, value in scalars.items() if not value.isnan()},
            {"folding/chi_histogram": (chi, CHI_BINS)},
            figures,
            growing_figures={"folding/chi_over_steps": (chi, plot_folding_over_steps)},
            tables=tables,
        )

    def available_tags(self) -> dict[str, str]:
        missing = set() if self.sample.segments.between_classes() is not None else {"folding/phi"}
        missing |= set() if self._counts_regions else {"folding/regions"}
        tags = {tag: description for tag, description in super().available_tags().items() if tag not in missing}
        return tags | ({"folding/phi": f"{tags['folding/phi']} {self._describe_phi()}"} if "folding/phi" in tags else {})

    def _describe_phi(self) -> str:
        settings, segments = self.sample.settings, self.sample.segments
        return (
            f"The {settings.across} over pairs of classes of the {settings.within} of each pair's non-zero chi. Compare only values "
            f"with equally many segments per pair; here: {segments.describe()}."
        )

    @property
    def _counts_regions(self) -> bool:
        return self.sample.method == "exact"  # equidistant points miss regions

    @property
    def _walked(self) -> Tensor:
        """Segments int64 (W,) whose walks are kept for the Folding tab."""
        count = self.source.num_rows
        most = min(count, MAX_WALKS)
        return torch.arange(most) * (count - 1) // max(1, most - 1)

    @property
    def _points_per_walk(self) -> int:
        return min(MAX_WALK_POINTS, WALK_BYTES // POINT_BYTES // max(1, len(self._walked))) - 1  # and its start

    def _segments(self, measures: PerSegment) -> Columns:
        """Return one row per segment: its ends among the inputs, their classes, and its measures."""
        segments = self.sample.segments
        ends = {"start": segments.start, "end": segments.end}
        if segments.start_class is not None and segments.end_class is not None:
            ends |= {"start_class": segments.start_class, "end_class": segments.end_class}
        table = {"segment": small_integers(np.arange(len(segments)))}
        table |= {name: small_integers(column.numpy()) for name, column in ends.items()}
        table |= {"chi": measures.chi.numpy(), "exact": measures.exact.bool().numpy()}
        table["complete"] = measures.complete.bool().numpy()
        return table | ({"regions": measures.regions.int().numpy()} if self._counts_regions else {})

    def _walks(self) -> Columns:
        """Return one row per point of a walk, of which the first is the start."""
        profiles = self._profiles.compute().view(len(self._walked), -1, 3)
        profiles = torch.cat([profiles.new_zeros(len(profiles), 1, 3), profiles], 1)
        segment, point = (~profiles[:, :, 0].isnan()).nonzero(as_tuple=True)
        position, distance, length = profiles[segment, point].unbind(1)
        return {
            "segment": small_integers(self._walked[segment].numpy()),
            "position": position.float().numpy(),
            "distance": distance.int().numpy(),
            "length": length.int().numpy(),
        }


def _layers(measures: PerSegment) -> Columns:
    """Return one row per layer: its name, and the mean chi of its bits alone."""
    means = [float(summarize_folding(chi, "mean")) for chi in measures.by_layer.values()]
    return {"layer": np.array(list(measures.by_layer), dtype=np.str_), "chi": np.array(means)}


def _pairs(matrix: Tensor, classes: Tensor) -> Columns:
    """Return one row per ordered pair of classes with segments: the classes, and the folding between them."""
    start, end = (~matrix.isnan()).nonzero(as_tuple=True)
    sides = {"start_class": classes[start], "end_class": classes[end]}
    pairs = {name: small_integers(side.numpy()) for name, side in sides.items()}
    return pairs | {"folding": matrix[start, end].float().numpy()}

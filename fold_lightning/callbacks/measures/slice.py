"""A map of the regions of a plane through inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fold_lightning.activations import activation_codes
from fold_lightning.callbacks.measures.base import Measure, MeasureResult
from fold_lightning.callbacks.measures.map_table import map_table
from fold_lightning.callbacks.measures.sources import Sources
from fold_lightning.figures import MapColor, plot_message, plot_slice_map
from fold_lightning.probes import name_of_class
from fold_lightning.slice_maps import InputsOnALine, SliceMap, TooManyRegions, slice_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_REGIONS, FEWEST_REGIONS = 4_000, 24
"""Maximum number of regions of a map, for small and for large networks."""

MAX_WORK = 2**23
"""Maximum of regions times units times layers of a map, because passes over its vertices grow with each factor."""


class SliceMeasure(Measure):
    """Regions of a plane through three inputs of different classes, zoomed in on the first if there are many."""

    pictures = {
        "regions/slice": "All activation regions of a plane through three inputs, zoomed in on the first if there are "
        "many; darker means that more bits differ from the code of the first input.",
        "regions/slice_by_class": "The same plane by predicted class, paler where the model is less confident, with the exact "
        "borders between classes; drawn if the window holds several.",
    }

    @classmethod
    def create(cls, sources: Sources) -> SliceMeasure | None:
        wanted = sources.settings.maps and sources.sample.faces.dimension >= 2
        return cls(sources.sample, sources.regions) if wanted else None

    def reset(self, device: torch.device) -> None: ...

    def update(self, seen: Any) -> None: ...

    def compute(self, model: LightningModule) -> MeasureResult:
        rows = rows_of_different_classes(self.sample.probes.labels, len(self.sample.probes))
        labels = None if self.sample.probes.labels is None else self.sample.probes.labels[rows]
        found = cache(lambda: self._map(model, rows))  # one map for all, made when it is first needed
        return MeasureResult(
            figures={
                "regions/slice": lambda: self._draw(found(), labels, "distance"),
                "regions/slice_by_class": lambda: self._draw(found(), labels, "class"),
            },
            drawn_tables={"map": lambda: map_table(found(), labels)},
        )

    def _draw(self, found: SliceMap | str, labels: Tensor | None, color: MapColor) -> Figure | None:
        if color == "class" and not (isinstance(found, SliceMap) and _has_borders(found)):
            return None  # zoomed in on a single class
        if isinstance(found, str):
            return plot_message(found)
        class_names = self.sample.class_names
        names = None if labels is None else input_names(found, labels.tolist(), class_names)
        return plot_slice_map(found, color=color, names=names, class_names=class_names or None)

    def _map(self, model: LightningModule, rows: Tensor) -> SliceMap | str:
        """Return the map of the plane through three items, or of one through the first if they lie on a line or are fewer.

        If there is no map, return the reason.
        """
        inputs, forward = self.sample.inputs(model, rows), self.sample.probes.model_input.forward
        codes = activation_codes(model, inputs[:1], forward=forward)
        most = MAX_WORK // max(1, codes.bits.shape[1] * len(codes.layers))
        options: dict[str, Any] = {"forward": forward, "max_regions": min(MOST_REGIONS, max(FEWEST_REGIONS, most))}
        try:
            if len(inputs) == 3:
                with suppress(InputsOnALine):
                    return slice_map(model, inputs, **options)
            return slice_map(model, inputs[:1], seed=self.sample.settings.seed, **options)
        except (TooManyRegions, MemoryError) as error:
            return f"No map of regions. {error}"


def _has_borders(found: SliceMap) -> bool:
    """Return whether a map shows several classes."""
    return found.scores is not None and len(found.scores.argmax(1).unique()) > 1


def rows_of_different_classes(labels: Tensor | None, count: int) -> Tensor:
    """Return the indices int64 (n,) of up to three items, from as many classes as possible.

    Example:
        >>> rows_of_different_classes(torch.tensor([4, 4, -1, 0, 4]), 5)
        tensor([0, 3, 1])
    """
    if labels is None:
        return torch.arange(min(3, count))
    known = labels.tolist()
    firsts = sorted({label: row for row, label in reversed(list(enumerate(known))) if label >= 0}.values())
    others = [row for row in range(count) if row not in firsts[:3]]
    return torch.tensor([*firsts, *others][:3])


def input_names(found: SliceMap, labels: list[int], class_names: Sequence[str]) -> list[str]:
    """Return the names of inputs: their class, and on a second line the predicted class if it differs."""
    regions = found.find(found.marks).tolist()
    predicted = found.predictions.tolist() if found.scores is not None else []
    names = []
    for label, region in zip(labels, regions, strict=False):
        wrong = bool(predicted) and region >= 0 and predicted[region] != label
        name = name_of_class(label, class_names) if label >= 0 else ""
        names.append(f"{name},\ntaken for {name_of_class(predicted[region], class_names)}" if wrong else name)
    return names

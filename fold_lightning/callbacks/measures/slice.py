"""A map of the regions of a plane through inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fold_lightning.activations import activation_codes
from fold_lightning.callbacks.measures.base import Measure, MeasureResult
from fold_lightning.callbacks.measures.sources import Sources
from fold_lightning.figures import plot_message, plot_slice_map
from fold_lightning.slice_maps import InputsOnALine, SliceMap, TooManyRegions, slice_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_REGIONS, FEWEST_REGIONS = 3_000, 24
"""Regions that a map may have, of small networks and of large ones."""

MAX_WORK = 2**21
"""Regions times units times layers of a map, for passes over its vertices grow with each."""


class SliceMeasure(Measure):
    """The regions of a plane through three inputs of different classes, zoomed on the first where there are many."""

    @classmethod
    def create(cls, sources: Sources) -> SliceMeasure | None:
        wanted = sources.settings.faces and sources.settings.draws and sources.sample.faces.dimension >= 2
        return cls(sources.sample, sources.regions) if wanted else None

    def reset(self, device: torch.device) -> None: ...

    def update(self, seen: Any) -> None: ...

    def compute(self, model: LightningModule) -> MeasureResult:
        return MeasureResult(figures={"regions/slice": lambda: self._draw(model)})

    def _draw(self, model: LightningModule) -> Figure:
        rows = rows_of_different_classes(self.sample.probes.labels, len(self.sample.probes))
        try:
            found = self._map(model, self.sample.inputs(model, rows))
        except (TooManyRegions, MemoryError) as error:
            return plot_message(f"No map of regions. {error}")
        labels = None if self.sample.probes.labels is None else self.sample.probes.labels[rows].tolist()
        return plot_slice_map(found, names=None if labels is None else input_names(found, labels))

    def _map(self, model: LightningModule, inputs: Tensor) -> SliceMap:
        """Return the map of the plane through some inputs, or through the first alone if they have none of their own."""
        forward = self.sample.probes.model_input.forward
        codes = activation_codes(model, inputs[:1], forward=forward)
        most = MAX_WORK // max(1, codes.bits.shape[1] * len(codes.layers))
        options: dict[str, Any] = {"forward": forward, "max_regions": min(MOST_REGIONS, max(FEWEST_REGIONS, most))}
        if len(inputs) == 3:
            try:
                return slice_map(model, inputs, **options)
            except InputsOnALine:
                pass
        return slice_map(model, inputs[:1], seed=self.sample.settings.seed, **options)


def rows_of_different_classes(labels: Tensor | None, count: int) -> Tensor:
    """Return the first items, at most three int64 (n,), of as many classes as there are.

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


def input_names(found: SliceMap, labels: list[int]) -> list[str]:
    """Return the names of inputs: their class, and the class that the model takes them for where that is another one."""
    regions = found.find(found.marks).tolist()
    predicted = found.predictions.tolist() if found.scores is not None else []
    names = []
    for label, region in zip(labels, regions, strict=False):
        wrong = bool(predicted) and region >= 0 and predicted[region] != label
        names.append(f"{label}, taken for {predicted[region]}" if wrong else str(label) if label >= 0 else "")
    return names

"""The base class of all measures, and their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fold_lightning import _tables
from fold_lightning.callbacks.measures.sources import Sample, Source, Sources
from fold_lightning.metrics.gathered import GatheredMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYER = "<layer>"
"""Placeholder in a tag for the name of each layer."""

PREFIXES = ("folding/", "codes/", "units/", "faces/", "regions/")
"""Beginnings of tags, by which TensorBoard groups curves and the Folding tab finds its own."""


@dataclass(frozen=True)
class Embedding:
    """Codes bool (B, N) for TensorBoard's projector, and class labels (B,), or None."""

    bits: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class MeasureResult:
    """Result of one measurement of a measure.

    Attributes:
        scalars: Tag -> finite number.
        histograms: Tag -> values (n,) and the edges of their bins.
        figures: Tag -> function that draws, or returns None if there is nothing to see; called immediately or never.
        growing_figures: Tag -> values (n,), and a function that draws all measurements so far from a mapping step -> values.
        embeddings: Function that returns tag -> embedding; called immediately or when training ends.
        tables: Name -> columns, for TensorBoard's Folding tab and `read_log`, which returns them by these names. The measure
            limits their size, for instance with `limit_size`.
        drawn_tables: Name -> function that makes a table which takes as long as a figure; called when figures are due, or
            never.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, tuple[Tensor, Sequence[float]]] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure | None]] = field(default_factory=dict)
    growing_figures: Mapping[str, tuple[Tensor, Callable[[Mapping[int, Tensor]], Figure]]] = field(default_factory=dict)
    embeddings: Callable[[], Mapping[str, Embedding]] = dict
    tables: Mapping[str, _tables.Table] = field(default_factory=dict)
    drawn_tables: Mapping[str, Callable[[], _tables.Table]] = field(default_factory=dict)


class Measure(ABC):
    """Measure of a run, which is updated with this process's rows and computes values for all processes.

    Attributes:
        tags: Tag -> description, for all scalars that the measure may log; `<layer>` stands for a layer's name.
        charts: Title -> tags that TensorBoard shows in one chart, as regular expressions of their beginnings (`re.match`).
        pictures: Tag of a histogram or figure -> its description in TensorBoard.
        source: Source of its observations.

    Args:
        sample: Inputs and segments of the run.
        source: Source of its observations.
    """

    tags: ClassVar[Mapping[str, str]] = {}
    charts: ClassVar[Mapping[str, Sequence[str]]] = {}
    pictures: ClassVar[Mapping[str, str]] = {}

    def __init__(self, sample: Sample, source: Source) -> None:
        self.sample, self.source = sample, source

    def __init_subclass__(cls) -> None:
        """Check the tags.

        Raises:
            ValueError: If a tag has none of `PREFIXES`.
        """
        super().__init_subclass__()
        if others := [tag for tag in (*cls.tags, *cls.pictures) if not tag.startswith(PREFIXES)]:
            raise ValueError(f"Tags of {cls.__name__} must begin with one of {', '.join(PREFIXES)}, got {', '.join(others)}.")

    @classmethod
    @abstractmethod
    def create(cls, sources: Sources) -> Measure | None:
        """Return the measure for a run; None if the settings exclude it or the sample does not allow it."""

    @abstractmethod
    def reset(self, device: torch.device) -> None:
        """Clear all states, and move them to a device."""

    @abstractmethod
    def update(self, seen: Any) -> None:
        """Add the source's observations of some of this process's rows."""

    @abstractmethod
    def compute(self, model: LightningModule) -> MeasureResult:
        """Return the result over the rows of all processes.

        Args:
            model: The current model, for figures and embeddings.
        """

    def available_tags(self) -> dict[str, str]:
        """Return the tags that this run may log, with their descriptions; `<layer>` is replaced by each layer's name."""
        layers = self.source.layers
        tags: dict[str, str] = {}
        for tag, description in self.tags.items():
            names = layers if LAYER in tag else [""]
            tags |= {tag.replace(LAYER, name): description for name in names}
        return tags


class Table(GatheredMetric):
    """Rows of numbers from all processes, sorted by row index."""

    index: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_list("index", torch.empty(0, dtype=torch.int64))
        self.add_list("values", torch.empty(0, dtype=torch.float64))

    def update(self, index: Tensor, values: Tensor) -> None:
        """Add rows (n, columns) with their indices int64 (n,)."""
        self.index.append(index.to(self.device))
        self.values.append(values.to(self.device, torch.float64).flatten())

    def compute(self) -> Tensor:
        """Return all rows, float64 (rows, columns), on the CPU."""
        index, values = self.joined("index").cpu(), self.joined("values").cpu()
        return values.view(len(index), -1)[index.argsort()]

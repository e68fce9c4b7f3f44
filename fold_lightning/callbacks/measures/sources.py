"""Inputs and segments of a run, and the sources that observe its segments, inputs and regions for measures."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fold_lightning.activations import ActivationCodes
from fold_lightning.activations.codes import codes_and_outputs
from fold_lightning.callbacks.settings import Settings
from fold_lightning.faces import face_counts
from fold_lightning.folding import PerSegment
from fold_lightning.probes import FaceProbes, ProbeSet, Segments, draw_segments, num_classes_of, predicted_classes
from fold_lightning.regions import NoPolytopes, activation_regions, boundary_distances
from fold_lightning.walks import SampledDistances, Walks, sampled_distances, segment_walks

BITS_AT_ONCE = 2**26
"""Maximum number of bits of codes in memory at once, one byte each: 64 MiB."""

HALF_SPACES_AT_ONCE = 2**21
"""Maximum number of elements of the normals of regions whose faces are counted at once: 16 MiB."""


class LeftOut(Exception):
    """Signal that a source can't observe this network; the message gives the reason."""


@dataclass(frozen=True)
class Sample:
    """Inputs and segments of a run, the same at every measurement.

    Attributes:
        probes: Items of the data, their labels, and the way to call the model on them.
        segments: Segments between items.
        faces: Slices in which faces are counted, around the first items.
        settings: Arguments of the monitor.
        method: Method of walks, "exact" or "uniform".
        class_names: Names of classes 0, 1, ...; empty unless every class that occurs has a name.
    """

    probes: ProbeSet
    segments: Segments
    faces: FaceProbes
    settings: Settings
    method: str
    class_names: tuple[str, ...] = ()

    @classmethod
    def draw(cls, probes: ProbeSet, inputs: Tensor, settings: Settings, class_names: tuple[str, ...] = ()) -> Sample:
        """Draw the sample of a run, by the seed alone.

        Args:
            probes: Items to draw from.
            inputs: One or more of these as the model's inputs (B, ...).
            settings: Arguments of the monitor.
            class_names: Names of classes; ignored unless every class of the items has one.
        """
        segments = draw_segments(
            probes.labels,
            len(probes),
            count=settings.num_segments,
            per_pair=settings.segments_per_pair,
            seed=settings.seed,
        )
        all_inputs = inputs[:1].expand(len(probes), *inputs.shape[1:])  # only its shape is read
        faces = FaceProbes.around(all_inputs, settings.num_regions, settings.face_subspace, settings.seed)
        has_names = probes.labels is not None and bool((probes.labels < len(class_names)).all())
        # the method is chosen later
        return cls(probes, segments, faces, settings, "exact", class_names if has_names else ())

    @cached_property
    def order(self) -> Tensor:
        """Indices int64 (n,) of the items in the order in which inputs and regions use them; shuffled if the user gave the items."""
        count = len(self.probes)
        generator = torch.Generator().manual_seed(self.settings.seed)
        return torch.randperm(count, generator=generator) if self.probes.is_given else torch.arange(count)

    @cached_property  # every checkpoint reads it
    def fingerprint(self) -> str:
        """Hash of what is measured: the probes, and the segments, inputs and slices drawn from them."""
        settings, drawn = self.settings, list[Any]()
        if settings.folding:
            drawn += [self.segments.start.tolist(), self.segments.end.tolist()]
        if settings.codes or settings.units:
            drawn.append(self.order[: settings.num_inputs].tolist())
        if settings.faces:
            faces = self.faces
            drawn += [self.order[: faces.num_regions].tolist(), faces.subspace, faces.subspace and faces.seed]
        return hashlib.blake2b(f"{self.probes.fingerprint} {drawn}".encode(), digest_size=16).hexdigest()

    @cached_property
    def known_labels(self) -> Tensor | None:
        """Class labels int64 (n,) of the items that have one; None without labels."""
        labels = self.probes.labels
        return None if labels is None else labels[labels >= 0]

    @cached_property
    def classes(self) -> Tensor | None:
        """Classes int64 (C,) of the items, ascending; None without labels."""
        return None if self.known_labels is None else self.known_labels.unique()

    def inputs(self, model: LightningModule, rows: Tensor | slice) -> Tensor:
        """Return items as the model's inputs (B, ...), on its device."""
        return self.probes.model_input.prepare(model, self.probes.items[rows])


@dataclass(frozen=True)
class SeenSegments:
    """Observation of segments: their indices int64 (S,), their walks or sampled distances, and their measures."""

    rows: Tensor
    walks: Walks | SampledDistances
    measures: PerSegment


@dataclass(frozen=True)
class SeenCodes:
    """Observation of B inputs.

    Attributes:
        codes: The codes.
        labels: Class int64 (B,) of each input, negative for an unlabelled one; None without labels.
        correct: Whether each input is classified correctly, bool (B,); None if the model's output is not logits of the classes.
    """

    codes: ActivationCodes
    labels: Tensor | None
    correct: Tensor | None


@dataclass(frozen=True)
class SeenRegions:
    """Observation of the regions around B inputs.

    Attributes:
        rows: Indices int64 (B,) of the inputs.
        counts: Numbers of faces, int64 (B,).
        distances: Distances of the inputs from the boundaries of their regions, float64 (B,).
    """

    rows: Tensor
    counts: Tensor
    distances: Tensor


class Source(ABC):
    """Rows of a sample, and the way to observe them.

    Attributes:
        noun: Word for the rows, for messages.
        num_rows: Number of rows.
        layers: Names of the layers that count, once the source has been checked.
    """

    noun: str
    layers: list[str]

    def __init__(self, sample: Sample, num_rows: int) -> None:
        self.sample, self.num_rows, self.layers = sample, num_rows, []
        self._how: dict[str, Any] = {"layers": sample.settings.layers, "forward": sample.probes.model_input.forward}

    @abstractmethod
    def check(self, model: LightningModule) -> None:
        """Observe as few rows as show whether the model can be measured.

        Raises:
            LeftOut: If this network can't be observed in this way, which is no error.
        """

    @abstractmethod
    def observe(self, model: LightningModule, rows: Tensor) -> Iterator[Any]:
        """Yield observations of rows int64 (n,), chunk by chunk."""


class SegmentSource(Source):
    """Source of walks of segments."""

    noun = "segments"

    def check(self, model: LightningModule) -> None:
        self.layers = list(self.walk(model, torch.arange(1)).layers)

    def observe(self, model: LightningModule, rows: Tensor) -> Iterator[SeenSegments]:
        if len(rows):
            walks = self._distances(model, rows) if self.is_uniform else self.walk(model, rows)
            measures = PerSegment.of(walks)
            self.layers = list(measures.by_layer)  # a network may grow during training
            yield SeenSegments(rows, walks, measures)

    @property
    def is_uniform(self) -> bool:
        """True if walks use equidistant points."""
        return self.sample.method == "uniform"

    def walk(self, model: LightningModule, rows: Tensor) -> Walks:
        """Return the walks of segments."""
        num_points = self.sample.settings.num_points if self.is_uniform else None
        return segment_walks(
            model,
            *self._ends(model, rows),
            method="uniform" if self.is_uniform else "exact",
            num_points=num_points,
            **self._how,
        )

    def _distances(self, model: LightningModule, rows: Tensor) -> SampledDistances:
        return sampled_distances(model, *self._ends(model, rows), num_points=self.sample.settings.num_points, **self._how)

    def _ends(self, model: LightningModule, rows: Tensor) -> tuple[Tensor, Tensor]:
        start, end = self.sample.segments.start[rows], self.sample.segments.end[rows]
        return self.sample.inputs(model, start), self.sample.inputs(model, end)


class InputSource(Source):
    """Source of the codes of inputs, and of whether they are classified correctly.

    Attributes:
        num_units: Number of bits of a code, once the source has been checked.
        classifies: Whether the model's output is logits of the classes, computed from an input's own row of the batch.
    """

    noun = "inputs"
    num_units, classifies = 1, False

    @cached_property
    def num_classes(self) -> int | None:
        """Number of classes; None without labels."""
        labels = self.sample.known_labels
        if labels is None or len(labels) == 0:
            return None
        return num_classes_of(labels, self.sample.probes.model_input.num_outputs)

    def check(self, model: LightningModule) -> None:
        seen = self._see(model, torch.arange(min(2, self.num_rows)))
        self.layers = list(seen.codes.layers)
        self.num_units, self.classifies = max(1, seen.codes.bits.shape[1]), seen.correct is not None

    def observe(self, model: LightningModule, rows: Tensor) -> Iterator[SeenCodes]:
        for some in _chunks(rows, BITS_AT_ONCE // self.num_units):
            yield self._see(model, some)

    def _see(self, model: LightningModule, rows: Tensor) -> SeenCodes:
        probes = self.sample.probes
        num_classes = None if probes.model_input.held_vary else self.num_classes
        rows = self.sample.order[rows]
        codes, predicted = codes_and_outputs(
            model,
            self.sample.inputs(model, rows),
            lambda output: None if num_classes is None else predicted_classes(output, num_classes),
            **self._how,
        )
        labels = None if probes.labels is None else probes.labels[rows]
        known = [part for part in predicted if part is not None]
        correct = None
        if labels is not None and len(known) == len(predicted):
            classes = torch.cat(known).cpu()
            # An output may have several rows for each input.
            correct = classes == labels if len(classes) == len(labels) else None
        return SeenCodes(codes, labels, correct)


class RegionSource(Source):
    """Source of the numbers of faces of regions around inputs, and of distances to their boundaries."""

    noun = "regions"
    _numbers = 1

    def check(self, model: LightningModule) -> None:
        try:
            next(self.observe(model, torch.arange(1)))
        except NoPolytopes as reason:
            raise LeftOut(str(reason)) from reason

    def observe(self, model: LightningModule, rows: Tensor) -> Iterator[SeenRegions]:
        directions = self.sample.faces.directions(self.num_rows)
        for some in _chunks(rows, HALF_SPACES_AT_ONCE // self._numbers):
            regions = activation_regions(
                model,
                self.sample.inputs(model, self.sample.order[some]),
                **self._how,
                subspace=None if directions is None else directions[some],
            )
            self._numbers = max(1, regions.normals[0].numel())
            yield SeenRegions(some, face_counts(regions), boundary_distances(regions))


class Sources:
    """The sources of a run.

    Args:
        sample: Inputs and segments of the run.
    """

    def __init__(self, sample: Sample) -> None:
        settings, count = sample.settings, len(sample.probes)
        self.sample, self.settings = sample, settings
        self.segments = SegmentSource(sample, len(sample.segments))
        self.inputs = InputSource(sample, min(count, settings.num_inputs))
        self.regions = RegionSource(sample, sample.faces.num_regions)


def _chunks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split rows into chunks of a size, at least 1; without rows there is no chunk."""
    return rows.split(max(1, size)) if len(rows) else ()

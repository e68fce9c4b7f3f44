"""What a monitor measures of a model: walks of segments, codes of inputs, and which of these are classified correctly."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from fold_lightning.activations import ActivationCodes
from fold_lightning.activations.codes import codes_and_outputs
from fold_lightning.activations.evaluation import forward_function, shared_replica
from fold_lightning.codes import hamming_distance
from fold_lightning.faces import face_counts
from fold_lightning.figures import SliceRegions
from fold_lightning.metrics import DistinctCodes
from fold_lightning.probes import Pool, Segments, finite_inputs, predicted_classes
from fold_lightning.region_graph import region_graph
from fold_lightning.regions import ActivationRegions, NoPolytopes, activation_regions, random_directions
from fold_lightning.shapes import polygons, region_shapes
from fold_lightning.walks import LateWalks, Walks, segment_walks

HALF_SPACES_AT_ONCE = 2**21
"""Numbers in the normals of regions whose faces are counted at once."""

MOST_POLYGONS = 40
"""In the picture of a slice."""

SECONDS_OF_A_SLICE = 1.0
"""What its regions may take, by what the first of them took."""

TIMES_AS_LONG = 2.0
"""What each takes that is found behind a face, drawn and all: so many times as long as the first."""

WIDER = 1.6
"""How far a picture reaches, in sizes of the region in its middle."""


class Measurement:
    """How a model is called, and which of its layers count. What measuring warns of is said once, not in every epoch.

    Args:
        layers: As of `segment_walks`.
        forward: As of `segment_walks`.
    """

    def __init__(self, layers: str | list[str] | None, forward: str | Callable[..., Any] | None) -> None:
        self._layers, self._forward = layers, forward
        self._warned: set[str] = set()
        self._region_size: int | None = None  # numbers in the normals of one, known from the first

    def shared_replica(self, model: LightningModule, inputs: Tensor) -> AbstractContextManager[None]:
        """Make one replica of the model for all measurements in this context."""
        return shared_replica(model, inputs[:1].to(model.device), self._forward)

    def walks(self, model: LightningModule, segments: Segments, seconds: float | None) -> Walks:
        """The walks of some segments, as far as they get in a time."""
        start, end = segments.start.to(model.device), segments.end.to(model.device)
        with self._each_warning_once(), warnings.catch_warnings():
            warnings.simplefilter("ignore", LateWalks)
            return segment_walks(model, start, end, layers=self._layers, forward=self._forward, max_seconds=seconds)

    def codes(self, model: LightningModule, inputs: Tensor) -> tuple[ActivationCodes, tuple[Tensor, int] | None]:
        """The codes of some inputs, and what classes the model says they have, of how many."""
        with self._each_warning_once():
            codes, said = codes_and_outputs(
                model, inputs.to(model.device), predicted_classes, layers=self._layers, forward=self._forward
            )
        parts = [part for part in said if part is not None]
        if len(parts) < len(said):
            return codes, None
        return codes, (torch.cat([classes for classes, _ in parts]), parts[0][1])

    def faces(self, model: LightningModule, inputs: Tensor, directions: Tensor | None) -> Tensor:
        """How many faces the regions around some inputs have, int64 (B,); or their slices along directions (B, k, features)."""
        inputs, done = inputs.to(model.device), 0
        counts: list[Tensor] = []
        while done < len(inputs):
            size = 1 if self._region_size is None else max(1, HALF_SPACES_AT_ONCE // self._region_size)
            rows = slice(done, done + size)
            regions = self._regions(model, inputs[rows], None if directions is None else directions[rows])
            self._region_size = max(1, regions.normals[0].numel())
            counts.append(face_counts(regions))
            done += size
        return torch.cat(counts)

    def slice(self, model: LightningModule, x: Tensor, seed: int) -> SliceRegions:
        """The regions of a plane around an input (1, ...): the input's features if they are two, else a random slice.

        They are those of all layers, for other regions than these are no polygons; fewer where one takes long.
        """
        x, begin = x.to(model.device), time.perf_counter()
        with self._each_warning_once():
            directions = random_directions(1, 2, x[0].numel(), seed)
            here = activation_regions(model, x, forward=self._forward, subspace=directions)
        own = region_shapes(here)[0]
        most = math.ceil(SECONDS_OF_A_SLICE / (TIMES_AS_LONG * (time.perf_counter() - begin)))
        extent = WIDER * float(own.vertices.abs().max()) if len(own.vertices) else float(here.slacks.max())
        assert here.basis is not None
        plane = here.basis[0].view(2, *x.shape[1:])

        forward = self._forward  # held by the function itself, so that a replica exchanges what it refers to

        def in_the_plane(model: nn.Module, y: Tensor) -> Any:
            return forward_function(model, forward)(x.double() + torch.tensordot(y, plane, dims=1))

        origin = torch.zeros_like(here.normals[:, 0])
        with shared_replica(model, origin, in_the_plane):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it stops at its limit, or at a face too thin to see
                    graph = region_graph(model, origin, max_regions=min(MOST_POLYGONS, most), forward=in_the_plane)
            except NoPolytopes:  # what pooling bends is not told by codes
                return [own.vertices], torch.zeros(1, dtype=torch.int64), extent
            regions = activation_regions(model, graph.points.to(x.device), forward=in_the_plane)
        corners = polygons(regions, box=(-extent, extent))
        seen = [i for i, found in enumerate(corners) if len(found)]
        return [corners[i] for i in seen], hamming_distance(graph.codes[seen], graph.codes[:1]), extent

    def _regions(self, model: LightningModule, inputs: Tensor, directions: Tensor | None) -> ActivationRegions:
        with self._each_warning_once():
            return activation_regions(model, inputs, layers=self._layers, forward=self._forward, subspace=directions)

    def says_classes(self, model: LightningModule, pool: Pool) -> bool:
        """Whether the model says one of the classes that the labels name.

        What a part of a model puts out is believed to be classes only if it is as many numbers as there are classes.
        """
        inputs, labels = pool
        if labels is None:
            return False
        _, said = self.codes(model, inputs[:2])
        labelled = int(labels.max()) + 1
        if said is None or labelled < 1:
            return False
        return said[1] >= labelled if self._forward is None else said[1] == max(2, labelled)

    @contextmanager
    def _each_warning_once(self) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            without_numbers = re.sub(r"\d+", "", str(warning.message))
            if without_numbers not in self._warned:
                rank_zero_warn(str(warning.message), category=warning.category)
            self._warned.add(without_numbers)


class CodeCounts:
    """Distinct codes of all inputs that are added, in all processes, and of those classified correctly.

    Args:
        measurement: How.
    """

    def __init__(self, measurement: Measurement) -> None:
        self.distinct, self.correct = DistinctCodes(), DistinctCodes()
        self._measurement = measurement

    def add(self, model: LightningModule, pool: Pool) -> None:
        """Adds inputs and their labels."""
        inputs, labels = finite_inputs(*pool)
        if len(inputs) == 0:
            return
        codes, said = self._measurement.codes(model, inputs)
        self.distinct.to(model.device).update(codes)
        if said is not None and labels is not None:
            self.correct.to(model.device).update(codes, mask=said[0] == labels.to(said[0].device))

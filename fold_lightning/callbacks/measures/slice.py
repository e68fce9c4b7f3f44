"""A picture of the regions around one input."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fold_lightning.activations.evaluation import forward_function, shared_replica
from fold_lightning.callbacks.measures.base import Measure, MeasureResult
from fold_lightning.callbacks.measures.sources import Sources
from fold_lightning.codes import hamming_distance
from fold_lightning.figures import SliceRegions, plot_slice
from fold_lightning.region_graphs import region_graph
from fold_lightning.regions import NoPolytopes, activation_regions, random_directions
from fold_lightning.shapes import polygons, region_shapes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_REGIONS = 40
"""Regions in the picture."""

MAX_HALF_SPACES = 2**14
"""Half-spaces of all regions in the picture: at 512 units it shows 32 of them, at most a second of work."""

VIEW_SCALE = 1.6
"""Half the width of the picture, in sizes of the region in its middle."""


class SliceMeasure(Measure):
    """The regions of a plane through an input: of its features if they are two, else of a random slice."""

    @classmethod
    def create(cls, sources: Sources) -> SliceMeasure | None:
        wanted = sources.settings.faces and sources.settings.draws and sources.sample.faces.dimension >= 2
        return cls(sources.sample, sources.regions) if wanted else None

    def reset(self, device: torch.device) -> None: ...

    def update(self, seen: Any) -> None: ...

    def compute(self, model: LightningModule) -> MeasureResult:
        return MeasureResult(figures={"regions/slice": lambda: self._draw(model)})

    def _draw(self, model: LightningModule) -> Figure:
        sample = self.sample
        forward = sample.probes.model_input.forward
        polygons, distances, extent = slice_regions(model, sample.inputs(model, slice(1)), sample.settings.seed, forward)
        return plot_slice(polygons, distances, extent=extent)


def slice_regions(model: nn.Module, x: Tensor, seed: int, forward: Any = None) -> SliceRegions:
    """Find the regions of a plane around an input (1, ...), of all layers: those of some layers alone are no polygons.

    Args:
        model: Any module.
        x: The input, on the model's device.
        seed: Seed of the plane's directions.
        forward: How to call the model, as of `activation_codes`.

    Returns:
        Polygons, their Hamming distances from the first, and half the width of the picture.
    """
    directions = random_directions(1, 2, x[0].numel(), seed)
    here = activation_regions(model, x, forward=forward, subspace=directions)
    own = region_shapes(here)[0]
    most = max(2, min(MAX_REGIONS, MAX_HALF_SPACES // max(1, here.normals.shape[1])))
    extent = VIEW_SCALE * float(own.vertices.abs().max()) if len(own.vertices) else float(here.slacks.max())
    assert here.basis is not None
    plane = here.basis[0].view(2, *x.shape[1:])

    def in_the_plane(model: nn.Module, y: Tensor) -> Any:
        return forward_function(model, forward)(x.double() + torch.tensordot(y, plane, dims=1))

    origin = torch.zeros_like(here.normals[:, 0])
    with shared_replica(model, origin, in_the_plane):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it stops at its limit, or at a face too thin to see
                graph = region_graph(model, origin, max_regions=most, forward=in_the_plane)
        except NoPolytopes:  # a pooling window bends without a bit, so codes do not tell regions
            return [own.vertices], torch.zeros(1, dtype=torch.int64), extent
        regions = activation_regions(model, graph.points.to(x.device), forward=in_the_plane)
    corners = polygons(regions, box=(-extent, extent))
    seen = [i for i, found in enumerate(corners) if len(found)]
    return [corners[i] for i in seen], hamming_distance(graph.codes[seen], graph.codes[:1]), extent

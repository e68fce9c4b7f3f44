"""Measures of each segment as one row, to which a walk is reduced before it is stored or sent between processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.folding.along_walks import space_folding
from fold_lightning.walks import SampledDistances, Walks
from fold_lightning.walks.events import folding_of


@dataclass(frozen=True, eq=False)
class PerSegment:
    """Measures of S segments, each float64 (S,).

    Attributes:
        chi: The space folding measure.
        regions: Number of regions on the segment.
        exact: 1 if the walk is exact and verified, else 0.
        complete: 1 if the walk reached the end, else 0.
        resolution: Resolution of the walk, as a share of the segment's length.
        by_layer: Layer name -> chi of its bits alone.
    """

    chi: Tensor
    regions: Tensor
    exact: Tensor
    complete: Tensor
    resolution: Tensor
    by_layer: dict[str, Tensor]

    @classmethod
    def of(cls, walks: Walks | SampledDistances) -> PerSegment:
        """Return the measures of walks, from their events or from the distances between their codes.

        Example:
            >>> tent = Walks.from_codes(torch.tensor([[[0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]]).bool())
            >>> PerSegment.of(tent).rows
            tensor([[0.2500, 4.0000, 0.0000, 1.0000, 0.3333, 0.2500]], dtype=torch.float64)
        """
        return cls._of_walks(walks) if isinstance(walks, Walks) else cls._of_distances(walks)

    @classmethod
    def _of_walks(cls, walks: Walks) -> PerSegment:
        return cls(
            space_folding(walks),
            walks.num_regions().double(),
            walks.exact.double(),
            walks.complete.double(),
            walks.resolution,
            {layer: space_folding(walks.select(layer)) for layer in walks.layers},
        )

    @classmethod
    def _of_distances(cls, distances: SampledDistances) -> PerSegment:
        from_start = torch.stack([*distances.from_start.values()])
        from_previous = torch.stack([*distances.from_previous.values()])
        by_layer = _folding(from_start, from_previous)
        steps = (from_previous.sum(0) > 0).sum(1)
        return cls(
            _folding(from_start.sum(0), from_previous.sum(0)),
            (steps + 1).double(),
            torch.zeros_like(steps).double(),
            torch.ones_like(steps).double(),
            torch.full_like(steps, 1 / from_previous.shape[2], dtype=torch.float64),
            dict(zip(distances.from_start, by_layer, strict=True)),
        )

    @property
    def rows(self) -> Tensor:
        """All measures, float64 (S, 5 + layers)."""
        of_walks = [self.chi, self.regions, self.exact, self.complete, self.resolution]
        return torch.stack([*of_walks, *self.by_layer.values()], dim=1)

    @classmethod
    def from_rows(cls, rows: Tensor, layers: list[str]) -> PerSegment:
        """Return the measures from the rows of `rows`."""
        chi, regions, exact, complete, resolution, *by_layer = rows.unbind(1)
        return cls(chi, regions, exact, complete, resolution, dict(zip(layers, by_layer, strict=True)))


def _folding(from_start: Tensor, from_previous: Tensor) -> Tensor:
    """Return chi of walks, from the distances (..., T - 1) of their codes from the first code and from the previous one."""
    return folding_of(from_start.amax(-1), from_previous.sum(-1))

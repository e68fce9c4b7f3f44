"""What a walk says of its segment, in one row: what is left of walks that other processes took."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.folding.along_walks import space_folding
from fold_lightning.walks import Walks, is_late


@dataclass(frozen=True, eq=False)
class PerSegment:
    """Measures of S segments, each float64 (S,).

    Attributes:
        chi: The space folding measure.
        regions: How many regions there are on the segment.
        exact: 1 where the walk verified itself, else 0.
        complete: 1 where it was walked to its end, else 0.
        resolution: Of the walk, in t.
        by_layer: Layer name -> chi through its bits alone.
    """

    chi: Tensor
    regions: Tensor
    exact: Tensor
    complete: Tensor
    resolution: Tensor
    by_layer: dict[str, Tensor]

    @classmethod
    def of(cls, walks: Walks) -> PerSegment:
        """Those of some walks.

        Example:
            >>> tent = Walks.from_codes(torch.tensor([[[0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]]).bool())
            >>> PerSegment.of(tent).rows
            tensor([[0.2500, 4.0000, 0.0000, 1.0000, 0.3333, 0.2500]], dtype=torch.float64)
        """
        return cls(
            space_folding(walks),
            walks.num_regions().double(),
            walks.exact.double(),
            walks.complete.double(),
            walks.resolution,
            {layer: space_folding(walks.select(layer)) for layer in walks.layers},
        )

    @property
    def rows(self) -> Tensor:
        """All of it, float64 (S, 5 + layers)."""
        of_walks = [self.chi, self.regions, self.exact, self.complete, self.resolution]
        return torch.stack([*of_walks, *self.by_layer.values()], dim=1)

    @property
    def late(self) -> Tensor:
        """Bool (S,): which walks time did not suffice for."""
        return is_late(self.resolution)

    @classmethod
    def from_rows(cls, rows: Tensor, layers: list[str]) -> PerSegment:
        """What such rows hold."""
        chi, regions, exact, complete, resolution, *by_layer = rows.unbind(1)
        return cls(chi, regions, exact, complete, resolution, dict(zip(layers, by_layer, strict=True)))

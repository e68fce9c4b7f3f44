"""The data class of region graphs: regions, shared faces, and distances in faces."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from fold_lightning.activations.layers import describe_layers

SEARCHES = 1024
"""Most breadth-first searches for the bounds of the diameter."""


@dataclass(frozen=True, eq=False)
class RegionGraph:
    """Graph with activation regions as nodes and an edge for each pair that shares a face.

    Attributes:
        codes: bool (R, N), in the order in which the regions were found.
        points: float64 (R, d), a point inside each, flattened.
        face_counts: int64 (R,), number of faces of each region, including faces to regions that were not kept.
        edges: int64 (E, 2), pairs of regions, the smaller number first.
        layers: Layer name -> its columns of the codes.
        complete: Whether all regions that faces lead to were found.
    """

    codes: Tensor
    points: Tensor
    face_counts: Tensor
    edges: Tensor
    layers: dict[str, slice]
    complete: bool

    def __repr__(self) -> str:
        return (
            f"RegionGraph(regions={self.num_regions}, edges={len(self.edges)}, features={self.points.shape[1]}, "
            f"layers={describe_layers(self.layers)}, complete={self.complete})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # without cached properties

    @property
    def num_regions(self) -> int:
        """Number R of the regions."""
        return len(self.codes)

    @property
    def mean_faces(self) -> float:
        """Mean number of faces; at most 2d over all regions of a network (Gaines and Bi 2026, Theorem 3.4)."""
        return float(self.face_counts.double().mean())

    def find(self, codes: Tensor) -> Tensor:
        """Return the regions int64 (B,) with the given codes bool (B, N); -1 for a code that is not in the graph."""
        return torch.tensor([self._number.get(key, -1) for key in code_keys(codes)])

    def distance(self, a: int, b: int) -> int:
        """Return the least number of faces that a path between two regions crosses.

        In general position it is at least the Hamming distance of their codes.

        Raises:
            IndexError: If there is no such region.
            ValueError: If the search stopped before it connected the two regions.
        """
        for region in (a, b):
            if not 0 <= region < self.num_regions:
                raise IndexError(f"Regions are numbered from 0 to {self.num_regions - 1}, got {region}.")
        distance = float(self._distances(a)[b])
        if distance == np.inf:
            raise ValueError(
                f"Regions {a} and {b} are not connected by the regions found, because the search stopped at its limit: raise "
                "`max_regions`."
            )
        return int(distance)

    @cached_property
    def diameter_bounds(self) -> tuple[int, int]:
        """Lower and upper bound of the diameter, the largest distance between two regions.

        The bounds are equal for graphs of up to about a thousand regions.

        A breadth-first search from a region gives its eccentricity and bounds that of every other region by the distance between
        them. Searches start in turn at the region whose upper bound is largest and at the one whose lower bound is least, until the
        bounds meet or `SEARCHES` were made. A graph that is not `complete` warns that the bounds hold for the part found.

        Raises:
            ValueError: If the search stopped before it connected all regions.
        """
        if not self.complete:
            warnings.warn(
                f"The graph is incomplete, with {self.num_regions:,} regions: the bounds hold for this part, not for the network.",
                stacklevel=2,
            )
        low, high = np.zeros(self.num_regions), np.full(self.num_regions, np.inf)
        for search in range(min(SEARCHES, self.num_regions)):
            undecided = low < high
            worth = np.where(undecided, high if search % 2 == 0 else -low, -np.inf)
            distance = self._distances(int(worth.argmax()))
            eccentricity = distance.max()
            if eccentricity == np.inf:
                raise ValueError(
                    "The regions found are not all connected, because the search stopped at its limit: raise `max_regions`."
                )
            low = np.maximum(low, np.maximum(eccentricity - distance, distance))
            high = np.minimum(high, eccentricity + distance)
            if low.max() >= high.max():
                break
        return int(low.max()), int(high.max())

    def _distances(self, region: int) -> np.ndarray:
        distances: np.ndarray = shortest_path(self._adjacency, directed=False, unweighted=True, indices=region)
        return distances

    @cached_property
    def _number(self) -> dict[bytes, int]:
        return {key: i for i, key in enumerate(code_keys(self.codes))}

    @cached_property
    def _adjacency(self) -> csr_array:
        pairs = self.edges.numpy()
        return csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(self.num_regions, self.num_regions))


torch.serialization.add_safe_globals([RegionGraph, slice])  # for `torch.load(weights_only=True)`; `layers` has slices


def code_keys(codes: Tensor) -> list[bytes]:
    return [row.tobytes() for row in np.packbits(codes.cpu().numpy(), axis=1)]

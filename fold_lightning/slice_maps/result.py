"""The data class of slice maps: polygons, codes, edges and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.codes import hamming_distance
from fold_lightning.slice_maps.classes import ClassPieces, cut_by_class
from fold_lightning.slice_maps.cutting import Window


@dataclass(frozen=True, eq=False, repr=False)
class SliceMap:
    """Activation regions in a window of a plane: R convex polygons that fill the window.

    Attributes:
        vertices: float64 (V, 2), in coordinates of the plane.
        corners: int64 (K,), vertices of each polygon, counter-clockwise, one polygon after the other.
        starts: int64 (R + 1,), where each polygon begins in `corners`.
        codes: bool (R, N), the code at an inner point of each region.
        edges: int64 (E, 2), pairs of regions that share an edge, the smaller number first.
        edge_ends: int64 (E, 2), the two vertices of each edge.
        edge_units: int64 (E,), the first unit whose bit switches across an edge; -1 where only max pooling or a clamp bends. Several
            units may switch: `codes[edges[e, 0]] != codes[edges[e, 1]]` gives all of them.
        scores: float64 (V, C), the model's output at the vertices minus its mean over the classes; None if the output is not a matrix
            (inputs, classes), or not affine in each region.
        layers: Layer name -> its columns of the codes.
        window: (x0, x1, y0, y1), in coordinates of the plane.
        marks: float64 (I, 2), points of the given inputs.
        origin: float64 (...), the input at (0, 0).
        basis: float64 (2, ...), orthonormal changes of the input along each coordinate.
    """

    vertices: Tensor
    corners: Tensor
    starts: Tensor
    codes: Tensor
    edges: Tensor
    edge_ends: Tensor
    edge_units: Tensor
    scores: Tensor | None
    layers: dict[str, slice]
    window: Window
    marks: Tensor
    origin: Tensor
    basis: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __repr__(self) -> str:
        x0, x1, y0, y1 = self.window
        return (
            f"SliceMap({len(self):,} regions, {len(self.edges):,} edges, {self.codes.shape[1]:,} units, "
            f"window=({x0:.4g}, {x1:.4g}, {y0:.4g}, {y1:.4g}))"
        )

    @property
    def polygons(self) -> list[Tensor]:
        """The corners float64 (v, 2) of each region, counter-clockwise."""
        return list(self.vertices[self.corners].split(self.starts.diff().tolist()))

    @property
    def centers(self) -> Tensor:
        """A point inside each region, the mean of its corners: float64 (R, 2)."""
        return self.means(self.vertices)

    @property
    def areas(self) -> Tensor:
        """Areas of the regions, float64 (R,); they sum to the area of the window."""
        region = self._regions
        start, end = self._sides()
        base = start[self.starts[:-1]][region]  # relative to one corner, so that small areas keep their digits
        a, b = start - base, end - base
        return 0.5 * start.new_zeros(len(self)).index_add_(0, region, a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])

    @property
    def predictions(self) -> Tensor:
        """Class with the largest score at each center, int64 (R,).

        Raises:
            ValueError: If the model gave no scores.
        """
        return self.means(self._require_scores()).argmax(1)

    @property
    def confidences(self) -> Tensor:
        """Softmax probability of the predicted class at each center, float64 (R,).

        Raises:
            ValueError: If the model gave no scores.
        """
        return self.means(self._require_scores()).softmax(1).amax(1)

    @property
    def home(self) -> int:
        """Region of the first input, or of the center of the window if that input lies outside."""
        x0, x1, y0, y1 = self.window
        middle = torch.tensor([[(x0 + x1) / 2, (y0 + y1) / 2]], dtype=torch.float64)
        first, center = self.find(torch.cat([self.marks[:1].to(middle), middle])).tolist()
        return int(first if first >= 0 else center)

    @property
    def distances(self) -> Tensor:
        """Hamming distance of each region's code from that of `home`, int64 (R,)."""
        return hamming_distance(self.codes, self.codes[self.home])

    @property
    def neighbours(self) -> Tensor:
        """Number of regions that share an edge with each region, its faces inside the window: int64 (R,)."""
        return torch.bincount(self.edges.unique(dim=0).flatten(), minlength=len(self))

    def find(self, points: Tensor) -> Tensor:
        """Return the region int64 (P,) in which each point (P, 2) lies; -1 for points outside the window.

        A point on an edge gets one of the edge's regions.
        """
        start, end = self._sides()
        along = end - start
        normals = torch.stack([-along[:, 1], along[:, 0]], dim=1) / along.norm(dim=1, keepdim=True)
        points = points.to(start)
        distance = points @ normals.T - (start * normals).sum(1)  # to the line of each side, positive inside
        depth = distance.new_empty(len(points), len(self))
        depth.scatter_reduce_(1, self._regions.expand_as(distance), distance, "amin", include_self=False)
        deepest: Tensor = depth.argmax(1)
        x0, x1, y0, y1 = self.window
        low, high = points.new_tensor([x0, y0]), points.new_tensor([x1, y1])
        return torch.where(((points >= low) & (points <= high)).all(1), deepest, -1)

    def by_class(self) -> ClassPieces:
        """Return the pieces of regions in which one class is predicted, and the exact borders between classes.

        Raises:
            ValueError: If the model gave no scores.
        """
        return cut_by_class(self.vertices, self.corners, self.starts, self._require_scores())

    def inputs(self, points: Tensor) -> Tensor:
        """Return the inputs float64 (P, ...) at points (P, 2) of the plane."""
        inputs: Tensor = self.origin + torch.tensordot(points.to(self.basis), self.basis, dims=1)
        return inputs

    def means(self, values: Tensor) -> Tensor:
        """Return the means (R, n) of values (V, n) over the corners of each region."""
        sums = values.new_zeros(len(self), values.shape[1]).index_add_(0, self._regions, values[self.corners])
        return sums / self.starts.diff()[:, None]

    @property
    def _regions(self) -> Tensor:
        """Region of each of `corners`, int64 (K,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.starts.diff())

    def _sides(self) -> tuple[Tensor, Tensor]:
        """Return start and end, float64 (K, 2) each, of the counter-clockwise side that begins at each of `corners`."""
        following = torch.arange(1, len(self.corners) + 1)
        following[self.starts[1:] - 1] = self.starts[:-1]
        return self.vertices[self.corners], self.vertices[self.corners[following]]

    def _require_scores(self) -> Tensor:
        if self.scores is None:
            raise ValueError(
                "This map has no scores of classes: the model's output is not a matrix (inputs, classes), or is not linear after the "
                "last activation, as with a softmax. Pass a `forward=` that returns logits."
            )
        return self.scores


torch.serialization.add_safe_globals([SliceMap, slice])  # `slice` is in `layers`

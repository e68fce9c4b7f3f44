"""Choices of elements by their order, as maxima, sorting and max pooling make them.

The elements of a row are grouped into lanes, such as the windows of a max pooling. The elements of each lane are ranked, and
the result consists of the elements of some ranks. As long as the ranking does not change, the result is affine in the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fold_lightning._tensors import index_in_group


@dataclass(eq=False)
class Choice:
    """The elements that an operation returns, as ranks in lanes.

    Attributes:
        sources: Tensors (R, ...); elements are chosen from their flattened and concatenated rows.
        lanes: Function that returns `elements`, which few passes need.
        largest: Whether the first rank is the largest element; else the smallest.
        ranks: Number k of ranks, from the first on, that determine the result.
        first: First of these ranks that is returned. A median needs the ranks before it only to find the element.
        dim: Dimension of the result along which ranks lie, if it has one.
    """

    sources: tuple[Tensor, ...]
    lanes: Callable[[], Tensor]
    largest: bool
    ranks: int = 1
    first: int = 0
    dim: int | None = None

    @cached_property
    def elements(self) -> Tensor:
        """Positions in a row of the elements of each lane, int64 (L, s); shorter lanes are padded with -1."""
        return self.lanes()

    def candidates(self) -> Tensor:
        """Return all elements that can be chosen, float64 (R, n)."""
        rows = [source.reshape(len(source), -1) for source in self.sources]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rank the elements of each lane in rows x (R, n).

        Returns:
            Index within its lane of the element of each rank, (R, L k), for `places`, and the operation's result (R, ...), or None
            where ranking does not compute it.
        """
        lanes = x.index_select(1, self.elements.flatten().clamp(min=0)).view(len(x), *self.elements.shape)
        lanes.masked_fill_(self.elements < 0, -torch.inf if self.largest else torch.inf)
        if self.ranks == 1:
            return torch.argmax(lanes, -1) if self.largest else torch.argmin(lanes, -1), None
        return lanes.topk(self.ranks, largest=self.largest).indices.flatten(1), None

    def places(self, index: Tensor, column: Tensor) -> Tensor:
        """Return the positions in a row of elements, from their indices in the result of `rank` and the columns of these."""
        return self.elements[column // self.ranks, index]

    def ranked_places(self, x: Tensor) -> Tensor:
        """Return the positions in rows x (R, n) of the elements of each rank: int64 (R, L, k)."""
        index, _ = self.rank(x)
        column = torch.arange(index.shape[1], device=x.device).expand_as(index)
        places: Tensor = self.places(index, column).unflatten(1, (-1, self.ranks))
        return places

    def shaped(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Reshape values of the returned ranks (R, L, k') to the operation's result."""
        if self.dim is None:
            return values.reshape(shape)
        others = [size for dim, size in enumerate(shape) if dim != self.dim]
        return values.reshape(*others, -1).movedim(-1, self.dim)


def lanes_along(shape: torch.Size, dims: list[int], device: torch.device) -> Tensor:
    """Return the positions in a flattened row of the elements along some of its dimensions: int64 (L, s).

    Example:
        >>> lanes_along(torch.Size([2, 3]), [0], torch.device("cpu"))
        tensor([[0, 3],
                [1, 4],
                [2, 5]])
    """
    places = torch.arange(shape.numel(), device=device).view(shape)
    return places.movedim(dims, list(range(-len(dims), 0))).reshape(-1, math.prod(shape[dim] for dim in dims))


def padded_lanes(lane: Tensor, element: Tensor, count: int) -> Tensor:
    """Group elements (K,) by their lanes (K,) into `count` lanes, padded with -1: int64 (count, s).

    Example:
        >>> padded_lanes(torch.tensor([1, 0, 1]), torch.tensor([5, 6, 7]), 2)
        tensor([[ 6, -1],
                [ 5,  7]])
    """
    order = lane.argsort(stable=True)
    sizes = torch.bincount(lane, minlength=count)
    column = index_in_group(lane[order], sizes)
    lanes = torch.full((count, int(sizes.max())), -1, device=lane.device)
    lanes[lane[order], column] = element[order]
    return lanes

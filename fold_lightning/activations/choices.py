"""Choices of elements by their order: what maxima, sorting and max pooling have in common.

The elements of a row are looked at in lanes, such as the windows of a max pooling. In each lane they are ranked, and the result
is made of the elements of some ranks. While the ranking stays, the result is affine in the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(eq=False)
class Choice:
    """The elements that an operation returns, as ranks in lanes.

    Attributes:
        sources: Tensors (R, ...) whose flattened rows, one after the other, are chosen from.
        lanes: Makes `elements`, which few passes need.
        largest: Whether ranks begin at the largest element.
        ranks: The number of ranks k, counted from the first, that decide about the result.
        first: The first of these ranks that is returned; the ranks before it only decide.
        dim: The dimension of the result along which ranks lie, if it has one.
    """

    sources: tuple[Tensor, ...]
    lanes: Callable[[], Tensor]
    largest: bool
    ranks: int = 1
    first: int = 0
    dim: int | None = None

    @cached_property
    def elements(self) -> Tensor:
        """int64 (L, s): places in a row of the elements of each lane; -1 where a lane has fewer."""
        return self.lanes()

    def candidates(self) -> Tensor:
        """Return all that is chosen from, float64 (R, n)."""
        rows = [source.reshape(len(source), -1) for source in self.sources]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a number for the element of each rank in each lane of rows x (R, n), and the operation's result if it shows.

        Returns:
            Numbers (R, L k), and what the operation returns (R, ...), or None where ranking does not find it on the way.
        """
        lanes = x.index_select(1, self.elements.flatten().clamp(min=0)).view(len(x), *self.elements.shape)
        lanes.masked_fill_(self.elements < 0, -torch.inf if self.largest else torch.inf)
        if self.ranks == 1:
            return torch.argmax(lanes, -1) if self.largest else torch.argmin(lanes, -1), None
        return lanes.topk(self.ranks, largest=self.largest).indices.flatten(1), None

    def places(self, numbers: Tensor, column: Tensor) -> Tensor:
        """Return the places in a row of the elements that have these numbers in these columns of `rank`."""
        return self.elements[column // self.ranks, numbers]

    def ranked_places(self, x: Tensor) -> Tensor:
        """Return the places of the ranked elements of rows x (R, n): int64 (R, L, k)."""
        numbers, _ = self.rank(x)
        column = torch.arange(numbers.shape[1], device=x.device).expand_as(numbers)
        places: Tensor = self.places(numbers, column).unflatten(1, (-1, self.ranks))
        return places

    def shaped(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return values of the returned ranks (R, L, k') in the shape of the operation's result."""
        if self.dim is None:
            return values.reshape(shape)
        others = [size for dim, size in enumerate(shape) if dim != self.dim]
        return values.reshape(*others, -1).movedim(-1, self.dim)


def lanes_along(shape: torch.Size, dims: list[int], device: torch.device) -> Tensor:
    """Return the places in a flattened row of what lies along some dimensions of it: int64 (L, s).

    Example:
        >>> lanes_along(torch.Size([2, 3]), [0], torch.device("cpu"))
        tensor([[0, 3],
                [1, 4],
                [2, 5]])
    """
    places = torch.arange(shape.numel(), device=device).view(shape)
    return places.movedim(dims, list(range(-len(dims), 0))).reshape(-1, math.prod(shape[dim] for dim in dims))


def padded_lanes(lane: Tensor, element: Tensor, count: int) -> Tensor:
    """Return `count` lanes from pairs of a lane (K,) and an element of it (K,): int64 (count, s).

    Example:
        >>> padded_lanes(torch.tensor([1, 0, 1]), torch.tensor([5, 6, 7]), 2)
        tensor([[ 6, -1],
                [ 5,  7]])
    """
    order = lane.argsort(stable=True)
    sizes = torch.bincount(lane, minlength=count)
    column = torch.arange(len(lane), device=lane.device) - (sizes.cumsum(0) - sizes)[lane[order]]
    lanes = torch.full((count, int(sizes.max())), -1, device=lane.device)
    lanes[lane[order], column] = element[order]
    return lanes

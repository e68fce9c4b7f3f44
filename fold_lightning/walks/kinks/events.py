"""Events of a pass: points of segments at which a value of the network bends."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.walks.breakpoints import order_by


class EventList:
    """Events found so far on P pieces, in the order in which they were found.

    Args:
        begin: float64 (P,), t at which each piece begins.
        end: float64 (P,), t at which it ends.

    Attributes:
        piece: int64 (E,), the piece of each event.
        position: float64 (E,), t in (begin, end) of the piece.
        doubtful: bool (P,), pieces with a value whose side of a threshold, or with two switches whose order, cannot be decided.
    """

    def __init__(self, begin: Tensor, end: Tensor) -> None:
        self.begin, self.end = begin, end
        self.piece = torch.empty(0, dtype=torch.int64, device=begin.device)
        self.position = begin.new_empty(0)
        self.doubtful = torch.zeros_like(begin, dtype=torch.bool)
        self._ranks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.piece)

    @property
    def num_pieces(self) -> int:
        """Number of pieces."""
        return len(self.begin)

    def doubt(self, piece: Tensor) -> None:
        """Mark pieces (K,) as doubtful."""
        self.doubtful[piece] = True

    def add(self, piece: Tensor, position: Tensor) -> Tensor:
        """Add events and return their indices, int64 (K,), which ascend."""
        first = len(self)
        self.piece, self.position = torch.cat([self.piece, piece]), torch.cat([self.position, position])
        self._ranks = None
        return torch.arange(first, len(self), device=piece.device)

    def ranks(self) -> Tensor:
        """Return the number of events of the same piece that come before each, int64 (E,)."""
        if self._ranks is None:
            order = order_by(self.piece, self.position)
            counts = torch.bincount(self.piece, minlength=self.num_pieces)
            first = counts.cumsum(0) - counts
            self._ranks = torch.empty_like(order)
            self._ranks[order] = torch.arange(len(order), device=order.device) - first[self.piece[order]]
        return self._ranks

"""Pieces of segments that wait for an engine, which takes as many at a time as fit the memory."""

from __future__ import annotations

import math

from fold_lightning.walks.pieces import Pieces


class PieceQueue:
    """Pieces that wait for one engine.

    Args:
        numel_at_once: Number of elements that the largest tensor of a pass should have at most.
        density: Estimate of that number for a whole segment, used until a piece has been walked.
        fixed: Part of that number that each piece takes, however short it is.
        cuts_first: Whether pieces are cut by this estimate before any has been walked.
    """

    def __init__(self, numel_at_once: float, density: float, *, fixed: int = 0, cuts_first: bool = False) -> None:
        self._numel_at_once, self._density, self._fixed = numel_at_once, density, fixed
        self._can_cut, self._has_walked = cuts_first, False
        self._waiting: list[Pieces] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, pieces: Pieces) -> None:
        """Add pieces to the queue."""
        if len(pieces):
            self._waiting.append(pieces)

    def take(self) -> Pieces:
        """Return as many pieces as fit the memory, estimated from those before."""
        pieces = self._waiting.pop()
        if self._can_cut and self._parts(pieces[:1]) > 1:
            pieces = Pieces.concatenate([pieces[:1].cut(self._parts(pieces[:1])), pieces[1:]])
        numel = (self._density * pieces.length + self._fixed).cumsum(0)
        fit = max(1, int((numel <= self._numel_at_once).sum()))
        self.add(pieces[fit:])
        return pieces[:fit]

    def take_back(self, pieces: Pieces, numel: int) -> None:
        """Queue pieces again, cut smaller, whose pass did not fit the memory: its largest tensor has at least `numel` elements."""
        self._density = max(self._density, self._density_of(pieces, numel))
        self.add(pieces if len(pieces) > 1 else pieces.cut(max(2, self._parts(pieces))))

    def learn(self, pieces: Pieces, numel: int) -> None:
        """Learn from a pass over pieces whose largest tensor had `numel` elements."""
        density = self._density_of(pieces, numel)
        self._density = max(density, self._density / 2) if self._has_walked else density
        self._can_cut = self._has_walked = True

    def _density_of(self, pieces: Pieces, numel: int) -> float:
        return max(0, numel - self._fixed * len(pieces)) / float(pieces.length.sum())

    def _parts(self, piece: Pieces) -> int:
        """Return the number of parts into which a piece has to be cut."""
        return math.ceil(self._density * float(piece.length) / self._numel_at_once)

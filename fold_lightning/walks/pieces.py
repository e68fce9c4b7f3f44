"""Pieces of segments: what is walked at once, and how the walks of pieces make walks of segments."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.walks.breakpoints import order_by
from fold_lightning.walks.walks import Walks


@dataclass(frozen=True)
class Pieces:
    """P parts of segments.

    Attributes:
        segment: int64 (P,) which segment each lies on.
        begin: float64 (P,) where it begins, t in [0, 1).
        end: float64 (P,) where it ends.
    """

    segment: Tensor
    begin: Tensor
    end: Tensor

    def __len__(self) -> int:
        return len(self.segment)

    def __getitem__(self, index: slice | Tensor) -> Pieces:
        return Pieces(self.segment[index], self.begin[index], self.end[index])

    @classmethod
    def concatenate(cls, parts: list[Pieces]) -> Pieces:
        """Return all pieces of all parts, in order."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @property
    def length(self) -> Tensor:
        """float64 (P,), in t."""
        return self.end - self.begin

    def cut(self, parts: int) -> Pieces:
        """Return each piece cut into so many parts of equal length."""
        share = torch.arange(parts + 1, device=self.begin.device).double() / parts
        places = torch.lerp(self.begin[:, None], self.end[:, None], share)
        return Pieces(self.segment.repeat_interleave(parts), places[:, :-1].flatten(), places[:, 1:].flatten())


@dataclass(frozen=True)
class PieceWalks:
    """Switches found on P pieces.

    Attributes:
        piece: int64 (E,) the piece of each event, in any order.
        position: float64 (E,) where on its segment a unit switches.
        unit: int64 (E,) which unit.
        first_codes: bool (P, N) the code in which each piece begins.
        exact: bool (P,) whether it verified itself.
        complete: bool (P,) whether all of the piece was walked.
        resolution: float64 (P,) in t of the segment.
        engine: int64 (P,), place in `ENGINES`.
    """

    piece: Tensor
    position: Tensor
    unit: Tensor
    first_codes: Tensor
    exact: Tensor
    complete: Tensor
    resolution: Tensor
    engine: Tensor

    def of(self, pieces: Tensor) -> PieceWalks:
        """Return what was found on some of the pieces, bool (P,), numbered anew."""
        events = pieces[self.piece]
        number = pieces.cumsum(0) - 1
        return PieceWalks(
            piece=number[self.piece[events]],
            position=self.position[events],
            unit=self.unit[events],
            first_codes=self.first_codes[pieces],
            exact=self.exact[pieces],
            complete=self.complete[pieces],
            resolution=self.resolution[pieces],
            engine=self.engine[pieces],
        )

    @classmethod
    def concatenate(cls, parts: list[PieceWalks]) -> PieceWalks:
        """Return the walks of pieces that were walked apart, numbered through."""
        sizes = torch.tensor([0, *(len(part.exact) for part in parts[:-1])]).cumsum(0).tolist()
        together = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        together["piece"] = torch.cat([part.piece + first for part, first in zip(parts, sizes, strict=True)])
        return cls(**together)


def join(pieces: Pieces, found: PieceWalks, num_segments: int, structure: ModelStructure, notes: dict[int, str]) -> Walks:
    """Return walks of whole segments.

    Where a piece ends in another code than the next begins with, the units switch between them.
    """
    piece, position, unit = found.piece, found.position, found.unit
    if len(pieces) > num_segments:
        seams = _seams(pieces, found)
        piece, position, unit = (torch.cat(pair) for pair in zip((piece, position, unit), seams, strict=True))
    segment = pieces.segment[piece]
    order = order_by(segment, position, unit)
    starts = (pieces.begin == 0).nonzero().squeeze(1)
    starts = starts[torch.argsort(pieces.segment[starts])]
    all_pieces = torch.ones(num_segments, dtype=torch.bool, device=segment.device)
    return Walks(
        segment=segment[order],
        position=position[order],
        unit=unit[order],
        num_segments=num_segments,
        num_units=structure.num_units,
        layers=structure.layers,
        exact=all_pieces.scatter_reduce(0, pieces.segment, found.exact, "amin"),
        complete=all_pieces.scatter_reduce(0, pieces.segment, found.complete, "amin"),
        resolution=torch.zeros(num_segments, dtype=torch.float64, device=segment.device).scatter_reduce(
            0, pieces.segment, found.resolution, "amax"
        ),
        first_codes=found.first_codes[starts],
        engine=torch.zeros(num_segments, dtype=torch.int64, device=segment.device).scatter_reduce(
            0, pieces.segment, found.engine, "amax"
        ),
        notes=notes,
    )


def _seams(pieces: Pieces, found: PieceWalks) -> tuple[Tensor, Tensor, Tensor]:
    """Return piece, position and unit of the events at the ends of pieces that another piece continues."""
    order = order_by(pieces.segment, pieces.begin)
    continued = pieces.segment[order[1:]] == pieces.segment[order[:-1]]
    before, after = order[:-1][continued], order[1:][continued]
    switches = torch.zeros_like(found.first_codes, dtype=torch.int64)
    switches.index_put_((found.piece, found.unit), torch.ones_like(found.unit), accumulate=True)
    last_codes = found.first_codes ^ (switches % 2 == 1)
    seam, unit = (last_codes[before] != found.first_codes[after]).nonzero(as_tuple=True)
    return after[seam], pieces.begin[after][seam], unit

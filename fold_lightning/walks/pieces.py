"""Pieces of segments, each walked in one pass, and how their walks are joined."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.walks.breakpoints import order_by
from fold_lightning.walks.rows import Events, Rows
from fold_lightning.walks.walks import Walks


@dataclass(frozen=True)
class Pieces(Rows):
    """P parts of segments.

    Attributes:
        segment: int64 (P,) the segment of each piece.
        begin: float64 (P,) t in [0, 1) at which it begins.
        end: float64 (P,) t at which it ends.
    """

    segment: Tensor
    begin: Tensor
    end: Tensor

    @property
    def length(self) -> Tensor:
        """float64 (P,), in t."""
        return self.end - self.begin

    def cut(self, parts: int) -> Pieces:
        """Return each piece cut into `parts` pieces of equal length."""
        share = torch.arange(parts + 1, device=self.begin.device).double() / parts
        places = torch.lerp(self.begin[:, None], self.end[:, None], share)
        return Pieces(self.segment.repeat_interleave(parts), places[:, :-1].flatten(), places[:, 1:].flatten())


@dataclass(frozen=True)
class PieceWalks(Events):
    """Switches found on P pieces, which are the rows of the events.

    Attributes:
        first_codes: bool (P, N) the code in which each piece begins.
        exact: bool (P,) whether the walk is exact, as in `Walks`.
        complete: bool (P,) whether all of the piece was walked.
        resolution: float64 (P,), in t, as in `Walks`.
        engine: int64 (P,), index in `ENGINES`.
    """

    first_codes: Tensor
    exact: Tensor
    complete: Tensor
    resolution: Tensor
    engine: Tensor


@dataclass(frozen=True)
class Intervals(Rows):
    """I intervals of pieces.

    Attributes:
        piece: int64 (I,), index of the piece.
        left: float64 (I,), in t.
        right: float64 (I,).
    """

    piece: Tensor
    left: Tensor
    right: Tensor

    @property
    def length(self) -> Tensor:
        """float64 (I,), in t."""
        return self.right - self.left


def join(pieces: Pieces, found: PieceWalks, num_segments: int, structure: ModelStructure, notes: dict[int, str]) -> Walks:
    """Return walks of whole segments.

    A unit switches between two pieces if its bits at the end of one and at the beginning of the next differ.
    """
    piece, position, unit = found.row, found.position, found.unit
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
    """Return piece, position and unit of the switches between pieces that follow each other on a segment."""
    order = order_by(pieces.segment, pieces.begin)
    continued = pieces.segment[order[1:]] == pieces.segment[order[:-1]]
    before, after = order[:-1][continued], order[1:][continued]
    switches = torch.zeros_like(found.first_codes, dtype=torch.int64)
    switches.index_put_((found.row, found.unit), torch.ones_like(found.unit), accumulate=True)
    last_codes = found.first_codes ^ (switches % 2 == 1)
    seam, unit = (last_codes[before] != found.first_codes[after]).nonzero(as_tuple=True)
    return after[seam], pieces.begin[after][seam], unit

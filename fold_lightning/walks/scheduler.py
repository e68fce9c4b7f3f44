"""Walks of whole segments: cut into pieces that fit the memory, each walked in the way that suits the network.

A network of piecewise linear operations is walked in one pass and verified, and refined where that fails; any other as curved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from fold_lightning.activations.codes import TENSORS_AT_ONCE, LayerPass
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import Noise, Rounding
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, Breakpoints
from fold_lightning.walks.chebyshev import walk_chebyshev
from fold_lightning.walks.growing_batch import GrowingBatch, TooManyRows
from fold_lightning.walks.pieces import Pieces, PieceWalks, join
from fold_lightning.walks.refinement import Samples, refine
from fold_lightning.walks.smooth import walk_smooth
from fold_lightning.walks.sparse import set_bits
from fold_lightning.walks.walks import GROWING_BATCH, REFINEMENT, SMOOTH, Walks

MOST_CHECKS = 2
"""Points of each piece at which the pre-activations that a pass implies are compared with a plain forward pass."""

ROWS_PER_CHECK = 50
"""Fewer rows have fewer checks, at least one: a check costs as much as a row, and more where early layers are the dear ones."""

VALUE_TOLERANCE = 1e-9
"""Of a unit's terms; rounding stays orders below, a missed bend shows orders above."""

FIRST_GUESS = 1000
"""Rows of a segment, before any was walked."""

CURVED_GUESS = 250
"""Rows of a segment of a smooth network."""

FIRST_ENDS = 4
"""Segments whose ends show the usual terms of units."""

FILLED = 0.8
"""How much of the memory pieces are to take, by what those before took of it: a pass that it does not hold is in vain."""


class PieceScheduler:
    """Walks segments of one model piece by piece.

    Args:
        replica: The model.
        structure: Its activations.
        start: float64 (S, ...) where the segments begin.
        end: float64 (S, ...) where they end.
        max_bytes: Working memory.
        max_breakpoints: How many breakpoints of a segment to follow exactly.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        start: Tensor,
        end: Tensor,
        max_bytes: int,
        max_breakpoints: int,
    ) -> None:
        self._replica, self._structure = replica, structure
        self._start, self._end = start, end
        self._max_breakpoints = max_breakpoints
        self._left = torch.full((len(start),), max_breakpoints, device=start.device)
        self._max_numel = max(16 * structure.widest, max_bytes // (8 * TENSORS_AT_ONCE))
        self._numel_at_once = FILLED * self._max_numel
        self._density: float = FIRST_GUESS * structure.widest
        self._has_walked = False
        self._notes: dict[int, str] = {}
        if structure.unknown:
            places = ", ".join(f"{name} in {place}" for name, place in structure.unknown.items())
            self._note(SMOOTH, f"Not known to be piecewise linear: {places}.")
        self._random = torch.Generator().manual_seed(0)

    @cached_property
    def _rounding(self) -> Rounding:
        return Rounding(self._replica, self._structure, torch.cat([self._start[:FIRST_ENDS], self._end[:FIRST_ENDS]]))

    def walks(self) -> Walks:
        """Return the walks of all segments."""
        segments = torch.arange(len(self._start), device=self._start.device)
        todo = [Pieces(segments, torch.zeros_like(segments).double(), torch.ones_like(segments).double())]
        done: list[tuple[Pieces, PieceWalks]] = []
        while todo:
            self._go_on(todo, done)
        parts, found = (list(each) for each in zip(*done, strict=True))
        pieces = Pieces.concatenate(parts)
        return join(pieces, PieceWalks.concatenate(found), len(self._start), self._structure, self._notes)

    def _go_on(self, todo: list[Pieces], done: list[tuple[Pieces, PieceWalks]]) -> None:
        """Walks the pieces that come next."""
        pieces = self._within_budget(self._next(todo), done)
        if len(pieces) == 0:
            return
        try:
            self._walk(pieces, done)
        except TooManyRows as error:
            if len(pieces) == 1 and error.rows > self._left[pieces.segment]:
                done.append((pieces, self._cut_off(pieces)))
                return
            self._density = max(self._density, error.numel / float(pieces.length.sum()))
            todo.append(pieces if len(pieces) > 1 else pieces.cut(max(2, self._parts(pieces))))

    def _note(self, engine: int, reason: str) -> None:
        """Keep the first reason why segments are left to an engine."""
        if engine == REFINEMENT and self._structure.bends:
            reason += f" Plain passes may miss bends without a bit: {', '.join(self._structure.bends)}."
        self._notes.setdefault(engine, reason)

    def _next(self, todo: list[Pieces]) -> Pieces:
        """Takes as many pieces as fit the memory, by what those before took."""
        pieces = todo.pop()
        if self._has_walked and self._parts(pieces[:1]) > 1:
            pieces = Pieces.concatenate([pieces[:1].cut(self._parts(pieces[:1])), pieces[1:]])
        fit = max(1, int((self._density * pieces.length.cumsum(0) <= self._numel_at_once).sum()))
        if len(pieces) > fit:
            todo.append(pieces[fit:])
        return pieces[:fit]

    def _within_budget(self, pieces: Pieces, done: list[tuple[Pieces, PieceWalks]]) -> Pieces:
        """The pieces without those of segments whose budget is spent, which it walks as curved."""
        spent = (pieces.length < 1) & (self._left[pieces.segment] < 0)
        if bool(spent.any()):
            done.append((pieces[spent], self._cut_off(pieces[spent])))
        return pieces[~spent]

    def _parts(self, piece: Pieces) -> int:
        """Into how many parts a piece has to be cut."""
        return math.ceil(self._density * float(piece.length) / self._numel_at_once)

    def _walk(self, pieces: Pieces, done: list[tuple[Pieces, PieceWalks]]) -> None:
        """Adds what it finds on some pieces."""
        if self._structure.unknown:
            self._density = CURVED_GUESS * max(self._structure.widest, self._structure.num_units)
            done.extend(self._interpolated(pieces))
            return
        try:
            found, verified, numel = self._in_one_pass(pieces)
        except TooManyRows:
            raise
        except Exception as error:  # whatever a model does with a batch that grows, plain passes over points do not meet it
            self._note(REFINEMENT, f"The model does not take a batch that grows: {str(error) or type(error).__name__}")
            done.append((pieces, self._refined(pieces)))
            return
        self._density, self._has_walked = numel / float(pieces.length.sum()), True
        if bool(verified.all()):
            done.append((pieces, found))
            return
        self._note(REFINEMENT, "At random points pre-activations were not those that the walk implies.")
        failed = pieces[~verified]
        done.extend([(pieces[verified], found.of(verified)), (failed, self._refined(failed))])

    def _in_one_pass(self, pieces: Pieces) -> tuple[PieceWalks, Tensor, int]:
        """What one pass found, on which pieces it was verified, and how much of the memory it took."""
        grid = Breakpoints(pieces.begin, pieces.end)
        probes = self._random_points(pieces)
        one_pass = GrowingBatch(
            *(self._replica, self._structure, grid, self._max_numel, probes, self._rounding),
            lambda noise, piece, t: self._noisy_points(noise, pieces.segment[piece], t),
        )
        one_pass.run(torch.cat([self._points(pieces.segment, pieces.begin), self._points(pieces.segment, pieces.end)]))
        if bool(one_pass.doubtful.any()):
            self._note(
                GROWING_BATCH, "Some pre-activations are near a threshold, or some switches together, up to rounding alone."
            )
        self._spend(pieces, torch.bincount(grid.piece) - 2)
        checks = max(1, min(MOST_CHECKS, len(grid) // (ROWS_PER_CHECK * len(pieces)))) * len(pieces)
        verified = self._verified(pieces, (probes[0][:checks], probes[1][:checks]), one_pass.probed)
        found = PieceWalks(
            *one_pass.events(),
            first_codes=one_pass.first_codes(),
            exact=verified & ~one_pass.doubtful,
            complete=torch.ones_like(verified),
            resolution=torch.full_like(pieces.begin, MERGE_TOLERANCE),
            engine=torch.full_like(pieces.segment, GROWING_BATCH),
        )
        return found, verified, one_pass.peak_numel

    def _spend(self, pieces: Pieces, breakpoints: Tensor) -> None:
        """Counts breakpoints against the budget; a piece so dense that its segment can't keep within it uses up all of it."""
        hopeless = breakpoints / (pieces.end - pieces.begin) > 2 * self._max_breakpoints
        self._left[pieces.segment] = torch.where(hopeless, -1, self._left[pieces.segment] - breakpoints)

    def _refined(self, pieces: Pieces) -> PieceWalks:
        """By plain passes, each layer's breakpoints after those of the layers before.

        Between these nothing bends but what gives no bit: a clamp or a max pool might do so twice and be missed.
        """
        samples = self._samples(pieces, self._structure.needed)
        found = refine(pieces, samples, self._max_samples(samples))
        uneven = [layer for layer in self._structure.needed if not self._rounding.is_even(layer)]
        if uneven:
            self._notes[REFINEMENT] += (
                f" Units of layer {uneven[0]!r} differ too much in size for plain passes to tell rounding."
            )
        return replace(found, exact=torch.zeros_like(found.exact)) if uneven or self._structure.bends else found

    def _interpolated(self, pieces: Pieces) -> list[tuple[Pieces, PieceWalks]]:
        """Walk pieces by interpolation, and refine the parts of them where that does not converge."""
        samples = self._samples(pieces, self._structure.counted)
        parts, found, left_over = walk_chebyshev(pieces, samples, self._max_samples(samples))
        walked = [(parts, found)] if len(parts) else []
        return [*walked, (left_over, self._smooth(left_over))] if len(left_over) else walked

    def _smooth(self, pieces: Pieces) -> PieceWalks:
        """Walk pieces by plain passes that look at nothing but the bits that count."""
        samples = self._samples(pieces, self._structure.counted)
        return walk_smooth(pieces, samples, self._max_samples(samples))

    def _cut_off(self, pieces: Pieces) -> PieceWalks:
        """Walk pieces of segments whose budget of breakpoints is spent."""
        self._note(SMOOTH, f"More than {self._max_breakpoints:,} breakpoints: see `max_breakpoints`.")
        found = self._smooth(pieces)
        return replace(found, complete=torch.zeros_like(found.complete))

    def _samples(self, pieces: Pieces, names: Sequence[str]) -> Samples:
        return Samples(
            self._replica,
            self._structure,
            names,
            len(pieces),
            lambda piece, t: self._points(pieces.segment[piece], t),
        )

    def _max_samples(self, samples: Samples) -> int:
        """How many points are looked at together."""
        return max(1, self._max_numel // max(self._structure.widest, len(samples.layer)))

    def _points(self, segment: Tensor, position: Tensor) -> Tensor:
        weight = position.view(-1, *[1] * (self._start.dim() - 1))
        return torch.lerp(self._start[segment], self._end[segment], weight)

    def _noisy_points(self, noise: Noise, segment: Tensor, position: Tensor) -> Tensor:
        """Points whose ends and position have errors, for what cancels between the ends rounds as they do."""
        weight = (position + noise.errors(position)).view(-1, *[1] * (self._start.dim() - 1))
        return (1 - weight) * noise.of(self._start[segment]) + weight * noise.of(self._end[segment])

    def _random_points(self, pieces: Pieces) -> tuple[Tensor, Tensor]:
        piece = torch.arange(len(pieces), device=pieces.begin.device).repeat(MOST_CHECKS)
        fraction = torch.rand(len(piece), generator=self._random, dtype=torch.float64).to(pieces.begin.device)
        return piece, torch.lerp(pieces.begin[piece], pieces.end[piece], fraction)

    def _verified(self, pieces: Pieces, points: tuple[Tensor, Tensor], implied: dict[str, Tensor]) -> Tensor:
        """Whether a plain forward pass at some points of each piece has the pre-activations that the pass implies."""
        piece, position = points
        verified = torch.ones(len(pieces), dtype=torch.bool, device=piece.device)
        apart: list[tuple[str, Tensor, Tensor, Tensor]] = []

        def compare(layer: str, thresholds: Thresholds, z: Tensor) -> None:
            actual = self._structure.per_input(layer, z, len(piece))
            error = (actual - implied[layer][: len(piece)]).abs()
            point, unit = set_bits(error > VALUE_TOLERANCE * actual.abs())
            apart.append((layer, point, unit, error[point, unit]))

        segment = pieces.segment[piece]
        LayerPass(self._replica, self._structure, compare).run(self._points(segment, position))
        for layer, point, unit, error in apart:
            if len(point):
                terms = self._rounding.terms(
                    layer, lambda noise, k: self._noisy_points(noise, segment[k], position[k]), point, unit
                )
                verified[piece[point[error > VALUE_TOLERANCE * terms]]] = False
        return verified

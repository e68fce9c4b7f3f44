"""Walks of whole segments, cut into pieces that fit the memory.

Each piece is first given to the engine that suits the network; pieces that this engine does not take go to the next one in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from fold_lightning._progress import progress_bar
from fold_lightning.activations.codes import TENSORS_AT_ONCE
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.layer_pass import LayerPass
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import ROUNDED, SCREEN, Noise, Rounding
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, Breakpoints
from fold_lightning.walks.chebyshev import walk_chebyshev
from fold_lightning.walks.estimate import costs_more_exactly, has_planes
from fold_lightning.walks.growing_batch import GrowingBatch, TooManyRows
from fold_lightning.walks.kinks import DearerThanRows, KinksPass, Scratch
from fold_lightning.walks.piece_queue import PieceQueue
from fold_lightning.walks.pieces import Pieces, PieceWalks, join
from fold_lightning.walks.refinement import MIN_LAYER_SIZE, Samples, refine
from fold_lightning.walks.smooth import walk_smooth
from fold_lightning.walks.sparse import set_bits
from fold_lightning.walks.walks import CHEBYSHEV, CURVED_REFINEMENT, ENGINES, GROWING_BATCH, KINKS, REFINEMENT, Walks

MOST_CHECKS = 2
"""Number of points of each piece at which the pre-activations that a pass implies are compared with a plain forward pass."""

ROWS_PER_CHECK = 50
"""Rows per check; a piece gets at least one check and at most `MOST_CHECKS`. A check costs as much as a row, or more where
early layers take most of the time."""

VALUE_TOLERANCE = 1e-9
"""Largest error of a pre-activation, as a share of the terms it is summed from: rounding stays orders of magnitude below, and a
missed bend lies orders above."""

FIRST_GUESS = 1000
"""Estimate of the rows of a segment, used until one has been walked."""

CURVED_GUESS = 250
"""The same for a smooth network."""

FIRST_ENDS = 4
"""Number of segments at whose ends the usual terms of units are taken."""

SHORTEST_PIECE = 1e-9
"""Length in t below which a piece is cut no further; far above `MERGE_TOLERANCE`."""

FILLED = 0.8
"""Share of the memory that pieces should take by estimate: a pass that does not fit is done again with shorter pieces."""

SWITCHING = 0.2
"""Usual share of a network's units that switch on a segment."""

KINK_TENSORS = 4
"""Number of tensors of the largest size that a pass with kinks holds at once: kinks before and after an activation, values and
slopes. With twice that size a VGG with max pooling took 10 % less time, with half of it 35 % more."""

CONE_GAIN = 16.0
"""First estimate of the ratio of all values at all breakpoints to those that bend there: 5 in deep networks, 50 in shallow ones."""


EngineResult = tuple[Pieces, PieceWalks | None, Pieces]
"""The pieces, or parts of them, that an engine has walked, their walks, and those that it leaves to the next engine."""


class PieceScheduler:
    """Walks segments of one model piece by piece.

    Args:
        replica: The model.
        structure: Its activations.
        start: float64 (S, ...) where the segments begin.
        end: float64 (S, ...) where they end.
        max_bytes: Working memory.
        engine: Name of the first engine, one of `ENGINES`; None chooses it.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        start: Tensor,
        end: Tensor,
        max_bytes: int,
        engine: str | None,
    ) -> None:
        self._replica, self._structure = replica, structure
        self._start, self._end = start, end
        self._engine = engine
        self._engines: dict[int, Callable[[Pieces], EngineResult]] = {
            KINKS: self._by_kinks,
            GROWING_BATCH: self._in_one_pass,
            REFINEMENT: self._refined,
            CHEBYSHEV: self._interpolated,
            CURVED_REFINEMENT: self._curved,
        }
        self._max_numel = max(16 * structure.widest, max_bytes // (8 * TENSORS_AT_ONCE))
        self._max_kinks = max(16 * structure.widest, max_bytes // (8 * KINK_TENSORS))
        self._queues = self._empty_queues()
        self._takes_kinks, self._scratch = True, Scratch()
        self._notes: dict[int, str] = {}
        self._random = torch.Generator().manual_seed(0)

    @cached_property
    def _rounding(self) -> Rounding:
        return Rounding(self._replica, self._structure, torch.cat([self._start[:FIRST_ENDS], self._end[:FIRST_ENDS]]))

    def walks(self, *, progress: bool = False) -> Walks:
        """Return the walks of all segments.

        Args:
            progress: Whether to show a progress bar on a terminal.
        """
        for engine, pieces in self._first_choices():
            self._queues[engine].add(pieces)
        done: list[tuple[Pieces, PieceWalks]] = []
        with progress_bar(len(self._start), "segments", progress) as bar:
            for engine, queue in self._queues.items():
                while queue:
                    self._walk_next(engine, done)
                    bar.update(round(sum(float(pieces.length.sum()) for pieces, _ in done)) - bar.n)
        parts, found = (list(each) for each in zip(*done, strict=True))
        pieces = Pieces.concatenate(parts)
        return join(pieces, PieceWalks.concatenate(found), len(self._start), self._structure, self._notes)

    def _first_choices(self) -> list[tuple[int, Pieces]]:
        """Return the engines to begin with, and the segments of each."""
        segments = torch.arange(len(self._start), device=self._start.device)
        pieces = Pieces(segments, torch.zeros_like(segments).double(), torch.ones_like(segments).double())
        if self._engine is not None:
            return [(list(ENGINES).index(self._engine), pieces)]
        if self._structure.unknown:
            places = ", ".join(f"{name} in {place}" for name, place in self._structure.unknown.items())
            has_kinks = self._structure.has_kinks
            why = "It has kinks, and is not" if has_kinks else "Interpolation does not converge. Not"
            self._note(CHEBYSHEV, f"Not known to be piecewise linear: {places}.")
            self._note(CURVED_REFINEMENT, f"{why} known to be piecewise linear: {places}.")
            return [(CURVED_REFINEMENT if has_kinks else CHEBYSHEV, pieces)]
        is_curved = costs_more_exactly(self._replica, self._structure, self._start, self._end)
        if bool(is_curved.any()):
            self._note(CURVED_REFINEMENT, "Walking only the counted units is estimated to cost less than an exact walk.")
        first = KINKS if has_planes(self._structure) and not self._uneven else GROWING_BATCH
        return [(first, pieces[~is_curved]), (CURVED_REFINEMENT, pieces[is_curved])]

    def _empty_queues(self) -> dict[int, PieceQueue]:
        """Return a queue for each engine, with an estimate of the memory that its passes take."""
        structure, numel = self._structure, FILLED * self._max_numel
        dense = FIRST_GUESS * structure.widest
        in_boxes = SWITCHING * structure.num_units * structure.widest / CONE_GAIN
        curved = max(structure.widest, structure.num_units)
        return {
            KINKS: PieceQueue(FILLED * self._max_kinks, in_boxes, fixed=2 * structure.widest, cuts_first=True),
            GROWING_BATCH: PieceQueue(numel, dense),
            REFINEMENT: PieceQueue(numel, dense),
            CHEBYSHEV: PieceQueue(numel, CURVED_GUESS * curved),
            CURVED_REFINEMENT: PieceQueue(numel, FIRST_GUESS * curved),
        }

    def _walk_next(self, engine: int, done: list[tuple[Pieces, PieceWalks]]) -> None:
        """Walk the next pieces of an engine's queue; those that it does not take go to the next engine."""
        pieces = self._queues[engine].take()
        try:
            walked, found, left = self._engines[engine](pieces)
        except TooManyRows as error:
            self._queues[engine].take_back(pieces, error.numel)
            return
        if found is not None and len(walked):
            done.append((walked, found))
        if len(left):
            self._queues[engine + 1].add(left)

    def _note(self, engine: int, reason: str) -> None:
        """Keep the first reason why segments are left to an engine."""
        if engine == REFINEMENT and self._structure.bends:
            reason += f" Plain passes may miss breakpoints that change no code: {', '.join(self._structure.bends)}."
        if engine == REFINEMENT and self._uneven:
            reason += f" Units of layer {self._uneven[0]!r} differ too much in size for one rounding tolerance."
        self._notes.setdefault(engine, reason)

    @cached_property
    def _uneven(self) -> list[str]:
        """Layers whose units differ too much in size for one tolerance."""
        return [layer for layer in self._structure.needed if not self._rounding.is_even(layer)]

    def _by_kinks(self, pieces: Pieces) -> EngineResult:
        """Walk pieces in one pass that carries kinks; doubtful ones are left."""
        if not self._takes_kinks or (len(pieces) == 1 and float(pieces.length) < SHORTEST_PIECE):
            return pieces[:0], None, pieces
        probes = self._random_points(pieces, 1 if float(pieces.length.max()) <= 1 / MOST_CHECKS else MOST_CHECKS)
        ends = torch.cat([self._points(pieces.segment, pieces.begin), self._points(pieces.segment, pieces.end)])
        try:
            one_pass = KinksPass(
                *(self._replica, self._structure, pieces, self._max_kinks, probes[1].view(-1, len(pieces)), self._rounding),
                lambda noise, piece, t: self._noisy_points(noise, pieces.segment[piece], t),
                self._scratch,
                compares_costs=self._engine is None,
            )
            one_pass.run(ends)
            is_sure = self._verified(pieces, probes, one_pass.probed, by_layer=True) & ~one_pass.doubtful
        except TooManyRows:
            raise
        except DearerThanRows as error:
            self._note(GROWING_BATCH, str(error))
            self._takes_kinks = False
            return pieces[:0], None, pieces
        except Exception as error:  # a growing batch may support what kinks do not
            self._note(GROWING_BATCH, f"The model does not support walking by kinks: {str(error) or type(error).__name__}")
            self._takes_kinks = False
            return pieces[:0], None, pieces
        self._queues[KINKS].learn(pieces, one_pass.peak_numel)
        if not bool(is_sure.all()):
            self._note(
                GROWING_BATCH,
                "In walks by kinks, rounding leaves the side of some values or the order of some switches undecided.",
            )
        found = PieceWalks(
            *one_pass.switches.all(),
            first_codes=one_pass.switches.first_codes(),
            exact=is_sure,
            complete=torch.ones_like(is_sure),
            resolution=torch.full_like(pieces.begin, MERGE_TOLERANCE),
            engine=torch.full_like(pieces.segment, KINKS),
        )
        return pieces[is_sure], found.of(is_sure), pieces[~is_sure]

    def _in_one_pass(self, pieces: Pieces) -> EngineResult:
        """Walk pieces in one pass over a growing batch; those that a check does not confirm are left."""
        if len(pieces) == 1 and float(pieces.length) < SHORTEST_PIECE:
            self._note(REFINEMENT, "Breakpoints are too close together for the memory limit.")
            return pieces[:0], None, pieces
        grid = Breakpoints(pieces.begin, pieces.end)
        probes = self._random_points(pieces, MOST_CHECKS)
        ends = torch.cat([self._points(pieces.segment, pieces.begin), self._points(pieces.segment, pieces.end)])
        try:
            one_pass = GrowingBatch(
                *(self._replica, self._structure, grid, self._max_numel, probes, self._rounding),
                lambda noise, piece, t: self._noisy_points(noise, pieces.segment[piece], t),
            )
            one_pass.run(ends)
            checks = max(1, min(MOST_CHECKS, len(grid) // (ROWS_PER_CHECK * len(pieces)))) * len(pieces)
            verified = self._verified(pieces, (probes[0][:checks], probes[1][:checks]), one_pass.probed)
        except TooManyRows:
            raise
        except Exception as error:  # plain passes may support what a growing batch does not
            self._note(REFINEMENT, f"The model does not support a growing batch: {str(error) or type(error).__name__}")
            return pieces[:0], None, pieces
        self._queues[GROWING_BATCH].learn(pieces, one_pass.peak_numel)
        if bool(one_pass.doubtful.any()):
            self._note(GROWING_BATCH, "Up to rounding, some pre-activations equal a threshold, or some switches coincide.")
        if not bool(verified.all()):
            self._note(REFINEMENT, "At random points, pre-activations differ from those that the walk implies.")
        found = PieceWalks(
            *one_pass.events(),
            first_codes=one_pass.first_codes(),
            exact=verified & ~one_pass.doubtful,
            complete=torch.ones_like(verified),
            resolution=torch.full_like(pieces.begin, MERGE_TOLERANCE),
            engine=torch.full_like(pieces.segment, GROWING_BATCH),
        )
        return pieces[verified], found.of(verified), pieces[~verified]

    def _refined(self, pieces: Pieces) -> EngineResult:
        """Walk all pieces by plain passes; each layer's breakpoints are found after those of the layers before.

        Between breakpoints only operations without a bit bend, such as a clamp or a max pooling; two bends close together may be
        missed.
        """
        samples = self._samples(pieces, self._structure.needed)
        found = refine(pieces, samples, self._max_samples(samples))
        if self._uneven or self._structure.bends:
            found = replace(found, exact=torch.zeros_like(found.exact))
        return pieces, found, pieces[:0]

    def _interpolated(self, pieces: Pieces) -> EngineResult:
        """Interpolate the pre-activations of units that count; parts where that does not converge are left."""
        samples = self._samples(pieces, self._structure.counted, MIN_LAYER_SIZE)
        return walk_chebyshev(pieces, samples, self._max_samples(samples))

    def _curved(self, pieces: Pieces) -> EngineResult:
        """Walk all pieces by plain passes that follow only the units that count."""
        samples = self._samples(pieces, self._structure.counted, MIN_LAYER_SIZE)
        return pieces, walk_smooth(pieces, samples, self._max_samples(samples)), pieces[:0]

    def _samples(self, pieces: Pieces, names: Sequence[str], min_size: float = 1.0) -> Samples:
        return Samples(
            self._replica,
            self._structure,
            names,
            len(pieces),
            [self._rounding.usual_terms(name) for name in names],
            lambda piece, t: self._points(pieces.segment[piece], t),
            min_size,
        )

    def _max_samples(self, samples: Samples) -> int:
        """Return the number of points to evaluate together."""
        return max(1, self._max_numel // max(self._structure.widest, len(samples.layer)))

    def _points(self, segment: Tensor, position: Tensor) -> Tensor:
        weight = position.view(-1, *[1] * (self._start.dim() - 1))
        return torch.lerp(self._start[segment], self._end[segment], weight)

    def _noisy_points(self, noise: Noise, segment: Tensor, position: Tensor) -> Tensor:
        """Return points computed from ends and positions with errors, so that terms that cancel between the ends count as terms."""
        weight = (position + noise.errors(position)).view(-1, *[1] * (self._start.dim() - 1))
        return (1 - weight) * noise.of(self._start[segment]) + weight * noise.of(self._end[segment])

    def _random_points(self, pieces: Pieces, checks: int) -> tuple[Tensor, Tensor]:
        """Return piece and position of random points, `checks` on each piece: the first of all pieces, then the second of all."""
        piece = torch.arange(len(pieces), device=pieces.begin.device).repeat(checks)
        fraction = torch.rand(len(piece), generator=self._random, dtype=torch.float64).to(pieces.begin.device)
        return piece, torch.lerp(pieces.begin[piece], pieces.end[piece], fraction)

    def _verified(
        self, pieces: Pieces, points: tuple[Tensor, Tensor], implied: dict[str, Tensor], *, by_layer: bool = False
    ) -> Tensor:
        """Return whether plain forward passes at points of each piece confirm the pre-activations that a pass implies.

        Args:
            pieces: P pieces.
            points: Piece (K,) and position (K,).
            implied: Layer -> its pre-activations at these points.
            by_layer: Whether to allow rounding errors of the layer's usual terms too, such as when a dead unit's kinks cancel.
        """
        piece, position = points
        verified = torch.ones(len(pieces), dtype=torch.bool, device=piece.device)
        apart: list[tuple[str, Tensor, Tensor, Tensor]] = []

        def compare(layer: str, thresholds: Thresholds, actual: Tensor) -> None:
            error = (actual - implied[layer][: len(piece)]).abs()
            tolerance = VALUE_TOLERANCE * actual.abs()
            if by_layer:
                rounding = ROUNDED / SCREEN * self._rounding.screen(layer, self._rounding.size(layer, actual))
                tolerance = torch.maximum(tolerance, rounding)
            point, unit = set_bits(error > tolerance)
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

"""One measurement: the codes of a run's probes, the faces of the regions around them, and the walks between them.

The processes share the rows, and take as many as there is time for; what comes of it is the same in all of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from fold_lightning import summaries
from fold_lightning.callbacks.measurement import CodeCounts, Measurement
from fold_lightning.callbacks.pace import Pace
from fold_lightning.callbacks.team import Team
from fold_lightning.folding import PerSegment, global_folding
from fold_lightning.probes import FaceProbes, Probes, Segments
from fold_lightning.regions import NoPolytopes
from fold_lightning.walks import LATE_POINTS, Walks

OTHERS_SHARE = 0.3
"""Of a measurement's time that codes may take, and faces; walks take what is left."""

LEAST_WALKING = 1.0
"""Seconds that walks have in any case, lest one of many regions be cut off, and no one waits for much longer."""

SECONDS_OF_A_CHECK = 0.02
"""A network that is looked at so quickly is walked too before it is measured: what is done for the first time takes longer."""

AT_LEAST = {"codes": 32, "faces": 4, "random_faces": 4, "walks": 1}
"""Inputs or segments that are measured in any case."""


@dataclass
class Findings:
    """What a measurement found.

    Attributes:
        scalars: Tag by tag.
        chi: float64 (S,), of each segment.
        matrix: The folding between classes (C, C), and the classes (C,).
        most_folded: The walk that folds most of those that this process took.
        faces: int64, how many the regions around data have, and around random inputs; None for what is not counted.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    chi: Tensor | None = None
    matrix: tuple[Tensor, Tensor] | None = None
    most_folded: Walks | None = None
    faces: tuple[Tensor | None, Tensor | None] | None = None


class Survey:
    """Measures the same probes again and again.

    Args:
        measurement: How the model is called.
        probes: What is looked at.
        codes: Whether codes are counted.
    """

    def __init__(self, measurement: Measurement, probes: Probes, *, codes: bool) -> None:
        self.probes = probes
        self._measurement, self._codes_wanted = measurement, codes
        self._paces = {name: Pace(least) for name, least in AT_LEAST.items()}
        self._faces = probes.faces  # None as soon as there turn out to be none
        self._says_classes: bool | None = None
        self._others_took = math.inf  # codes and faces of the last measurement, in s
        self._has_told = self._has_warned = False

    def take(
        self,
        team: Team,
        model: LightningModule,
        seconds: float | None,
        passed: CodeCounts | None = None,
        *,
        counts_later: bool = False,
    ) -> Findings:
        """Measures a model; all processes do so together, and raise together.

        Args:
            team: The processes.
            model: As it is now.
            seconds: How long it may take; None for as long as it takes.
            passed: The codes of what has passed, where those are counted instead of the probes'.
            counts_later: Whether they are, and nothing has passed yet.
        """
        begin, findings = time.perf_counter(), Findings()
        with self._measurement.shared_replica(model, self.probes.pool[0]):
            if self._codes_wanted and not counts_later:
                self._take_codes(team, model, _part(seconds), passed, findings)
            if self._faces is not None:
                self._take_faces(team, model, self._faces, _part(seconds), findings)
            if self.probes.segments is not None:
                others, last = time.perf_counter() - begin, self._others_took
                left = None if seconds is None else max(0.0, seconds - min(others, last))  # a stall leaves them their time
                self._take_walks(team, model, self.probes.segments, left, findings)
                self._others_took = others
        findings.scalars[summaries.SECONDS] = team.leader_says(time.perf_counter() - begin)
        return findings

    def check(self, model: LightningModule) -> None:
        """Refuses a model that can't be measured, by as little of it as tells."""
        begin = time.perf_counter()
        self._measurement.codes(model, self.probes.counted[0][:2])
        is_quick = time.perf_counter() - begin < SECONDS_OF_A_CHECK
        if self.probes.segments is not None and is_quick:
            self._measurement.walks(model, self.probes.segments.of(slice(1)), SECONDS_OF_A_CHECK)
        if self._faces is not None:
            try:
                self._measurement.faces(model, self.probes.pool[0][:1], self._faces.directions(1))
            except NoPolytopes as reason:
                self._leave_faces_out(reason)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: pace.state() for name, pace in self._paces.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        for name, pace in self._paces.items():
            pace.restore(state[name])

    def _take_codes(
        self, team: Team, model: LightningModule, seconds: float | None, passed: CodeCounts | None, findings: Findings
    ) -> None:
        counts, num_inputs = passed, None
        with team.together():
            if self._says_classes is None:
                self._says_classes = self._measurement.says_classes(model, self.probes.pool)
        if counts is None:
            inputs, labels = self.probes.counted
            counts = mine = CodeCounts(self._measurement)

            def count(rows: Tensor) -> None:
                mine.add(model, (inputs[rows], None if labels is None else labels[rows]))

            num_inputs, _ = team.spread(len(inputs), count, self._paces["codes"], seconds)
        findings.scalars |= summaries.codes_scalars(
            counts.distinct, counts.correct if self._says_classes else None, num_inputs=num_inputs
        )

    def _take_faces(
        self, team: Team, model: LightningModule, probes: FaceProbes, seconds: float | None, findings: Findings
    ) -> None:
        try:
            counts = [
                None if inputs is None else self._face_counts(team, model, inputs, probes, self._paces[name], seconds)
                for name, inputs in (("faces", probes.data), ("random_faces", probes.random))
            ]
        except NoPolytopes as reason:
            self._leave_faces_out(reason)
            return
        findings.faces = (counts[0], counts[1])
        findings.scalars |= summaries.faces_scalars(*findings.faces, probes.dimension)

    def _face_counts(
        self, team: Team, model: LightningModule, inputs: Tensor, probes: FaceProbes, pace: Pace, seconds: float | None
    ) -> Tensor | None:
        directions = probes.directions(len(inputs))

        def count(rows: Tensor) -> Tensor:
            return self._measurement.faces(model, inputs[rows], None if directions is None else directions[rows])

        return team.spread(len(inputs), count, pace, seconds)[1]

    def _take_walks(
        self, team: Team, model: LightningModule, segments: Segments, seconds: float | None, findings: Findings
    ) -> None:
        layers: list[str] = []
        most = -math.inf
        given = None if seconds is None else max(LEAST_WALKING, seconds)
        begin = time.perf_counter()

        def walk(rows: Tensor) -> Tensor:
            nonlocal most
            left = None if given is None else max(0.0, given - (time.perf_counter() - begin))
            walks = self._measurement.walks(model, segments.of(rows), left)
            measures = PerSegment.of(walks)
            layers[:] = measures.by_layer
            rank = torch.where(measures.late, measures.chi - 1, measures.chi)
            if float(rank.max()) > most:
                most = float(rank.max())
                findings.most_folded = walks.only(int(rank.argmax()))
            return measures.rows

        done, rows = team.spread(len(segments), walk, self._paces["walks"], seconds)
        assert rows is not None
        measures = PerSegment.from_rows(rows.cpu(), layers)
        if bool(measures.late[0]):
            self._warn_of_late_walks(given)
        elif bool(measures.late.any()):
            done = int(measures.late.nonzero()[0])
            measures = PerSegment.from_rows(rows[:done].cpu(), layers)
        if done < len(segments) and not self._has_told:
            self._has_told = True
            rank_zero_info(
                f"FoldingMonitor has time for {done} of its {len(segments)} segments (`max_seconds=None` takes all; "
                f"`{summaries.SEGMENTS}` says how many it takes)."
            )
        phi = None
        if (between := segments.of(slice(done)).between_classes()) is not None:
            phi, matrix = global_folding(measures.chi, between.start, between.end, len(between.classes))
            findings.matrix = (matrix, between.classes)
        findings.chi = measures.chi
        findings.scalars |= summaries.folding_scalars(measures, phi)

    def _warn_of_late_walks(self, seconds: float | None) -> None:
        if not self._has_warned:
            rank_zero_warn(
                f"FoldingMonitor can't walk a segment of this network in {seconds:.1f} s, so it looks at {LATE_POINTS} points of "
                f"each (`{summaries.COMPLETE}` is 0). Count fewer layers (`layers=`), give it more time (`max_seconds=`), or "
                "leave walks out (`folding=False`). (Said once.)"
            )
        self._has_warned = True

    def _leave_faces_out(self, reason: NoPolytopes) -> None:
        self._faces = None
        rank_zero_info(f"FoldingMonitor counts no faces. {reason}")


def _part(seconds: float | None) -> float | None:
    return None if seconds is None else OTHERS_SHARE * seconds

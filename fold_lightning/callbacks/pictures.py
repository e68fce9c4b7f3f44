"""When pictures are drawn: as often as a small share of a run's time allows, and when training ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from lightning.pytorch import Trainer

from fold_lightning import summaries
from fold_lightning.callbacks.survey import Findings
from fold_lightning.figures import SliceRegions

SHARE = 0.005
"""Of a run's time so far that drawing may take."""

EXPECTED_SECONDS = 0.5
"""What the first drawing is expected to take."""


class Pictures:
    """Draws what was found last, for loggers that take pictures.

    Args:
        always: Whether to draw at every measurement.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._began, self._spent = time.perf_counter(), EXPECTED_SECONDS
        self._undrawn: tuple[Findings, int] | None = None

    def after(self, trainer: Trainer, findings: Findings, step: int, look: Callable[[], SliceRegions | None]) -> None:
        """A measurement was made: draws it now, or keeps it for the end.

        Args:
            trainer: Whose loggers take it.
            findings: What was found.
            step: When.
            look: Finds the regions around an input as they are now; None where there are none.
        """
        self._undrawn = findings, step
        if self._always or self._spent <= SHARE * (time.perf_counter() - self._began):
            self.draw(trainer, step, look)

    def draw(self, trainer: Trainer, step: int, look: Callable[[], SliceRegions | None]) -> None:
        """Draws what is not drawn yet."""
        undrawn, self._undrawn = self._undrawn, None
        if undrawn is None or not summaries.draws(trainer.loggers):
            return
        begin, (findings, found_at) = time.perf_counter(), undrawn
        if findings.most_folded is not None:
            summaries.write_walk(trainer.loggers, findings.most_folded, found_at)
        if findings.matrix is not None:
            summaries.write_matrix(trainer.loggers, *findings.matrix, found_at)
        if findings.faces is not None and (regions := look()) is not None:
            summaries.write_slice(trainer.loggers, regions, step)
        took = time.perf_counter() - begin
        self._spent = took if self._spent == EXPECTED_SECONDS else self._spent + took

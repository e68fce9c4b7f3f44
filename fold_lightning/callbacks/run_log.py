"""Output for a run's loggers beside `LightningModule.log`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from fold_lightning.callbacks.hparams import MONITOR
from fold_lightning.callbacks.measures import Measure, MeasureResult
from fold_lightning.callbacks.once import OnceWarner
from fold_lightning.callbacks.tensorboard import TensorBoard
from fold_lightning.callbacks.trainer_state import logged_step


class RunLog:
    """Writer of hyperparameters, of output for TensorBoard alone, and of scalars outside of epochs.

    Only the first process writes. A failure, such as a full disk, only warns.

    Args:
        trainer: The Trainer.
        once: Shows the warnings of the run.
        draws: Whether figures are drawn.
        always: Whether to draw at every measurement, as in `TensorBoard`.
    """

    def __init__(self, trainer: Trainer, once: OnceWarner, *, draws: bool, always: bool) -> None:
        self._board = TensorBoard(trainer.loggers, draws=draws, always=always)
        self._once = once
        self._results: Sequence[MeasureResult] = ()

    def begin(
        self, trainer: Trainer, measures: Iterable[Measure], hyperparameters: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """Write hyperparameters to every logger; to TensorBoard also the layout of charts, and what the Folding tab describes."""
        if not trainer.is_global_zero:
            return
        with self._once.failures(trainer):
            for logger in trainer.loggers:
                if logger not in self._board:
                    logger.log_hyperparams({MONITOR: dict(hyperparameters)})
            self._board.begin(hyperparameters, measures, about)

    def write_scalars(
        self, trainer: Trainer, values: Mapping[str, float], descriptions: Mapping[str, str], *, step: int
    ) -> None:
        """Write values where `self.log` does not: before training, between epochs and after training."""
        if not values or not trainer.is_global_zero:
            return
        with self._once.failures(trainer):
            for logger in trainer.loggers:
                if step > 0 or logger not in self._board:
                    logger.log_metrics(dict(values), step=step)
            if step == 0:
                self._board.describe(values, descriptions, step)

    def describe_scalars(self, trainer: Trainer, values: Mapping[str, float], descriptions: Mapping[str, str]) -> None:
        """Write the first values of tags that `self.log` logs to TensorBoard, with their descriptions."""
        if values and trainer.is_global_zero:
            with self._once.failures(trainer):
                self._board.describe(values, descriptions, logged_step(trainer, is_counted=True))

    def name_metrics(self, trainer: Trainer, tags: Iterable[str], descriptions: Mapping[str, str]) -> None:
        """Name the metrics of the HPARAMS page, once after `begin`; see `TensorBoard.name_metrics`."""
        with self._once.failures(trainer):
            self._board.name_metrics(tags, descriptions)

    def write(self, trainer: Trainer, results: Sequence[MeasureResult], number: int, step: int) -> None:
        """Write the histograms, tables, figures and embeddings of a measurement; see `TensorBoard.write`."""
        self._results = results
        if trainer.is_global_zero:
            with self._once.failures(trainer), self._once.caught():
                self._board.write(results, number, step)

    def end(self, trainer: Trainer, *, is_finished: bool) -> None:
        """Draw the last measurement unless it is drawn, and write its embeddings."""
        if not trainer.is_global_zero:
            return
        with self._once.failures(trainer), self._once.caught():
            self._board.end(self._results, trainer.global_step)
        with self._once.failures(trainer):
            if is_finished:
                self._board.finish()

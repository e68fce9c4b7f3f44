"""One fit under the eyes of a monitor: its probes, what was measured last, and what a checkpoint keeps of both."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from fold_lightning import summaries
from fold_lightning.activations.evaluation import preserved_random_state
from fold_lightning.activations.inspection import InputsRefused
from fold_lightning.callbacks.measurement import CodeCounts, Measurement
from fold_lightning.callbacks.pace import Allowance
from fold_lightning.callbacks.pictures import Pictures
from fold_lightning.callbacks.settings import Settings
from fold_lightning.callbacks.survey import Findings, Survey
from fold_lightning.callbacks.team import AnotherFailed, Team, refuse_sharded
from fold_lightning.callbacks.transfer import as_a_step_gets_it
from fold_lightning.figures import SliceRegions
from fold_lightning.probes import FaceProbes, Pool, Probes, ProbeSource, draw_segments

MOST_KEPT = 2**26
"""Bytes of probes that a checkpoint keeps, where they can't be read again."""


class Run:
    """What a monitor knows while a Trainer fits.

    Args:
        settings: The monitor's.
        trainer: That fits.
    """

    def __init__(self, settings: Settings, trainer: Trainer) -> None:
        self.scalars: dict[str, float] = {}
        self.last_epoch = 0
        self.is_measuring = False
        model = trainer.lightning_module
        self.source = ProbeSource(settings.most_inputs, settings.seed, settings.probes, settings.batch_to_inputs, model)
        self.probes: Probes | None = None
        self.measurement = Measurement(settings.layers, settings.forward)
        self.validates = True
        self.allowance: Allowance
        self.team = Team(trainer)
        self._settings = settings
        self._pictures = Pictures(always=bool(settings.figures)) if settings.draws else None
        self._survey: Survey | None = None
        self._restored: dict[str, Any] = {}
        self._has_failed = self._is_owed = False
        self._goes_on, self._saved_at = False, 0.0

    def begin(self, trainer: Trainer, model: LightningModule) -> None:
        """Training begins: takes probes, measures the model as it is, or at least refuses what can't be measured."""
        refuse_sharded(trainer.strategy, model)
        self._goes_on = self._saved_at > 0 and trainer.global_step > 0
        self.validates = self.team.all(validates(trainer))
        if self._settings.counts_all and not self.validates:
            raise MisconfigurationException(
                "`num_inputs='all'` counts the codes of validation batches as they pass, and this run has no validation: give it "
                "some, or a number of inputs."
            )
        with preserved_random_state():
            self._take(self._kept_pool() or self.team.leader_makes(lambda: self._read(trainer)))
        with self.team.together():
            if trainer.is_global_zero:
                self._write_settings(trainer)
        self.allowance = Allowance(self._settings.max_seconds, waits=not awaits_values(trainer))
        if self._survey is None:
            self.source.restart()  # the sanity check's batches come again
            return
        with self._telling_of_batches(), self.team.together():
            self._survey.check(model)  # which also does what takes long but the first time
        if self._settings.measure_at_start and trainer.global_step == 0:
            self.measure(trainer, model, step=0, passed=None)
            if trainer.is_global_zero:
                faces = None if self.probes is None or self.probes.faces is None else self.probes.faces.describe()
                summaries.write_start(trainer.loggers, self.scalars, faces)
        self.allowance.restart()

    def go_on(self, trainer: Trainer) -> None:
        """Something is about to be logged: the first time after a checkpoint, what came after that is taken back."""
        goes_on, self._goes_on = self._goes_on, False
        if goes_on and trainer.is_global_zero:
            try:
                summaries.write_restart(trainer.loggers, logged_step(trainer), self._saved_at)
            except Exception as error:
                self.warn_of_failure(trainer, error)

    def is_due(self, trainer: Trainer, every_n_epochs: int) -> bool:
        """Whether to measure at the end of this epoch; all processes agree."""
        epoch = trainer.current_epoch + 1
        passed = epoch // every_n_epochs > self.last_epoch // every_n_epochs
        is_wanted = passed or epoch == self.last_epoch
        is_due = self.team.leader_says(not self.scalars or (is_wanted and self.allowance.affords))
        self._is_owed = is_wanted and not is_due
        return is_due

    def try_to_measure(
        self,
        trainer: Trainer,
        model: LightningModule,
        passed: CodeCounts | None = None,
        lost: Exception | None = None,
        *,
        is_over: bool = False,
    ) -> bool:
        """Measures, and says whether that succeeded; what fails costs a warning, and the last values stand.

        Args:
            trainer: That fits.
            model: As it is now.
            passed: The codes of a validation epoch, if those are counted.
            lost: Why they could not be.
            is_over: Whether training is.
        """
        try:
            with self.team.together():
                if lost is not None:
                    raise lost
            if self._survey is None:  # a stream has passed, or a loader is there that was not when training began
                with preserved_random_state():
                    self._take(self.team.leader_makes(lambda: self._read(trainer) or self.source.from_stream()))
            if self._survey is None:
                raise RuntimeError("no batch with inputs has passed yet")
            behind = is_over or not self.validates  # the step whose values Lightning logs then
            self.measure(trainer, model, step=logged_step(trainer, behind=behind), passed=passed)
            return True
        except Exception as error:
            self.warn_of_failure(trainer, error)
            return False
        finally:
            self.last_epoch = trainer.current_epoch + (not is_over)

    def measure(self, trainer: Trainer, model: LightningModule, *, step: int, passed: CodeCounts | None) -> None:
        """Measures, and writes what is more than a number."""
        assert self._survey is not None
        self.is_measuring = True
        try:
            seconds = self.team.leader_says(self.allowance.seconds)
            counts_later = self._settings.counts_all and passed is None
            with self._telling_of_batches():
                findings = self._survey.take(self.team, model, seconds, passed, counts_later=counts_later)
            self.allowance.spend(findings.scalars[summaries.SECONDS])
            self.scalars = findings.scalars
            if trainer.is_global_zero:
                self._write(trainer, model, findings, step)
        except Exception:  # an interruption leaves the mark
            self.is_measuring = False
            raise
        self.is_measuring = False

    def end(self, trainer: Trainer, model: LightningModule) -> None:
        """Training ends: measures what had to wait, draws what is not drawn yet, and leaves the codes as an embedding."""
        is_measured = self._is_owed and self.try_to_measure(trainer, model, is_over=True)
        if self.probes is None or not trainer.is_global_zero:
            return
        step = logged_step(trainer, behind=True)
        try:
            if is_measured:
                summaries.write_end(trainer.loggers, self.scalars, step)
            if not summaries.draws(trainer.loggers):
                return
            if self._pictures is not None:
                self._pictures.draw(trainer, step, lambda: self._slice(model))
            if self._settings.codes:
                inputs, labels = self.probes.counted
                counted = int(self.scalars.get(summaries.CODES_INPUTS, len(inputs)))  # no more than there was time for
                codes, _ = self.measurement.codes(model, inputs[:counted])
                summaries.write_embedding(trainer.loggers, codes.bits, labels, trainer.global_step)
        except Exception as error:
            self.warn_of_failure(trainer, error)

    def warn_of_failure(self, trainer: Trainer, error: BaseException) -> None:
        """Says once that something was not measured."""
        if self._has_failed:
            return
        self._has_failed = True
        why = str(error) or type(error).__name__
        message = f"FoldingMonitor measured nothing at epoch {trainer.current_epoch}: {why} (training goes on; said once)"
        if trainer.is_global_zero or isinstance(error, AnotherFailed):
            rank_zero_warn(message)
        else:
            warnings.warn(f"Process {trainer.global_rank}: {message}", stacklevel=2)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: with it a run goes on with the same probes, and as many of them at a time."""
        if self.probes is None or self._survey is None:
            return {}
        state = {"scalars": self.scalars, "last_epoch": self.last_epoch, "paces": self._survey.state(), "saved_at": time.time()}
        state |= {"settings": repr(self._settings.logged()), "fingerprint": self.probes.fingerprint}
        if self.source.is_stream and sum(part.nbytes for part in self.probes.pool if part is not None) <= MOST_KEPT:
            state["pool"] = self.probes.pool
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint, when training begins."""
        self._restored = state
        self.scalars, self.last_epoch, self._saved_at = state["scalars"], state["last_epoch"], state["saved_at"]

    @contextmanager
    def _telling_of_batches(self) -> Iterator[None]:
        """What a model refuses may not be its inputs."""
        try:
            yield
        except InputsRefused as error:
            if self._settings.probes is not None or self._settings.batch_to_inputs is not None:
                raise
            raise InputsRefused(
                f"{error} The first tensor of a batch was taken for the inputs: if it is not, pass `batch_to_inputs=`, a function "
                "of the batch that returns inputs or (inputs, labels)."
            ) from error

    def _read(self, trainer: Trainer) -> Pool | None:
        loaders = trainer.val_dataloaders if self.validates else trainer.train_dataloader
        return self.source.at_start(loaders, partial(as_a_step_gets_it, trainer), together=not self.validates)

    def _kept_pool(self) -> Pool | None:
        if "pool" not in self._restored or self._settings.probes is not None:
            return None
        self.source.close()
        pool: Pool = self._restored["pool"]
        return pool

    def _take(self, pool: Pool | None) -> None:
        """Takes inputs for all of the run, the same in all processes."""
        if pool is None:
            return
        settings = self._settings
        inputs = pool[0]
        segments = faces = None
        if settings.folding:
            segments = draw_segments(*pool, settings.num_segments, settings.seed, per_pair=settings.segments_per_pair)
            rank_zero_info(f"FoldingMonitor walks {segments.describe()}.")
        if settings.faces:
            faces = FaceProbes.of(inputs, settings.faces, settings.face_subspace, settings.seed)
        every = settings.num_inputs == "all" and settings.probes is not None
        self.probes = Probes(pool, len(inputs) if every else settings.most_counted, segments, faces)
        self._survey = Survey(self.measurement, self.probes, codes=settings.codes)
        self._go_on(self._survey, self.probes)

    def _go_on(self, survey: Survey, probes: Probes) -> None:
        state, self._restored = self._restored, {}
        if not state or state["settings"] != repr(self._settings.logged()):
            return
        survey.restore(state["paces"])
        if state["fingerprint"] != probes.fingerprint:
            rank_zero_warn(
                "FoldingMonitor goes on from a checkpoint, but not with the same probes: the data they are taken from have changed, "
                "or augment their items by chance. Its curves may jump here; `probes=` of your own would stay the same."
            )

    def _write_settings(self, trainer: Trainer) -> None:
        settings = self._settings.logged()
        if self.probes is not None and self.probes.faces is not None:
            settings["face_dimension"] = self.probes.faces.dimension
        summaries.write_settings(trainer.loggers, {"folding_monitor": settings})
        summaries.write_layout(trainer.loggers)

    def _write(self, trainer: Trainer, model: LightningModule, findings: Findings, step: int) -> None:
        try:
            summaries.write_distributions(trainer.loggers, findings.chi, findings.faces, step)
            if self._pictures is not None:
                self._pictures.after(trainer, findings, step, lambda: self._slice(model))
        except Exception as error:  # a disk that is full costs no number
            self.warn_of_failure(trainer, error)

    def _slice(self, model: LightningModule) -> SliceRegions | None:
        if self.probes is None or self.probes.faces is None or self.probes.faces.dimension < 2:
            return None
        return self.measurement.slice(model, self.probes.pool[0][:1], self.probes.faces.seed)


def validates(trainer: Trainer) -> bool:
    """Whether there will be validation epochs; a loader may be there and empty, or not yet be there before a later epoch."""
    batches = trainer.num_val_batches
    return trainer.enable_validation and (not batches or sum(batches) > 0)


def awaits_values(trainer: Trainer) -> bool:
    """Whether a callback or a learning rate schedule decides by what a monitor logs."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
    names = [getattr(callback, "monitor", None) for callback in callbacks]
    names += [schedule.monitor for schedule in trainer.lr_scheduler_configs if schedule.reduce_on_plateau]
    return any(str(name).startswith(summaries.MEASURED) for name in names)


def logged_step(trainer: Trainer, *, behind: bool = False) -> int:
    """Where Lightning writes what is logged now; `global_step` counts every optimizer of a step.

    Args:
        trainer: That fits.
        behind: Whether the last step has been counted, as when an epoch or training ends; its number is meant then.
    """
    return max(0, trainer.fit_loop.epoch_loop._batches_that_stepped - behind)

"""One fit, validation or test with a monitor: its sample, its measures, and their last values."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from fold_lightning.activations.evaluation import shared_replica, undisturbed
from fold_lightning.callbacks.distributed import Processes, check_not_sharded
from fold_lightning.callbacks.measure_set import MeasureSet, possible_tags
from fold_lightning.callbacks.measures import LAYER, MEASURES, MeasureResult, Sample, Sources
from fold_lightning.callbacks.method import choose_method
from fold_lightning.callbacks.once import OnceWarner
from fold_lightning.callbacks.run_log import RunLog
from fold_lightning.callbacks.schedule import Schedule
from fold_lightning.callbacks.settings import SAMPLE_ARGUMENTS, Settings
from fold_lightning.callbacks.trainer_state import monitored_tags
from fold_lightning.probes import ProbeSet, ProbeSource

SECONDS = "monitor/seconds"

OWN_TAGS = {SECONDS: "Time of a measurement in s, without figures."}
"""Tags of no measure, with their descriptions."""

LONG_SECONDS = 60.0
"""Seconds of a measurement above which a warning reports the time of each source."""

MAX_KEPT_BYTES = 2**26
"""Maximum size of the items that a checkpoint keeps if they can't be read again, in bytes: 64 MiB."""


class Session:
    """State of a monitor while a Trainer runs: its sample, measures and values.

    Args:
        settings: Arguments of the monitor.
        trainer: The Trainer.
        regularizer: Hyperparameters of the regularizer of the same callback.

    Attributes:
        values: Tag -> last value.
        sample: Inputs and segments of the run; None until it is drawn.
        is_measuring: Whether a measurement is running or was interrupted.
        log: Writer of what a run's loggers get beside `LightningModule.log`.
    """

    def __init__(self, settings: Settings, trainer: Trainer, regularizer: Mapping[str, Any] | None = None) -> None:
        self.values: dict[str, float] = {}
        self.sample: Sample | None = None
        self.is_measuring = False
        self._settings, self._processes = settings, Processes(trainer)
        self._regularizer = dict(regularizer or {})
        self._probe_source = ProbeSource(
            settings.num_items,
            settings.seed,
            probes=settings.probes,
            batch_to_inputs=settings.batch_to_inputs,
            forward=settings.forward,
        )
        self._schedule = Schedule(settings.every_n_epochs, settings.every_n_train_steps, settings.max_overhead)
        self._measures = MeasureSet(self._processes)
        self._num_measured = 0
        self._restored: dict[str, Any] = {}
        self._class_names: tuple[str, ...] = ()
        self._once = OnceWarner()
        self.log = RunLog(trainer, self._once, draws=settings.draws_figures, always=bool(settings.figures))

    def begin(self, trainer: Trainer, model: LightningModule, loaders: Any, *, together: bool = False) -> None:
        """Draw the sample, and raise if the model or the data can't be measured.

        Args:
            trainer: The Trainer.
            model: The model.
            loaders: Loaders of the data to take inputs from.
            together: Whether a batch combines a batch of every loader, as in training.
        """
        at = time.perf_counter()
        check_not_sharded(trainer.strategy, model)
        if self._monitored_tags(trainer):
            self._schedule.lift_limit()
        with undisturbed():
            self._class_names = self._probe_source.class_names(loaders)
            probes = self._processes.compute_on_first(
                lambda: self._probe_source.read(trainer, model, loaders, together=together)
            )
        if probes is None:
            self._probe_source.restart()  # the batches of the sanity check are repeated
        else:
            self._take(trainer, model, probes)
        self._schedule.spend(self._processes.broadcast(time.perf_counter() - at))

    def try_to_begin(self, trainer: Trainer, model: LightningModule, loaders: Any) -> None:
        """Draw the sample of a validation or test; a failure only warns."""
        with self._once.failures(trainer):
            self.begin(trainer, model, loaders)

    def all_processes(self, value: bool) -> bool:
        """Return whether a value is true in all processes."""
        return self._processes.all(value)

    def start_training(self) -> None:
        """Start the clock of the training."""
        self._schedule.start_training()

    def collect(self, trainer: Trainer, model: LightningModule, batch: Any) -> None:
        """Collect inputs from a batch of a stream, while more are needed."""
        if trainer.is_global_zero and not self.is_full:
            with undisturbed():
                self._probe_source.collect(trainer, model, batch)

    @property
    def is_full(self) -> bool:
        """True if no more batches of a stream are needed."""
        return self.sample is not None or self._probe_source.is_full

    def draw_from_stream(self, trainer: Trainer, model: LightningModule) -> bool:
        """Draw the sample from the collected batches of a stream, and return whether there is one."""
        with undisturbed():
            probes = self._processes.compute_on_first(lambda: self._probe_source.from_stream(model))
        if probes is not None:
            self._take(trainer, model, probes)
        return self.sample is not None

    def epoch_is_due(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 1, is measured; all processes agree."""
        return self._processes.broadcast(self._schedule.epoch_is_due(epoch))

    def step_is_due(self, step: int) -> bool:
        """Return whether to measure after this many optimizer steps; all processes agree."""
        return self._schedule.step_is_planned(step) and self._processes.broadcast(self._schedule.is_affordable())

    def is_measured(self, step: int) -> bool:
        """Return whether the last measurement was made after this many optimizer steps."""
        return self._schedule.is_measured(step)

    def try_to_measure(
        self, trainer: Trainer, model: LightningModule, *, step: int, epoch: int | None = None
    ) -> dict[str, float]:
        """Measure, and return the new values; a failure warns, and keeps the last values.

        Args:
            trainer: The Trainer.
            model: The current model.
            step: Step on the loggers' axis.
            epoch: Number of the epoch that ends, counted from 1; None within one.
        """
        self.is_measuring = True
        try:
            if self.sample is None and not self.draw_from_stream(trainer, model) and epoch is not None:
                raise RuntimeError("no batch with inputs has been seen yet.")
            values = {} if self.sample is None else self.measure(trainer, model, step=step, epoch=epoch)
        except Exception as error:  # not an interruption: `is_measuring` then stays True
            self._once.warn_of_failure(trainer, error)
            values = {}
        self.is_measuring = False
        return values

    def measure(
        self, trainer: Trainer, model: LightningModule, *, step: int, epoch: int | None = None, is_first: bool = False
    ) -> dict[str, float]:
        """Measure, write what TensorBoard alone gets, and return the new values.

        Args:
            trainer: The Trainer.
            model: The current model.
            step: Step on the loggers' axis.
            epoch: Number of the epoch that ends, counted from 1; None within one.
            is_first: Whether this is the measurement before training, in which a failure raises.
        """
        assert self.sample is not None
        begin, values = time.perf_counter(), dict[str, float]()
        results, failures = list[MeasureResult](), list[Exception]()
        forward = self.sample.probes.model_input.forward
        with self._once.caught(), shared_replica(model, self.sample.inputs(model, slice(1)), forward):
            for result in self._measures.run(model):
                if isinstance(result, MeasureResult):
                    results.append(result)
                    values |= {tag: _rounded(value) for tag, value in result.scalars.items()}
                elif is_first:
                    raise result
                else:
                    failures.append(result)
        for failure in failures:
            self._once.warn_of_failure(trainer, failure)
        seconds = self._processes.broadcast(time.perf_counter() - begin)
        if seconds > LONG_SECONDS:
            self._once.warn(
                f"A measurement took {seconds:.0f} s: {self._measures.describe_seconds()}. Measure less "
                "(`num_segments=`, `num_inputs=`, `num_regions=`, `layers=`, `faces=False`), or use equidistant points "
                "(`method='uniform'`). (This warning is shown once.)"
            )
        if values:
            values[SECONDS] = seconds
        self.values |= values
        self._num_measured += 1
        self.log.write(trainer, results, self._num_measured, step)
        spent = self._processes.broadcast(time.perf_counter() - begin)
        self._schedule.record(spent, epoch=epoch, step=trainer.global_step)
        return values

    def end(self, trainer: Trainer, *, is_finished: bool) -> None:
        """Name the metrics of the HPARAMS page, draw the last measurement, and write its embeddings."""
        self.log.name_metrics(trainer, (), self.descriptions())
        self.log.end(trainer, is_finished=is_finished)

    def values_for_callbacks(self) -> dict[str, float]:
        """Return the last value of every tag, NaN for tags without one."""
        return dict.fromkeys(self.descriptions(), math.nan) | self.values

    def descriptions(self) -> dict[str, str]:
        """Return the tags that may be logged, with their descriptions."""
        return OWN_TAGS | (self._measures.descriptions() if self.sample is not None else possible_tags())

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, from which a run resumes with the same sample and schedule."""
        if self.sample is None:
            return dict(self._restored)
        probes = self.sample.probes
        state = {"values": self.values, "schedule": self._schedule.state(), "num_measured": self._num_measured}
        state |= {"settings": self._settings.as_text(), "method": self.sample.method, "fingerprint": self.sample.fingerprint}
        if probes.is_stream and probes.nbytes <= MAX_KEPT_BYTES:
            state["probes"] = probes.state()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint, before training begins."""
        is_known = {"values", "num_measured", "schedule", "fingerprint"} <= state.keys()
        if not is_known or not isinstance(state.get("settings"), dict):
            rank_zero_warn("FoldingMonitor starts afresh: its state in the checkpoint is from another version.")
            return
        self._restored, self.values, self._num_measured = state, state["values"], state["num_measured"]
        self._schedule.restore(state["schedule"])
        if "probes" in state:
            self._probe_source.restore(state["probes"])

    def _take(self, trainer: Trainer, model: LightningModule, probes: ProbeSet) -> None:
        """Draw the sample from the probes, choose the method, and check that everything can be measured."""
        settings, probes = self._settings, self._probe_source.attach(probes)
        inputs = probes.model_input.prepare(model, probes.items[:1])
        sample = Sample.draw(probes, inputs, settings, self._class_names)
        before = self._restored if self._restored.get("settings") == settings.as_text() else {}
        if self._restored and self._restored["fingerprint"] != sample.fingerprint:
            self._warn_of_another_sample()
        with self._once.caught(), shared_replica(model, sample.inputs(model, slice(1)), probes.model_input.forward):
            method, reason = before.get("method"), "as before the checkpoint"
            if method is None and settings.folding:
                method, reason = self._processes.compute_on_first(lambda: choose_method(model, sample)) or ("exact", "")
            sample = replace(sample, method=method or "exact")
            self._measures.create(model, Sources(sample))
        self.sample = sample
        self._check_monitored_tags(trainer)
        chosen: dict[str, Any] = {f"num_{source.noun}": source.num_rows for source in self._measures.by_source}
        if settings.folding:
            rank_zero_info(f"fold_lightning walks {sample.segments.describe()}, method {sample.method!r}, {reason}.")
            chosen |= {"segments": sample.segments.describe(), "method": sample.method, "method_reason": reason}
        if how := probes.model_input.describe():
            rank_zero_info(f"fold_lightning {how}.")
            chosen["inputs"] = how
        if trainer.state.fn == "fit":  # a test uses other data
            hyperparameters = settings.hyperparameters() | chosen | self._regularizer
            self.log.begin(trainer, self._measures.all(), hyperparameters, _describe_run(sample, settings, chosen))

    def _warn_of_another_sample(self) -> None:
        """Warn that the sample is not the checkpoint's, and why."""
        previous, current = self._restored["settings"], self._settings.as_text()
        if changed := [f"`{name}`" for name in SAMPLE_ARGUMENTS if previous.get(name) != current[name]]:
            rank_zero_warn(
                f"FoldingMonitor resumes from a checkpoint, but with a different {', '.join(changed)}, so it draws a different "
                "sample. Its curves may jump here; pass the checkpoint's arguments to measure the same sample."
            )
        else:
            rank_zero_warn(
                "FoldingMonitor resumes from a checkpoint, but with other inputs: the data have changed, or are augmented at random. "
                "Its curves may jump here; pass `probes=` to measure the same inputs."
            )

    def _check_monitored_tags(self, trainer: Trainer) -> None:
        """Raise if a callback or a learning-rate schedule monitors a tag of this callback that this run does not log."""
        available, awaited = self.descriptions(), self._monitored_tags(trainer)
        for tag, who in awaited.items():
            if tag not in available:
                exactly = " (and more with `method='exact'`)" if self.sample and self.sample.method == "uniform" else ""
                raise MisconfigurationException(
                    f"{who} monitors {tag!r}, which this run does not log: it has {', '.join(sorted(available))}{exactly}."
                )

    def _monitored_tags(self, trainer: Trainer) -> dict[str, str]:
        patterns = [SECONDS, *(tag.replace(LAYER, "*") for cls in MEASURES for tag in cls.tags)]
        return {tag: who for tag, who in monitored_tags(trainer).items() if any(fnmatchcase(tag, like) for like in patterns)}


def _describe_run(sample: Sample, settings: Settings, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a run's measurements for the Folding tab."""
    about: dict[str, Any] = {name: str(value) for name, value in chosen.items()}
    if sample.class_names:
        about["class_names"] = list(sample.class_names)
    about["faces"] = sample.faces.describe() if settings.faces else ""
    return about | {"num_points": str(settings.num_points)}


def _rounded(value: float) -> float:
    """Round a value as `self.log` does, so that loggers get equal values in both ways."""
    return float(torch.tensor(value))

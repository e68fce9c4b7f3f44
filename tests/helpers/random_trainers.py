"""Random settings of a Trainer, other callbacks, and arguments of the monitor."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from helpers.random_models import Draw
from helpers.random_tasks import Loaders, Samples, Subject, Task
from helpers.training import MONITOR_PREFIXES

HAS_EMA = hasattr(callbacks, "EMAWeightAveraging")  # from Lightning 2.6 on


class Recorder(Logger):
    """Logger that records all metrics but the monitor's."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int | None, dict[str, float]]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        own = {tag: value for tag, value in metrics.items() if not tag.startswith(MONITOR_PREFIXES)}
        if set(own) - {"epoch"}:
            self.said.append((step, own))


class Settings:
    """Random arguments of a Trainer, its callbacks and its logger."""

    def __init__(self, draw: Draw, task: Task, loaders: Loaders, subject: Subject) -> None:
        self._draw, self._task, self._loaders, self._subject = draw, task, loaders, subject
        self.validates = loaders.val is not None
        self.options: dict[str, Any] = {"max_epochs": draw.pick("epochs", 1, 2, 2, 3)}
        self._precision()
        self._lengths()
        if self.validates:
            self._validation()
        self.schedules_accumulation = False
        if subject.automatic_optimization:
            self._optimization()
        self.logger = draw.pick("logger", "recorder", "recorder", "recorder", "csv", "tensorboard", "two", "default")
        if draw.happens("no logger", 0.02):
            self.logger = "none"
        self.fits_twice = draw.happens("fits twice", 0.08)
        self.validates_after = self.validates and draw.happens("validates after", 0.1)

    def _precision(self) -> None:
        choices = ["32-true"] * 8 + ["64-true", "bf16-true", "bf16-mixed"]
        if self._subject.optimizer == "LBFGS":
            choices = choices[:8]
        self.options["precision"] = precision = self._draw.pick("precision", *choices)
        if precision == "32-true" and self._draw.happens("weights", 0.1):
            self._subject.net.to(self._draw.pick("of", torch.float64, torch.bfloat16))

    def _lengths(self) -> None:
        draw, options = self._draw, self.options
        if draw.happens("max_steps", 0.15):
            options["max_steps"] = draw.randint(1, 9)
        if draw.happens("fast_dev_run", 0.03):
            options["fast_dev_run"] = draw.pick("of", True, 2)
        elif draw.happens("overfit_batches", 0.03) and not self._loaders.is_stream:
            options["overfit_batches"] = draw.pick("of", 1, 2)
        elif draw.happens("limit_train_batches", 0.15):
            may_halve = self._loaders.size < 64 and not self._loaders.is_stream
            options["limit_train_batches"] = draw.pick("of", 1, 2, 0.5 if may_halve else 2)

    def _validation(self) -> None:
        draw, options = self._draw, self.options
        options["num_sanity_val_steps"] = draw.pick("sanity", 0, 1, 2, -1)
        if draw.happens("check_val_every_n_epoch", 0.15):
            options["check_val_every_n_epoch"] = 2
            self.validates = options["max_epochs"] > 1
        if draw.happens("val_check_interval", 0.2):
            shortens = {"limit_train_batches", "overfit_batches", "fast_dev_run"} & {*options}
            is_long = self._loaders.size <= 7 and not shortens and not self._loaders.is_stream
            options["val_check_interval"] = draw.pick("of", 0.5, 1) if is_long else 1
        if draw.happens("limit_val_batches", 0.15):
            options["limit_val_batches"] = draw.pick("of", 0, 1, 2)
            self.validates &= options["limit_val_batches"] > 0
        if draw.happens("reloads", 0.1):
            options["reload_dataloaders_every_n_epochs"] = 1

    def _optimization(self) -> None:
        draw, options = self._draw, self.options
        self.schedules_accumulation = draw.happens("schedule of accumulation", 0.04)
        if draw.happens("accumulates", 0.2) and not self.schedules_accumulation:
            options["accumulate_grad_batches"] = draw.pick("of", 2, 3)
        if draw.happens("clips", 0.2) and self._subject.optimizer != "LBFGS":
            options["gradient_clip_val"] = 0.5
            options["gradient_clip_algorithm"] = draw.pick("by", "norm", "value")

    def callbacks(self) -> list[Callback]:
        """Return random callbacks of Lightning that are compatible with the other settings."""
        draw, found, epochs = self._draw, [], self.options["max_epochs"]
        averages = self._subject.automatic_optimization and self._subject.optimizer != "LBFGS"
        if draw.happens("early stopping", 0.15):
            found.append(EarlyStopping("val_loss" if self.validates else "loss", patience=1, strict=False))
        if draw.happens("swa", 0.1) and epochs > 1 and averages and not self._loaders.is_stream:
            found.append(StochasticWeightAveraging(1e-2, swa_epoch_start=1, annealing_epochs=1))
        elif draw.happens("ema", 0.1) and averages and HAS_EMA:
            found.append(callbacks.EMAWeightAveraging(decay=0.9))
        if draw.happens("learning rates", 0.1) and self.logger != "none":
            found.append(LearningRateMonitor())
        copies = any("WeightAveraging" in type(callback).__name__ for callback in found)
        keeps_float32 = self.options["precision"] == "32-true" and self._subject.net[-1].weight.dtype == torch.float32
        if draw.happens("pruning", 0.07) and not copies and keeps_float32:
            found.append(ModelPruning("l1_unstructured", [(self._subject.net[-1], "weight")], amount=0.3))
        if self.schedules_accumulation and not self.fits_twice:
            found.append(GradientAccumulationScheduler({0: 1, 1: 2}))
        if draw.happens("timer", 0.03):
            found.append(Timer("00:00:05:00"))
        return found

    def loggers(self, folder: Path) -> Any:
        """Return the `logger` argument of the Trainer."""
        made = {
            "recorder": lambda: Recorder(),
            "csv": lambda: CSVLogger(folder, "csv"),
            "tensorboard": lambda: TensorBoardLogger(folder, "tb"),
            "two": lambda: [Recorder(), CSVLogger(folder, "csv")],
            "default": lambda: True,
            "none": lambda: False,
        }
        return made[self.logger]()


def monitor_arguments(draw: Draw, task: Task, settings: Settings) -> dict[str, Any]:
    """Return random arguments of a monitor."""
    arguments: dict[str, Any] = {"num_segments": draw.pick("segments", 1, 2, 5, 8), "figures": draw.happens("figures", 0.04)}
    arguments["num_inputs"] = draw.pick("inputs", 2, 10, 1000, 20)
    arguments["seed"] = draw.pick("monitor's seed", 0, 1)
    optional = {
        "every_n_epochs": draw.pick("every", 1, 1, 1, 2),
        "measure_at_start": draw.pick("at start", True, True, False),
        "every_n_train_steps": draw.pick("steps", None, None, None, 2),
        "max_overhead": draw.pick("overhead", None, None, None, 0.05, 0.0),
        "method": draw.pick("method", "auto", "auto", "auto", "exact", "uniform"),
        "num_points": draw.pick("points", 129, 5),
        "num_regions": draw.pick("regions", 64, 3),
        "segments_per_pair": draw.pick("per pair", None, None, None, 1),
        "folding": draw.pick("folding", True, True, True, True, False),
        "codes": draw.pick("codes", True, True, True, False),
        "units": draw.pick("units", True, True, True, False),
        "faces": draw.pick("faces", True, True, True, False),
        "face_subspace": draw.pick("subspace", "auto", "auto", "auto", 1, 2, 4, "whole"),
        "layers": draw.pick("layers", None, None, None, None, "*", ["*"]),
    }
    if np.prod(task.shape) > 12 and optional["face_subspace"] == "whole":
        optional["face_subspace"] = "auto"  # whole regions of images take seconds
    if not any(optional[name] for name in ("folding", "codes", "units", "faces")):
        optional["codes"] = True
    if draw.happens("probes", 0.25):
        arguments["probes"] = probes(draw, task)
    if task.is_unpacked:
        arguments["batch_to_inputs"] = draw.pick("unpacks", task.unpack, lambda batch: task.unpack(batch)[0])
    if draw.happens("forward", 0.1):
        arguments["forward"] = draw.pick("by", "net", lambda model, x: model.net(x))
    return arguments | optional


def probes(draw: Draw, task: Task) -> Any:
    """Return random probes, with or without classes."""
    samples = Samples(task, draw.pick("of", 2, 12), 9, None)
    classes = torch.arange(len(samples)) % 2
    return draw.pick("as", lambda: (samples.x, classes), lambda: samples.x)()


class Witness(Callback):
    """Records batches, losses and random states of each step, and the number of epochs that the last `fit` ended."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.losses: list[Any] = []
        self.has_begun = False
        self.ends: Counter[str] = Counter()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.has_begun = True
        self.batches.append((batch, torch.get_rng_state()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].detach().clone() if outputs is not None else None)

    def on_validation_batch_end(self, *given: Any, **_: Any) -> None:
        self.losses.append(given[2].detach().clone())
        self.batches.append(given[3])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends["validation"] += trainer.state.fn == "fit" and not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends["training"] += 1


class Measured(Callback):
    """Callback after the monitor that keeps the weights of the last measurement."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if sum(trainer.num_val_batches) == 0:
            self.on_validation_epoch_end(trainer, pl_module)


def checkpoints(folder: Path, tag: str | None) -> ModelCheckpoint:
    """Return a checkpoint callback that keeps the best epoch by a tag, or the last epoch without one."""
    return ModelCheckpoint(folder / "checkpoints", monitor=tag, filename="best", save_weights_only=False)

"""Comparison of two trainings from one seed, with and without a monitor."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from fold_lightning import (
    FoldingMonitor,
    activation_codes,
    activation_regions,
    face_counts,
    segment_walks,
    space_folding,
)
from helpers.training import Model, fit, loaders, sample_of, segments_of


class Losses(Callback):
    """Records the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach().clone())


class Beside(Callback):
    """Callback next to a monitor that records the values of the public functions whenever the monitor measures."""

    def __init__(self, monitor: FoldingMonitor) -> None:
        self.monitor = monitor
        self.seen: list[dict[str, float]] = []
        self.weights: list[Tensor] = []

    def _look(self, pl_module: LightningModule) -> None:
        self.seen.append(measured_by_hand(self.monitor, pl_module))
        self.weights.append(first_weight(pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._look(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.num_val_batches:
            self._look(pl_module)


def first_weight(module: LightningModule) -> Tensor:
    return module.get_submodule("net.0").weight.detach().clone()


def measured_by_hand(monitor: FoldingMonitor, model: LightningModule) -> dict[str, float]:
    """Return the values that a monitor should log for a model, from the public functions."""
    items, settings = sample_of(monitor).probes.items, monitor.settings
    walks = segment_walks(model, *segments_of(monitor))
    inputs = items[: settings.num_inputs]
    faces = face_counts(activation_regions(model, items[: settings.num_regions], subspace=2)).double()
    return {
        "folding/chi_mean": space_folding(walks).mean().item(),
        "folding/regions": walks.num_regions().double().mean().item(),
        "codes/distinct": len(activation_codes(model, inputs).bits.unique(dim=0)),
        "faces/mean": faces.mean().item(),
        "faces/max": faces.max().item(),
    }


def training(
    tmp_path: Path,
    *callbacks: Any,
    model: Callable[[], Any] = Model,
    given: Callable[[], Any] = loaders,
    how: Callable[[], dict[str, Any]] = dict,
) -> tuple[Trainer, list[Any]]:
    """Train from a fixed seed.

    Returns:
        The Trainer, and the results of training: losses, weights, buffers, optimizers' states, metrics and random states.
    """
    seed_everything(3)
    losses = Losses()
    trainer = fit(tmp_path, *callbacks, losses, model=model(), given=given(), **how())
    own = {tag: value for tag, value in trainer.callback_metrics.items() if tag.startswith(("train", "val"))}
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    states = [torch.get_rng_state(), *np.random.get_state(), random.getstate()]
    return trainer, list(_leaves([losses.losses, trainer.lightning_module.state_dict(), optimizers, own, states]))


def assert_invisible(tmp_path: Path, *callbacks: Any, monitor: FoldingMonitor, **options: Any) -> Trainer:
    """Train without and with a monitor, and assert that the results of training are identical.

    Args:
        tmp_path: A folder.
        callbacks: Functions that make the other callbacks, and the monitor itself where it is not to come first.
        monitor: The monitor.
        options: Other arguments of `training`.

    Returns:
        The Trainer with the monitor.
    """
    _, without = training(tmp_path, *(make() for make in callbacks if callable(make)), **options)
    others = [make() if callable(make) else make for make in callbacks]
    trainer, with_it = training(tmp_path, *([] if monitor in others else [monitor]), *others, **options)
    assert trainer.logger.said and len(without) == len(with_it) > 50
    for a, b in zip(without, with_it, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, Tensor) else a == b
    return trainer


def _leaves(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        yield torch.from_numpy(value.astype(np.int64))
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value

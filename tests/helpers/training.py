"""A small model, data, a recording logger and a quiet fit, for tests that train with the monitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.measures import LAYER, MEASURES, PREFIXES, Sample

LAYERS = ["net.2", "net.5"]


def declared(*prefixes: str) -> set[str]:
    """Return the tags with some prefixes that measures declare, including measures that are not listed below."""
    tags = {tag for measure in MEASURES for tag in measure.tags if tag.startswith(prefixes)}
    return {tag.replace(LAYER, layer) for tag in tags for layer in LAYERS}


FOLDING = {f"folding/{name}" for name in "chi_mean chi_median chi_max fraction phi regions exact complete".split()}
FOLDING |= {f"folding/layer/{layer}" for layer in LAYERS}
CODES = {f"codes/{name}" for name in "distinct distinct_correct distinct_fraction within between".split()}
CODES |= {f"codes/layer/{layer}" for layer in LAYERS}
UNITS = {f"units/{what}{layer}" for what in ("dead", "always_active", "active") for layer in ("", "/net.2", "/net.5")}
FACES = {"faces/mean", "faces/max", "faces/bound", "regions/distance_mean", "regions/distance_median"}
FOLDING |= declared("folding/")
CODES |= declared("codes/")
UNITS |= declared("units/")
FACES |= declared("faces/", "regions/")
FIGURES = ["folding/walk", "folding/chi_over_steps", "folding/phi_matrix", "codes/distances", "units/by_layer", "faces/counts"]
FIGURES += ["regions/slice", "regions/slice_by_class"]
TAGS = FOLDING | CODES | UNITS | FACES | {"monitor/seconds"}
MONITOR_PREFIXES = (*PREFIXES, "monitor/")


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.unpack(batch)
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = self.unpack(batch)
        self.log("val/loss", F.cross_entropy(self(x), y))

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Recorder(Logger):
    """Logger that records all values of the monitor with their steps."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, dict[str, float]]] = []

    name, version = "recorder", 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        folding = {tag: value for tag, value in metrics.items() if tag.startswith(MONITOR_PREFIXES)}
        if folding:
            self.said.append((step, folding))


def data(size: int = 60, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def loaders(train: Dataset[Any] | None = None, val: Dataset[Any] | None = None) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train_loader = DataLoader(train or data(), batch_size=20, shuffle=not isinstance(train, IterableDataset))
    return train_loader, DataLoader(val or data(40, 1), batch_size=20)


class Stream(IterableDataset[Any]):
    """Stream of the items of an iterable."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)


def watch(**options: Any) -> FoldingMonitor:
    """Return a monitor that measures every due epoch."""
    return FoldingMonitor(**({"max_overhead": None} | options))


def sample_of(monitor: FoldingMonitor) -> Sample:
    return monitor._session.sample


def segments_of(monitor: FoldingMonitor) -> tuple[Tensor, Tensor]:
    """Return the starts and ends of a monitor's segments."""
    sample = sample_of(monitor)
    return sample.probes.items[sample.segments.start], sample.probes.items[sample.segments.end]


def fit(tmp_path: Path, *callbacks: Any, model: Model | None = None, given: Any = None, **options: Any) -> Trainer:
    settings = {"max_epochs": 2, "logger": Recorder(), "accelerator": "cpu", "log_every_n_steps": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    if any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        quiet["enable_checkpointing"] = True
    trainer = Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **(quiet | settings | options))
    trainer.fit(Model() if model is None else model, *(given or loaders()))
    return trainer

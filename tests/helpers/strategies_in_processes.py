"""Train under DDP in several difficult scenarios, and print the values logged in each. Run by tests in two processes."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.measures.sources import SegmentSource
from helpers.training import Model, Recorder, data

RANK = int(os.environ.get("RANK", 0))


class Still(Model):
    """Model with learning rate 0, so that one process and two have the same network."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.eval()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


class Unused(Still):
    """Model with weights that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = torch.nn.Linear(3, 3)


class Uneven(IterableDataset[Any]):
    """Stream with a different length in each process; optionally with labels in the first process only."""

    def __init__(self, sizes: tuple[int, int], labels: bool = True) -> None:
        self.size, self.labels = sizes[RANK], labels or RANK == 0

    def __iter__(self) -> Iterator[Any]:
        x, y = data(self.size, 1).tensors
        return iter(zip(x, y, strict=True)) if self.labels else iter(x)


class Whole(IterableDataset[Any]):
    """Stream with the same items in all processes."""

    def __iter__(self) -> Iterator[Any]:
        return zip(*data(90, 1).tensors, strict=True)


class Sharded(Still):
    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in (self.net[0], self.net[4], self.net[6]):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])


def fit(monitor: FoldingMonitor, model: LightningModule | None = None, val: Any = None, **options: Any) -> Recorder:
    seed_everything(0, verbose=False)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    settings = {"max_epochs": 2, "accelerator": "cpu", "devices": 2, "logger": Recorder(), "num_sanity_val_steps": 0}
    # Otherwise DDP synchronises buffers in every forward pass, which hangs with uneven batches.
    settings["strategy"] = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60), broadcast_buffers=False)
    trainer = Trainer(callbacks=[monitor, *options.pop("beside", [])], **(quiet | settings | options))
    validation = DataLoader(data(90, 1) if val is None else val, batch_size=20)
    trainer.fit(model or Still(), DataLoader(data(), batch_size=10), validation)
    return trainer.logger


def watch(**options: Any) -> FoldingMonitor:
    return FoldingMonitor(**({"num_segments": 13, "num_inputs": 45, "max_overhead": None} | options))


def plain(**options: Any) -> Recorder:
    return fit(watch(), **options)


def unused() -> Recorder:
    return fit(watch(), Unused(), strategy="ddp_find_unused_parameters_true")


def stream() -> Recorder:
    return fit(watch(), val=Whole())


def uneven() -> Recorder:
    return fit(watch(), val=Uneven((70, 30)))


def nothing_passes() -> Recorder:
    return fit(watch(), val=Uneven((70, 0)))


def labels_in_one_process() -> Recorder:
    return fit(watch(), val=Uneven((70, 70), labels=False))


def early_stopping() -> Recorder:
    return fit(watch(), beside=[EarlyStopping("folding/chi_mean", patience=1)], max_epochs=9)


def without_validation() -> Recorder:
    return fit(watch(), limit_val_batches=0)


def fails_in_one_process() -> Recorder:
    """Train where the second process fails to walk at the second measurement."""
    walk, calls = SegmentSource.walk, []

    def failing(self: SegmentSource, model: LightningModule, rows: Tensor) -> Any:
        calls.append(len(rows))
        if RANK == 1 and len(calls) == 3:  # after the check and the first measurement
            raise RuntimeError("out of memory in the second process")
        return walk(self, model, rows)

    SegmentSource.walk = failing
    try:
        return fit(watch(), max_epochs=3)
    finally:
        SegmentSource.walk = walk


def refused(what: dict[str, Any], model: LightningModule, **options: Any) -> str:
    try:
        fit(watch(**what), model, **options)
    except Exception as error:
        return str(error)
    return "nothing"


class NoActivations(Still):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(5, 3)


class OnlyInOne(Still):
    """Model whose forward pass fails in one process."""

    def forward(self, x: Tensor) -> Tensor:
        if RANK == 1 and not torch.is_grad_enabled():
            raise RuntimeError("not here")
        return super().forward(x)


def main() -> None:
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", ".*could not measure")
    scenarios = (plain, unused, stream, uneven, nothing_passes, labels_in_one_process, early_stopping, without_validation)
    scenarios += (fails_in_one_process,)
    said: dict[str, Any] = {}
    for scenario in scenarios:
        print(scenario.__name__, file=sys.stderr, flush=True)
        said[scenario.__name__] = scenario().said
    said["no activations"] = refused({}, NoActivations())
    said["fails at the start in one process"] = refused({}, OnlyInOne())
    sharding = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    said["sharded"] = refused({}, Sharded(), strategy=sharding)
    if RANK == 0:
        print(json.dumps(said), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # destroying the process groups of several Trainers may abort a process at its end


if __name__ == "__main__":
    main()

"""Trains a network that does not move, under DDP, and prints what its monitor logged. Run by the tests, in processes of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, IterableDataset

from fold_lightning import FoldingMonitor
from helpers.training import Model, Recorder, data


class Still(Model):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.eval()  # so that no statistic moves either


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return zip(*data(90, 1).tensors, strict=True)


def main(devices: int, is_stream: bool) -> None:
    seed_everything(0, verbose=False)
    monitor = FoldingMonitor(num_segments=12, max_overhead=None)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=2, strategy="ddp", accelerator="cpu", devices=devices, callbacks=[monitor], logger=Recorder(), **quiet
    )
    validation = DataLoader(Stream() if is_stream else data(90, 1), batch_size=20)
    trainer.fit(Still(), DataLoader(data(), batch_size=10), validation)
    if trainer.is_global_zero:
        print(json.dumps([values for _, values in trainer.logger.said]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "stream")

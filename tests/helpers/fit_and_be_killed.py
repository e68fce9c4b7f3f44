"""Train with checkpoints, kill the process after a batch of a given epoch, and resume from the last checkpoint. Run by tests."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from fold_lightning import FoldingMonitor
from helpers.training import Model, data


class Killed(Callback):
    """Kills the process with SIGKILL after a batch of an epoch, so that nothing is cleaned up."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == self._epoch:
            for logger in trainer.loggers:
                logger.experiment.flush()
            os.kill(os.getpid(), signal.SIGKILL)


class Plain(Model):
    """The model without dropout, so that its forward pass draws no random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = nn.Identity()


def fit_and_be_killed(folder: Path, name: str, epoch: int) -> None:
    seed_everything(0, verbose=False)
    checkpoints = folder / name / "checkpoints"
    trainer = Trainer(
        max_epochs=8,
        callbacks=[
            FoldingMonitor(num_segments=8, max_overhead=None, figures=False),
            ModelCheckpoint(checkpoints, every_n_epochs=3, save_last=True),
            Killed(epoch),
        ],
        logger=TensorBoardLogger(folder, name=name, version=0),
        accelerator="cpu",
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = checkpoints / "last.ckpt"
    given = DataLoader(data(), batch_size=20), DataLoader(data(40, 1), batch_size=20)
    trainer.fit(Plain(), *given, ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fit_and_be_killed(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

"""Takes one step of the regularizer alone under DDP, and prints the gradient. Run by the tests, in processes of its own."""

from __future__ import annotations

import json
from typing import Any

from lightning.pytorch import Trainer
from test_monitor import Recorder, data
from test_regularization import Losses, Plain, each_step, monitor
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler


class TermAlone(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0.0 * self(batch[0]).sum()

    def train_dataloader(self) -> Any:
        sampler = DistributedSampler(data(40), num_replicas=2, rank=self.global_rank, shuffle=False)
        return DataLoader(data(40), batch_size=10, sampler=sampler)

    def val_dataloader(self) -> Any:
        return DataLoader(data(20, 1), batch_size=10)


def main() -> None:
    losses, model = Losses(), TermAlone()
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    callbacks = [monitor(each_step(3.0)), losses]
    trainer = Trainer(
        max_steps=1, strategy="ddp", accelerator="cpu", devices=2, callbacks=callbacks, logger=Recorder(), **quiet
    )
    trainer.fit(model)
    if trainer.is_global_zero:
        print(json.dumps(losses.gradients[0].tolist()))


if __name__ == "__main__":
    main()

"""Train a few steps with the regularizer in two processes, and print the result of one of four cases:

loss     gradient of the term in the loss, without the task's loss
push     weights of each process after pushes in a Trainer
odd      the same as "push", but the second process has a term in the first step only
by_hand  the same as "push", in a loop without a Trainer
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from fold_lightning import FoldingRegularizer
from fold_lightning.callbacks.regularization import BATCHES_OF_A_STEP
from helpers.regularization import Losses, Plain, in_loss, monitor
from helpers.training import Recorder, data

STEPS = 3


def regularizer(every_n_steps: int = 2) -> FoldingRegularizer:
    return FoldingRegularizer(schedule="constant", every_n_steps=every_n_steps, warm_steps=2)


class Pushed(Plain):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        sampler = DistributedSampler(data(60), num_replicas=2, rank=self.global_rank, shuffle=False)
        return DataLoader(data(60), batch_size=10, sampler=sampler)

    def val_dataloader(self) -> Any:
        return DataLoader(data(20, 1), batch_size=10)


class TermAlone(Pushed):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0.0 * self(batch[0]).sum()


def weights_of_all(weight: Tensor) -> list[Any]:
    found: list[Any] = [None, None]
    distributed.all_gather_object(found, weight.detach().tolist())
    return found


def train(model: Pushed, regularize: FoldingRegularizer, steps: int, *callbacks: Any, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        max_steps=steps,
        strategy="ddp",
        accelerator="cpu",
        devices=2,
        callbacks=[monitor(regularize, **options), *callbacks],
        logger=Recorder(),
        **quiet,
    )
    trainer.fit(model)
    return trainer


def in_a_trainer(*, is_odd: bool) -> dict[str, Any]:
    model, calls = Pushed(), []

    def inputs_of(batch: Any) -> Any:
        calls.append(batch)
        if is_odd and model.global_rank == 1 and model.global_step > 0:
            raise KeyError("inputs")
        return batch

    held = regularizer(every_n_steps=1 if is_odd else 2)
    train(model, held, STEPS, probes=data(20, 1).tensors, batch_to_inputs=inputs_of)
    skipped: list[Any] = [None, None]
    distributed.all_gather_object(skipped, held.num_skipped)
    return {"weights": weights_of_all(model.net[0].weight), "skipped": skipped}


def term_in_the_loss() -> list[Any]:
    losses = Losses()
    train(TermAlone(), in_loss(3.0), 1, losses)
    return losses.gradients[0].tolist()


def train_by_hand(rank: int) -> Tensor:
    network = Plain()
    wrapped, held = DistributedDataParallel(network.net), regularizer()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for step in range(STEPS):
        inputs, labels = (part[rank::2][10 * step : 10 * step + 10] for part in data(60).tensors)
        optimizer.zero_grad()
        F.cross_entropy(wrapped(inputs), labels).backward()
        held.draws = step * BATCHES_OF_A_STEP
        held.push(wrapped, inputs, labels)
        optimizer.step()
    return network.net[0].weight


def main() -> None:
    found: dict[str, Any] = {"loss": term_in_the_loss()}
    found |= {name: in_a_trainer(is_odd=name == "odd") for name in ("push", "odd")}
    rank = distributed.get_rank()
    found["by_hand"] = {"weights": weights_of_all(train_by_hand(rank))}
    if rank == 0:
        print(json.dumps(found), flush=True)
    distributed.barrier()
    os._exit(0)  # a wrapper destroyed after its process group may wait forever


if __name__ == "__main__":
    main()

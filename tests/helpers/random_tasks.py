"""Random learning tasks: forms of batches and labels, and outputs and logging of a LightningModule."""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from helpers.random_models import Draw, RandomNetwork

SHAPES = [(2,), (3,), (5,), (5,), (8,), (12,), (1, 8), (2, 6), (1, 6, 6), (1, 8, 8), (2, 5, 5)]
CLASSES = 3
Named = namedtuple("Named", ["x", "y"])


@dataclass
class Parcel:
    """A batch as a custom class."""

    x: Tensor
    y: Tensor


class Task:
    """Random forms of batches, labels and outputs."""

    def __init__(self, draw: Draw) -> None:
        self.shape = draw.pick("shape", *SHAPES)
        self.labels = draw.pick("labels", "classes", "classes", "classes", "missing", "one-hot", "binary", "regression", "none")
        forms = [
            "pair",
            "pair",
            "list",
            "triple",
            "dict",
            "indexed",
            "named",
            "parcel",
            "target first",
            "nested",
            "device dict",
        ]
        self.form = "tensor" if self.labels == "none" else draw.pick("batch", *forms)
        self.output = draw.pick("output", "tensor", "tensor", "tuple", "dict", "single", "flat", "heads", "object")
        self.needs_unpacking = self.form in ("parcel", "target first", "nested")
        self.is_unpacked = self.needs_unpacking and not draw.happens("not unpacked", 0.15)

    @property
    def outputs(self) -> int:
        return 1 if self.output in ("single", "flat") or self.labels == "binary" else CLASSES

    def pack(self, items: list[tuple[Tensor, Tensor]]) -> Any:
        """Return a batch of items."""
        x, y = default_collate(items)
        forms = {
            "tensor": lambda: x,
            "pair": lambda: (x, y),
            "list": lambda: [x, y],
            "triple": lambda: (x, y, {"weight": torch.ones(len(x))}),
            "dict": lambda: {"x": x, "y": y},
            "indexed": lambda: {"index": torch.arange(len(x)), "image": x, "label": y},
            "named": lambda: Named(x, y),
            "parcel": lambda: Parcel(x, y),
            "target first": lambda: (y, x),
            "nested": lambda: ((x, torch.ones(len(x))), y),
            "device dict": lambda: {"meta": ["a"] * len(x), "input": x, "targets": y},
        }
        return forms[self.form]()

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return the inputs and labels of a batch."""
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, Parcel):
            return batch.x, batch.y
        if isinstance(batch, dict):
            x = next(batch[key] for key in ("x", "image", "input") if key in batch)
            return x, next(batch[key] for key in ("y", "label", "targets") if key in batch)
        if self.form == "target first":
            return batch[1], batch[0]
        return (batch[0][0], batch[1]) if self.form == "nested" else (batch[0], batch[1])

    def dress(self, out: Tensor) -> Any:
        """Return a model's output in the form of the task."""
        forms = {
            "tuple": lambda: (out, out.relu()),
            "dict": lambda: {"logits": out, "features": out * 2},
            "flat": lambda: out.squeeze(1),
            "heads": lambda: {"a": out, "b": -out},
            "object": lambda: SimpleNamespace(logits=out),
        }
        return forms[self.output]() if self.output in forms else out

    def undress(self, output: Any) -> Tensor:
        """Return the logits (B, outputs) in a model's output."""
        if isinstance(output, (tuple, dict)):
            output = output[0] if isinstance(output, tuple) else output.get("logits", output.get("a"))
        output = getattr(output, "logits", output)
        return output if output.dim() > 1 else output[:, None]


def loss_of(logits: Tensor, y: Tensor | None) -> Tensor:
    """Return a loss that suits the labels."""
    logits = logits.float()
    if y is None:
        return (logits.square().mean() - 1) ** 2
    if not y.is_floating_point() and logits.shape[1] > 1:
        return F.cross_entropy(logits, y.long(), ignore_index=-100)
    if y.is_floating_point():
        return F.mse_loss(logits.mean(1), y.float().view(len(y), -1).mean(1))
    return F.binary_cross_entropy_with_logits(logits[:, 0], (y > 0).float())


class Samples(Dataset[Any]):
    """Inputs and labels; inputs may be augmented with global random numbers or with the data set's own generator."""

    def __init__(self, task: Task, size: int, seed: int, augmentation: str | None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, *task.shape, generator=generator)
        flat = self.x.flatten(1)
        classes = (flat[:, 0] > 0).long() + (flat[:, 1] > 0).long()
        self.y = {
            "missing": torch.where(torch.arange(size) % 4 == 0, -100, classes),
            "one-hot": F.one_hot(classes, CLASSES).float(),
            "binary": (classes > 0).float(),
            "regression": flat[:, :2].sin(),
        }.get(task.labels, classes)
        self.augmentation, self.own = augmentation, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x[i]
        if self.augmentation == "python":
            x = x * random.uniform(0.8, 1.2)
        elif self.augmentation == "numpy":
            x = x + float(np.random.normal(0, 0.1))
        elif self.augmentation == "torch":
            x = x + 0.1 * torch.randn(x.shape)
        elif self.augmentation == "own":
            x = x + float(self.own.normal(0, 0.1))
        return x, self.y[i]


class Stream(IterableDataset[Any]):
    """The items of `Samples` as a stream."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[i] for i in range(len(self.samples)))


class Loaders:
    """Random loaders of training and validation data.

    Attributes:
        train: A loader, or a list of two.
        val: A loader, a list of two, or None.
        size: Batch size.
        is_stream: Whether training data can't be read by index.
        is_pair: Whether training batches come in pairs.
        samples: All data sets.
        generators: Generators of the loaders that have their own.
    """

    def __init__(self, draw: Draw, task: Task) -> None:
        self._draw, self._task = draw, task
        self.generators: list[torch.Generator] = []
        self.samples: list[Samples] = []
        augmentation = draw.pick("augmentation", None, None, None, "python", "numpy", "torch", "own")
        self.is_stream = draw.happens("training stream", 0.15)
        self.size = draw.pick("batch size", 4, 7, 16, 64)
        samples = Samples(task, draw.pick("items", 18, 32, 46), 0, augmentation)
        self.is_pair = draw.happens("two training loaders", 0.05)
        loaders = [self._loader(samples, self.is_stream, True) for _ in range(1 + self.is_pair)]
        self.train = loaders if self.is_pair else loaders[0]
        self._noise = augmentation if draw.happens("augmented validation", 0.3) else None
        self.val = self._validation()

    def _validation(self) -> Any:
        draw = self._draw
        count = draw.pick("validation loaders", 0, 0, 1, 1, 1, 1, 2, 2)
        self.val_is_stream = draw.happens("validation stream", 0.15) if count else False
        loaders = [
            self._loader(Samples(self._task, draw.pick("validation items", 9, 24, 40), 1 + i, self._noise), self.val_is_stream)
            for i in range(count)
        ]
        return loaders if count == 2 else loaders[0] if loaders else None

    def _loader(self, samples: Samples, is_stream: bool, shuffles: bool = False) -> DataLoader[Any]:
        draw = self._draw
        self.samples.append(samples)
        options: dict[str, Any] = {"batch_size": self.size, "collate_fn": self._task.pack}
        if draw.happens("own generator", 0.3):
            options["generator"] = torch.Generator().manual_seed(5)
            self.generators.append(options["generator"])
        if draw.happens("a worker", 0.01):
            options["num_workers"] = 1
        if is_stream:
            return DataLoader(Stream(samples), **options)
        options["drop_last"] = len(samples) >= self.size and draw.happens("drops the last", 0.1)
        return DataLoader(samples, shuffle=draw.random() < (0.8 if shuffles else 0.1), **options)


class Subject(LightningModule):
    """A LightningModule around a random network."""

    def __init__(self, draw: Draw, task: Task, takes_pairs: bool = False) -> None:
        super().__init__()
        self.task, self.takes_pairs = task, takes_pairs
        network = RandomNetwork(draw, task.shape, task.outputs)
        self.net, self.refusal, self.has_twin = network.net, network.refusal, network.has_twin
        self._choose_optimizer(draw)

    def _choose_optimizer(self, draw: Draw) -> None:
        self.optimizer = draw.pick("optimizer", "SGD", "momentum", "Adam", "AdamW", "Adam", "LBFGS")
        self.schedules = draw.happens("schedule", 0.3)
        self.automatic_optimization = not (self.optimizer != "LBFGS" and draw.happens("manual optimization", 0.06))
        self.returns = draw.pick("returns", "loss", "loss", "dict")
        self.logs_in_forward = draw.happens("logs in forward", 0.2)
        self.logs_on = draw.pick("logs on", "step", "epoch", "both")

    def forward(self, x: Tensor) -> Any:
        parameter = next(self.net.parameters())
        if self.logs_in_forward:
            self.log("seen", x.float().mean(), batch_size=len(x))
            self.log_dict({"least": x.float().min(), "most": x.float().max()}, batch_size=len(x))
        return self.task.dress(self.net(x.to(parameter.dtype)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self._loss(batch[0] if self.takes_pairs else batch)
        self.log("loss", loss, on_step=self.logs_on != "epoch", on_epoch=self.logs_on != "step")
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss if self.returns == "loss" else {"loss": loss, "more": batch}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        loss = self._loss(batch)
        if dataloader_idx == 0:
            self.log("val_loss", loss, add_dataloader_idx=False)
        return loss

    def _loss(self, batch: Any) -> Tensor:
        x, y = self.task.unpack(batch)
        return loss_of(self.task.undress(self(x)), y)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        made: dict[str, Any] = {
            "SGD": lambda: torch.optim.SGD(parameters, 0.1),
            "momentum": lambda: torch.optim.SGD(parameters, 0.05, momentum=0.9),
            "Adam": lambda: torch.optim.Adam(parameters, 1e-2),
            "AdamW": lambda: torch.optim.AdamW(parameters, 1e-2),
            "LBFGS": lambda: torch.optim.LBFGS(parameters, 0.1, max_iter=2),
        }
        optimizer = made[self.optimizer]()
        return ([optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]) if self.schedules else optimizer

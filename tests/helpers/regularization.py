"""Models, callbacks and options of the regularizer's tests."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fold_lightning import FoldingMonitor, FoldingRegularizer
from helpers.training import Model, Recorder, data

TAGS = {"regularizer/term", "regularizer/weight", "regularizer/soft_chi"}


class Scalars(Recorder):
    """Logger that records the regularizer's values."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        found = {tag: value for tag, value in metrics.items() if tag.startswith("regularizer/")}
        if found:
            self.said.append((step, found))


class Losses(Callback):
    """Records the losses before any scaling, and the gradients of the first layer."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[Tensor] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.item())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        gradient = pl_module.net[0].weight.grad
        self.gradients.append(torch.zeros(()) if gradient is None else gradient.clone())


class Plain(Model):
    """Model without batch norm and dropout, so that the order of passes does not matter."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [5, *(widths or (16, 16))]
        hidden = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        self.net = nn.Sequential(*(module for pair in hidden for module in pair), nn.Linear(sizes[-1], 3))


def monitor(regularize: Any = True, **options: Any) -> FoldingMonitor:
    few = {"num_segments": 4, "num_inputs": 8, "max_overhead": None, "figures": False, "measure_at_start": False}
    return FoldingMonitor(regularize=regularize, **(few | options))


def each_step(weight: float = 1.0, **options: Any) -> FoldingRegularizer:
    return FoldingRegularizer(weight, **({"schedule": "constant", "every_n_steps": 1} | options))


def in_loss(weight: float = 1.0, **options: Any) -> FoldingRegularizer:
    return each_step(weight, share=None, **options)


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.lightning_module.state_dict().items()}


def ordered() -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(data(), batch_size=10), DataLoader(data(40, 1), batch_size=20)


def batch(size: int = 12, features: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, features, generator=generator).to(dtype), torch.arange(size) % 3


class Watchful(nn.Module):
    """Model that counts its calls in a buffer and an attribute, keeps its last input, and always draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.number, self.last = 0, None
        self.net = nn.Sequential(
            *(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        )
        self.net[1].eval()  # frozen by its user

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.number, self.last = self.number + 1, x
        torch.rand(3)
        return self.net(x)

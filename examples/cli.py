"""Folding on Lightning's command line: every argument of the monitor is one of the configuration.

    python examples/cli.py fit --config examples/cli.yaml
    python examples/cli.py fit --config examples/cli.yaml --trainer.max_epochs=5 --trainer.callbacks.layers="net.*"
    python examples/cli.py fit --trainer.callbacks.help=fold_lightning.FoldingMonitor

In a project of your own the `callbacks` of `cli.yaml` are all it takes.
"""

from __future__ import annotations

from pathlib import Path

from digits import Classifier
from idx import load_images
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from models import build
from torch.utils.data import DataLoader, TensorDataset


class Network(Classifier):
    """A network of hidden layers for the digits.

    Args:
        side: Pixels along a side of an image.
        activation: Of its hidden layers.
        depth: How many there are.
        width: Units of each.
    """

    def __init__(self, side: int = 8, activation: str = "relu", depth: int = 6, width: int = 64) -> None:
        super().__init__(build("mlp", activation, side, depth, width))


class Digits(LightningDataModule):
    """Scikit-learn's digits, or MNIST.

    Args:
        folder: Of MNIST's four IDX files; without one the bundled digits.
        batch_size: Of the training.
    """

    def __init__(self, folder: Path | None = None, batch_size: int = 64) -> None:
        super().__init__()
        self._folder, self._batch_size = folder, batch_size

    def setup(self, stage: str) -> None:
        self._train, self._test = (TensorDataset(*part) for part in load_images(self._folder))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._train, self._batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._test, 1024)


if __name__ == "__main__":
    LightningCLI(Network, Digits, save_config_kwargs={"overwrite": True})

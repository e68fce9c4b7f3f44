"""The monitor with LightningCLI: every argument of the monitor can be set in the configuration or on the command line.

    python examples/cli.py fit --config examples/cli.yaml
    python examples/cli.py fit --config examples/cli.yaml --trainer.max_epochs=5 --trainer.callbacks.layers="net.*"
    python examples/cli.py fit --trainer.callbacks.help=fold_lightning.FoldingMonitor

Your own project needs only the `callbacks` of `cli.yaml`.
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
    """A fully connected network for the digits.

    Args:
        side: Pixels along a side of an image.
        activation: Activation of the hidden layers.
        depth: Number of hidden layers.
        width: Units of each hidden layer.
    """

    def __init__(self, side: int = 8, activation: str = "relu", depth: int = 6, width: int = 64) -> None:
        super().__init__(build("mlp", activation, side, depth, width))


class Digits(LightningDataModule):
    """Scikit-learn's digits, or MNIST.

    Args:
        folder: Folder with MNIST's four IDX files; None takes the bundled digits.
        batch_size: Batch size of the training.
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

"""Train a deep network on handwritten digits and watch how it folds its input space.

    python examples/digits.py [--data-dir FOLDER] [--model mlp] [--activation relu] [--epochs 60] [--depth 6] [--width 64]

Without a folder with MNIST's IDX files, it trains on scikit-learn's bundled digits. Then look at the curves:

    tensorboard --logdir logs
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import warnings
from pathlib import Path

import torch
from idx import load_images
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from models import ACTIVATIONS, MODELS, build
from options import output_folder, positive
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fold_lightning import FoldingMonitor

try:
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError:
    sys.exit("The table of examples/digits.py needs rich: pip install 'fold-lightning[examples]'.")


class Classifier(LightningModule):
    """LightningModule around a network that takes flattened images and returns logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        accuracy = (self(images).argmax(1) == labels).float().mean()
        self.log("val/accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class History(Callback):
    """Callback that records the values of the table at the end."""

    columns = (
        *("val/accuracy", "folding/chi_mean", "folding/phi", "folding/fraction", "folding/regions"),
        *("codes/distinct", "units/dead"),
    )

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[float]]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = [float(trainer.callback_metrics.get(name, math.nan)) for name in self.columns]
        self.rows.append((trainer.current_epoch + 1, values))

    def table(self, most: int = 12) -> Table:
        """Return a table of at most `most` evenly spaced epochs, including the last."""
        table = Table("epoch", *(name.partition("/")[2] for name in self.columns), title="Folding during training")
        every = -(-len(self.rows) // most)
        for epoch, values in self.rows[::-1][::every][::-1]:
            table.add_row(str(epoch), *("-" if math.isnan(value) else f"{value:.3f}" for value in values))
        return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files, gzipped or not")
    parser.add_argument("--epochs", type=positive, help="60 for the bundled digits, 3 for a folder's")
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--activation", choices=[*ACTIVATIONS, "swiglu"], default="relu")
    parser.add_argument("--depth", type=positive, default=6, help="hidden layers, or blocks")
    parser.add_argument("--width", type=positive, default=64, help="units of each")
    parser.add_argument(
        "--segments", type=positive, default=64, help="segments that the monitor walks, at least one for each pair of classes"
    )
    parser.add_argument("--log-dir", type=output_folder, default="logs")
    arguments = parser.parse_args()
    try:
        train, test = load_images(arguments.data_dir)
        side = math.isqrt(train[0].shape[1])
        seed_everything(0, verbose=False)
        net = build(arguments.model, arguments.activation, side, arguments.depth, arguments.width)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"digits.py: {error}")

    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the data are in memory
    model = Classifier(net)
    history = History()
    logger = TensorBoardLogger(arguments.log_dir, name="digits")
    # Epochs of the bundled digits are so short that a limit on the share of time would skip most of them.
    monitor = FoldingMonitor(num_segments=arguments.segments, max_overhead=0.05 if arguments.data_dir else None)
    trainer = Trainer(
        max_epochs=arguments.epochs or (3 if arguments.data_dir else 60),
        callbacks=[monitor, history],
        logger=logger,
        accelerator="cpu",
        log_every_n_steps=5,
    )
    trainer.fit(
        model,
        DataLoader(TensorDataset(*train), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(*test), batch_size=1024),
    )
    Console().print(history.table())
    print(
        f"Logged to {logger.log_dir}\nSee the curves with:\n\n    tensorboard --logdir {shlex.quote(str(arguments.log_dir))}\n"
    )


if __name__ == "__main__":
    main()

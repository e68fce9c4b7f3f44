"""What the monitor takes of a training: the time in its hooks, and training with it over training without.

    python examples/benchmarks/overhead.py --data-dir FOLDER [--epochs 5] [--pairs 0] [--output-dir docs/results]

Trains networks on the images of the folder, with the monitor's defaults and TensorBoard's logger. With `--pairs 3` it also trains
without, and gives the ratio of the times of `fit`: median, least and greatest of pairs of neighbouring runs, whose order alternates,
and the same of two runs without a monitor, which shows how noisy a machine is.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import CLOCK, clock, ratio
from digits import Classifier
from idx import load_images
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from models import build, lenet, resnet
from options import positive
from pages import Page, parse, parser

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.schedule import FREE_SECONDS

NETWORKS: dict[str, tuple[str, Callable[[int], nn.Module], int]] = {
    "mlp": ("MLP 3 x 256", lambda side: build("mlp", "relu", side, 3, 256), 60_000),
    "lenet": ("LeNet", lenet, 60_000),
    "vit": ("vision transformer 2 x 64", lambda side: build("vit", "gelu", side, 2, 64), 15_000),
    "resnet8": ("ResNet-8", lambda side: resnet(side, 1), 5_000),
}
"""Name in the table, builder from the side of an image, and images to train with: those of MNIST took a ResNet 20 minutes."""

TEXT = """Measurements may take 10 s, or 5 % of the training's time if that is more; the first and the last are made in any case.
So the share falls as training goes on, and is large where few images are trained on. Much of the time in hooks is drawing."""

HEADER = ("network", "images", "method", "in hooks, of the fit", "share beyond the first 10 s", "fit with / without", "noise")
TAGS = ("folding/chi_mean", "folding/phi", "codes/distinct")


class HookTimes(Profiler):
    """Sum of the seconds in the monitor's own hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self._begin = 0.0

    def start(self, action_name: str) -> None:
        if "]FoldingMonitor" in action_name:
            self._begin = clock()

    def stop(self, action_name: str) -> None:
        if "]FoldingMonitor" in action_name:
            self.seconds += clock() - self._begin


class Bench:
    """Fits one network again and again.

    Args:
        network: Its name.
        data: Images and labels to train and to validate with.
        arguments: Of the command line.
    """

    def __init__(self, network: str, data: tuple[tuple[Tensor, Tensor], ...], arguments: argparse.Namespace) -> None:
        self._network, self._data, self._arguments = network, data, arguments
        self.last: dict[str, float] = {}
        self.method = ""
        self.in_hooks: list[float] = []
        self.took: list[float] = []

    def seconds(self, on: bool) -> float:
        """Return how long a fit takes with the monitor, or without."""
        torch.manual_seed(0)
        train, test = (TensorDataset(*part) for part in self._data)
        monitor = FoldingMonitor()
        quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_epochs=self._arguments.epochs,
                callbacks=[monitor] if on else [],
                logger=TensorBoardLogger(folder),
                accelerator="cpu",
                profiler=(profiler := HookTimes()),
                **quiet,
            )
            side = int(self._data[0][0].shape[1] ** 0.5)
            model = Classifier(NETWORKS[self._network][1](side))
            loaders = DataLoader(train, self._arguments.batch_size, shuffle=True), DataLoader(test, 1024)
            begin = clock()
            trainer.fit(model, *loaders)
            took = clock() - begin
        if on:
            self.method = monitor.state_dict()["method"]
            self.last = {tag: value.item() for tag, value in trainer.callback_metrics.items()}
            self.in_hooks.append(profiler.seconds)
            self.took.append(took)
        return took

    def pairs(self, with_monitor: bool = True) -> list[tuple[float, float]]:
        """Return seconds with and without the monitor, of neighbouring runs."""
        found = []
        for pair in range(self._arguments.pairs):
            order = (True, False) if pair % 2 else (False, True)
            took = {first: self.seconds(first and with_monitor) for first in order}
            found.append((took[True], took[False]))
        return found


def main() -> None:
    options = parser(__doc__, "scikit-learn's digits otherwise")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--epochs", type=positive, default=5)
    options.add_argument("--pairs", type=int, default=0, help="pairs of runs with and without the monitor")
    options.add_argument("--batch-size", type=positive, default=64)
    options.add_argument("--images", type=positive, help="images to train with, instead of those of each network")
    arguments = parse(options)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    train, test = load_images(arguments.data_dir)
    with Page("overhead_large", "The monitor in trainings of MNIST", arguments.output_dir) as page:
        page.say(f"{arguments.epochs} epochs, batches of {arguments.batch_size}. {TEXT} {CLOCK}")
        page.table(*HEADER, *TAGS)
        for network in arguments.networks:
            name, _, count = NETWORKS[network]
            data = tuple(part[: arguments.images or count] for part in train), test
            bench = Bench(network, data, arguments)
            pairs = [bench.pairs(on) for on in (True, False)] if arguments.pairs else []
            if not pairs:
                bench.seconds(True)
            hooks, took = statistics.median(bench.in_hooks), statistics.median(bench.took)
            beyond = max(0.0, hooks - FREE_SECONDS) / (took - hooks)
            cells = [name, f"{len(data[0][0]):,}", bench.method, f"{hooks:.1f} s of {took:.1f} s", f"{beyond:.1%}"]
            cells += [ratio([one / two for one, two in found]) for found in pairs] or ["-", "-"]
            page.row(*cells, *(f"{bench.last[tag]:.3g}" for tag in TAGS))


if __name__ == "__main__":
    main()

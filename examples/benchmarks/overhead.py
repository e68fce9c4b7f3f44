"""What the monitor costs: training with it over training without, pair by pair.

    python examples/benchmarks/overhead.py --data-dir FOLDER [--epochs 5] [--pairs 5] [--max-seconds auto]

Trains a 3 x 256 MLP and a small CNN on the images of the folder, measuring every epoch with the monitor's defaults and TensorBoard's
logger, and prints the ratio of the times of `fit` (wall clock): median, least and greatest of pairs of neighbouring runs, whose order
alternates, and that of the fastest run with and the fastest without. Machines are shared and noisy: "nothing" is the same of two runs
without a monitor, and "in its hooks" the share of `fit` that Lightning's profiler finds in the monitor's own hooks.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from digits import Classifier
from idx import load_images
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler
from models import build

from fold_lightning import FoldingMonitor


def mlp(side: int) -> nn.Module:
    """Three hidden layers of 256."""
    return build("mlp", "relu", side, 3, 256)


def cnn(side: int) -> nn.Module:
    """Two convolutions of 8 channels, with max pooling between."""
    return build("cnn", "relu", side, 2, 64)


def wide_cnn(side: int) -> nn.Module:
    """Two convolutions of 16 and 32 channels, each with max pooling."""
    image = nn.Unflatten(1, (1, side, side))
    first = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(image, *first, *second, nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 10))


NETWORKS = {"mlp": mlp, "cnn": cnn, "wide_cnn": wide_cnn}


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
        self.in_hooks: list[float] = []

    def seconds(self, on: bool) -> float:
        """How long a fit takes with the monitor, or without."""
        torch.manual_seed(0)
        train, test = (TensorDataset(*part) for part in self._data)
        monitor = FoldingMonitor(max_seconds=self._arguments.max_seconds)
        quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_epochs=self._arguments.epochs,
                callbacks=[monitor] if on else [],
                logger=TensorBoardLogger(folder),
                accelerator="cpu",
                profiler=(profiler := SimpleProfiler()),
                **quiet,
            )
            side = int(self._data[0][0].shape[1] ** 0.5)
            model = Classifier(NETWORKS[self._network](side))
            loaders = DataLoader(train, self._arguments.batch_size, shuffle=True), DataLoader(test, 1024)
            begin = time.perf_counter()
            trainer.fit(model, *loaders)
            took = time.perf_counter() - begin
        if on:
            self.last = {tag: value.item() for tag, value in trainer.callback_metrics.items()}
            own = (sum(times) for hook, times in profiler.recorded_durations.items() if "]FoldingMonitor" in hook)
            self.in_hooks.append(sum(own) / took)
        return took

    def pairs(self, with_monitor: bool = True) -> list[tuple[float, float]]:
        """Seconds with and without the monitor, of neighbouring runs."""
        found = []
        for pair in range(self._arguments.pairs):
            order = (True, False) if pair % 2 else (False, True)
            took = {first: self.seconds(first and with_monitor) for first in order}
            found.append((took[True], took[False]))
        return found


def limit(text: str) -> float | str | None:
    """As `max_seconds`."""
    words = {"auto": "auto", "none": None}
    return words[text] if text in words else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp", "cnn"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--max-seconds", type=limit, default="auto", help="as of the monitor: a number, auto or none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = load_images(arguments.data_dir)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(data[0][0])} images, {arguments.epochs} epochs")
    for network in arguments.networks:
        bench = Bench(network, data, arguments)
        bench.seconds(True)  # the first of all imports and compiles
        bench.in_hooks.clear()
        for name, with_monitor in (("monitor", True), ("nothing", False)):
            first, second = zip(*bench.pairs(with_monitor), strict=True)
            ratios = [one / two for one, two in zip(first, second, strict=True)]
            spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
            print(f"{network}, {name}: {spread}, fastest {min(first) / min(second):.3f}", flush=True)
        print(f"    in its hooks: {statistics.median(bench.in_hooks):.2%} of fit")
        tags = ("folding/segments", "folding/regions", "folding/seconds", "codes/inputs", "faces/inputs")
        print("    last: " + ", ".join(f"{tag} {bench.last[tag]:.3g}" for tag in tags), flush=True)


if __name__ == "__main__":
    main()

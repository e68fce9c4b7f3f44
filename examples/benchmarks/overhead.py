"""What the monitor costs: training with it over training without, pair by pair.

    python examples/benchmarks/overhead.py --data-dir FOLDER [--epochs 5] [--pairs 3] [--images 60000]

Trains a 3 x 256 MLP, LeNet, ResNet-8 and a small vision transformer on the images of the folder, with the monitor's defaults and
TensorBoard's logger, and prints the ratio of the times of `fit` (wall clock): median, least and greatest of pairs of neighbouring
runs, whose order alternates, and that of the fastest run with and the fastest without. Machines are shared and noisy: "nothing" is
the same of two runs without a monitor, "in its hooks" the time that Lightning's profiler finds in the monitor's own hooks, and
"beyond" how much of the fit without them that is, after the 10 s that are always allowed.
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
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from digits import Classifier
from idx import load_images
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler
from models import build, lenet, resnet

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.schedule import FREE_SECONDS

NETWORKS = {
    "mlp": lambda side: build("mlp", "relu", side, 3, 256),
    "lenet": lenet,
    "resnet8": lambda side: resnet(side, 1),
    "vit": lambda side: build("vit", "gelu", side, 2, 64),
}


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
            self.in_hooks.append(sum(own))
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=3, help="0 trains with the monitor alone")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=60_000, help="images to train with, at most")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    train, test = load_images(arguments.data_dir)
    data = tuple(part[: arguments.images] for part in train), test
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(data[0][0])} images, {arguments.epochs} epochs")
    for network in arguments.networks:
        bench = Bench(network, data, arguments)
        if not arguments.pairs:
            bench.seconds(True)
        for name, with_monitor in (("monitor", True), ("nothing", False)) if arguments.pairs else ():
            first, second = zip(*bench.pairs(with_monitor), strict=True)
            ratios = [one / two for one, two in zip(first, second, strict=True)]
            spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
            print(f"{network}, {name}: {spread}, fastest {min(first) / min(second):.3f}", flush=True)
        hooks, took = statistics.median(bench.in_hooks), statistics.median(bench.took)
        beyond = max(0.0, hooks - FREE_SECONDS) / (took - hooks)
        print(f"    in its hooks: {hooks:.1f} s of {took:.1f} s, beyond {FREE_SECONDS:.0f} s: {beyond:.1%}")
        tags = ("folding/chi_mean", "folding/phi", "codes/distinct", "faces/mean", "monitor/seconds")
        print("    last: " + ", ".join(f"{tag} {bench.last[tag]:.3g}" for tag in tags if tag in bench.last), flush=True)


if __name__ == "__main__":
    main()

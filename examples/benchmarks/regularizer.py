"""What the folding regularizer costs: training with it over training without, pair by pair.

    python examples/benchmarks/regularizer.py [--data-dir FOLDER] [--pairs 15]

Each ratio, of processor seconds, is the median over pairs of neighbouring runs on the same batches, with its quartiles; machines are
shared and noisy. "By hand" is a bare loop, which has the smallest denominator; "flag" is a Trainer with
`FoldingMonitor(regularize=True)` over one with False.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from digits import Classifier
from idx import load_split
from lightning.pytorch import Trainer
from models import build

from fold_lightning import FoldingMonitor, FoldingRegularizer

BATCH = 128

NETWORKS = (("mlp", 6, 64), ("mlp", 3, 512), ("cnn", 3, 64))
"""Model, depth and width."""


def by_hand(net: nn.Module, images: Tensor, labels: Tensor, regularizer: FoldingRegularizer | None) -> float:
    """Processor seconds of one epoch."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    begin = time.process_time()
    for rows in torch.arange(len(images)).split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        if regularizer is not None:
            regularizer.push(net, images[rows], labels[rows])
        optimizer.step()
    return time.process_time() - begin


def in_a_trainer(net: nn.Module, images: Tensor, labels: Tensor, regularize: bool) -> float:
    """Processor seconds of two epochs, with everything else that a Trainer and the monitor do."""
    least = {"num_segments": 1, "codes": False, "units": False, "faces": False, "figures": False}
    monitor = FoldingMonitor(regularize=regularize, every_n_epochs=10**6, measure_at_start=False, **least)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=2, callbacks=[monitor], accelerator="cpu", default_root_dir=folder, **quiet)
        begin = time.process_time()
        trainer.fit(Classifier(net), DataLoader(TensorDataset(images, labels), batch_size=BATCH))
        return time.process_time() - begin


def ratio(run: Callable[[bool], float], pairs: int) -> str:
    """Median ratio of a run with over one without, and the quartiles around it."""
    run(True), run(False)
    ratios = sorted(run(True) / run(False) for _ in range(pairs))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} - {high:.2f})"


def compare(make: functools.partial[nn.Sequential], data: tuple[Tensor, Tensor], arguments: argparse.Namespace) -> None:
    """Prints the rows of a network."""
    model, *_, depth, width = make.args

    def bare(on: bool, every: int) -> float:
        torch.manual_seed(0)
        return by_hand(make(), *data, FoldingRegularizer(every_n_steps=every) if on else None)

    def flag(on: bool) -> float:
        torch.manual_seed(0)
        return in_a_trainer(make(), *data, on)

    for every in arguments.every or (FoldingRegularizer().every_n_steps, 1):
        found = ratio(functools.partial(bare, every=every), arguments.pairs)
        print(f"{model} {depth} x {width}, by hand, every {every} steps: {found}", flush=True)
    print(f"{model} {depth} x {width}, flag: {ratio(flag, max(2, arguments.pairs // 3))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; random images otherwise")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, nargs="+", help="every_n_steps, by hand; the default and 1 without it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.data_dir:
        images, labels = (part[: arguments.images] for part in load_split(arguments.data_dir, "train"))
    else:
        images, labels = torch.rand(arguments.images, 784), torch.randint(10, (arguments.images,))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}")
    for model, depth, width in NETWORKS:
        count = len(images) if model == "mlp" else 1024
        compare(functools.partial(build, model, "relu", 28, depth, width), (images[:count], labels[:count]), arguments)


if __name__ == "__main__":
    main()

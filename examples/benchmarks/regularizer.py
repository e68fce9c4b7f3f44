"""What the folding regularizer costs: training with it over training without, pair by pair.

python examples/benchmarks/regularizer.py [--data-dir FOLDER] [--pairs 7] [--output-dir docs/results]
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import CLOCK, Turns
from digits import Classifier
from idx import load_training
from lightning.pytorch import Trainer
from models import build
from options import positive
from pages import Page, parse, parser

from fold_lightning import FoldingMonitor, FoldingRegularizer

BATCH = 128

NETWORKS = (("mlp", 6, 64), ("mlp", 3, 512), ("cnn", 3, 64))
"""Model, depth and width."""


TEXT = """Time of a training with the regularizer over one without, of pairs of neighbouring runs on the same batches: medians, with
the least and the greatest. "By hand" is a bare loop, which has the smallest denominator; "flag" is a Trainer with
`FoldingMonitor(regularize=True)` over one with False."""


def by_hand(net: nn.Module, images: Tensor, labels: Tensor, regularizer: FoldingRegularizer | None) -> None:
    """Train for one epoch in a bare loop."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for rows in torch.arange(len(images)).split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        if regularizer is not None:
            regularizer.push(net, images[rows], labels[rows])
        optimizer.step()


def in_a_trainer(net: nn.Module, images: Tensor, labels: Tensor, regularize: bool) -> None:
    """Train for two epochs, with everything else that a Trainer and the monitor do."""
    least = {"num_segments": 1, "codes": False, "units": False, "faces": False, "figures": False}
    monitor = FoldingMonitor(regularize=regularize, every_n_epochs=10**6, measure_at_start=False, **least)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=2, callbacks=[monitor], accelerator="cpu", default_root_dir=folder, **quiet)
        trainer.fit(Classifier(net), DataLoader(TensorDataset(images, labels), batch_size=BATCH))


def compare(run: Callable[[bool], None], pairs: int) -> str:
    """Return the ratio of a run with over one without."""
    run(True), run(False)
    return Turns({"with": lambda: run(True), "without": lambda: run(False)}, pairs).ratio("with", "without")


def report(
    page: Page, make: functools.partial[nn.Sequential], data: tuple[Tensor, Tensor], arguments: argparse.Namespace
) -> None:
    """Add the rows of a network."""
    model, *_, depth, width = make.args
    name = f"{model} {depth} x {width}"

    def bare(on: bool, every: int) -> None:
        torch.manual_seed(0)
        by_hand(make(), *data, FoldingRegularizer(every_n_steps=every) if on else None)

    def flag(on: bool) -> None:
        torch.manual_seed(0)
        in_a_trainer(make(), *data, on)

    for every in arguments.every or (FoldingRegularizer().every_n_steps, 1):
        page.row(name, f"by hand, every {every} steps", compare(functools.partial(bare, every=every), arguments.pairs))
    page.row(name, "flag", compare(flag, max(2, arguments.pairs // 3)))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=positive, default=2_000)
    options.add_argument("--pairs", type=positive, default=7)
    options.add_argument("--every", type=positive, nargs="+", help="every_n_steps, by hand; the default and 1 without it")
    arguments = parse(options)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images, labels = (part[: arguments.images] for part in load_training(arguments.data_dir))
    with Page("regularizer_large", "The regularizer's cost", arguments.output_dir) as page:
        page.say(f"{TEXT} {len(images):,} images, batches of {BATCH}; a CNN takes 1,024. {CLOCK}")
        page.table("network", "way", "time with / without")
        for model, depth, width in NETWORKS:
            count = len(images) if model == "mlp" else 1024
            report(page, functools.partial(build, model, "relu", 28, depth, width), (images[:count], labels[:count]), arguments)


if __name__ == "__main__":
    main()

"""What the tables and figures for TensorBoard cost: their share of a measurement, and their bytes.

    python examples/benchmarks/tables.py [--data-dir FOLDER] [--models mlp cnn] [--epochs 3] [--output-dir docs/results]

Trains networks with a monitor that draws at every measurement, and gives the time of a measurement, of the tables in it, and of
figures and maps beside it, with the bytes of each table as they lie in the log.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import CLOCK, clock
from digits import Classifier
from idx import load_images
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from models import build
from options import positive
from pages import Page, parse, parser

from fold_lightning import FoldingMonitor
from fold_lightning._tables import PREFIX
from fold_lightning.callbacks import tensorboard
from fold_lightning.callbacks.measures import folding
from fold_lightning.callbacks.session import Session

TABLES = ((folding.FoldingMeasure, "_segments"), (folding.FoldingMeasure, "_walks"), (folding, "thinned_profiles"))


NETWORKS = {"mlp": ("MLP 6 x 64", 6), "cnn": ("CNN, 2 blocks of 64", 2)}
"""Name in the table and depth."""

HEADER = (
    "network", "a measurement, s", "its tables, s", "share of it", "figures and the map, s", "KB a measurement", "KB of a map",
    "KB of pictures",
)  # fmt: skip

TEXT = """A monitor that draws at every measurement; medians over measurements, without the first. Bytes are those in the log, most of
them walks. Figures take several times as long as a measurement: so they are due at the 1st, 2nd, 4th, 8th, ... one and when training
ends, and their time counts towards `max_overhead`."""


def timed(name: str, function: Callable[..., Any], seconds: dict[str, list[float]]) -> Callable[..., Any]:
    """Return a function that notes how long each call takes."""

    def call(*arguments: Any, **options: Any) -> Any:
        begin = clock()
        result = function(*arguments, **options)
        seconds[name].append(clock() - begin)
        return result

    return call


def timed_by_name(function: Callable[..., Any], seconds: dict[str, list[float]]) -> Callable[..., Any]:
    """Return a function of (summary, name, ...) that notes how long each call takes by name, and the bytes of pictures."""

    def call(summarize: Any, name: str, *arguments: Any) -> Any:
        summary = timed(f"made {name}", function, seconds)(summarize, name, *arguments)
        if summary is not None and summary.value[0].HasField("image"):
            seconds["bytes"].append(summary.ByteSize())
        return summary

    return call


def table_bytes(folder: Path) -> dict[str, list[int]]:
    """Return table -> bytes at each measurement, as they lie in the log."""
    found: dict[str, list[int]] = defaultdict(list)
    for file in folder.rglob("*.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag.startswith(PREFIX):
                    found[value.tag.removeprefix(PREFIX)].append(len(make_ndarray(value.tensor).item()))
    return found


def measured(name: str, arguments: argparse.Namespace) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """Train one network, and return its row, the seconds of each figure, and the bytes of each table."""
    train, test = load_images(arguments.data_dir)
    torch.manual_seed(0)
    net = build(name, "relu", int(train[0].shape[1] ** 0.5), NETWORKS[name][1], 64)
    seconds: dict[str, list[float]] = defaultdict(list)
    watched = [(Session, "measure"), (tensorboard.TensorBoard, "_draw"), (tensorboard, "table_summary"), *TABLES]
    patches = [patch.object(owner, part, timed(part, getattr(owner, part), seconds)) for owner, part in watched]
    patches.append(patch.object(tensorboard, "_summary_of", timed_by_name(tensorboard._summary_of, seconds)))
    with tempfile.TemporaryDirectory() as folder:
        for each in patches:
            each.start()
        trainer = Trainer(
            max_epochs=arguments.epochs,
            callbacks=[FoldingMonitor(max_overhead=None, figures=True)],
            logger=TensorBoardLogger(folder),
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        few = TensorDataset(*(part[: arguments.images] for part in train))
        trainer.fit(Classifier(net), DataLoader(few, 64, shuffle=True), DataLoader(TensorDataset(*test), 1024))
        for each in patches:
            each.stop()
        sizes = {table: statistics.median(found) for table, found in table_bytes(Path(folder)).items()}
    count = len(seconds["measure"])
    drawn = statistics.median(seconds["_draw"][1:count])
    whole = statistics.median(seconds["measure"][1:]) - drawn
    tables = sum(sum(seconds[part]) for part in ("table_summary", "_segments", "_walks", "thinned_profiles")) / count
    every = sum(size for table, size in sizes.items() if table not in ("map", "about"))
    kilobytes = [every, sizes.get("map", 0), sum(seconds["bytes"]) / count]
    row = [NETWORKS[name][0], f"{whole:.2f}", f"{tables:.3f}", f"{tables / whole:.1%}", f"{drawn:.2f}"]
    made = {part.removeprefix("made "): statistics.median(found) for part, found in seconds.items() if part.startswith("made ")}
    return [*row, *(f"{size / 1e3:.0f}" for size in kilobytes)], made, sizes


def main() -> None:
    options = parser(__doc__, "scikit-learn's digits otherwise")
    options.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--epochs", type=positive, default=3)
    options.add_argument("--images", type=positive, default=2_000, help="images to train with, at most")
    arguments = parse(options)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with Page("tables", "The Folding tab's tables, and figures", arguments.output_dir) as page:
        page.say(f"{TEXT} {CLOCK}")
        found = {name: measured(name, arguments) for name in arguments.models}
        page.table(*HEADER)
        for row, *_ in found.values():
            page.row(*row)
        for name, (_, made, sizes) in found.items():
            page.add(f"## {NETWORKS[name][0]}")
            page.table("figure", "s")
            for part, took in sorted(made.items(), key=lambda each: -each[1]):
                page.row(f"`{part}`", f"{took:.2f}")
            page.table("table", "KB")
            for table, size in sorted(sizes.items()):
                page.row(f"`{table}`", f"{size / 1e3:.1f}")


if __name__ == "__main__":
    main()

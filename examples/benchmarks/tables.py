"""What the tables and figures for TensorBoard cost: their share of a measurement, and their bytes.

    python examples/benchmarks/tables.py [--data-dir FOLDER] [--models mlp cnn] [--epochs 3]

Trains networks with a monitor that draws at every measurement, and prints the processor time of a measurement, of the tables in
it, and of figures and maps beside it (medians over the measurements, without the first), with the bytes of each table as they lie in
the log.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
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

from digits import Classifier
from idx import load_images
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from models import build

from fold_lightning import FoldingMonitor
from fold_lightning._tables import PREFIX
from fold_lightning.callbacks import tensorboard
from fold_lightning.callbacks.measures import folding
from fold_lightning.callbacks.session import Session

TABLES = ((folding.FoldingMeasure, "_segments"), (folding.FoldingMeasure, "_walks"), (folding, "thinned_profiles"))


def timed(name: str, function: Callable[..., Any], seconds: dict[str, list[float]]) -> Callable[..., Any]:
    """Return a function that notes how long each call takes."""

    def call(*arguments: Any, **options: Any) -> Any:
        begin = time.process_time()
        result = function(*arguments, **options)
        seconds[name].append(time.process_time() - begin)
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


def report(name: str, arguments: argparse.Namespace) -> None:
    """Train one network, and print what its tables and figures cost."""
    train, test = load_images(arguments.data_dir)
    torch.manual_seed(0)
    net = build(name, "relu", int(train[0].shape[1] ** 0.5), 6 if name == "mlp" else 2, 64)
    seconds: dict[str, list[float]] = defaultdict(list)
    measured = [(Session, "measure"), (tensorboard.TensorBoard, "_draw"), (tensorboard, "table_summary"), *TABLES]
    patches = [patch.object(owner, part, timed(part, getattr(owner, part), seconds)) for owner, part in measured]
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
    print(
        f"{name}: a measurement {whole:.2f} s; tables {tables:.3f} s, {tables / whole:.1%} of it; figures and the map {drawn:.2f} s"
    )
    every = sum(size for table, size in sizes.items() if table not in ("map", "about"))
    print(f"    {every / 1e3:.1f} KB a measurement, and a map of {sizes.get('map', 0) / 1e3:.1f} KB where figures are due")
    made = {part.removeprefix("made "): statistics.median(found) for part, found in seconds.items() if part.startswith("made ")}
    print("    " + ", ".join(f"{part} {found:.2f} s" for part, found in sorted(made.items(), key=lambda each: -each[1])))
    print(f"    {sum(seconds['bytes']) / count / 1e3:.0f} KB of pictures where figures are due")
    print("    " + ", ".join(f"{table} {size / 1e3:.1f}" for table, size in sorted(sizes.items())), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument(
        "--models", nargs="+", choices=("mlp", "cnn"), default=["mlp", "cnn"], help="an MLP of 6 x 64, a CNN of 2 blocks"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=2_000, help="images to train with, at most")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in arguments.models:
        report(name, arguments)


if __name__ == "__main__":
    main()

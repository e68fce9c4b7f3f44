"""Make every figure of fold_lightning from a trained network.

    python examples/gallery.py [--checkpoint logs/digits/version_0/checkpoints/FILE.ckpt] [--out gallery]

The checkpoint is one of `digits.py`; pass the same `--model`, `--activation`, `--depth`, `--width` and `--data-dir`. The figure of
folding over time needs the log of this run, which is sought in the run's folder. Without a checkpoint, a small network is trained.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from digits import Classifier
from idx import load_images
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from models import ACTIVATIONS, MODELS, build
from options import output_folder, positive
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fold_lightning import (
    CodeDistances,
    FoldingMonitor,
    GlobalFolding,
    SpaceFolding,
    UnitActivity,
    activation_codes,
    activation_regions,
    class_segments,
    face_counts,
    figures,
    read_log,
    segment_walks,
    slice_map,
    space_folding,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Data = tuple[Tensor, Tensor]

NUM_REGIONS, NUM_CODES = 64, 500
"""Number of inputs whose faces are counted, and of inputs whose codes are computed."""

MAX_REGIONS = {"distance": 3_000, "class": 20_000}
"""Most regions of a map; by class more are legible, because there are few borders between classes."""


def train(net: nn.Module, data: Data, test: Data, epochs: int, folder: Path) -> Path:
    """Train a network with a monitor, and return the folder of its log."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    logger = TensorBoardLogger(folder, name="gallery")
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[FoldingMonitor(max_overhead=None, figures=False)],
        log_every_n_steps=5,
    )
    loaders = DataLoader(TensorDataset(*data), batch_size=64, shuffle=True), DataLoader(TensorDataset(*test), batch_size=1024)
    trainer.fit(Classifier(net), *loaders)
    return Path(logger.log_dir)


def load(net: nn.Module, checkpoint: Path) -> Path:
    """Load the weights of a checkpoint, and return the folder of its run."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    Classifier(net).load_state_dict(weights)
    return checkpoint.parents[1]


def three_inputs(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return one input of each of three classes, a correctly classified one if there is one."""
    with torch.no_grad():
        right = net(images).argmax(1) == labels
    rows = [(labels == label).nonzero().squeeze(1) for label in labels.unique()[:3]]
    return torch.stack([images[row[right[row].int().argmax()]] for row in rows])


def gallery(net: nn.Module, images: Tensor, labels: Tensor, log_dir: Path) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the name of each figure, and a function that draws it."""
    start, end = class_segments(labels, per_pair=1)
    walks = segment_walks(net, images[start], images[end])
    num_classes = int(labels.max()) + 1
    yield "walk", lambda: figures.plot_walk(walks, int(space_folding(walks).argmax()))
    yield "folding", lambda: _plotted(SpaceFolding(), walks)
    yield "folding_between_classes", lambda: _plotted(GlobalFolding(num_classes), walks, labels[start], labels[end])
    yield "folding_over_time", lambda: figures.plot_folding_over_steps(_chi_by_step(log_dir))
    codes = activation_codes(net, images[:NUM_CODES])
    yield "codes", lambda: _plotted(CodeDistances(num_classes), codes, labels[:NUM_CODES])
    yield "units", lambda: _plotted(UnitActivity(), codes)
    yield "faces", lambda: _faces(net, images)
    for color in ("distance", "class"):
        yield f"map_by_{color}", lambda color=color: _map(net, images, labels, color)  # type: ignore[misc]


def _plotted(metric: Any, *seen: Any) -> Figure:
    metric.update(*seen)
    figure: Figure = metric.plot()[0]
    return figure


def _faces(net: nn.Module, images: Tensor) -> Figure:
    counts = face_counts(activation_regions(net, images[:NUM_REGIONS], subspace=2))
    return figures.plot_face_counts(counts, bound=4, xlabel="faces of inputs' regions in random planes")


def _map(net: nn.Module, images: Tensor, labels: Tensor, color: Any) -> Figure:
    side = math.isqrt(images.shape[1])
    inputs = three_inputs(net, images, labels)
    found = slice_map(net, inputs, max_regions=MAX_REGIONS[color])
    names = [str(label) for label in labels.unique()[:3].tolist()]
    return figures.plot_slice_map(found, color=color, images=inputs.view(3, side, side), names=names)


def _chi_by_step(log_dir: Path) -> dict[int, Tensor]:
    return {step: torch.from_numpy(table["chi"]) for step, table in read_log(log_dir)["segments"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint of digits.py; none trains a network")
    parser.add_argument(
        "--out", type=output_folder, default="gallery", help="folder of the figures, and of the log of a training"
    )
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files, gzipped or not")
    parser.add_argument("--epochs", type=positive, default=20, help="of the training")
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--activation", choices=[*ACTIVATIONS, "swiglu"], default="relu")
    parser.add_argument("--depth", type=positive, default=6, help="hidden layers, or blocks")
    parser.add_argument("--width", type=positive, default=64, help="units of each")
    arguments = parser.parse_args()
    if not figures.is_available():
        sys.exit("gallery.py: figures need matplotlib: pip install 'fold-lightning[figures]'.")
    try:
        data, test = load_images(arguments.data_dir)
        seed_everything(0, verbose=False)
        side = math.isqrt(data[0].shape[1])
        net = build(arguments.model, arguments.activation, side, arguments.depth, arguments.width)
        if arguments.checkpoint:
            log_dir = load(net, arguments.checkpoint)
        else:
            log_dir = train(net, data, test, arguments.epochs, arguments.out / "logs")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"gallery.py: {error}")
    except (RuntimeError, KeyError) as error:
        sys.exit(f"gallery.py: {arguments.checkpoint} holds another network: pass the `--model`, `--depth`, ... of it. {error}")
    net.eval()
    for name, draw in gallery(net, *test, log_dir):
        file = arguments.out / f"{name}.png"
        try:
            draw().savefig(file, dpi=120)
            print(file)
        except (ValueError, FileNotFoundError) as error:  # a curved network has no polytopes, and a checkpoint may have no log
            print(f"No {name}: {error}")


if __name__ == "__main__":
    main()

"""With and without the folding regularizer: does the exact folding rise, and what becomes of accuracy?

    python examples/papers/regularizer_study.py [--data-dir FOLDER] [--images 1000] [--seeds 3] [--compare weights] [--out study.png]

Trains the same networks from the same seeds with different arguments of `FoldingRegularizer`, and measures what came out on test
data that nothing was chosen by: exact chi over segments between classes, Phi_N, accuracies; and on the training data distinct codes
and the faces of slices of their regions. The last images of these are kept apart for validation. `--compare` takes one of

    default     none, and the default
    ways        none, the term in the loss, and pushes of a half and of the whole length of the task's gradient
    weights     none, several, and a minus weight
    robustness  a push of the whole length; the other way, in random directions, and noise in training instead
    schedules   early, constant, late, and until a quarter of the training
    surrogates  the soft maximum's, the bits' and the damping's part; segments; layers
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from experiment import accuracy
from report import spread
from rich.console import Console
from rich.progress import track
from rich.table import Table
from robustness import RandomDirections, attacked, with_noise
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import pictures
from digits import positive
from idx import load_images
from models import ACTIVATIONS, MODELS, build

from fold_lightning import (
    DistinctCodes,
    FoldingRegularizer,
    activation_codes,
    activation_regions,
    face_counts,
    global_folding,
    segment_walks,
    space_folding,
    walk_length,
    walk_range,
)

Split = tuple[Tensor, Tensor]

NONE: dict[str, Any] = {"weight": 0.0}

LATE = {"schedule": lambda progress: (1 - math.cos(math.pi * progress)) / 2}

LOSS = {"share": None}
"""The term in the loss of every eighth step, eightfold."""

COMPARISONS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"none": NONE, "default": {}},
    "ways": {"none": NONE, "in the loss": LOSS, "share 0.5 (default)": {}, "share 1": {"share": 1.0}},
    "robustness": {
        "none": NONE,
        "share 1": {"share": 1.0},
        "share 1, weight -1": {"share": 1.0, "weight": -1.0},
        "random directions": {"share": 1.0, "directions": "random"},
        "noise 0.1 in training": {"weight": 0.0, "noise": 0.1},
    },
    "weights": {
        "none": NONE,
        "0.3": {"weight": 0.3},
        "default (1)": {},
        "2": {"weight": 2.0},
        "-1": {"weight": -1.0},
    },
    "schedules": {
        "none": NONE,
        "early (default)": {},
        "first quarter": {"until": 0.25},
        "constant": {"schedule": "constant"},
        "late": LATE,
    },
    "surrogates": {
        "none": NONE,
        "default": {},
        "undamped, weight 0.1": {"weight": 0.1, "damping": 0.0},
        "temperature 0.5, damping 2": {"temperature": 0.5, "damping": 2.0},
        "temperature 0.03, damping 32": {"temperature": 0.03, "damping": 32.0},
        "any segments": {"between": "any"},
        "within classes": {"between": "same"},
        "first half of the layers": {"layers": "first"},
        "last half of the layers": {"layers": "last"},
        "5 points": {"num_points": 5},
        "16 points": {"num_points": 16},
        "every step": {"every_n_steps": 1},
    },
}

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, lr=1e-3),
    "sgd": functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9),
}

SHOWN = {
    "chi": "exact chi",
    "phi": "Phi_N",
    "range": "r1",
    "length": "r2",
    "codes": "distinct codes",
    "faces": "faces",
    "train": "train accuracy",
    "validation": "validation accuracy",
    "test": "test accuracy",
    "noisy": "under noise 0.3",
    "attacked": "under PGD 0.02",
    "seconds": "seconds",
}
"""What is measured, and how the table calls it."""


def fit(
    net: nn.Module,
    train: Split,
    options: dict[str, Any],
    seed: int,
    epochs: int,
    batch_size: int,
    optimizer: str = "adam",
    clip: float | None = None,
) -> float:
    """Trains with the regularizer as `FoldingMonitor(regularize=...)` does, and says how many seconds that took."""
    images, labels = train
    given = {"seed": seed, **_half(net, images, options)}
    noise = given.pop("noise", 0.0)
    kind = RandomDirections if given.pop("directions", "") == "random" else FoldingRegularizer
    regularizer = kind(**given)
    stepper = OPTIMIZERS[optimizer](net.parameters())
    num_steps, step = epochs * math.ceil(len(images) / batch_size), 0
    begin = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch_size):
            regularizer.progress = step / num_steps
            seen = with_noise(images[rows], noise, seed=step) if noise else images[rows]
            loss = F.cross_entropy(net(seen), labels[rows])
            if regularizer.share is None and step % regularizer.every_n_steps == 0:
                loss = loss + regularizer.every_n_steps * regularizer(net, images[rows], labels[rows])
            stepper.zero_grad()
            loss.backward()
            if regularizer.share is not None:
                regularizer.push(net, images[rows], labels[rows])
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            stepper.step()
            step += 1
    return time.perf_counter() - begin


def _half(net: nn.Module, images: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """Options whose layers are "first" or "last" with the names of that half of them."""
    if options.get("layers") not in ("first", "last"):
        return options
    names = list(activation_codes(net, images[:2]).layers)
    middle = (len(names) + 1) // 2
    return {**options, "layers": names[:middle] if options["layers"] == "first" else names[middle:] or names[-1:]}


def segments(test: Split, per_pair: int) -> tuple[Tensor, Tensor]:
    """Indices (S,) of the test inputs between which the folding is measured, so many for each ordered pair of classes."""
    labels, generator = test[1], torch.Generator().manual_seed(0)
    members = {c: (labels == c).nonzero().flatten() for c in labels.unique().tolist()}
    pairs = [(a, b) for a in members for b in members if a != b for _ in range(per_pair)]
    sides = [
        [members[c][torch.randint(len(members[c]), (), generator=generator)] for c in side] for side in zip(*pairs, strict=True)
    ]
    return torch.stack(sides[0]), torch.stack(sides[1])


def measure(net: nn.Module, splits: dict[str, Split], start: Tensor, end: Tensor) -> dict[str, float]:
    """What came out."""
    net.eval()
    images, labels = splits["test"]
    walks = segment_walks(net, images[start], images[end])
    chi = space_folding(walks)
    codes = DistinctCodes()
    codes.update(activation_codes(net, splits["train"][0]))
    found = {
        "chi": chi.mean().item(),
        "phi": global_folding(chi, labels[start], labels[end], int(labels.max()) + 1)[0].item(),
        "range": walk_range(walks).double().mean().item(),
        "length": walk_length(walks).double().mean().item(),
        "codes": codes.compute().item(),
        "faces": mean_faces(net, splits["train"][0][:200]),
    }
    disturbed = {
        "noisy": accuracy(net, (with_noise(images, 0.3), labels)),
        "attacked": accuracy(net, (attacked(net, images[:2000], labels[:2000], 0.02), labels[:2000])),
    }
    return found | {name: accuracy(net, some) for name, some in splits.items()} | disturbed


def mean_faces(net: nn.Module, images: Tensor) -> float:
    """How many faces two-dimensional slices of the regions around some images have, in the mean; NaN for a network that curves."""
    try:
        regions = activation_regions(net, images, subspace=2)
    except ValueError:
        return math.nan
    return face_counts(regions).double().mean().item()


def split(train: Split, test: Split, count: int | None) -> dict[str, Split]:
    """Training data of so many images, a part of the rest, or a fifth of all, for validation, and test data."""
    images, labels = train
    held = min(5000, len(images) // 5)
    count = min(count or len(images), len(images) - held)
    return {
        "train": (images[:count], labels[:count]),
        "validation": (images[-held:], labels[-held:]),
        "test": test,
    }


def table(results: dict[str, list[dict[str, float]]], title: str) -> Table:
    """A row for each setting: means and standard deviations over seeds, and what became of chi from the same seed."""
    drawn = Table("", *SHOWN.values(), "times the chi without, least", title=title)
    plain = next(iter(results.values()))
    for name, runs in results.items():
        cells = [spread([run[key] for run in runs]) for key in SHOWN]
        ratio = statistics_of_ratio(runs, plain)
        drawn.add_row(name, *cells, ratio)
    return drawn


def statistics_of_ratio(runs: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> str:
    """Mean chi over mean chi without, and the least ratio of one seed."""
    mean = sum(run["chi"] for run in runs) / max(1e-12, sum(run["chi"] for run in plain))
    least = min(run["chi"] / max(1e-12, without["chi"]) for run, without in zip(runs, plain, strict=True))
    return f"{mean:.1f}, {least:.1f}"


def draw(results: dict[str, list[dict[str, float]]], file: Path) -> None:
    """Test accuracy against exact chi, a point for each training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for number, (name, runs) in enumerate(results.items()):
        x, y = [run["chi"] for run in runs], [run["test"] for run in runs]
        axis.scatter(x, y, s=18, alpha=0.6, color=f"C{number % 10}", marker="os^v"[number // 10 % 4], label=name)
    axis.set_xlabel("exact chi between classes, test data")
    axis.set_ylabel("test accuracy")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument("--compare", choices=COMPARISONS, default="weights")
    parser.add_argument("--images", type=positive, help="training images; all that validation leaves without it")
    parser.add_argument("--seeds", type=positive, default=3, help="trainings of each setting")
    parser.add_argument("--epochs", type=positive, default=30)
    parser.add_argument("--batch-size", type=positive, default=128)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="relu")
    parser.add_argument("--depth", type=positive, default=6, help="hidden layers, or blocks")
    parser.add_argument("--width", type=positive, default=64, help="units of each")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--clip", type=float, help="norm at which gradients are clipped")
    parser.add_argument("--per-pair", type=positive, default=2, help="test segments for each ordered pair of classes")
    parser.add_argument("--threads", type=positive, default=1, help="more do not help networks as small as these")
    parser.add_argument("--out", type=Path, default=Path("regularizer_study.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        splits = split(*load_images(arguments.data_dir), arguments.images)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"regularizer_study.py: {error}")
    start, end = segments(splits["test"], arguments.per_pair)
    settings = COMPARISONS[arguments.compare]
    side = math.isqrt(splits["train"][0].shape[1])
    results: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    plan = [(name, seed) for seed in range(arguments.seeds) for name in settings]
    for name, seed in track(plan, "training"):
        torch.manual_seed(seed)
        net = build(arguments.model, arguments.activation, side, arguments.depth, arguments.width)
        how = (arguments.epochs, arguments.batch_size, arguments.optimizer, arguments.clip)
        took = fit(net, splits["train"], settings[name], seed, *how)
        results[name].append(measure(net, splits, start, end) | {"seconds": took})
    count = len(splits["train"][0])
    what = f"{arguments.model}, {arguments.depth} x {arguments.width}, {arguments.activation}"
    title = f"{what}: {count:,} images, {arguments.epochs} epochs, {arguments.seeds} seeds, {len(start)} test segments"
    Console(width=None if sys.stdout.isatty() else 220).print(table(results, title))
    pictures.save(lambda: draw(results, arguments.out), arguments.out)


if __name__ == "__main__":
    main()

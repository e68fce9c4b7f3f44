"""With and without the folding regularizer: does the exact folding rise, and what becomes of accuracy?

    python examples/papers/regularizer_study.py [--data-dir FOLDER] [--images 3000] [--seeds 5] [--epochs 10] [--compare ways]
        [--activation relu silu gelu tanh] [--output-dir docs/results]

Trains the same networks from the same seeds with different arguments of `FoldingRegularizer`, and measures what came out on test
data that nothing was chosen by: exact chi over segments between classes, Phi_N, accuracies; and on the training data distinct codes
and the faces of slices of their regions. The last images of these are kept apart for validation. `--compare` takes one of

    default     none, and the default
    ways        none, the term in the loss, and the push of a half of the task's gradient's length, which is the default
    weights     none, several, and a minus weight
    robustness  a push of the whole length; the other way, in random directions, and noise in training instead
    schedules   early, constant, late, and until a quarter of the training
    surrogates  the soft maximum's, the bits' and the damping's part; segments; layers
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from experiment import accuracy
from report import Row, moments, spread
from robustness import RandomDirections, attacked, with_noise
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import pictures
from idx import load_images
from models import ACTIVATIONS, MODELS, build
from options import positive
from pages import Page, parse, parser
from tqdm.auto import tqdm

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
    "ways": {"none": NONE, "in the loss": LOSS, "push": {}},
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


def beside(runs: Sequence[Row], plain: Sequence[Row]) -> list[str]:
    """Return chi and Phi_N without and with, and what became of accuracies, in points, from the same seeds."""
    cells = [
        f"{moments([run[key] for run in plain])[0]:.3f} -> {moments([run[key] for run in runs])[0]:.3f}"
        for key in ("chi", "phi")
    ]
    for key in ("validation", "noisy", "attacked"):
        mean, deviation = moments([100 * (run[key] - without[key]) for run, without in zip(runs, plain, strict=True)])
        cells.append(f"{mean:+.1f} ± {deviation:.1f}" if len(runs) > 1 else f"{mean:+.1f}")
    return cells


def draw(results: dict[str, dict[str, list[Row]]], file: Path) -> None:
    """Test accuracy against exact chi, a point for each training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    named = {f"{kind}, {name}": runs for kind, settings in results.items() for name, runs in settings.items()}
    for number, (name, runs) in enumerate(named.items()):
        x, y = [run["chi"] for run in runs], [run["test"] for run in runs]
        axis.scatter(x, y, s=18, alpha=0.6, color=f"C{number % 10}", marker="os^v"[number // 10 % 4], label=name)
    axis.set_xlabel("exact chi between classes, test data")
    axis.set_ylabel("test accuracy")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.savefig(file, dpi=120)


def report(page: Page, results: dict[str, dict[str, list[Row]]]) -> None:
    """Add the tables of activation -> setting -> runs."""
    page.add("## From the same seeds")
    page.say("Without -> with, and paired differences in percentage points, means ± standard deviations over seeds.")
    names = ["activation", "setting", SHOWN["chi"], SHOWN["phi"], *(SHOWN[key] for key in ("validation", "noisy", "attacked"))]
    page.table(*names)
    for activation, settings in results.items():
        plain, *others = settings
        for name in others:
            page.row(activation, name, *beside(settings[name], settings[plain]))
    page.add("## Each setting")
    page.table("activation", "setting", *SHOWN.values())
    for activation, settings in results.items():
        for name, runs in settings.items():
            page.row(activation, name, *(spread([run[key] for run in runs]) for key in SHOWN))


def main() -> None:
    options = parser(__doc__, "scikit-learn's digits otherwise")
    options.add_argument("--compare", choices=COMPARISONS, default="default")
    options.add_argument("--images", type=positive, help="training images; all that validation leaves without it")
    options.add_argument("--seeds", type=positive, default=5, help="trainings of each setting")
    options.add_argument("--epochs", type=positive, default=10)
    options.add_argument("--batch-size", type=positive, default=128)
    options.add_argument("--model", choices=MODELS, default="mlp")
    options.add_argument("--activation", nargs="+", choices=ACTIVATIONS, default=["relu"])
    options.add_argument("--depth", type=positive, default=6, help="hidden layers, or blocks")
    options.add_argument("--width", type=positive, default=64, help="units of each")
    options.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    options.add_argument("--clip", type=float, help="norm at which gradients are clipped")
    options.add_argument("--per-pair", type=positive, default=2, help="test segments for each ordered pair of classes")
    arguments = parse(options)
    try:
        splits = split(*load_images(arguments.data_dir), arguments.images)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"regularizer_study.py: {error}")
    start, end = segments(splits["test"], arguments.per_pair)
    settings = COMPARISONS[arguments.compare]
    side = math.isqrt(splits["train"][0].shape[1])
    name = f"regularizer_{arguments.compare}"
    with Page(name, "With and without the folding regularizer", arguments.output_dir) as page:
        what = f"{arguments.model}, {arguments.depth} x {arguments.width}, {arguments.optimizer}"
        page.say(
            f"{what}: {len(splits['train'][0]):,} images, {arguments.epochs} epochs, {arguments.seeds} seeds; exact chi and Phi_N of "
            f"{len(start)} test segments between classes, accuracies of data that nothing was chosen by."
        )
        results: dict[str, dict[str, list[Row]]] = {kind: {name: [] for name in settings} for kind in arguments.activation}
        plan = [(kind, name, seed) for kind in results for seed in range(arguments.seeds) for name in settings]
        for kind, name, seed in tqdm(plan, unit=" trainings"):
            torch.manual_seed(seed)
            net = build(arguments.model, kind, side, arguments.depth, arguments.width)
            how = (arguments.epochs, arguments.batch_size, arguments.optimizer, arguments.clip)
            took = fit(net, splits["train"], settings[name], seed, *how)
            results[kind][name].append(measure(net, splits, start, end) | {"seconds": took})
        report(page, results)
        if arguments.output_dir:
            page.add(f"![]({page.name}.png)")
            picture = arguments.output_dir / f"{page.name}.png"
            pictures.save(lambda: draw(results, picture), picture)


if __name__ == "__main__":
    main()

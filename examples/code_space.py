"""Two learning rates, accuracy alike, codes different: what accuracy does not tell ("ReLU Code Space", Shepeleva et al. 2020).

    python examples/code_space.py [--data-dir FOLDER] [--rates 0.003 0.01] [--seeds 5] [--out code_space.png]

Trains a small network several times at each rate, and counts after each epoch how many activation regions the training data
occupy: all of them, and those classified correctly. The last epoch's table also tells how the inputs spread over the regions, and
how far they lie apart in Hamming distance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pictures
import torch
from digits import positive
from idx import load_images
from models import build
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import (
    CodeDistances,
    DistinctCodes,
    activation_codes,
    code_fingerprints,
    distinct_fingerprints,
    hamming_distance,
)

PAIRS_OF = 500
"""Inputs whose distances from each other are looked at."""


def measure(net: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracies, and what the codes of the training data tell."""
    images, labels = train
    codes = activation_codes(net, images)
    with torch.no_grad():
        right = net(images).argmax(1) == labels
        accuracy = (net(test[0]).argmax(1) == test[1]).double().mean().item()
    num_classes = int(labels.max()) + 1
    distinct, distances = DistinctCodes(num_classes), CodeDistances(num_classes, nearest=True)
    distinct.update(codes, labels=labels, correct=right)
    distances.update(codes.bits[:PAIRS_OF], labels[:PAIRS_OF])
    per_class = distinct.per_class()
    _, inputs_per_code = distinct_fingerprints(code_fingerprints(codes.bits))
    some = codes.bits[:PAIRS_OF]
    adjacency = hamming_distance(some[:, None], some, threshold=2)[~torch.eye(len(some), dtype=torch.bool)]
    return {
        "train accuracy": right.double().mean().item(),
        "test accuracy": accuracy,
        "distinct codes": distinct.compute().item(),
        "of correct inputs": distinct.correct().item(),
        "of a class, mean": per_class[per_class > 0].double().mean().item(),
        "inputs in the fullest region": inputs_per_code.max().item(),
        "pairs in one region": (adjacency == 0).double().mean().item(),
        "pairs one unit apart": (adjacency == 1).double().mean().item(),
        "nearest input of the same class": distances.compute()["nearest"].item(),
        "mean Hamming distance": hamming_distance(some[:, None], some).double().mean().item(),
    }


def run(
    rate: float, seed: int, widths: int, depth: int, epochs: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> list[dict[str, float]]:
    """What is measured after each epoch of one training."""
    torch.manual_seed(seed)
    net = build("mlp", "relu", int(train[0].shape[1] ** 0.5), depth, widths)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    found = []
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0])).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
        found.append(measure(net, train, test))
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    numbers = torch.tensor(values, dtype=torch.float64)
    digits = 0 if numbers.abs().max() >= 100 else 4 if numbers.abs().max() <= 1 else 1
    return f"{numbers.mean():.{digits}f} +- {numbers.std(correction=len(values) > 1):.{digits}f}"


def draw(results: dict[float, list[list[dict[str, float]]]], file: Path) -> None:
    """Accuracy and distinct codes over the epochs, a line for each training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("test accuracy", "distinct codes"), strict=True):
        for color, (rate, runs) in zip(("tab:blue", "tab:orange", "tab:green"), results.items(), strict=False):
            for number, epochs in enumerate(runs):
                values = [epoch[name] for epoch in epochs]
                axis.plot(
                    range(1, len(values) + 1), values, color=color, alpha=0.7, label=None if number else f"Adam, {rate:g}"
                )
        axis.set_xlabel("epoch")
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.01], help="up to three learning rates")
    parser.add_argument("--seeds", type=positive, default=5, help="trainings at each rate")
    parser.add_argument("--epochs", type=positive, default=100)
    parser.add_argument("--depth", type=positive, default=2, help="hidden layers")
    parser.add_argument("--width", type=positive, default=16, help="units of each")
    parser.add_argument("--out", type=Path, default=Path("code_space.png"))
    arguments = parser.parse_args()
    try:
        train, test = load_images(arguments.data_dir)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"code_space.py: {error}")
    plan = [(rate, seed) for rate in arguments.rates for seed in range(arguments.seeds)]
    results: dict[float, list[list[dict[str, float]]]] = {rate: [] for rate in arguments.rates}
    for rate, seed in track(plan, "training"):
        found = run(rate, seed, arguments.width, arguments.depth, arguments.epochs, train, test)
        results[rate].append(found)

    table = Table(
        "", *(f"Adam, {rate:g}" for rate in results), title=f"After {arguments.epochs} epochs, {len(train[0]):,} inputs"
    )
    for name in next(iter(results.values()))[0][-1]:
        table.add_row(name, *(spread([epochs[-1][name] for epochs in runs]) for runs in results.values()))
    Console().print(table)
    pictures.save(lambda: draw(results, arguments.out), arguments.out)


if __name__ == "__main__":
    main()

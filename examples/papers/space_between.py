"""Activations, sampling, architectures, labels and the regularizer ("The Space Between", Lewandowski et al. 2025).

    python examples/papers/space_between.py [--data-dir FOLDER] [--seeds 5] [--paper-size] [--output-dir papers/space_between]

Five questions, each with paired seeds: how other activations fold and whether the way back folds as much; how many regions
equidistant points miss, and how far that moves chi; how much of Phi_N the architecture decides at equal accuracy; whether random
labels fold less than true ones; and what the folding regularizer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cantor_nets import cantor_net
from experiment import Experiment, Part, accuracy
from folding import measure_folding
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from models import build
from report import Finding, Row, Table, differences, moments, spread, values, verdict
from scipy.stats import f_oneway
from space_folds import ENDS
from torch import Tensor, nn

from fold_lightning import FoldingMonitor, class_segments, segment_walks, space_folding


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        images: Training images.
        epochs: Epochs of training.
        per_pair: Segments of each ordered pair of classes.
        architectures: Hidden layers and their width, of networks that are compared at equal accuracy.
        accuracy: Test accuracy at which those stop.
        few: Training images with true and with random labels.
        few_epochs: Epochs of those.
        points: Numbers of equidistant points on a segment.
    """

    images: int
    epochs: int
    per_pair: int
    architectures: tuple[tuple[int, int], ...]
    accuracy: float
    few: int
    few_epochs: int
    points: tuple[int, ...]


SIZES = {
    "smallest": Size(200, 1, 1, ((1, 8), (2, 8)), 0.3, 100, 2, (5, 17)),
    "default": Size(3000, 10, 4, ((1, 192), (2, 96), (4, 48), (6, 32)), 0.85, 1000, 30, (9, 17, 33, 65, 129, 257, 513, 1025)),
    "paper": Size(
        60_000,
        30,
        1000,
        ((1, 512), (2, 256), (3, 128), (4, 128), (6, 64), (8, 64)),
        0.97,
        10_000,
        100,
        (17, 65, 129, 513, 2049),
    ),
}

ACTIVATIONS = ("relu", "gelu", "silu", "swiglu")

NEAR = 0.01
"""Mean error of chi up to which points are enough."""

NOTE = (
    "Lewandowski et al. 2025, arXiv 2503.08502. The paper's statements are those of its abstract and of accounts of it; the "
    "formulas of its Phi_N and of its regularizer could not be read. Here Phi_N is the median over pairs of classes of the "
    "largest chi, and the regularizer is this project's own."
)


def sampling(net: nn.Module, start: Tensor, end: Tensor, points: Sequence[int]) -> Row:
    """Return regions that equidistant points miss, and the error of chi, by the number of points."""
    exact = segment_walks(net, start, end)
    chi, regions = space_folding(exact), exact.num_regions().sum()
    row: Row = {"chi": chi.mean().item(), "regions": regions.item() / len(start)}
    for number in points:
        walks = segment_walks(net, start, end, method="uniform", num_points=number)
        error = space_folding(walks) - chi
        row |= {
            f"missed_{number}": 1 - (walks.num_regions().sum() / regions).item(),
            f"error_{number}": error.abs().mean().item(),
            f"bias_{number}": error.mean().item(),
        }
    enough = [number for number in points if row[f"error_{number}"] <= NEAR]
    return row | {"enough": min(enough) if enough else None}


def sampled_rows(rows: dict[str, list[Row]]) -> list[Row]:
    """Return the rows on sampling: of CantorNets, and of networks trained with and without the regularizer."""
    found = [row | {"network": f"CantorNet {row['network'].replace(' ', ', k = ')}"} for row in rows["sampling"]]
    for row in rows["regularizer"]:
        columns = {name.removeprefix("sampled_"): value for name, value in row.items() if name.startswith("sampled_")}
        found.append(
            columns | {"network": "6 x 64" + (", pushed to fold" if row["push"] == "yes" else ""), "seed": row["seed"]}
        )
    return found


def activation_table(rows: list[Row]) -> Table:
    """Return a row for each activation."""
    names = ("test", "chi", "fraction", "phi", "asymmetry")
    header = ["activation", "test accuracy", "mean chi", "share that folds", "Phi_N", "mean difference of chi of the way back"]
    header.append("segments that fold one way only")
    lines = []
    for activation in dict.fromkeys(row["activation"] for row in rows):
        cells = [spread(values(rows, name, activation=activation)) for name in names]
        lines.append([activation, *cells, str(sum(values(rows, "folds_one_way", activation=activation)))])
    text = "Networks of 3 x 64 units; bits are the signs of pre-activations, of SwiGLU those of the gate."
    return Table("Activations", text, header, lines)


def sampling_table(rows: list[Row], points: Sequence[int]) -> Table:
    """Return missed regions and errors of chi for each network and number of points."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        some = [row for row in rows if row["network"] == network]
        exact = f"{spread(values(some, 'chi'))}; {spread(values(some, 'regions'))}"
        cells = [f"{moments(values(some, f'missed_{n}'))[0]:.0%}; {moments(values(some, f'error_{n}'))[0]:.3f}" for n in points]
        found = values(some, "enough")
        enough = "more" if None in found else f"{min(found)} - {max(found)}" if min(found) < max(found) else str(found[0])
        lines.append([network, exact, *cells, enough])
    header = ["network", "exact: chi; regions", *(f"{number} points" for number in points), f"points for an error of {NEAR}"]
    text = "Share of regions missed; mean absolute error of chi. Exact walks meet every region once and have no parameter."
    return Table("Exact walks and equidistant points", text, header, lines)


def architecture_table(rows: list[Row], target: float) -> Table:
    """Return Phi_N of each architecture at equal accuracy."""
    names = ("epochs", "test", "chi", "fraction", "phi")
    lines = []
    for name in dict.fromkeys(row["layers"] for row in rows):
        some = [row for row in rows if row["layers"] == name]
        lines.append([name, *(spread(values(some, column)) for column in names)])
    header = ["layers x width", "epochs", "test accuracy", "mean chi", "share that folds", "Phi_N"]
    text = f"Training stops after the epoch that reaches a test accuracy of {target}. One layer never folds."
    return Table("Phi_N across architectures at equal accuracy", text, header, lines)


def pairs_table(title: str, text: str, rows: list[Row], key: str) -> Table:
    """Return a row for each value of a setting."""
    names = ("train", "test", "chi", "fraction", "phi", "regions")
    found = dict.fromkeys(row[key] for row in rows)
    lines = [[str(value), *(spread(values(rows, name, **{key: value})) for name in names)] for value in found]
    header = [key, "training accuracy", "test accuracy", "mean chi", "share that folds", "Phi_N", "regions on a segment"]
    return Table(title, text, header, lines)


def share_of_variance(rows: list[Row]) -> tuple[float, float]:
    """Return the share of Phi_N's variance that lies between architectures of two layers and more, and the F-test's p."""
    groups = [
        values(rows, "phi", layers=name) for name in dict.fromkeys(row["layers"] for row in rows) if not name.startswith("1 ")
    ]
    if len(groups) < 2 or len(groups[0]) < 2:
        return float("nan"), float("nan")
    everything = torch.tensor(groups, dtype=torch.float64)
    between = everything.mean(1).var(correction=0) / everything.var(correction=0)
    return between.item(), float(f_oneway(*groups).pvalue)


def findings(rows: dict[str, list[Row]]) -> list[Finding]:
    """Return the paper's statements beside what was found."""
    found = []
    for activation in ("gelu", "silu", "swiglu"):
        gain = differences(rows["activation"], "chi", {"activation": activation}, {"activation": "relu"})
        mean = moments(values(rows["activation"], "chi", activation=activation))[0]
        behind = moments(differences(rows["activation"], "test", {"activation": "relu"}, {"activation": activation}))[0]
        found.append(
            Finding(
                f"The measure carries over to other activations by the signs of pre-activations (abstract); {activation}.",
                f"mean chi {mean:.3f}, {spread(gain)} more than with ReLU.",
                "agrees" if mean > 0 else "disagrees",
                f"Its test accuracy is {behind:.2f} less, so it does not compare with ReLU." if behind > 0.05 else "",
            )
        )
    turned = [row["asymmetry"] for row in rows["activation"] if row["activation"] == "relu"]
    one_way = sum(row["folds_one_way"] for row in rows["activation"])
    text = f"Mean difference of chi of the way back: {spread(turned)} (ReLU)."
    found.append(Finding("chi depends on the direction (Remark 4.3).", text, "agrees" if min(turned) > 0 else "disagrees"))
    text = f"Segments that fold one way only: {one_way}."
    found.append(
        Finding("Whether chi is 0 does not depend on it (Corollary 4.4).", text, "agrees" if not one_way else "disagrees")
    )
    between, p = share_of_variance(rows["architecture"])
    decides = "agrees" if between > 0.5 and p < 0.05 else "disagrees" if between < 0.5 else "not decided by these seeds"
    found.append(
        Finding(
            "Phi_N is decided mostly by the architecture (experiments).",
            f"Among networks of two layers and more at equal accuracy, {between:.0%} of its variance lies between architectures "
            f"(F-test: p = {p:.2g}); the rest lies between seeds.",
            decides,
        )
    )
    for name in ("chi", "phi"):
        gain = differences(rows["labels"], name, {"labels": "true"}, {"labels": "random"})
        found.append(
            Finding(
                f"Folding is higher where the generalisation error is low (abstract); {name}, true beside random labels.",
                f"{spread(gain)} more with true labels.",
                verdict(gain),
                "Fitting random labels takes more regions between images, and units that switch back and forth, whatever is learned: "
                "folding alone does not tell that a network generalises."
                if verdict(gain) == "disagrees"
                else "",
            )
        )
    for name, what in (("chi", "mean chi"), ("phi", "Phi_N"), ("test", "test accuracy")):
        gain = differences(rows["regularizer"], name, {"push": "yes"}, {"push": "no"})
        found.append(
            Finding(
                f"A regularizer that acts early in training leads to more folding (outlined); {what}.",
                f"{spread(gain)} more with the push.",
                verdict(gain),
                "Of the accuracy the paper reports no figure that could be read." if name == "test" else "",
            )
        )
    return found


def draw(figure: Any, rows: dict[str, list[Row]], points: Sequence[int]) -> None:
    """Draw chi of activations, errors of points, Phi_N of architectures, and the paired comparisons."""
    figure.set_size_inches(14, 3.8)
    first, second, third, fourth = figure.subplots(1, 4)
    names = list(dict.fromkeys(row["activation"] for row in rows["activation"]))
    for place, name in enumerate(names):
        found = values(rows["activation"], "chi", activation=name)
        first.plot([place] * len(found), found, "o", alpha=0.6)
    first.set(title="mean chi", xticks=range(len(names)), xticklabels=names)
    sampled = sampled_rows(rows)
    for network in dict.fromkeys(row["network"] for row in sampled):
        some = [row for row in sampled if row["network"] == network]
        second.plot(points, [moments(values(some, f"error_{n}"))[0] for n in points], "o-", label=network)
    second.axhline(NEAR, color="gray", linestyle=":")
    second.axvline(129, color="gray", linestyle=":")
    second.set(title="error of chi by points", xscale="log", xlabel="equidistant points")
    second.set_yscale("symlog", linthresh=1e-3)
    second.set_ylim(bottom=0)
    second.legend(fontsize=7)
    for place, name in enumerate(dict.fromkeys(row["layers"] for row in rows["architecture"])):
        found = values(rows["architecture"], "phi", layers=name)
        third.plot([place] * len(found), found, "o", alpha=0.6, label=name)
    third.set(title="Phi_N at equal accuracy", xticks=[])
    third.legend(fontsize=7)
    for key, kinds, marker in (("labels", ("true", "random"), "o"), ("push", ("no", "yes"), "s")):
        some = rows["labels" if key == "labels" else "regularizer"]
        for kind in kinds:
            chosen = [row for row in some if row[key] == kind]
            label = f"{kind} labels" if key == "labels" else f"push: {kind}"
            fourth.plot([row["test"] for row in chosen], [row["chi"] for row in chosen], marker, alpha=0.6, label=label)
    fourth.set(title="mean chi by test accuracy", xlabel="test accuracy")
    fourth.legend(fontsize=7)
    for axis in (first, second, third, fourth):
        axis.grid(alpha=0.3)


def main() -> None:
    experiment = Experiment(__file__, __doc__, SIZES)
    size: Size = experiment.size
    train, test = experiment.load(size.images)
    side = int(train[0].shape[1] ** 0.5)
    small = tuple(column[: size.few] for column in train)

    def trained(depth: int, width: int, activation: str = "relu", push: bool = False, seed: int = 0) -> nn.Module:
        net = build("mlp", activation, side, depth, width)
        least = {"num_segments": 1, "codes": False, "units": False, "faces": False, "figures": False, "measure_at_start": False}
        monitors = [FoldingMonitor(regularize=True, every_n_epochs=10**6, seed=seed, **least)] if push else []
        return experiment.fit(net, train, test, epochs=size.epochs, callbacks=monitors)

    def result(net: nn.Module, images: tuple[Tensor, Tensor] = train, asymmetry: bool = False) -> Row:
        folding = measure_folding(net, test, size.per_pair, asymmetry)
        return {"train": accuracy(net, images), "test": accuracy(net, test)} | folding

    def activation(activation: str, seed: int) -> Row:
        return result(trained(3, 64, activation), asymmetry=True)

    def sample(network: str) -> Row:
        representation, k = network.split()
        return sampling(cantor_net(representation, int(k)), *ENDS, size.points)

    def architecture(layers: str, seed: int) -> Row:
        net = build("mlp", "relu", side, *map(int, layers.split(" x ")))
        stop = EarlyStopping("val/accuracy", mode="max", patience=10**6, stopping_threshold=size.accuracy)
        counter = Epochs()
        experiment.fit(net, train, test, epochs=4 * size.epochs, callbacks=[stop, counter])
        return result(net) | {"epochs": counter.number}

    def labels(labels: str, seed: int) -> Row:
        images, targets = small
        if labels == "random":
            targets = targets[torch.randperm(len(targets))]
        net = build("mlp", "relu", side, 4, 48)
        experiment.fit(net, (images, targets), test, epochs=size.few_epochs)
        return result(net, (images, targets))

    def regularizer(push: str, seed: int) -> Row:
        net = trained(6, 64, push=push == "yes", seed=seed)
        start, end = class_segments(test[1], per_pair=max(1, size.per_pair // 2))
        sampled = sampling(net, test[0][start], test[0][end], size.points)
        return result(net) | {f"sampled_{name}": value for name, value in sampled.items()}

    seeds = experiment.seeds
    parts = [
        Part("activation", activation, [{"activation": name, "seed": seed} for name in ACTIVATIONS for seed in seeds]),
        Part("sampling", sample, [{"network": "A 3"}, {"network": "A 6"}]),
        Part(
            "architecture",
            architecture,
            [{"layers": f"{depth} x {width}", "seed": seed} for depth, width in size.architectures for seed in seeds],
        ),
        Part("labels", labels, [{"labels": kind, "seed": seed} for kind in ("true", "random") for seed in seeds]),
        Part("regularizer", regularizer, [{"push": push, "seed": seed} for push in ("no", "yes") for seed in seeds]),
    ]
    rows = experiment.run(parts)
    labelled = (
        f"{len(small[0]):,} images, {size.few_epochs} epochs, 4 x 48 units; random labels are the true ones in another order."
    )
    tables = [
        activation_table(rows["activation"]),
        sampling_table(sampled_rows(rows), size.points),
        architecture_table(rows["architecture"], size.accuracy),
        pairs_table("True and random labels", labelled, rows["labels"], "labels"),
        pairs_table(
            "The regularizer", "6 x 64 units, with and without the push of `regularize=True`.", rows["regularizer"], "push"
        ),
    ]
    title = "The Space Between: On Folding, Symmetries and Sampling"
    experiment.write(title, rows, tables, findings(rows), lambda figure: draw(figure, rows, size.points), NOTE)


class Epochs(Callback):
    """Counts the epochs of a training."""

    number = 0

    def on_train_epoch_end(self, *_: Any) -> None:
        self.number += 1


if __name__ == "__main__":
    main()

"""Folding of CantorNet, and of classifiers by depth and width ("On Space Folds of ReLU Neural Networks", Lewandowski et al. 2025).

    python examples/papers/space_folds.py [--data-dir FOLDER] [--seeds 5] [--paper-size] [--output-dir papers/space_folds]

CantorNet's three representations are walked exactly along (0, 3/4) -> (1, 3/4) and set beside what is known of them in closed form.
Classifiers share a number of units among more and more layers, and are measured between the classes of their test data. The paper
takes a million segments of each pair of classes: `phi_mnist.py` walks as many, of one network.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from cantor_nets import CantorNetA, cantor_net
from experiment import Experiment, Part, accuracy
from folding import measure_folding
from models import build
from report import Finding, Row, Table, differences, moments, spread, values, verdict
from scipy.stats import pearsonr, spearmanr

from fold_lightning import segment_walks, space_folding, walk_length, walk_range


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        recursions: Largest k of CantorNet.
        units: Numbers of units that all layers share.
        depths: Numbers of hidden layers.
        images: Training images.
        epochs: Epochs of training.
        per_pair: Segments of each ordered pair of classes.
    """

    recursions: int
    units: tuple[int, ...]
    depths: tuple[int, ...]
    images: int
    epochs: int
    per_pair: int


SIZES = {
    "smallest": Size(2, (12, 24), (1, 2, 3), 200, 1, 1),
    "default": Size(6, (60, 240), (1, 2, 3, 4, 6, 10), 5000, 10, 10),
    "paper": Size(6, (60, 120, 240, 480), (1, 2, 3, 4, 5, 6, 8, 10, 12), 60_000, 30, 10_000),
}

TRAINED = 0.85
"""Test accuracy from which a network counts as trained: the paper takes those that reached a high accuracy."""

NOTE = (
    "Lewandowski et al. 2025, arXiv 2502.09954. The paper's statements are those of its abstract and of accounts of it; its tables "
    "could not be read. Networks, optimizer (Adam, 3e-3) and the segments' number are this project's."
)

ENDS = torch.tensor([[0.0, 0.75]], dtype=torch.float64), torch.tensor([[1.0, 0.75]], dtype=torch.float64)


def cantor(representation: str, k: int) -> Row:
    """Return what the walk of a CantorNet counts, by all its units, and for A by those of the tents too."""
    net = cantor_net(representation, k)
    walks = segment_walks(net, *ENDS)
    points = segment_walks(net, *ENDS, method="uniform", num_points=11)
    inputs = torch.rand(10_000, 2, dtype=torch.float64)
    same = ((net(inputs) > 0) == (cantor_net("A", k)(inputs) > 0)).all().item()
    row = {"units": walks.num_units, "r1": int(walk_range(walks)), "r2": int(walk_length(walks))}
    row |= {"chi": space_folding(walks).item(), "regions": int(walks.num_regions()), "same_set": same}
    row |= {"chi_of_11_points": space_folding(points).item()}
    if isinstance(net, CantorNetA):
        tents = walks.select(net.inner_layers)
        row |= {
            "tents_r1": int(walk_range(tents)),
            "tents_r2": int(walk_length(tents)),
            "tents_regions": int(tents.num_regions()),
        }
    return row


def closed_form(k: int) -> Row:
    """Return what is known of representation A: of all 5k + 1 units, and of the 3k of the tents."""
    known = {"r1": 2 * k + 1, "r2": 5 * 2**k - 4, "regions": 3 * 2**k - 1}
    return known | {"tents_r1": 2 * k, "tents_r2": 2 * (2**k - 1), "tents_regions": 2 ** (k + 1) - 1}


def cantor_table(rows: list[Row]) -> Table:
    """Return r1, r2, chi and regions of each representation."""
    header = [
        "k",
        "A: r1, r2, chi, regions",
        "closed form of A",
        "chi of 11 points",
        "B: r1, r2, chi, regions",
        "C: r1, r2, chi, regions",
    ]
    lines = []
    for k in sorted({row["k"] for row in rows}):
        a, b, c = (next(row for row in rows if row["k"] == k and row["representation"] == name) for name in "ABC")
        known = closed_form(k)
        folded = 1 - known["r1"] / known["r2"]
        form = f"{known['r1']}, {known['r2']}, {folded:.4f}, {known['regions']}"
        counted = [f"{row['r1']}, {row['r2']}, {row['chi']:.4f}, {row['regions']}" for row in (a, b, c)]
        lines.append([str(k), counted[0], form, f"{a['chi_of_11_points']:.4f}", *counted[1:]])
    text = (
        "The segment (0, 3/4) -> (1, 3/4), by all units. B and C describe the same set by minima of half-planes, so chi "
        "depends on the representation of a function and not on the function alone."
    )
    return Table("CantorNet", text, header, lines)


def depth_table(rows: list[Row]) -> Table:
    """Return a row for each number of units and of layers."""
    names = ("test", "chi", "fraction", "phi", "regions")
    header = [
        "units",
        "layers x width",
        "trained",
        "test accuracy",
        "mean chi",
        "share that folds",
        "Phi_N",
        "regions on a segment",
    ]
    lines = []
    for units, depth in dict.fromkeys((row["units"], row["depth"]) for row in rows):
        some = [row for row in rows if row["units"] == units and row["depth"] == depth]
        trained = sum(row["test"] >= TRAINED for row in some)
        cells = [spread(values(some, name)) for name in names]
        lines.append([str(units), f"{depth} x {units // depth}", f"{trained} of {len(some)}", *cells])
    text = (
        f'"Trained" counts networks of at least {TRAINED:.0%} test accuracy. Segments lie between classes of the test images.'
    )
    return Table("Depth and width at a fixed number of units", text, header, lines)


def rank_correlations(rows: list[Row], one: str, other: str) -> list[float]:
    """Return Spearman's correlation of two columns over the networks of each seed; none where a column is constant."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        columns = [values(rows, name, seed=seed) for name in (one, other)]
        if all(len(set(column)) > 2 for column in columns):
            found.append(float(spearmanr(*columns).statistic))
    return found


def within_architectures(rows: list[Row], one: str, other: str) -> tuple[float, float]:
    """Return Pearson's correlation of two columns about their means of each architecture, and its p."""
    centered: tuple[list[float], list[float]] = [], []
    for units, depth in dict.fromkeys((row["units"], row["depth"]) for row in rows):
        for name, column in zip((one, other), centered, strict=True):
            found = values(rows, name, units=units, depth=depth)
            column += [value - moments(found)[0] for value in found]
    if any(len(set(column)) < 3 for column in centered):
        return float("nan"), float("nan")
    result = pearsonr(*centered)
    return float(result.statistic), float(result.pvalue)


def correlation_table(rows: list[Row]) -> Table:
    """Return rank correlations of folding with depth and with accuracy."""
    trained = [row for row in rows if row["test"] >= TRAINED]
    lines = []
    for units in dict.fromkeys(row["units"] for row in rows):
        for name, some in (("all", rows), ("trained", trained)):
            mine = [row for row in some if row["units"] == units]
            pairs = [("phi", "depth"), ("chi", "depth"), ("fraction", "depth"), ("phi", "test"), ("chi", "test")]
            cells = [spread(rank_correlations(mine, *pair)) for pair in pairs]
            lines.append([str(units), name, *cells])
    header = ["units", "networks", "Phi_N, depth", "chi, depth", "share, depth", "Phi_N, accuracy", "chi, accuracy"]
    return Table("Rank correlations", "Spearman's, over the networks of one seed.", header, lines)


def findings(cantors: list[Row], rows: list[Row]) -> list[Finding]:
    """Return the paper's statements beside what was found."""
    a = [row for row in cantors if row["representation"] == "A"]
    wrong = [row["k"] for row in a if any(row[key] != value for key, value in closed_form(row["k"]).items())]
    chis = [row["chi"] for row in sorted(a, key=lambda row: row["k"])]
    grows = all(one < two for one, two in pairwise(chis))
    found = [
        Finding(
            "CantorNet folds more with each recursion (experiments on CantorNet).",
            f"chi of A: {', '.join(f'{chi:.3f}' for chi in chis)}; all integers are those of the closed form"
            + (f" but at k = {wrong}" if wrong else "")
            + f"; 11 points give at most {max(row['chi_of_11_points'] for row in a):.3f}.",
            "agrees" if grows and not wrong else "disagrees",
            "Equidistant points miss regions, so they hide the growth at larger k.",
        )
    ]
    units = max(row["units"] for row in rows)
    trained = [row for row in rows if row["test"] >= TRAINED]
    for most in dict.fromkeys(row["units"] for row in rows):
        depths = sorted({row["depth"] for row in trained if row["units"] == most})
        correlations = rank_correlations([row for row in trained if row["units"] == most], "phi", "depth")
        found.append(
            Finding(
                f"Folding grows with depth where the generalisation error is low (experiments on MNIST); {most} units.",
                f"Rank correlation of Phi_N and depth among trained networks (depths {depths}): {spread(correlations)}.",
                verdict(correlations),
                "One hidden layer never folds; the paper's own depths and widths could not be read.",
            )
        )
    for depth in sorted({row["depth"] for row in rows} - {1}):
        least = min(row["units"] for row in rows)
        gain = differences(rows, "fraction", {"depth": depth, "units": units}, {"depth": depth, "units": least})
        found.append(
            Finding(
                f"The share of paths that fold grows with width (experiments on MNIST); depth {depth}.",
                f"{units // depth} units wide beside {least // depth}: {spread(gain)} of paths more.",
                verdict(gain),
                "A share near 1 cannot grow." if moments(values(rows, "fraction", depth=depth, units=least))[0] > 0.95 else "",
            )
        )
    deep = [row for row in rows if row["depth"] > 1]
    for most in dict.fromkeys(row["units"] for row in rows):
        correlations = rank_correlations([row for row in deep if row["units"] == most], "phi", "test")
        found.append(
            Finding(
                f"Deeper networks fold more and are more accurate (an account of the experiments); {most} units.",
                f"Rank correlation of Phi_N and test accuracy over depths of two layers and more: {spread(correlations)}.",
                verdict(correlations),
                "At a fixed number of units depth raises folding, and lowers the width and with it the accuracy.",
            )
        )
    correlation, p = within_architectures(deep, "phi", "test")
    found.append(
        Finding(
            "Folding is less where the generalisation error is high (The Space Between, abstract, on this paper).",
            f"Among networks of one architecture, which differ in their seeds alone: correlation {correlation:.2f}, p = {p:.2g}, "
            f"of {len(deep)} networks.",
            "not decided by these seeds" if not p < 0.05 else "agrees" if correlation > 0 else "disagrees",
            "Over all architectures the sign is the other one, for the reason above.",
        )
    )
    return found


def draw(figure: Any, cantors: list[Row], rows: list[Row]) -> None:
    """Draw chi of CantorNet over k, and folding over depth and over accuracy."""
    figure.set_size_inches(12, 3.6)
    left, middle, shares, right = figure.subplots(1, 4)
    for name in "ABC":
        some = sorted((row for row in cantors if row["representation"] == name), key=lambda row: row["k"])
        left.plot([row["k"] for row in some], [row["chi"] for row in some], "o-", label=name)
        if name == "A":
            left.plot(
                [row["k"] for row in some], [row["chi_of_11_points"] for row in some], "x:", color="gray", label="A, 11 points"
            )
    left.set(title="CantorNet", xlabel="k", ylabel="chi")
    for units in dict.fromkeys(row["units"] for row in rows):
        mine = [row for row in rows if row["units"] == units]
        depths = sorted({row["depth"] for row in mine})
        for axis, name in ((middle, "phi"), (shares, "fraction")):
            found = [moments(values(mine, name, depth=depth)) for depth in depths]
            axis.errorbar(depths, *zip(*found, strict=True), fmt="o-", capsize=3, label=f"{units} units")
        right.scatter([row["test"] for row in mine], [row["phi"] for row in mine], s=12, label=f"{units} units")
    middle.set(title="Phi_N", xlabel="hidden layers")
    shares.set(title="share of segments that fold", xlabel="hidden layers")
    right.set(title="Phi_N", xlabel="test accuracy")
    for axis in (left, middle, shares, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


def main() -> None:
    experiment = Experiment(__file__, __doc__, SIZES)
    size: Size = experiment.size
    train, test = experiment.load(size.images)
    side = int(train[0].shape[1] ** 0.5)

    def depth(units: int, depth: int, seed: int) -> Row:
        net = build("mlp", "relu", side, depth, units // depth)
        experiment.fit(net, train, test, epochs=size.epochs)
        return {"train": accuracy(net, train), "test": accuracy(net, test)} | measure_folding(net, test, size.per_pair)

    cantors = [{"representation": name, "k": k} for k in range(1, size.recursions + 1) for name in "ABC"]
    grid = [{"units": n, "depth": d, "seed": seed} for n in size.units for d in size.depths for seed in experiment.seeds]
    rows = experiment.run([Part("cantor", cantor, cantors), Part("depth", depth, grid)])
    tables = [cantor_table(rows["cantor"]), depth_table(rows["depth"]), correlation_table(rows["depth"])]
    said = findings(rows["cantor"], rows["depth"])
    title = "On Space Folds of ReLU Neural Networks"
    experiment.write(title, rows, tables, said, lambda figure: draw(figure, rows["cantor"], rows["depth"]), NOTE)


if __name__ == "__main__":
    main()

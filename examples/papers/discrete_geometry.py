"""All regions of small networks ("Characterizing the Discrete Geometry of ReLU Networks", Gaines and Bi 2026).

    python examples/papers/discrete_geometry.py [--data-dir FOLDER] [--seeds 5] [--paper-size] [--output-dir papers/discrete_geometry]

Enumerates every activation region of networks of few inputs, the principal components of the images, before and after training:
their number, mean faces beside the bound 2d, the diameter of the graph of regions beside its bound, and the faces of the regions
that hold training images beside the mean of all. Networks of one hidden layer have numbers that are known in closed form.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from math import comb, prod
from typing import Any

import torch
from experiment import Experiment, Part, accuracy
from report import Finding, Row, Table, moments, spread, values, verdict
from simple_polytopes import draw_before_and_after, label_panels, principal_components
from torch import Tensor, nn

from fold_lightning import RegionGraph, activation_codes, region_graph


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        images: Training images.
        epochs: Epochs of training.
        networks: Number of inputs, and the widths of the hidden layers.
        regions: Most regions; a network that has more is said to.
    """

    images: int
    epochs: int
    networks: tuple[tuple[int, ...], ...]
    regions: int


SIZES = {
    "smallest": Size(200, 1, ((2, 4), (2, 3, 3), (3, 4)), 2000),
    "default": Size(
        2000,
        15,
        (
            (2, 8),
            (2, 16),
            (2, 8, 8),
            (2, 16, 16),
            (2, 8, 8, 8),
            (3, 8),
            (3, 12),
            (3, 6, 6),
            (3, 8, 8),
            (4, 8),
            (4, 12),
            (4, 6, 6),
        ),
        20_000,
    ),
    "paper": Size(
        60_000,
        30,
        ((2, 32), (2, 32, 32), (2, 32, 32, 32), (3, 16, 16), (3, 24, 24), (4, 12, 12), (5, 10, 10), (6, 8, 8)),
        1_000_000,
    ),
}

NOTE = (
    "Gaines and Bi, ICLR 2026, arXiv 2606.07728. The paper's statements are its Theorems 3.4, 3.5 and 3.8 and the three empirical "
    "observations of its introduction."
)


def mlp(inputs: int, *widths: int) -> nn.Sequential:
    """Return a classifier of ten classes, with torch's own initialisation."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def closed_form(dimension: int, width: int) -> tuple[int, float]:
    """Return the number of regions and their mean faces, of planes in general position (Buck 1943)."""
    regions = sum(comb(width, i) for i in range(dimension + 1))
    return regions, 2 * sum(i * comb(width, i) for i in range(1, dimension + 1)) / regions


def statistics(net: nn.Module, inputs: Tensor, most: int) -> Row:
    """Return what the graph of regions counts, and the faces of the regions that hold inputs."""
    graph: RegionGraph = region_graph(net, inputs[:1], max_regions=most, progress=False)
    if not graph.complete:
        raise RuntimeError(f"{net} has more than {most:,} regions: raise `regions` of its size.")
    counts = graph.face_counts.double()
    low, high = graph.diameter_bounds
    held = graph.find(activation_codes(net, inputs).bits).unique()
    centered = counts - counts.mean()
    deviation = counts.std(correction=0)
    return {
        "regions": graph.num_regions,
        "mean": graph.mean_faces,
        "least": int(counts.min()),
        "most": int(counts.max()),
        "mode": Counter(graph.face_counts.tolist()).most_common(1)[0][0],
        "skewness": (centered**3).mean().item() / deviation.item() ** 3 if deviation > 0 else 0.0,
        "diameter_low": low,
        "diameter_high": high,
        "held": len(held),
        "mean_held": counts[held].mean().item(),
        "counts": graph.face_counts.tolist() if graph.num_regions <= 5000 else [],
    }


def regions_table(rows: list[Row]) -> Table:
    """Return what the graph of regions counts, of each network."""
    lines = []
    for name, time in dict.fromkeys((row["network"], row["training"]) for row in rows):
        some = [row for row in rows if (row["network"], row["training"]) == (name, time)]
        dimension, *widths = map(int, name.split("-"))
        form = "-"
        if len(widths) == 1:
            known = closed_form(dimension, widths[0])
            form = f"{known[0]}, {known[1]:.2f}"
        cells = [spread(values(some, column)) for column in ("regions", "mean")]
        skewness, held = spread(values(some, "skewness")), spread(values(some, "held"))
        modes = sorted(set(values(some, "mode")))
        diameter = f"{min(values(some, 'diameter_low'))} - {max(values(some, 'diameter_high'))}"
        bound = prod(width + 1 for width in widths)
        numbers = [str(2 * dimension), ", ".join(map(str, modes)), skewness, diameter, str(bound), held]
        lines.append([name, time, cells[0], form, cells[1], *numbers, spread(values(some, "mean_held"))])
    header = [
        "network",
        "training",
        "regions",
        "closed form: regions, mean faces",
        "mean faces",
        "2d",
        "commonest number of faces",
    ]
    header += ["skewness", "diameter, between", "its bound", "regions with images", "their mean faces"]
    single = [row for row in rows if row["network"].count("-") == 1]
    met = sum(row["regions"] == closed_form(*map(int, row["network"].split("-")))[0] for row in single)
    text = (
        "Networks are given by inputs and widths. The closed form is that of one layer in general position: "
        f"{met} of {len(single)} networks of one layer have as many regions."
    )
    return Table("All regions", text, header, lines)


def findings(rows: list[Row]) -> list[Finding]:
    """Return the paper's statements beside what was found."""
    dimensions = [int(row["network"].split("-")[0]) for row in rows]
    above = [row["network"] for row, d in zip(rows, dimensions, strict=True) if row["mean"] > 2 * d]
    largest = max(row["mean"] / (2 * d) for row, d in zip(rows, dimensions, strict=True))
    found = [
        Finding(
            "Mean faces over all regions are at most 2d (Theorem 3.4).",
            f"{len(above)} of {len(rows)} networks are above; the largest mean is {largest:.3f} of 2d.",
            "disagrees" if above else "agrees",
        )
    ]
    few = [
        row["network"]
        for row, d in zip(rows, dimensions, strict=True)
        if row["least"] < min(d, int(row["network"].split("-")[1]))
    ]
    text = f"{len(few)} of {len(rows)} networks have a region with fewer."
    found.append(Finding("Every region has at least min(n_1, d) faces (Theorem 3.5).", text, "disagrees" if few else "agrees"))
    bounds = [prod(int(width) + 1 for width in row["network"].split("-")[1:]) for row in rows]
    wide = [row["network"] for row, bound in zip(rows, bounds, strict=True) if row["diameter_low"] > bound]
    shares = [row["diameter_high"] / bound for row, bound in zip(rows, bounds, strict=True)]
    found.append(
        Finding(
            "The graph's diameter is at most the product of the widths plus one (Theorem 3.8).",
            f"{len(wide)} of {len(rows)} networks are above; diameters are at most {max(shares):.2f} of the bound.",
            "disagrees" if wide else "agrees",
        )
    )
    for dimension in sorted(set(dimensions)):
        means = {}
        for row in rows:
            if row["network"].startswith(f"{dimension}-") and row["training"] == "before":
                means.setdefault(row["network"], []).append(row["mean"] / (2 * dimension))
        ordered = sorted(means, key=lambda name: sum(map(int, name.split("-")[1:])))
        first, last = moments(means[ordered[0]])[0], moments(means[ordered[-1]])[0]
        found.append(
            Finding(
                f"The mean approaches 2d as networks grow (observation 1); d = {dimension}.",
                f"{first:.2f} of 2d in {ordered[0]}, {last:.2f} in {ordered[-1]}.",
                "agrees" if last > first or len(ordered) < 2 else "disagrees",
            )
        )
    many = [row for row in rows if row["regions"] >= 100]
    right = sum(row["skewness"] > 0 for row in many)
    below = sum(row["mode"] in (2 * d, 2 * d - 1) for row, d in zip(rows, dimensions, strict=True) if row["regions"] >= 100)
    found.append(
        Finding(
            "The number of faces skews right and is commonest just below 2d (observation 2).",
            f"Of {len(many)} networks with 100 regions and more {right} skew right; "
            f"in {below} the commonest number is 2d or one less.",
            "partly"
            if many and min(right, below) <= 0.9 * len(many)
            else "agrees"
            if many
            else "not decided by these networks",
            "Small networks have many unbounded regions, which have fewer faces." if many and below < 0.9 * len(many) else "",
        )
    )
    for time in ("before", "after"):
        gains = []
        for seed in dict.fromkeys(row["seed"] for row in rows):
            some = [row["mean_held"] - row["mean"] for row in rows if row["seed"] == seed and row["training"] == time]
            gains.append(moments(some)[0])
        found.append(
            Finding(
                f"Regions that hold data have more faces than the mean (observation 3); {time} training.",
                f"{spread(gains)} faces more, over the networks of a seed.",
                verdict(gains),
            )
        )
    return found


def draw(figure: Any, rows: list[Row]) -> None:
    """Draw histograms of faces over all regions."""
    names = [name for name in dict.fromkeys(row["network"] for row in rows) if any(values(rows, "counts", network=name))]
    columns = min(6, len(names))
    figure.set_size_inches(2.4 * max(2, columns), 2.2 * math.ceil(len(names) / columns) + 0.4)
    axes = figure.subplots(math.ceil(len(names) / columns), columns, squeeze=False, sharey=True).flatten()
    for name, axis in zip(names, axes, strict=False):
        times = ("before", "after")
        counts = {t: [n for found in values(rows, "counts", network=name, training=t) for n in found] for t in times}
        edges = [number - 0.5 for number in range(max(map(max, filter(None, counts.values()))) + 2)]
        draw_before_and_after(axis, counts, edges, 2 * int(name.split("-")[0]), "2d")
        axis.set_title(name, fontsize=9)
    label_panels(figure, axes, len(names), "faces of all regions")


def main() -> None:
    experiment = Experiment(__file__, __doc__, SIZES)
    size: Size = experiment.size
    (images, labels), (test, test_labels) = experiment.load(size.images)
    everything = torch.cat([images, test])

    def enumerate_all(network: str, training: str, seed: int) -> Row:
        dimension, *widths = map(int, network.split("-"))
        along = principal_components(everything, dimension)
        train, tested = (along[: len(images)], labels), (along[len(images) :], test_labels)
        net = mlp(dimension, *widths)
        if training == "after":
            experiment.fit(net, train, tested, epochs=size.epochs)
        return {"train": accuracy(net, train)} | statistics(net, train[0], size.regions)

    names = ["-".join(map(str, widths)) for widths in size.networks]
    grid = [
        {"network": n, "training": time, "seed": seed}
        for n in names
        for time in ("before", "after")
        for seed in experiment.seeds
    ]
    part = Part("regions", enumerate_all, grid)
    rows = experiment.run([part])
    title = "Characterizing the Discrete Geometry of ReLU Networks"
    said = findings(rows["regions"])
    experiment.write(title, rows, [regions_table(rows["regions"])], said, lambda figure: draw(figure, rows["regions"]), NOTE)


if __name__ == "__main__":
    main()

"""Faces of regions by initialisation, width, depth, bias and skips ("Deep ReLU Networks Have Surprisingly Simple Polytopes").

    python examples/papers/simple_polytopes.py [--data-dir FOLDER] [--seeds 5] [--paper-size] [--output-dir papers/simple_polytopes]

Fan et al. 2023. Networks of few inputs, the principal components of the images, differ from one base network in one thing each. The
faces of the regions around training images, and around random points of the box that holds them, are counted exactly before and
after training; hit-and-run walks, which the paper could use, are set beside them. In two and three dimensions the simplices into
which regions fall are counted too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from experiment import Experiment, Part, accuracy
from models import Residual
from report import Finding, Row, Table, differences, moments, spread, values, verdict
from torch import Tensor, nn

from fold_lightning import activation_codes, activation_regions, face_counts, region_shapes


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        images: Training images.
        components: Principal components of the images that are the networks' inputs.
        epochs: Epochs of training.
        regions: Regions around images, and as many around random points.
        steps: Steps of hit-and-run in each region.
        shapes: Regions whose simplices are counted.
        variants: Number of variants that are run; None for all.
    """

    images: int
    components: int
    epochs: int
    regions: int
    steps: int
    shapes: int
    variants: int | None


SIZES = {
    "smallest": Size(200, 3, 1, 8, 20, 5, 3),
    "default": Size(1000, 5, 10, 40, 200, 30, None),
    "paper": Size(60_000, 10, 30, 2000, 1000, 1000, None),
}

INITIALISATIONS: dict[str, Callable[[Tensor], object]] = {
    "he normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier uniform": nn.init.xavier_uniform_,
    "small normal": partial(nn.init.normal_, std=0.05),
    "torch's own": lambda weight: weight,
}


@dataclass(frozen=True)
class Variant:
    """A network.

    Attributes:
        initialisation: Of the weights.
        depth: Number of hidden layers.
        width: Units of each.
        bias: Value of all biases before training; None for torch's own.
        skip: Whether every hidden layer but the first adds its input.
    """

    initialisation: str = "he normal"
    depth: int = 3
    width: int = 24
    bias: float | None = None
    skip: bool = False


BASE = Variant()

VARIANTS: dict[str, Variant] = {
    "base: he normal, 3 x 24": BASE,
    "8 x 24": replace(BASE, depth=8),
    "8 x 24, skips": replace(BASE, depth=8, skip=True),
    "1 x 24": replace(BASE, depth=1),
    "3 x 12": replace(BASE, width=12),
    "3 x 48": replace(BASE, width=48),
    "bias 0": replace(BASE, bias=0.0),
    **{name: replace(BASE, initialisation=name) for name in INITIALISATIONS if name != BASE.initialisation},
}

CASES = tuple((place, time) for place in ("images", "random") for time in ("before", "after"))

NOTE = (
    "Fan et al. 2023, arXiv 2305.09145. The paper's statements are those of its abstract; its histograms could not be read. "
    "Points fall into large regions more often, and those tend to have more faces: of a plane cut by random lines the part around a "
    "given point has pi^2 / 2 = 4.93 in the mean, a part 4. So these means may exceed 2d, which bounds the mean over all regions."
)


def network(inputs: int, variant: Variant) -> nn.Sequential:
    """Return a classifier of ten classes."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *[variant.width] * variant.depth]):
        layer = nn.Sequential(nn.Linear(before, after), nn.ReLU())
        layers.append(Residual(*layer) if variant.skip and layers else layer)
    net = nn.Sequential(*layers, nn.Linear(variant.width, 10))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            INITIALISATIONS[variant.initialisation](module.weight.data)
            if variant.bias is not None:
                module.bias.data.fill_(variant.bias)
    return net


def faces(net: nn.Module, inputs: Tensor, **options: Any) -> Tensor:
    """Return the number of faces of the region around each input."""
    return torch.cat([face_counts(activation_regions(net, some), **options) for some in inputs.split(100)])


def principal_components(images: Tensor, number: int) -> Tensor:
    """Return the images along their first components, each at variance 1, with signs that do not depend on the solver."""
    centered = images - images.mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False).Vh[:number]
    along = centered @ (axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()).T
    return along / along.std(0)


def in_the_box(images: Tensor, number: int) -> Tensor:
    """Return random points of the box that holds the images."""
    low, high = images.amin(0), images.amax(0)
    return low + (high - low) * torch.rand(number, images.shape[1])


def faces_table(rows: list[Row], bound: int) -> Table:
    """Return mean faces of each variant, by place and before or after training."""
    lines = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        some = [row for row in rows if row["variant"] == name]
        cells = [spread(values(some, f"{place} {time}")) for place, time in CASES]
        lines.append([name, str(some[0]["units"]), spread(values(some, "train")), *cells, spread(values(some, "ninth_decile"))])
    header = ["network", "units", "training accuracy", "images, before", "images, after", "random, before", "random, after"]
    header.append("nine of ten regions have at most")
    text = f"Mean faces of the regions around training images and around random points; 2d = {bound}. The last column: random, after."
    return Table("Faces", text, header, lines)


def walks_table(rows: list[Row]) -> Table:
    """Return what hit-and-run walks find of the faces."""
    lines = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        some = [row for row in rows if row["variant"] == name]
        exact, found = (values(some, column) for column in ("random after", "hit_and_run"))
        lines.append([name, spread(exact), spread(found), spread([b / a for a, b in zip(exact, found, strict=True)])])
    text = "Around random points after training. Hit-and-run finds faces by random chords, so it never finds too many."
    return Table("Hit-and-run beside exact faces", text, ["network", "exact", "hit-and-run", "share found"], lines)


def simplices_table(rows: list[Row]) -> Table:
    """Return the number of simplices of regions in few dimensions."""
    lines = []
    for dimension, depth in dict.fromkeys((row["dimension"], row["depth"]) for row in rows):
        some = [row for row in rows if row["dimension"] == dimension and row["depth"] == depth]
        names = ("faces_before", "before", "faces_after", "after", "most_after")
        lines.append([str(dimension), f"{depth} x 24", *(spread(values(some, name)) for name in names)])
    header = ["dimensions", "network", "faces before", "simplices before", "faces after", "simplices after", "most after"]
    text = "Different regions around random points, cut by the box; simplices are those of a Delaunay triangulation of the vertices."
    return Table("Simplices", text, header, lines)


def findings(rows: dict[str, list[Row]], bound: int) -> list[Finding]:
    """Return the paper's statements beside what was found."""
    found, large = [], [row for row in rows["faces"] if row["units"] >= 72]
    for time in ("before", "after"):
        shares = [row[f"random {time}"] / row["units"] for row in large]
        if shares:
            found.append(
                Finding(
                    f"Polytopes are simple, with few faces, {time} training (abstract).",
                    f"Of the units of networks with 72 and more, {spread(shares)} are faces around random points, "
                    f"at most {max(shares):.2f}.",
                    "agrees" if max(shares) < 0.5 else "disagrees",
                )
            )
    names = {row["variant"] for row in rows["faces"]}
    pairs = [("8 x 24", "base: he normal, 3 x 24"), ("8 x 24", "1 x 24")]
    for one, other in pairs:
        if not {one, other} <= names:
            continue
        for time in ("before", "after"):
            gain = differences(rows["faces"], f"random {time}", {"variant": one}, {"variant": other})
            plain = moments(values(rows["faces"], f"random {time}", variant=other))[0]
            grows = verdict(gain) == "agrees" and moments(gain)[0] > 0.1 * plain
            found.append(
                Finding(
                    f"Depth does not make polytopes more complicated (abstract); {one} beside "
                    f"{other.removeprefix('base: he normal, ')}, {time} training.",
                    f"{spread(gain)} faces more than {plain:.1f}; 2d = {bound}.",
                    "disagrees" if grows else "agrees",
                    "24 planes leave room for 24 faces at most; the bound of 2d is on the mean over all regions, whatever the depth."
                    if other == "1 x 24" and grows
                    else "",
                )
            )
    if {"8 x 24, skips", "8 x 24"} <= names:
        for time in ("before", "after"):
            gain = differences(rows["faces"], f"random {time}", {"variant": "8 x 24, skips"}, {"variant": "8 x 24"})
            found.append(
                Finding(
                    f"The number of faces tells shortcut networks apart (abstract); 8 x 24, {time} training.",
                    f"{spread(gain)} faces more with skips.",
                    "not decided by these seeds" if verdict(gain).startswith("not") else "agrees",
                )
            )
    shares = [row["hit_and_run"] / row["random after"] for row in rows["faces"]]
    found.append(
        Finding(
            "Faces can be found by hit-and-run.",
            f"It finds {spread(shares)} of the faces; the least share of a network is {min(shares):.2f}.",
            "a lower bound" if min(shares) < 1 else "agrees",
            "Small faces are hit by few chords.",
        )
    )
    most = max(row["most_after"] for row in rows["simplices"])
    means = {n: moments(values(rows["simplices"], "after", dimension=n))[0] for n in (2, 3)}
    text = f"After training {means[2]:.1f} simplices in the mean in two dimensions, {means[3]:.1f} in three; at most {most}."
    found.append(
        Finding(
            "Regions fall into few simplices (the paper's first version).", text, "agrees" if means[3] < 24 else "disagrees"
        )
    )
    return found


def draw(figure: Any, rows: list[Row], bound: int) -> None:
    """Draw histograms of faces around random points, before and after training."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    columns = min(5, len(names))
    figure.set_size_inches(2.6 * columns, 2.1 * -(-len(names) // columns))
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True, sharey=True).flatten()
    every = [number for row in rows for place, time in CASES[2:] for number in row[f"{place} {time} counts"]]
    edges = [number - 0.5 for number in range(min(every), max(every) + 2)]
    for name, axis in zip(names, axes, strict=False):
        mine = [row for row in rows if row["variant"] == name]
        counts = {time: [n for row in mine for n in row[f"{place} {time} counts"]] for place, time in CASES[2:]}
        draw_before_and_after(axis, counts, edges, bound, f"2d = {bound}")
        axis.set_title(name, fontsize=9)
    label_panels(figure, axes, len(names), "faces of the regions around random points")


def draw_before_and_after(axis: Any, counts: dict[str, list[int]], edges: list[float], bound: int, label: str) -> None:
    """Draw the histograms of numbers of faces before and after training, those that there are, and a line at the bound."""
    for (time, numbers), color, look in zip(counts.items(), ("tab:blue", "tab:orange"), ("stepfilled", "step"), strict=True):
        if numbers:
            alpha, weights = 0.35 if look == "stepfilled" else 1, [1 / len(numbers)] * len(numbers)
            axis.hist(numbers, edges, weights=weights, color=color, histtype=look, alpha=alpha, label=f"{time} training")
    axis.axvline(bound, color="black", linewidth=0.8, label=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.2)


def label_panels(figure: Any, axes: Any, used: int, what: str) -> None:
    """Remove axes that are not used, and give the others one legend and common labels."""
    for axis in axes[used:]:
        axis.remove()
    figure.supxlabel(what)
    figure.supylabel("share of regions")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)


def main() -> None:
    experiment = Experiment(__file__, __doc__, SIZES)
    size: Size = experiment.size
    (images, labels), (test, test_labels) = experiment.load(size.images)
    everything = torch.cat([images, test])

    def data(dimension: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        along = principal_components(everything, dimension)
        return (along[: len(images)], labels), (along[len(images) :], test_labels)

    def count(variant: str, seed: int) -> Row:
        train, tested = data(size.components)
        places = {"images": train[0][: size.regions], "random": in_the_box(train[0], size.regions)}
        net = network(size.components, VARIANTS[variant])
        found = {(place, "before"): faces(net, inputs) for place, inputs in places.items()}
        experiment.fit(net, train, tested, epochs=size.epochs)
        found |= {(place, "after"): faces(net, inputs) for place, inputs in places.items()}
        walked = faces(net, places["random"], method="hit_and_run", num_steps=size.steps)
        row: Row = {"units": VARIANTS[variant].depth * VARIANTS[variant].width, "train": accuracy(net, train)}
        for (place, time), counts in found.items():
            row |= {f"{place} {time}": counts.double().mean().item(), f"{place} {time} counts": counts.tolist()}
        ninth = found["random", "after"].double().quantile(0.9, interpolation="higher").item()
        return row | {"hit_and_run": walked.double().mean().item(), "ninth_decile": ninth}

    def simplices(dimension: int, depth: int, seed: int) -> Row:
        train, tested = data(dimension)
        net, points = network(dimension, replace(BASE, depth=depth)), in_the_box(train[0], size.shapes)
        low, high = train[0].min().item(), train[0].max().item()
        row: Row = {}
        for time in ("before", "after"):
            if time == "after":
                experiment.fit(net, train, tested, epochs=size.epochs)
            first = _first_of_equals(activation_codes(net, points).bits)
            regions = activation_regions(net, points[first])
            numbers = [
                shape.num_simplices for shape in region_shapes(regions, box=(low, high), cut="all") if shape.num_simplices
            ]
            row[f"faces_{time}"] = face_counts(regions).double().mean().item()
            row |= {time: moments(numbers)[0], f"most_{time}": max(numbers)}
        return row

    names = list(VARIANTS)[: size.variants]
    parts = [
        Part("faces", count, [{"variant": name, "seed": seed} for name in names for seed in experiment.seeds]),
        Part(
            "simplices",
            simplices,
            [{"dimension": n, "depth": depth, "seed": seed} for n in (2, 3) for depth in (1, 3) for seed in experiment.seeds],
        ),
    ]
    rows = experiment.run(parts)
    bound = 2 * size.components
    tables = [faces_table(rows["faces"], bound), walks_table(rows["faces"]), simplices_table(rows["simplices"])]
    title = "Deep ReLU Networks Have Surprisingly Simple Polytopes"
    experiment.write(title, rows, tables, findings(rows, bound), lambda figure: draw(figure, rows["faces"], bound), NOTE)


def _first_of_equals(bits: Tensor) -> Tensor:
    """Return the index of the first of each different code."""
    _, group = bits.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(bits)).scatter_reduce(0, group, torch.arange(len(bits)), "amin")
    return first.sort().values


if __name__ == "__main__":
    main()

"""How many faces regions have, before and after training ("Deep ReLU Networks Have Surprisingly Simple Polytopes", Fan et al. 2023).

    python examples/simple_polytopes.py [--data-dir FOLDER --subspace 2] [--depths 2 4] [--inputs 150] [--output simple_polytopes.png]

Initialises networks in several ways, trains each, and counts the faces of the regions around inputs, exactly: around training inputs,
and around points at random in the box that holds them. Over all regions of a network the mean is at most 2d in d dimensions
("Characterizing the Discrete Geometry of ReLU Networks", Gaines and Bi 2026), but points fall into large regions more often, and
those tend to have more faces: of a plane cut by random lines the part around a given point has pi^2 / 2 = 4.93 in the mean, a part 4.

Without a folder of MNIST's IDX files it takes scikit-learn's digits, reduced to a few principal components. Images of full size are
best seen through random slices of k dimensions, `--subspace k`, where the bound is 2k.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pictures
import torch
from digits import positive
from idx import load_images
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import activation_regions, face_counts

INITIALISATIONS: dict[str, Callable[[Tensor], object]] = {
    "torch_default": lambda weight: weight,
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": partial(nn.init.orthogonal_, gain=2**0.5),
    "small_normal": partial(nn.init.normal_, std=0.05),
}
"""Of weights; biases are torch's own everywhere, for without them every region is a cone."""

AT_ONCE = 100
"""Inputs whose regions are in memory together."""

PLACES = ("training", "random")
TIMES = ("before", "after")

FILLED = {"histtype": "stepfilled", "alpha": 0.35}
OUTLINED = {"histtype": "step", "linewidth": 1.4}
"""Histograms that can be told apart where they lie on each other."""

Found = dict[tuple[str, str], Tensor]
"""Face counts int64 (B,) by place and time."""


def network(inputs: int, depth: int, width: int, initialise: Callable[[Tensor], object]) -> nn.Sequential:
    """A classifier of ten classes with some hidden layers of one width."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *[width] * depth]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in net[::2]:
        initialise(layer.weight.data)
    return net


def train(net: nn.Module, data: tuple[Tensor, Tensor], epochs: int) -> float:
    """Trains with Adam and returns the accuracy on what it trained on."""
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data[0])).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (net(data[0]).argmax(1) == data[1]).double().mean().item()


def count(net: nn.Module, inputs: Tensor, subspace: int | None) -> Tensor:
    """How many faces the region around each input has."""
    return torch.cat([face_counts(activation_regions(net, part, subspace=subspace)) for part in inputs.split(AT_ONCE)])


def study(
    net: nn.Module, data: tuple[Tensor, Tensor], places: dict[str, Tensor], epochs: int, subspace: int | None
) -> tuple[Found, float]:
    """Face counts around each place before and after training, and the accuracy."""
    found = {(place, "before"): count(net, inputs, subspace) for place, inputs in places.items()}
    accuracy = train(net, data, epochs)
    found |= {(place, "after"): count(net, inputs, subspace) for place, inputs in places.items()}
    return found, accuracy


def principal_components(images: Tensor, number: int) -> Tensor:
    """The images along their first components, each at variance 1."""
    centered = images - images.mean(0)
    along = centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:number].T
    return along / along.std(0)


def in_the_box(images: Tensor, number: int) -> Tensor:
    """Points at random in the box that holds the images."""
    low, high = images.amin(0), images.amax(0)
    return low + (high - low) * torch.rand(number, images.shape[1])


def tabulate(results: dict[tuple[str, int], tuple[Found, float]], width: int, bound: int) -> Table:
    """A row for each network, before and after training."""
    columns = [heading for place in PLACES for heading in (f"{place}\nmean (max)", "of\nunits")]
    table = Table("initialisation", "depth", "trained", *columns, title=f"Faces of the regions around inputs; 2d = {bound}")
    for (name, depth), (found, accuracy) in results.items():
        for time in TIMES:
            cells = []
            for place in PLACES:
                counts = found[place, time].double()
                cells += [f"{counts.mean():.1f} ({counts.max():.0f})", f"{counts.mean() / (depth * width):.0%}"]
            table.add_row(name, str(depth), "no" if time == "before" else f"to {accuracy:.1%}", *cells)
    return table


def draw(results: dict[tuple[str, int], tuple[Found, float]], bound: int, file: Path) -> None:
    """Histograms, a column for each initialisation, a row for each depth and place."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    names, depths = (list(dict.fromkeys(key[i] for key in results)) for i in (0, 1))
    rows = [(depth, place) for depth in depths for place in PLACES]
    figure = Figure(figsize=(1.2 + 2.2 * max(3, len(names)), 1 + 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey=True)
    every = torch.cat([counts for found, _ in results.values() for counts in found.values()])
    least, most = int(every.min()), int(every.max())
    step = -(-(most + 1 - least) // 40)  # numbers of faces in a bar
    edges = [least - 0.5 + step * i for i in range((most - least) // step + 2)]
    for (depth, place), line in zip(rows, axes, strict=True):
        for name, axis in zip(names, line, strict=True):
            for time, color, look in zip(TIMES, ("tab:blue", "tab:orange"), (FILLED, OUTLINED), strict=True):
                counts = results[name, depth][0][place, time].double()
                weights = torch.full_like(counts, 1 / len(counts))
                axis.hist(counts, edges, weights=weights, color=color, **look, label=f"{time} training")
                axis.axvline(counts.mean(), color=color, linestyle="--", linewidth=1.5, label=f"mean {time}")
            if bound < 2 * most:  # or the line would be all that there is to see
                axis.axvline(bound, color="black", linewidth=1, label=f"2d = {bound}")
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.2)
        line[0].set_ylabel(f"depth {depth}\n{place} inputs", fontsize=9)
    for name, top, bottom in zip(names, axes[0], axes[-1], strict=True):
        top.set_title(name.replace("_", " "), fontsize=10)
        bottom.set_xlabel("faces")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument("--components", type=positive, help="principal components; 5 for the digits, all pixels for a folder's")
    parser.add_argument("--subspace", type=positive, help="dimensions of random slices; whole regions otherwise")
    parser.add_argument("--initialisations", nargs="+", choices=INITIALISATIONS, default=[*INITIALISATIONS])
    parser.add_argument("--depths", type=positive, nargs="+", default=[2, 4], help="hidden layers")
    parser.add_argument("--width", type=positive, default=24, help="units of each")
    parser.add_argument("--epochs", type=positive, help="20 for the digits, 1 for a folder's")
    parser.add_argument("--inputs", type=positive, default=150, help="regions of each kind")
    parser.add_argument("--output", type=Path, default=Path("simple_polytopes.png"))
    arguments = parser.parse_args()
    try:
        (images, labels), _ = load_images(arguments.data_dir)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"simple_polytopes.py: {error}")
    components = arguments.components or (None if arguments.data_dir else 5)
    dimension = min(components or images.shape[1], images.shape[1])
    if arguments.subspace is not None and arguments.subspace > dimension:
        sys.exit(
            f"simple_polytopes.py: --subspace must be at most the inputs' {dimension} dimensions, got {arguments.subspace}"
        )
    if components:
        images = principal_components(images, dimension)
    torch.set_num_threads(1)  # in networks so small more threads mostly wait for each other
    torch.manual_seed(0)
    places = dict(zip(PLACES, (images[: arguments.inputs], in_the_box(images, arguments.inputs)), strict=True))
    epochs = arguments.epochs or (1 if arguments.data_dir else 20)
    results = {}
    for name, depth in track([(n, d) for n in arguments.initialisations for d in arguments.depths], "training and counting"):
        torch.manual_seed(0)
        net = network(dimension, depth, arguments.width, INITIALISATIONS[name])
        results[name, depth] = study(net, (images, labels), places, epochs, arguments.subspace)

    bound = 2 * (arguments.subspace or dimension)
    Console().print(tabulate(results, arguments.width, bound))
    pictures.save(lambda: draw(results, bound, arguments.output), arguments.output)


if __name__ == "__main__":
    main()

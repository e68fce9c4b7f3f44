"""All regions of small networks by linear programs on their weights alone, against `region_graph`.

python tests/fuzz_regions.py --networks 200 --seed 0 [--first 0]

For each region found, each unit is flipped: a program seeks the largest ball of the flipped code's half-spaces. A ball where the
graph has no region is one that it misses. Each face has a region on either side.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn

from fold_lightning import RegionGraph, activation_codes, region_graph
from helpers.networks import mlp

BOX, CAP, LEAST = 1e5, 1e3, 1e-8
"""Where balls are sought, how large they may be, and from which radius on a code has a region."""


def half_spaces(model: nn.Sequential, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The half-spaces ``a @ x + b >= 0`` of a code, by plain products of the weights."""
    linear = [layer for layer in model if isinstance(layer, nn.Linear)][:-1]
    slope, offset, rows, first = np.eye(linear[0].in_features), np.zeros(linear[0].in_features), [], 0
    for layer in linear:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        slope, offset = weight @ slope, weight @ offset + bias
        bits = code[first : first + len(bias)]
        first += len(bias)
        sign = np.where(bits, 1.0, -1.0)
        rows.append((sign[:, None] * slope, sign * offset))
        slope, offset = bits[:, None] * slope, bits * offset
    return np.vstack([a for a, _ in rows]), np.concatenate([b for _, b in rows])


def radius(model: nn.Sequential, code: np.ndarray) -> float:
    """The radius of the largest ball in a code's half-spaces, at most `CAP`; negative if there is none."""
    a, b = half_spaces(model, code)
    size = np.linalg.norm(a, axis=1)
    constant = size < 1e-13
    if (b[constant] < 0).any():
        return -1.0
    a, b, size = a[~constant], b[~constant], size[~constant]
    d = a.shape[1]
    solved = linprog(
        np.r_[np.zeros(d), -1.0],
        np.c_[-a / size[:, None], np.ones(len(size))],
        b / size,
        bounds=[(-BOX, BOX)] * d + [(None, CAP)],
        method="highs",
    )
    return float(solved.x[d]) if solved.status == 0 else -1.0


def missed(model: nn.Sequential, graph: RegionGraph, most: int, random: np.random.Generator) -> list[tuple[int, int, float]]:
    """Region, unit and radius of the regions behind a flipped unit that a graph lacks, of at most so many of its regions."""
    known = {code.tobytes() for code in graph.codes.numpy()}
    found = []
    for i in random.permutation(graph.num_regions)[:most]:
        for unit in range(graph.codes.shape[1]):
            code = graph.codes[i].numpy().copy()
            code[unit] ^= True
            if code.tobytes() not in known and (size := radius(model, code)) > LEAST:
                found.append((int(i), unit, size))
    return found


def random_widths(random: np.random.Generator) -> tuple[int, ...]:
    """Up to 4 inputs, up to 6 layers, so narrow that there are some thousands of regions at most."""
    inputs, layers = int(random.integers(1, 5)), int(random.integers(1, 7))
    most = {1: 16, 2: 9, 3: 7, 4: 5}[inputs] - (layers > 4 and inputs > 2)
    return (inputs, *(int(width) for width in random.integers(2, most + 1, layers)), 1)


def check(widths: tuple[int, ...], seed: int, most: int, random: np.random.Generator) -> str:
    """What is wrong with the graph of a network with torch's default weights; "" if nothing is."""
    model = mlp(*widths, seed=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            graph = region_graph(model, torch.full((1, widths[0]), 0.1), max_regions=20_000, progress=False)
        except Exception as error:
            return f"{widths} seed {seed}: {error!r}"
    if (activation_codes(model, graph.points).bits != graph.codes).any():
        return f"{widths} seed {seed}: points have other codes than their regions"
    one_sided = int(graph.face_counts.sum()) - 2 * len(graph.edges)
    if graph.complete and one_sided:
        return f"{widths} seed {seed}: {graph.num_regions} regions, {one_sided} more ends of faces than two for each edge"
    lost = missed(model, graph, most, random)
    if graph.complete and not lost:
        return ""
    return f"{widths} seed {seed}: {graph.num_regions} regions, complete {graph.complete}, missed {lost[:3]}, {caught[:1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--regions", type=int, default=50, help="of each network whose units are flipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first network, to go on from")
    arguments = parser.parse_args()
    wrong = []
    for number in range(arguments.first, arguments.networks):
        random = np.random.default_rng([arguments.seed, number])  # so that each network can be looked at alone
        if what := check(random_widths(random), int(random.integers(1000)), arguments.regions, random):
            wrong.append(what)
            print(what, flush=True)
        if number % 20 == 19:
            print(f"{number + 1} networks, {len(wrong)} wrong", flush=True)


if __name__ == "__main__":
    main()

"""How long exact faces of regions take, beside one linear program a row, and the library relucent where it is installed.

    python examples/benchmarks/faces.py [--data-dir FOLDER] [--inputs 20] [--seconds 4] [--output-dir docs/results]

Times are of `activation_regions` and `supporting_units` together, on networks at initialisation and random inputs. The other ways get
`--seconds` for each network: linear programs are then those of some rows, drawn at random, and their time a region is what all rows
would take. relucent (AGPL) solves with Gurobi, which limits sizes without a licence.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from scipy.optimize import linprog
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import CLOCK, clock, median_seconds, seconds
from idx import load_training
from options import positive
from pages import Page, parse, parser
from walks import mlp, train

from fold_lightning import ActivationRegions, activation_regions, face_counts, region_graph, supporting_units

NETWORKS = ((2, 16, 16), (10, 32, 32, 32), (64, 64, 64, 64), (784, 128, 64, 32))
LARGE = (64, 512, 512)
"""Widths of the network of which `--few` regions are measured."""

SLICED = (784, 512, 512, 512)
"""Widths of the network whose slices are measured."""

FACE = 1e-8
"""How far across its plane a normalised row's program must get."""


def supports(normals: Tensor, offsets: Tensor, row: int) -> bool | None:
    """Whether a row is a face by its own program, relaxed by 1, in the coordinates of the inputs; None if it is not solved."""
    length = normals.norm(dim=1)
    if length[row] == 0:
        return False
    real = length > 0
    limits = (-normals[real] / length[real, None]).numpy()
    right = (offsets[real] / length[real]).numpy()
    own = int(real[:row].sum())
    right[own] += 1
    result = linprog(-limits[own], limits, right, bounds=(None, None), method="highs")
    return bool(-result.fun - (right[own] - 1) > FACE) if result.status == 0 else None


HEADER = ("network", "regions", "rows", "faces", "ms a region", "way", "times as long", "agrees")

TEXT = """Exact faces, with the half-spaces they are sought among, of regions of untrained networks around random inputs, and of
slices of a trained one, beside one linear program a row by HiGHS, and the library relucent where it is installed, which solves
them with Gurobi. Each other way gets a limited time: linear programs are then those of some rows, drawn at random, and their
time is what all rows would take."""


def row_by_row(regions: ActivationRegions, faces: Tensor, limit: float) -> tuple[float, str]:
    """Seconds a region that a program for each row takes, and how its answers compare; from the rows that the time allows."""
    begin, solved, different, failed = clock(), 0, 0, 0
    for place in torch.randperm(faces.numel(), generator=torch.Generator().manual_seed(0)).tolist():
        b, row = divmod(place, faces.shape[1])
        answer = supports(regions.normals[b], regions.offsets[b], row)
        solved += 1
        failed += answer is None
        different += answer is not None and answer != bool(faces[b, row])
        if clock() - begin > limit:
            break
    verdict = f"{different} of {solved:,} rows differ" + (f", {failed} not solved" if failed else "")
    return (clock() - begin) / solved * faces.shape[1], verdict


def has_relucent() -> bool:
    """Whether the library and its solver are installed."""
    return all(find_spec(name) is not None for name in ("relucent", "gurobipy"))


def relucent_face_counts(model: nn.Sequential, inputs: Tensor) -> Iterator[int]:
    """The number of faces of each region in turn, as relucent's README finds it."""
    import relucent

    complex_ = relucent.Complex(model)
    for x in inputs:
        yield len(complex_.point2poly(x[None].numpy()).shis)


def count_with_relucent(sender: Connection, model: nn.Sequential, inputs: Tensor) -> None:
    """Sends the number of faces of each region that relucent finds, and the seconds it took."""
    torch.set_num_threads(1)
    import_module("relucent")
    sender.send(None)  # time begins
    try:
        counts = relucent_face_counts(model, inputs)
        for _ in inputs:
            took, count = seconds(lambda: next(counts))
            sender.send((count, took))
    except Exception as error:
        sender.send(str(error))


def with_relucent(model: nn.Sequential, inputs: Tensor, counts: list[int], limit: float) -> tuple[float | None, str]:
    """Seconds a region that relucent takes, and how its counts compare; in a process of its own that can be stopped."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=count_with_relucent, args=(sender, model, inputs), daemon=True)
    process.start()
    sender.close()
    found: list[tuple[int, float]] = []
    verdict = ""
    try:
        receiver.recv()
        deadline = time.perf_counter() + limit
        while len(found) < len(inputs) and receiver.poll(max(0.0, deadline - time.perf_counter())):
            answer = receiver.recv()
            if isinstance(answer, str):
                verdict = f", then stopped: {answer}"
                break
            found.append(answer)
    except EOFError:
        verdict = ", then its process ended"
    process.kill()
    process.join()
    if not found:
        return None, verdict.removeprefix(", then ") or f"no region within {limit:.0f} s"
    different = sum(count != ours for (count, _), ours in zip(found, counts, strict=False))
    return statistics.mean(took for _, took in found), f"{different} of {len(found)} counts differ" + verdict


def compare(
    page: Page, name: str, model: nn.Sequential, inputs: Tensor, arguments: argparse.Namespace, subspace: int | None = None
) -> None:
    """Add a network's rows, one for each other way."""
    regions = activation_regions(model, inputs, subspace=subspace)
    faces = supporting_units(regions)
    repeats = arguments.repeats if len(inputs) > arguments.few else 1
    exact = median_seconds(lambda: supporting_units(activation_regions(model, inputs, subspace=subspace)), repeats) / len(
        inputs
    )
    counts = faces.sum(1)
    first = [f"{len(inputs)}", f"{faces.shape[1]:,}", f"{counts.double().mean():.1f}", f"{exact * 1e3:,.2f}"]
    programs, verdict = row_by_row(regions, faces, arguments.seconds)
    page.row(name, *first, "one linear program a row (HiGHS)", f"{programs / exact:,.0f}", verdict)
    if subspace is None and has_relucent():
        took, verdict = with_relucent(model, inputs, counts.tolist(), arguments.seconds)
        page.row(name, *[""] * len(first), "relucent", "" if took is None else f"{took / exact:,.1f}", verdict)


def few_dimensions(page: Page, repeats: int, count: int) -> None:
    """Add exact faces of many regions in 2 and 3 dimensions, and in how many of them hit-and-run misses some."""
    page.add("## Many regions in few dimensions")
    page.say(f"{count:,} regions at once of untrained networks; hit-and-run stays short in few, unbounded ones too.")
    page.table("network", "way", "faces", "ms a region", "short in")
    for d in (2, 3):
        model = mlp(d, 16, 16, 10)
        regions = activation_regions(model, torch.randn(count, d))
        took = median_seconds(lambda regions=regions: face_counts(regions), repeats) / count
        page.row(f"{d}-16-16", "exact", f"{face_counts(regions).double().mean():.1f}", f"{took * 1e3:.3f}", "")
    regions = activation_regions(mlp(2, 12, 10), torch.randn(count, 2))
    exact = face_counts(regions)
    page.row("2-12", "exact", f"{exact.double().mean():.1f}", "", "")
    for steps in (100, 1_000):
        took, found = seconds(lambda steps=steps: face_counts(regions, method="hit_and_run", num_steps=steps))
        cells = [f"{found.double().mean():.1f}", f"{took / count * 1e3:.2f}", f"{(found < exact).double().mean():.1%}"]
        page.row("2-12", f"hit-and-run of {steps:,} chords", *cells)


def enumerate_all(page: Page, widths: tuple[int, ...], repeats: int) -> None:
    """Add how long it takes to find all regions."""
    model = mlp(*widths, 10)
    graph = region_graph(model, torch.zeros(1, 2), progress=False)
    took = median_seconds(lambda: region_graph(model, torch.zeros(1, 2), progress=False), repeats)
    page.add("## All regions")
    page.say(f"All {graph.num_regions:,} regions of {'-'.join(map(str, widths))}, with their graph, take {took:.2f} s.")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--inputs", type=positive, default=20, help="regions of each network")
    options.add_argument("--few", type=positive, default=1, help="regions of 64-512-512")
    options.add_argument("--slices", type=positive, default=100, help="slices of two dimensions; a twentieth of three")
    options.add_argument("--many", type=positive, default=1000, help="regions in few dimensions")
    options.add_argument("--repeats", type=positive, default=3)
    options.add_argument("--seconds", type=float, default=4, help="for each other way and network")
    options.add_argument("--steps", type=int, default=200, help="training steps of the network that is sliced")
    arguments = parse(options)
    with Page("faces_large", "Exact faces beside linear programs", arguments.output_dir) as page:
        page.say(f"{TEXT} {CLOCK}")
        page.table(*HEADER)
        for widths in NETWORKS:
            compare(page, "-".join(map(str, widths)), mlp(*widths, 10), torch.randn(arguments.inputs, widths[0]), arguments)
        compare(page, "-".join(map(str, LARGE)), mlp(*LARGE, 10), torch.randn(arguments.few, LARGE[0]), arguments)
        images, labels = load_training(arguments.data_dir)
        model = train(mlp(*SLICED, 10), images, labels, arguments.steps)
        for k, count in ((2, arguments.slices), (3, -(-arguments.slices // 20))):
            name = f"{'-'.join(map(str, SLICED))}, slices of {k} dimensions"
            compare(page, name, model, images[:count], arguments, subspace=k)
        few_dimensions(page, arguments.repeats, arguments.many)
        enumerate_all(page, NETWORKS[0], arguments.repeats)


if __name__ == "__main__":
    main()

"""How long exact faces of regions take, beside one linear program a row, and the library relucent where it is installed.

    python examples/benchmarks/faces.py [--inputs 20] [--repeats 5] [--seconds 60] [--data-dir FOLDER]

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
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from scipy.optimize import linprog
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from idx import load_split
from walks import mlp, train

import fold_lightning
from fold_lightning import ActivationRegions, activation_regions, face_counts, supporting_units

NETWORKS = ((2, 16, 16), (10, 32, 32, 32), (64, 64, 64, 64), (784, 128, 64, 32))
LARGE = (64, 512, 512)
"""Widths of the network of which `--few` regions are measured."""

SLICED = (784, 512, 512, 512)
"""Widths of the network whose slices are measured."""

FACE = 1e-8
"""How far across its plane a normalised row's program must get."""


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


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


def row_by_row(regions: ActivationRegions, faces: Tensor, limit: float) -> tuple[float, str]:
    """Seconds a region that a program for each row takes, and how its answers compare; from the rows that the time allows."""
    begin, solved, different, failed = time.perf_counter(), 0, 0, 0
    for place in torch.randperm(faces.numel(), generator=torch.Generator().manual_seed(0)).tolist():
        b, row = divmod(place, faces.shape[1])
        answer = supports(regions.normals[b], regions.offsets[b], row)
        solved += 1
        failed += answer is None
        different += answer is not None and answer != bool(faces[b, row])
        if time.perf_counter() - begin > limit:
            break
    verdict = f"{different} of {solved:,} units differ" + (f", {failed} not solved" if failed else "")
    return (time.perf_counter() - begin) / solved * faces.shape[1], verdict


def has_relucent() -> bool:
    """Whether the library is installed."""
    return find_spec("relucent") is not None


def relucent_face_counts(model: nn.Sequential, inputs: Tensor) -> Iterator[int]:
    """The number of faces of each region in turn, as relucent's README finds it."""
    import relucent

    complex_ = relucent.Complex(model)
    for x in inputs:
        yield len(complex_.point2poly(x[None].numpy()).shis)


def count_with_relucent(sender: Connection, model: nn.Sequential, inputs: Tensor) -> None:
    """Sends the number of faces of each region that relucent finds, and the seconds it took."""
    counts = relucent_face_counts(model, inputs)
    for _ in inputs:
        try:
            begin = time.perf_counter()
            count = next(counts)
        except Exception as error:
            sender.send(str(error))
            return
        sender.send((count, time.perf_counter() - begin))


def with_relucent(model: nn.Sequential, inputs: Tensor, counts: list[int], limit: float) -> tuple[float | None, str]:
    """Seconds a region that relucent takes, and how its counts compare; in a process of its own that can be stopped."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=count_with_relucent, args=(sender, model, inputs), daemon=True)
    process.start()
    sender.close()
    found: list[tuple[int, float]] = []
    verdict = ""
    deadline = time.perf_counter() + limit
    try:
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
    name: str, model: nn.Sequential, inputs: Tensor, arguments: argparse.Namespace, subspace: int | None = None
) -> None:
    """Prints a network's row, and the ratios to the other ways."""
    regions = activation_regions(model, inputs, subspace=subspace)
    faces = supporting_units(regions)

    def exact() -> None:
        supporting_units(activation_regions(model, inputs, subspace=subspace))

    took = statistics.median(seconds(exact) for _ in range(arguments.repeats)) / len(inputs)
    counts = faces.sum(1)
    print(
        f"{name}: {len(inputs)} regions of {faces.shape[1]:,} rows, {counts.double().mean():.1f} faces each, "
        f"{took * 1e3:.2f} ms a region, {1 / took:,.0f} regions/s",
        flush=True,
    )
    programs, verdict = row_by_row(regions, faces, arguments.seconds)
    report("one linear program a row (HiGHS)", took, programs, verdict)
    if subspace is None and has_relucent():
        report("relucent", took, *with_relucent(model, inputs, counts.tolist(), arguments.seconds))


def report(way: str, ours: float, theirs: float | None, verdict: str) -> None:
    ratio = "" if theirs is None else f"{theirs * 1e3:10,.1f} ms a region, {theirs / ours:8,.1f} times as long; "
    print(f"  {way:<34}{ratio}{verdict}", flush=True)


def enumerate_all(model: nn.Sequential, repeats: int) -> None:
    """Prints how long it takes to find all regions."""
    region_graph = getattr(fold_lightning, "region_graph", None)
    if region_graph is None:
        return
    graph = region_graph(model, torch.zeros(1, 2), max_regions=100_000)
    took = statistics.median(
        seconds(lambda: region_graph(model, torch.zeros(1, 2), max_regions=100_000)) for _ in range(repeats)
    )
    print(f"  all {graph.num_regions:,} regions in {took:.2f} s")


def few_dimensions(repeats: int, count: int = 1000) -> None:
    """Prints exact faces of many regions in 2 and 3 dimensions, and in how many of them hit-and-run misses some."""
    took = {}
    for d in (2, 3):
        model = mlp(d, 16, 16, 10)
        regions = activation_regions(model, torch.randn(count, d))
        took[d] = statistics.median(seconds(lambda regions=regions: face_counts(regions)) for _ in range(repeats)) / count
        print(
            f"{d}-16-16: {count:,} regions, {face_counts(regions).double().mean():.1f} faces each, {took[d] * 1e3:.3f} ms a region"
        )
    print(f"  3 dimensions take {took[3] / took[2]:.1f} times as long as 2")
    regions = activation_regions(mlp(2, 12, 10), torch.randn(count, 2))
    exact = face_counts(regions)
    for steps in (100, 1_000):
        begin = time.perf_counter()
        short = (face_counts(regions, method="hit_and_run", num_steps=steps) < exact).double().mean()
        spent = (time.perf_counter() - begin) / count
        print(f"2-12, hit-and-run of {steps:,} chords: short in {short:.1%} of regions, {spent * 1e3:.2f} ms a region")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir", type=Path, help="folder of MNIST's IDX files, for slices; random inputs and labels otherwise"
    )
    parser.add_argument("--few-dimensions", action="store_true", help="only regions in 2 and 3 dimensions, and hit-and-run")
    parser.add_argument("--inputs", type=int, default=20, help="regions of each network")
    parser.add_argument("--few", type=int, default=3, help="regions of 64-512-512")
    parser.add_argument("--slices", type=int, default=200, help="slices of two dimensions; a twentieth of three")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="for each other way and network")
    parser.add_argument("--steps", type=int, default=500, help="training steps of the network that is sliced")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    few_dimensions(arguments.repeats)
    if arguments.few_dimensions:
        return
    for widths in NETWORKS:
        model = mlp(*widths, 10)
        compare("-".join(map(str, widths)), model, torch.randn(arguments.inputs, widths[0]), arguments)
        if widths[0] == 2:
            enumerate_all(model, arguments.repeats)
    compare("-".join(map(str, LARGE)), mlp(*LARGE, 10), torch.randn(arguments.few, LARGE[0]), arguments)
    if arguments.data_dir:
        images, labels = load_split(arguments.data_dir, "train")
    else:
        images, labels = torch.rand(4096, 784), torch.randint(10, (4096,))
    model = mlp(*SLICED, 10)
    train(model, images, labels, arguments.steps)
    for k, count in ((2, arguments.slices), (3, -(-arguments.slices // 20))):
        compare(f"{'-'.join(map(str, SLICED))}, slices of {k} dimensions", model, images[:count], arguments, subspace=k)


if __name__ == "__main__":
    main()

"""How fast codes are made, told apart and compared, and how many paths a second Phi_N takes.

    python examples/benchmarks/codes.py [--codes 1000000] [--data-dir FOLDER]

Each row is a ratio within this run; machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from idx import load_split
from models import vgg16
from walks import PeakMemory, mlp, train

from fold_lightning import (
    CodeDistances,
    DistinctCodes,
    GlobalFolding,
    activation_codes,
    code_fingerprints,
    distinct_fingerprints,
    hamming_distance,
    segment_walks,
)

BATCH = 50_000


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def batches(count: int) -> list[tuple[int, int]]:
    """Seeds and sizes of batches of random codes, so that they need not all be there at once."""
    return [(seed, min(BATCH, count - first)) for seed, first in enumerate(range(0, count, BATCH))]


def random_codes(seed: int, count: int, units: int, distinct: int) -> Tensor:
    """Codes bool (count, units) of which about so many differ in all."""
    table = torch.randint(-(2**62), 2**62, (units // 8,), generator=torch.Generator().manual_seed(0))
    which = torch.randint(distinct, (count, 1), generator=torch.Generator().manual_seed(seed + 1))
    mixed = (which + 1) * table  # each number spreads over all octets
    return (mixed.view(torch.uint8).view(count, -1)[:, :units] & 1).bool()


def compare_counting(count: int, units: int, distinct: int, repeats: int) -> None:
    """Prints the row of a number of codes, against `torch.unique` along their rows."""
    codes = torch.cat([random_codes(seed, size, units, distinct) for seed, size in batches(count)])
    ours, theirs, parts = [], [], []
    found: list[int] = []
    for _ in range(repeats):
        hashing = seconds(lambda: code_fingerprints(codes))
        ours.append(seconds(lambda: found.append(len(distinct_fingerprints(code_fingerprints(codes))[0]))))
        theirs.append(seconds(lambda: found.append(len(torch.unique(codes, dim=0)))))
        parts.append(hashing)
    agree = "agrees" if len(set(found)) == 1 else "DISAGREES"
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(
        f"{count:>10,} codes of {units} bits, {found[0]:>10,} distinct: {count / statistics.median(parts):12,.0f} fingerprints/s, "
        f"counted {ratio:5.1f} times as fast as torch.unique(dim=0), which {agree}"
    )


def count_in_batches(count: int, units: int, distinct: int) -> None:
    """Prints what a metric over many batches takes; the codes themselves are never all there."""
    metric = DistinctCodes()
    spent = 0.0
    with PeakMemory() as peak:
        for seed, size in batches(count):
            codes = random_codes(seed, size, units, distinct)
            spent += seconds(lambda codes=codes: metric.update(codes))
        number: list[int] = []
        spent += seconds(lambda: number.append(int(metric.compute())))
    print(
        f"{count:>10,} codes of {units} bits in batches: {number[0]:,} distinct, {spent:.1f} s, peak {peak.bytes / 2**20:,.0f} MiB "
        f"of which a batch is {BATCH * units / 2**20:.0f}"
    )


def compare_distances(count: int, units: int) -> None:
    """Prints the row of all distances between two sets of codes, against broadcasting, which sums units one by one."""
    a, b = torch.rand(2, count, units) > 0.5
    hamming_distance(a[:64, None], b[:64])
    rows = {}
    for name, function in (("product", lambda: hamming_distance(a[:, None], b)), ("sum", lambda: (a[:, None] != b).sum(-1))):
        with PeakMemory() as peak:
            rows[name] = min(seconds(function) for _ in range(3)), peak.bytes / 2**20
    agree = "agree" if torch.equal(hamming_distance(a[:, None], b), (a[:, None] != b).sum(-1)) else "DISAGREE"
    print(
        f"distances of {count:,} x {count:,} codes of {units} bits: {rows['product'][0]:.3f} s and {rows['product'][1]:,.0f} MiB, "
        f"by broadcasting {rows['sum'][0]:.1f} s and {rows['sum'][1]:,.0f} MiB, which {agree}"
    )
    distances = CodeDistances(10, nearest=True)
    distances.update(a, torch.randint(10, (count,)))
    print(f"nearest codes of {count:,} inputs: {seconds(distances.compute):.3f} s")


def compare_precisions(count: int, repeats: int) -> None:
    """Prints what the codes of an input of VGG16 take in float64 and in float32, against a plain pass in float32."""
    net, x = vgg16(32).eval(), torch.rand(count, 1024)

    def plain() -> None:
        with torch.no_grad():
            for some in x.split(64):
                net(some)

    def in_dtype(dtype: torch.dtype) -> None:
        found[dtype] = activation_codes(net, x, dtype=dtype).bits

    found: dict[torch.dtype, Tensor] = {}
    ways = {"a plain pass": plain} | {
        f"codes in {name}": lambda dtype=dtype: in_dtype(dtype)
        for name, dtype in (("float64", torch.float64), ("float32", torch.float32))
    }
    took = {name: statistics.median(seconds(way) for _ in range(repeats)) / count * 1e3 for name, way in ways.items()}
    differ = (found[torch.float64] != found[torch.float32]).double().mean()
    print(
        f"VGG16 at 32 x 32, {count} inputs: "
        + ", ".join(f"{name} {milliseconds:.1f} ms an input" for name, milliseconds in took.items())
        + f"; {differ:.1e} of the bits differ"
    )


def paths(arguments: argparse.Namespace) -> None:
    """Prints the paths a second that go into Phi_N, for two networks, against the forward passes alone that they need."""
    if arguments.data_dir:
        images, labels = load_split(arguments.data_dir, "train")
    else:
        images, labels = torch.rand(4096, 784), torch.randint(10, (4096,))
    for widths in ((784, *[64] * 6, 10), (784, 512, 512, 512, 10)):
        net = train(mlp(*widths), images, labels, arguments.steps)
        first, last = torch.randint(len(images), (2, arguments.paths))
        metric = GlobalFolding(10)

        def walk(
            net: torch.nn.Module = net, first: Tensor = first, last: Tensor = last, metric: GlobalFolding = metric
        ) -> None:
            metric.update(segment_walks(net, images[first], images[last]), labels[first], labels[last])

        walk()
        took = statistics.median(seconds(walk) for _ in range(arguments.repeats))
        print(f"{'-'.join(map(str, widths))}: {len(first) / took:,.0f} paths/s in float64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; random inputs and labels otherwise")
    parser.add_argument(
        "--codes", type=int, default=1_000_000, help="to compare with torch.unique, which needs them all at once"
    )
    parser.add_argument("--stream", type=int, default=10_000_000, help="to count in batches")
    parser.add_argument("--images", type=int, default=200, help="inputs of VGG16, whose codes take minutes; 0 leaves it out")
    parser.add_argument("--paths", type=int, default=512, help="paths that are walked at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="training steps of each network")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    compare_distances(1000, 512)
    if arguments.images:
        compare_precisions(arguments.images, arguments.repeats)
    for distinct in (arguments.codes // 100, 2**60):
        compare_counting(arguments.codes, 512, distinct, arguments.repeats)
    for distinct in (arguments.stream // 100, 2**60):
        count_in_batches(arguments.stream, 512, distinct)
    if arguments.data_dir:
        images, labels = load_split(arguments.data_dir, "train")
        net = train(mlp(784, 32, 32, 32, 10), images, labels, arguments.steps)
        codes = activation_codes(net, images).bits
        ours = seconds(lambda: distinct_fingerprints(code_fingerprints(codes)))
        theirs = seconds(lambda: torch.unique(codes, dim=0))
        same = len(distinct_fingerprints(code_fingerprints(codes))[0]) == len(torch.unique(codes, dim=0))
        verdict = "the same number" if same else "ANOTHER NUMBER"
        print(f"{len(images):,} MNIST images, 3 x 32 units: counted {theirs / ours:.1f} times as fast, {verdict}")
    paths(arguments)


if __name__ == "__main__":
    main()

"""How fast codes are made, told apart and compared, and how many paths a second Phi_N takes.

python examples/benchmarks/codes.py [--data-dir FOLDER] [--codes 500000] [--output-dir docs/results]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import CLOCK, Turns, median_seconds, seconds
from idx import load_training
from models import vgg16
from options import positive
from pages import Page, parse, parser
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


def batches(count: int) -> list[tuple[int, int]]:
    """Seeds and sizes of batches of random codes, so that they need not all be there at once."""
    return [(seed, min(BATCH, count - first)) for seed, first in enumerate(range(0, count, BATCH))]


def random_codes(seed: int, count: int, units: int, distinct: int) -> Tensor:
    """Codes bool (count, units) of which about so many differ in all."""
    table = torch.randint(-(2**62), 2**62, (units // 8,), generator=torch.Generator().manual_seed(0))
    which = torch.randint(distinct, (count, 1), generator=torch.Generator().manual_seed(seed + 1))
    mixed = (which + 1) * table  # each number spreads over all octets
    return (mixed.view(torch.uint8).view(count, -1)[:, :units] & 1).bool()


def compare_counting(page: Page, name: str, codes: Tensor, repeats: int) -> None:
    """Add the row of codes that are counted, beside `torch.unique` along their rows."""
    ways = {
        "hashing": lambda: code_fingerprints(codes),
        "ours": lambda: len(distinct_fingerprints(code_fingerprints(codes))[0]),
        "unique": lambda: len(torch.unique(codes, dim=0)),
    }
    turns = Turns(ways, repeats)
    found, other = turns.results["ours"], turns.results["unique"]
    speed = f"{len(codes) / turns.median('hashing'):,.0f}"
    page.row(f"{len(codes):,}", name, f"{found:,}", speed, turns.ratio("unique", "ours"), "yes" if found == other else "NO")


def count_in_batches(page: Page, count: int, units: int, distinct: int) -> None:
    """Add what a metric over many batches takes; the codes themselves are never all there."""
    metric, spent = DistinctCodes(), 0.0
    with PeakMemory() as peak:
        for seed, size in batches(count):
            codes = random_codes(seed, size, units, distinct)
            spent += seconds(lambda codes=codes: metric.update(codes))[0]
        took, number = seconds(metric.compute)
    page.row(f"{count:,}", f"{int(number):,}", f"{spent + took:.1f}", f"{peak.bytes / 2**20:,.0f}")


def compare_distances(page: Page, count: int, units: int) -> None:
    """Add the rows of all distances between two sets of codes, beside broadcasting, which sums units one by one."""
    a, b = torch.rand(2, count, units) > 0.5
    hamming_distance(a[:64, None], b[:64])
    ways = {"`hamming_distance`": lambda: hamming_distance(a[:, None], b), "broadcasting": lambda: (a[:, None] != b).sum(-1)}
    for name, way in ways.items():
        with PeakMemory() as peak:
            took, found = seconds(way)
        same = "yes" if torch.equal(found, hamming_distance(a[:, None], b)) else "NO"
        page.row(name, f"{took:.3f}", f"{peak.bytes / 2**20:,.0f}", same)
    distances = CodeDistances(10, nearest=True)
    distances.update(a, torch.randint(10, (count,)))
    page.row("classes of the nearest codes", f"{seconds(distances.compute)[0]:.3f}", "", "")


def compare_precisions(page: Page, count: int, repeats: int) -> None:
    """Add what the codes of an input of VGG16 take in float64 and in float32, beside a plain pass in float32."""
    net, x = vgg16(32).eval(), torch.rand(count, 1024)
    found: dict[torch.dtype, Tensor] = {}

    def plain() -> None:
        with torch.no_grad():
            for some in x.split(64):
                net(some)

    def in_dtype(dtype: torch.dtype) -> None:
        found[dtype] = activation_codes(net, x, dtype=dtype).bits

    floor = median_seconds(plain, repeats)
    page.add("## Codes of VGG16 at 32 x 32")
    page.table("way", "ms an input", "time / a plain pass", "bits that differ")
    page.row("a plain pass, float32", f"{floor / count * 1e3:.1f}", "1", "")
    for dtype in (torch.float64, torch.float32):
        took = median_seconds(lambda dtype=dtype: in_dtype(dtype), repeats)
        differ = (found[torch.float64] != found[dtype]).double().mean()
        name = str(dtype).removeprefix("torch.")
        page.row(f"codes, {name}", f"{took / count * 1e3:.1f}", f"{took / floor:.2f}", f"{differ:.0e}" if differ else "0")


def paths(page: Page, images: Tensor, labels: Tensor, arguments: argparse.Namespace) -> None:
    """Add the paths a second that go into Phi_N, for two networks."""
    page.add("## Paths of Phi_N")
    page.table("network", "paths a second, float64")
    for widths in ((784, *[64] * 6, 10), (784, 512, 512, 512, 10)):
        net = train(mlp(*widths), images, labels, arguments.steps)
        first, last = torch.randint(len(images), (2, arguments.paths))
        metric = GlobalFolding(10)

        def walk(
            net: torch.nn.Module = net, first: Tensor = first, last: Tensor = last, metric: GlobalFolding = metric
        ) -> None:
            metric.update(segment_walks(net, images[first], images[last]), labels[first], labels[last])

        walk()
        page.row("-".join(map(str, widths)), f"{len(first) / median_seconds(walk, arguments.repeats):,.0f}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--codes", type=positive, default=500_000, help="to compare with torch.unique, which needs them all at once"
    )
    options.add_argument("--stream", type=int, default=2_000_000, help="to count in batches")
    options.add_argument("--images", type=int, default=8, help="inputs of VGG16; 0 leaves it out")
    options.add_argument("--paths", type=positive, default=512, help="paths that are walked at once")
    options.add_argument("--repeats", type=positive, default=3)
    options.add_argument("--steps", type=int, default=200, help="training steps of each network")
    arguments = parse(options)
    images, labels = load_training(arguments.data_dir)
    with Page("codes_large", "Many codes", arguments.output_dir) as page:
        page.say(CLOCK)
        page.add("## Counted at once")
        page.table("codes", "kind", "distinct", "fingerprints a second", "times as fast as torch.unique(dim=0)", "which agrees")
        for name, distinct in (("a hundredth different", arguments.codes // 100), ("all different", 2**60)):
            codes = torch.cat([random_codes(seed, size, 512, distinct) for seed, size in batches(arguments.codes)])
            compare_counting(page, f"512 bits, {name}", codes, arguments.repeats)
        net = train(mlp(784, 32, 32, 32, 10), images, labels, arguments.steps)
        compare_counting(page, "of images, 3 x 32 units", activation_codes(net, images).bits, arguments.repeats)
        page.add("## Counted in batches", f"Codes of 512 bits, of which a batch takes {BATCH * 512 / 2**20:.0f} MiB.")
        page.table("codes", "distinct", "s", "peak memory, MiB")
        for distinct in (arguments.stream // 100, 2**60):
            count_in_batches(page, arguments.stream, 512, distinct)
        number = min(1000, arguments.codes // 10)
        page.add("## Distances", f"{number:,} x {number:,} codes of 512 bits.")
        page.table("way", "s", "peak memory, MiB", "which agrees")
        compare_distances(page, number, 512)
        if arguments.images:
            compare_precisions(page, arguments.images, arguments.repeats)
        paths(page, images, labels, arguments)


if __name__ == "__main__":
    main()

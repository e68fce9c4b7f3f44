"""Tables of the time of each part, compared with what one would use otherwise and with a floor or a reference.

    python examples/benchmarks/run_all.py [--data-dir FOLDER] [--only walks codes ...] [--repeats 15] [--output-dir docs/results]

Small sizes that take minutes; the other scripts of this folder measure one part each at the sizes of real use. A floor is work that
every way has to do; a reference shows the scale, but a way may do without it. Growth is shown as widths, depths, numbers of segments
and of inputs double. Where a GPU is at hand, walks and codes are timed there too.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from comparing import CLOCK, Way, compare, equal, grow
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import codes as codes_benchmark
import faces as faces_benchmark
import maps as maps_benchmark
import overhead as overhead_benchmark
import regularizer as regularizer_benchmark
import walks as walks_benchmark
from idx import load_training
from models import build
from options import positive
from pages import Page, called, markdown, parse, parser
from tqdm.auto import tqdm

from fold_lightning import (
    FoldingRegularizer,
    activation_codes,
    activation_regions,
    code_fingerprints,
    distinct_fingerprints,
    hamming_distance,
    region_graph,
    segment_walks,
    slice_map,
    supporting_units,
    walk_length,
)

mlp = walks_benchmark.mlp

HEADER = ("case", "ms", "beside", "our time / its time", "same result")
GROWTH = ("what doubles", "sizes", "ms", "factors")

TURNS = 15
"""Turns of each comparison. The median of 15 lies outside the least and the greatest of 15 others once in 450 times if nothing but
chance differs; that of 5 would do so once in 6."""

SPREAD = (
    "Ratios are medians of {} turns in one run, with the least and the greatest. Other load on the machine moves them: in another "
    "run a median is within the least and the greatest here, or differs from the median here by a factor of less than 1.6."
)
"""Measured in three runs, alone and beside programs that kept the second core busy."""

Section = tuple[list[list[str]], list[list[str]], str]
"""Rows of the comparison, rows of growth, and a paragraph."""


class Bench:
    """Data and sizes.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.repeats, self.small = arguments.repeats, arguments.smallest
        self.images, self.labels = load_training(arguments.data_dir)
        self.steps = 2 if self.small else 200

    def sizes(self, *numbers: int) -> tuple[int, ...]:
        """Return sizes that double, and the first two alone for the smallest run."""
        return numbers[:2] if self.small else numbers

    def some(self, number: int, few: int) -> int:
        """Return a number, or a few for the smallest run."""
        return few if self.small else number

    def trained(self, net: nn.Module) -> nn.Module:
        """Train a network of images for some steps."""
        return walks_benchmark.train(net, self.images, self.labels, self.steps)

    def ends(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the ends of so many segments between images."""
        return self.images[:number], self.images[number : 2 * number]


def walks(bench: Bench) -> Section:
    """Exact walks."""
    rows = []
    start, end = bench.ends(bench.some(32, 2))
    few = max(1, len(start) // 8)
    networks: dict[str, tuple[nn.Module, bool]] = {
        "784-3x128, ReLU": (mlp(784, 128, 128, 128, 10), True),
        "784-8x64, ReLU": (mlp(784, *[64] * 8, 10), True),
        "CNN of 4 and 8 channels, max pooling": (walks_benchmark.small_cnn(nn.MaxPool2d), False),
        "784-3x64, GELU": (build("mlp", "gelu", 28, 3, 64), False),
    }
    for name, (net, is_mlp) in networks.items():
        bench.trained(net)
        found = segment_walks(net, start, end)
        counted = found.num_regions()
        points, double = walks_benchmark.spread_points(start, end, counted), copy.deepcopy(net).double()
        ways = [
            Way("forward passes at both ends, float64", _forward(double, torch.cat([start, end]).double()), role="floor"),
            Way("forward passes at a point of each region, float64", _forward(double, points), role="reference"),
        ]
        if is_mlp:
            ways += [
                Way("region by region, all segments at once", _by_region(net, start, end), agrees=equal),
                Way("region by region, one at a time", _by_region(net, start[:few], end[:few], single=True), few / len(start)),
            ]
        ways.append(Way("1,000 equidistant points (which miss regions)", _uniform(net, start, end)))
        if torch.cuda.is_available():
            ways.append(Way("the same on the GPU", _on_gpu(net, start, end), agrees=equal))
        note = f"{counted.double().mean():,.0f} regions on each of {len(start)} segments"
        rows += compare(name, lambda net=net: int(walk_length(segment_walks(net, start, end)).sum()), ways, bench.repeats, note)

    def by_shape(*widths: int, number: int = 16) -> Callable[[], object]:
        torch.manual_seed(0)
        net, ends = mlp(*widths, 10), torch.rand(2, number, widths[0])
        return lambda: segment_walks(net, *ends)

    growth = [
        grow("width of 3 layers", bench.sizes(64, 128, 256), lambda n: by_shape(196, n, n, n), bench.repeats),
        grow("layers of 64", bench.sizes(2, 4, 8), lambda n: by_shape(196, *[64] * n), bench.repeats),
        grow("segments, 3 x 64", bench.sizes(16, 32, 64), lambda n: by_shape(196, 64, 64, 64, number=n), bench.repeats),
        grow("input features, 3 x 64", bench.sizes(196, 392, 784), lambda n: by_shape(n, 64, 64, 64), bench.repeats),
    ]
    text = f"Trained for {bench.steps} steps; the time is that of all segments. Breakpoints grow with the number of units."
    return rows, growth, text


def _forward(net: nn.Module, points: Tensor) -> Callable[[], None]:
    return lambda: walks_benchmark.in_batches(net, points)


def _by_region(net: nn.Module, start: Tensor, end: Tensor, single: bool = False) -> Callable[[], int]:
    way = walks_benchmark.one_at_a_time if single else walks_benchmark.region_by_region
    return lambda: way(net, start, end)


def _uniform(net: nn.Module, start: Tensor, end: Tensor) -> Callable[[], object]:
    return lambda: segment_walks(net, start, end, method="uniform", num_points=1000)


def _on_gpu(net: nn.Module, start: Tensor, end: Tensor) -> Callable[[], int]:
    there = copy.deepcopy(net).cuda(), start.cuda(), end.cuda()
    return lambda: int(walk_length(segment_walks(*there)).sum())


def codes(bench: Bench) -> Section:
    """Codes: made, counted and compared."""
    net, x = bench.trained(mlp(784, 512, 512, 10)), bench.images[: bench.some(4000, 50)]
    double, x64 = copy.deepcopy(net).double(), x.double()

    def by_hooks() -> Tensor:
        kept: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0] > 0)) for m in double if isinstance(m, nn.ReLU)
        ]
        with torch.no_grad():
            double(x64)
        for hook in hooks:
            hook.remove()
        return torch.cat(kept, 1)

    ways = [
        Way("a forward pass in float64", _forward(double, x64), role="floor"),
        Way("hooks by hand, float64", by_hooks, agrees=equal),
    ]
    if torch.cuda.is_available():
        there = copy.deepcopy(net).cuda(), x.cuda()
        ways.append(Way("the same on the GPU", lambda: activation_codes(*there).bits.cpu(), agrees=equal))
    rows = compare("codes of 784-512-512", lambda: activation_codes(net, x).bits, ways, bench.repeats, f"{len(x):,} inputs")
    number = bench.some(200_000, 2000)
    for kind, distinct in (("a hundredth different", number // 100), ("all different", 2**60)):
        bits = codes_benchmark.random_codes(0, number, 512, distinct)
        ways = [
            Way("one sum over all bits, read as integers", lambda bits=bits: bits.view(torch.int64).sum(), role="floor"),
            Way("torch.unique(dim=0)", lambda bits=bits: len(torch.unique(bits, dim=0)), agrees=equal),
        ]
        count = lambda bits=bits: len(distinct_fingerprints(code_fingerprints(bits))[0])  # noqa: E731
        rows += compare(f"distinct codes, {kind}", count, ways, bench.repeats, f"{number:,} of 512 bits")
    a, b = torch.rand(2, bench.some(1000, 50), 512) > 0.5
    ways = [
        Way("one product of matrices, float32", lambda: a.float() @ b.float().T, role="reference"),
        Way("broadcasting, (a != b).sum(-1)", lambda: (a[:, None] != b).sum(-1), agrees=equal),
    ]
    rows += compare(
        "all Hamming distances", lambda: hamming_distance(a[:, None], b), ways, bench.repeats, f"{len(a):,} x {len(b):,}"
    )

    def count_some(number: int, units: int = 512) -> Callable[[], object]:
        bits = codes_benchmark.random_codes(0, number, units, 2**60)
        return lambda: distinct_fingerprints(code_fingerprints(bits))

    growth = [
        grow("codes of 512 bits", bench.sizes(50_000, 100_000, 200_000), count_some, bench.repeats),
        grow("bits of 50,000 codes", bench.sizes(256, 512, 1024), lambda n: count_some(50_000, n), bench.repeats),
    ]
    return rows, growth, "Codes are counted by 128-bit fingerprints."


def faces(bench: Bench) -> Section:
    """Exact faces of regions."""
    rows, number = [], bench.some(10, 2)
    cases: list[tuple[str, nn.Module, Tensor, int | None]] = []
    for widths in ((2, 16, 16), (10, 32, 32, 32), (64, 64, 64, 64)):
        torch.manual_seed(0)
        cases.append(("-".join(map(str, widths)), mlp(*widths, 10), torch.randn(number, widths[0]), None))
    cases.append(("slices of two dimensions, 784-3x128", bench.trained(mlp(784, 128, 128, 128, 10)), bench.images[:number], 2))
    for name, net, inputs, subspace in cases:
        regions = activation_regions(net, inputs, subspace=subspace)
        total, exact = regions.offsets.numel(), supporting_units(regions)
        places = torch.randperm(total, generator=torch.Generator().manual_seed(0))[: bench.some(60, 5)]

        def programs(regions: object = regions, places: Tensor = places) -> Tensor:
            found = []
            for place in places.tolist():
                b, row = divmod(place, regions.offsets.shape[1])
                found.append(bool(faces_benchmark.supports(regions.normals[b], regions.offsets[b], row)))
            return torch.tensor(found)

        def ours(net: nn.Module = net, inputs: Tensor = inputs, subspace: int | None = subspace) -> Tensor:
            return supporting_units(activation_regions(net, inputs, subspace=subspace))

        def half_spaces(net: nn.Module = net, inputs: Tensor = inputs, subspace: int | None = subspace) -> object:
            return activation_regions(net, inputs, subspace=subspace)

        def same(found: Tensor, result: Tensor, places: Tensor = places) -> bool:
            return equal(found, result.flatten()[places])

        ways = [
            Way("the half-spaces alone", half_spaces, role="floor"),
            Way("a linear program a row (HiGHS)", programs, len(places) / total, agrees=same),
            Way(
                "hit-and-run, 300 steps (which misses faces)",
                lambda r=regions: supporting_units(r, method="hit_and_run", num_steps=300),
            ),
        ]
        if inputs.shape[1] <= 10 and faces_benchmark.has_relucent():
            relucent = lambda net=net, x=inputs: torch.tensor(list(faces_benchmark.relucent_face_counts(net, x)))  # noqa: E731
            ways.append(Way("relucent", relucent, agrees=lambda counts, faces: equal(counts, faces.sum(1))))
        note = f"{len(inputs)} regions of {regions.offsets.shape[1]} rows, {exact.sum(1).double().mean():.1f} faces"
        rows += compare(name, ours, ways, bench.repeats, note)

    def by_shape(*widths: int) -> Callable[[], object]:
        torch.manual_seed(0)
        net, inputs = mlp(*widths, 10), torch.randn(number, widths[0])
        return lambda: supporting_units(activation_regions(net, inputs))

    growth = [
        grow("width of 2 layers, 8 inputs", bench.sizes(16, 32, 64), lambda n: by_shape(8, n, n), bench.repeats),
        grow("layers of 24, 8 inputs", bench.sizes(1, 2, 4), lambda n: by_shape(8, *[24] * n), bench.repeats),
        grow("input features, 2 x 32", bench.sizes(4, 8, 16), lambda n: by_shape(n, 32, 32), bench.repeats),
    ]
    text = (
        "Linear programs are those of some rows, drawn at random, and their time is scaled to all rows. relucent, where it is "
        "installed, takes networks of up to 10 inputs here; `faces.py` gives it larger ones."
    )
    return rows, growth, text


def overhead(bench: Bench) -> Section:
    """The monitor in a training."""
    number, epochs = bench.some(5000, 100), bench.some(3, 1)
    data = (bench.images[:number], bench.labels[:number]), (bench.images[-1000:], bench.labels[-1000:])
    fits = overhead_benchmark.Bench("mlp", data, argparse.Namespace(epochs=epochs, batch_size=64))
    ways = [
        Way("the same fit without a monitor", lambda: fits.seconds(False), role="floor"),
    ]
    rows = compare("MLP 3 x 256", lambda: fits.seconds(True), ways, bench.repeats, f"{number:,} images, {epochs} epochs")
    text = (
        "A fit as short as these is measured without limit: 10 s are always allowed, so the share falls as training goes on. Users "
        "without a monitor have no such numbers; the floor is a fit without one."
    )
    return rows, [], text


def regularizer(bench: Bench) -> Section:
    """The regularizer in a training."""
    rows, number = [], bench.some(2560, 128)
    images, labels = bench.images[:number], bench.labels[:number]

    def epoch(net: Callable[[], nn.Module], **options: object) -> Callable[[], object]:
        def run() -> object:
            torch.manual_seed(0)
            return regularizer_benchmark.by_hand(net(), images, labels, FoldingRegularizer(**options))

        return run

    for depth, width in ((6, 64), (3, 512)):
        make = lambda depth=depth, width=width: build("mlp", "relu", 28, depth, width)  # noqa: E731

        def plain(make: Callable[[], nn.Module] = make) -> object:
            torch.manual_seed(0)
            return regularizer_benchmark.by_hand(make(), images, labels, None)

        ways = [
            Way("a training without it", plain, role="floor"),
            Way("a push that is renewed in every step", epoch(make, every_n_steps=1)),
        ]
        rows += compare(f"{depth} x {width}", epoch(make), ways, bench.repeats, f"{number // 128} steps of 128 images")
    growth = [
        grow(
            "width of 3 layers",
            bench.sizes(64, 128, 256),
            lambda n: epoch(lambda: build("mlp", "relu", 28, 3, n)),
            bench.repeats,
        ),
        grow("layers of 64", bench.sizes(3, 6, 12), lambda n: epoch(lambda: build("mlp", "relu", 28, n, 64)), bench.repeats),
    ]
    return rows, growth, "By hand, in a bare loop, which has the smallest denominator."


def maps(bench: Bench) -> Section:
    """Maps of all regions of a plane's window."""
    rows, side = [], bench.some(300, 20)
    torch.manual_seed(0)
    small = mlp(2, 16, 16, 10)
    shrunk = nn.functional.avg_pool2d(bench.images.view(-1, 1, 28, 28)[..., 2:26, 2:26], 3).flatten(1)
    large = walks_benchmark.train(mlp(64, 64, 64, 64, 10), shrunk, bench.labels, bench.steps)
    three = maps_benchmark.three_inputs(large, shrunk, bench.labels)
    cases = {"2-16-16": (small, torch.zeros(1, 2), {"window": 100.0}), "64-3x64": (large, three, {"max_regions": 5000})}
    for name, (net, inputs, options) in cases.items():
        found = slice_map(net, inputs, **options)
        x0, x1, y0, y1 = found.window
        axes = [torch.linspace(low, high, side, dtype=torch.float64) for low, high in ((x0, x1), (y0, y1))]
        points = found.inputs(torch.cartesian_prod(*axes)).to(inputs.dtype)
        double = copy.deepcopy(net).double()

        def raster(net: nn.Module = net, points: Tensor = points) -> int:
            return len(torch.cat([activation_codes(net, some).bits for some in points.split(2**14)]).unique(dim=0))

        seen = raster()
        centers = points[torch.arange(len(found)) % len(points)].double()
        ways = [
            Way("forward passes at a point of each region, float64", _forward(double, centers), role="reference"),
            Way(f"codes of {side} x {side} points (which show {seen:,})", raster),
        ]
        if name == "2-16-16":
            number = region_graph(net, inputs, progress=False).num_regions
            graph = Way(f"the graph of all {number:,} regions", lambda net=net, x=inputs: region_graph(net, x, progress=False))
            ways.append(graph)
        ours = lambda net=net, x=inputs, o=options: len(slice_map(net, x, **o))  # noqa: E731
        rows += compare(name, ours, ways, bench.repeats, f"{len(found):,} regions")

    def by_shape(*widths: int) -> Callable[[], object]:
        torch.manual_seed(0)
        net = mlp(*widths, 10)
        return lambda: slice_map(net, torch.zeros(1, 2), window=100.0)

    growth = [
        grow("width of 2 layers", bench.sizes(8, 16, 32), lambda n: by_shape(2, n, n), bench.repeats),
        grow("layers of 16", bench.sizes(1, 2, 4), lambda n: by_shape(2, *[16] * n), bench.repeats),
    ]
    return rows, growth, "Windows are those of `slice_map`; the number of regions grows as the square of the width."


SECTIONS: dict[str, tuple[str, Callable[[Bench], Section]]] = {
    "walks": ("Exact walks", walks),
    "codes": ("Codes", codes),
    "faces": ("Exact faces", faces),
    "overhead": ("The monitor in a training", overhead),
    "regularizer": ("The regularizer in a training", regularizer),
    "maps": ("Maps of a plane", maps),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="parts to measure")
    options.add_argument("--repeats", type=positive, default=TURNS, help="turns of each comparison")
    options.add_argument("--smallest", action="store_true", help="a test of the script: seconds")
    arguments = parse(options)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    bench = Bench(arguments)
    for name in tqdm(arguments.only, unit=" parts"):
        title, measure = SECTIONS[name]
        with Page(name, title, arguments.output_dir, f"{called('--only')} --only {name}") as page:
            rows, growth, text = measure(bench)
            page.say(f"{text} {CLOCK} {SPREAD.format(bench.repeats)}")
            page.add(markdown(HEADER, rows))
            if growth:
                page.add("Growth; factors are those from each size to the next:", markdown(GROWTH, growth))


if __name__ == "__main__":
    main()

"""How long a map of all regions of a plane's window takes, beside a raster of points, and beside the graph of regions.

    python examples/benchmarks/maps.py [--raster 600] [--repeats 3] [--data-dir FOLDER]

Windows are those that `slice_map` chooses, through three inputs that are classified right where those are legible. A raster is the
codes of as many points as a square picture has pixels; it misses regions smaller than a pixel. Where inputs have two features,
`region_graph` finds all regions too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from idx import load_split
from models import pooled
from walks import mlp, train

from fold_lightning import activation_codes, region_graph, slice_map

WIDTHS = ((64, 64, 64, 64), (784, 512, 512, 512))
"""Of a network of shrunk images, and of one of whole ones."""


def seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of a call, after one to warm up: by the clock, and of processors."""
    taken = []
    for _ in range(repeats + 1):
        begin, busy = time.perf_counter(), time.process_time()
        function()
        taken.append((time.perf_counter() - begin, time.process_time() - busy))
    clock, processors = zip(*taken[1:], strict=True)
    return statistics.median(clock), statistics.median(processors)


def three_inputs(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """One input of each of three classes, classified right where one is."""
    with torch.no_grad():
        right = model(inputs).argmax(1) == labels
    found = []
    for label in labels.unique()[[3, 5, 8]].tolist():
        rows = (labels == label).nonzero().squeeze(1)
        found.append(inputs[rows[right[rows].int().argmax()]])
    return torch.stack(found)


def report(name: str, model: nn.Module, inputs: Tensor, arguments: argparse.Namespace, **options: object) -> None:
    """Print a network's row: the map, and a raster of the same window."""
    found = slice_map(model, inputs, **options)
    took, busy = seconds(lambda: slice_map(model, inputs, **options), arguments.repeats)
    x0, x1, y0, y1 = found.window
    error = abs(float(found.areas.sum()) / ((x1 - x0) * (y1 - y0)) - 1)
    print(
        f"{name}: {len(found):,} regions in {took:.2f} s, {len(found) / took:,.0f} a second ({busy:.2f} s of processors); "
        f"areas differ by {error:.0e}",
        flush=True,
    )
    side = arguments.raster
    xs, ys = (torch.linspace(low, high, side, dtype=torch.float64) for low, high in ((x0, x1), (y0, y1)))
    begin = time.perf_counter()
    points = torch.cartesian_prod(xs, ys)
    bits = torch.cat([activation_codes(model, found.inputs(some).to(inputs.dtype)).bits for some in points.split(2**14)])
    took_raster, seen = time.perf_counter() - begin, len(bits.unique(dim=0))
    print(f"  a raster of {side} x {side} points: {took_raster:.2f} s, {took_raster / took:.1f} times as long, {seen:,} codes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; random inputs and labels otherwise")
    parser.add_argument("--raster", type=int, default=600, help="points along a side of the raster")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--convolutions", action="store_true", help="a network of convolutions and max pooling too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    small = mlp(2, 16, 16, 10)
    report("2-[16, 16]", small, torch.zeros(1, 2), arguments, window=100.0)
    took, _ = seconds(lambda: region_graph(small, torch.zeros(1, 2), progress=False), 1)
    print(f"  region_graph: {region_graph(small, torch.zeros(1, 2), progress=False).num_regions:,} regions in {took:.2f} s")
    if arguments.data_dir:
        images, labels = load_split(arguments.data_dir, "train")
    else:
        images, labels = torch.rand(4096, 784), torch.randint(10, (4096,))
    shrunk = nn.functional.avg_pool2d(images.view(-1, 1, 28, 28)[..., 2:26, 2:26], 3).flatten(1)
    networks = [
        (f"{features}-{widths}", mlp(features, *widths, 10), given, most)
        for (features, *widths), given, most in zip(WIDTHS, (shrunk, images), (3_000, 6_000), strict=True)
    ]
    if arguments.convolutions:
        networks += [("convolutions of 8 and 16, max pooling", pooled(28, 8, 16, hidden=64), images, 1_000)]
    for name, model, inputs, most in networks:
        train(model, inputs, labels, arguments.steps)
        report(name, model, three_inputs(model, inputs, labels), arguments, max_regions=most)


if __name__ == "__main__":
    main()

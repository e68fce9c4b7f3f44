"""How long the engines for convolutional and for smooth networks take beside those that take any network, on the same segments.

python examples/benchmarks/engines.py [--data-dir FOLDER] [--networks NAME ...] [--segments 2] [--repeats 1] [--length 1.0] [--growth]

Segments lie between images of different classes; `--length 0.1` walks a tenth of each. One thread computes, and its own time is
taken, which other programs disturb least. "equal" says whether both engines found the same switches of each unit, r1, r2 and first
codes.
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
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from idx import load_split
from models import build, convolutions, lenet, pooled, resnet
from walks import PeakMemory, train

from fold_lightning import Walks, segment_walks, walk_length, walk_range

PIECEWISE = ("kinks", "growing batch")
CURVED = ("chebyshev", "curved refinement")

NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int, tuple[str, str]]] = {
    "three Conv2d(16)": (lambda side: convolutions(side, "relu"), 28, PIECEWISE),
    "CNN 8-16, max pooling": (lambda side: pooled(side, 8, 16, hidden=64), 28, PIECEWISE),
    "LeNet": (lenet, 28, PIECEWISE),
    "VGG 32-64-128": (lambda side: pooled(side, 32, 64, 128, hidden=128), 32, PIECEWISE),
    "ResNet-8": (lambda side: resnet(side, 1), 32, PIECEWISE),
    "ResNet-20": (lambda side: resnet(side, 3), 32, PIECEWISE),
    "ViT, GELU": (lambda side: build("vit", "gelu", side, 2, 64), 28, CURVED),
    "three Conv2d(16), GELU": (lambda side: convolutions(side, "gelu"), 28, CURVED),
    "784-3x128, GELU": (lambda side: build("mlp", "gelu", side, 3, 128), 28, CURVED),
    "784-3x128, SwiGLU": (lambda side: build("mlp", "swiglu", side, 3, 128), 28, CURVED),
}
"""Builders of networks, pixels along a side of their images, and the engines that are compared."""


def walk(model: nn.Module, start: Tensor, end: Tensor, engine: str | None) -> tuple[Walks, float]:
    """Return walks, and the seconds of this thread that they took."""
    begin = time.process_time()
    walks = segment_walks(model, start, end, engine=engine)
    return walks, time.process_time() - begin


def are_equal(one: Walks, other: Walks) -> bool:
    """Tell whether two engines found the same integers."""
    switches = [torch.bincount(walks.segment * walks.num_units + walks.unit) for walks in (one, other)]
    pairs = [
        switches,
        *([f(one), f(other)] for f in (walk_range, walk_length, Walks.num_regions)),
        [one.first_codes, other.first_codes],
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def compare(name: str, model: nn.Module, engines: tuple[str, str], start: Tensor, end: Tensor, repeats: int) -> None:
    """Print a network's row."""
    fast, general = engines
    segment_walks(model, start[:1], torch.lerp(start[:1], end[:1], 0.01), engine=fast)  # warms up
    with PeakMemory() as peak:
        walks, took = walk(model, start, end, fast)
    times, ratios = [took], []
    for _ in range(repeats):
        others, other_took = walk(model, start, end, general)
        times.append(walk(model, start, end, fast)[1])
        ratios.append(other_took / times[-1])
    print(
        f"{name}: {walks.num_units:,} units, {walks.num_regions().double().mean():,.0f} regions a segment, {fast} "
        f"{statistics.median(times) / len(start):.4f} s a segment, {statistics.median(ratios):.1f} times as fast as {general}, peak "
        f"{peak.bytes / 2**20:,.0f} MiB, exact {int(walks.exact.sum())}, equal: {are_equal(walks, others)}",
        flush=True,
    )
    print("  " + walks.explain().replace("\n", "\n  "), flush=True)


def grow(start: Tensor, end: Tensor) -> None:
    """Print the time of kinks against depth and width."""
    walk(convolutions(28, "relu", 1, 4).eval(), start[:1], end[:1], None)  # warms up
    for depth, channels in ((2, 16), (4, 16), (8, 16), (3, 8), (3, 16), (3, 32)):
        model = convolutions(28, "relu", depth, channels).eval()
        walks, took = walk(model, start, end, None)
        events = len(walks.position)
        print(
            f"{depth} convolutions of {channels} channels: {took / len(start):.3f} s a segment, {events / len(start):,.0f} switches, "
            f"{took / events * 1e6:.1f} us a switch",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; random inputs and labels otherwise")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--segments", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--length", type=float, default=1.0, help="share of each segment that is walked")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each network")
    parser.add_argument("--growth", action="store_true", help="time against depth and width instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.data_dir:
        images, labels = load_split(arguments.data_dir, "train")
    else:
        images, labels = torch.rand(4096, 784), torch.randint(10, (4096,))
    images, labels = images[:20_000], labels[:20_000]
    pairs = (labels[:-1] != labels[1:]).nonzero().squeeze(1)[: arguments.segments]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread")
    if arguments.growth:
        grow(images[pairs], torch.lerp(images[pairs], images[pairs + 1], arguments.length))
        return
    for name in arguments.networks:
        build_network, side, engines = NETWORKS[name]
        inputs = F.pad(images.view(-1, 28, 28), [(side - 28) // 2] * 4).flatten(1)
        model = train(build_network(side), inputs, labels, arguments.steps).eval()
        end = torch.lerp(inputs[pairs], inputs[pairs + 1], arguments.length)
        compare(name, model, engines, inputs[pairs], end, arguments.repeats)


if __name__ == "__main__":
    main()

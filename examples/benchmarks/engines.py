"""How long the engines for convolutional and for smooth networks take beside those that take any network, on the same segments.

python examples/benchmarks/engines.py [--data-dir FOLDER] [--networks NAME ...] [--output-dir docs/results]

Segments lie between images of different classes. Large networks are walked along a part of one; `NETWORKS` says how many segments
of which length each network gets, and options replace that for all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from comparing import CLOCK, Turns, seconds
from idx import load_training
from models import build, convolutions, lenet, pooled, resnet
from options import positive
from pages import Page, parse, parser
from walks import PeakMemory, train

from fold_lightning import Walks, segment_walks, walk_length, walk_range
from fold_lightning.folding import PerSegment
from fold_lightning.walks import sampled_distances

PIECEWISE = ("kinks", "growing batch")
CURVED = ("chebyshev", "curved refinement")


@dataclass(frozen=True)
class Case:
    """A network and the segments that it is walked along.

    Attributes:
        build: Builds it from the pixels along a side of its images.
        side: Those pixels.
        engines: The engine of such networks, and the one that takes any.
        segments: Number of segments.
        length: Share of each segment that is walked.
        repeats: Number of turns.
    """

    build: Callable[[int], nn.Module]
    side: int
    engines: tuple[str, str]
    segments: int = 1
    length: float = 1.0
    repeats: int = 1


NETWORKS = {
    "three Conv2d(16)": Case(lambda side: convolutions(side, "relu"), 28, PIECEWISE, segments=2),
    "CNN 8-16, max pooling": Case(lambda side: pooled(side, 8, 16, hidden=64), 28, PIECEWISE, segments=8, repeats=3),
    "LeNet": Case(lenet, 28, PIECEWISE, segments=8, repeats=3),
    "VGG 32-64-128": Case(lambda side: pooled(side, 32, 64, 128, hidden=128), 32, PIECEWISE),
    "ResNet-8": Case(lambda side: resnet(side, 1), 32, PIECEWISE, repeats=3, length=0.3),
    "ResNet-20": Case(lambda side: resnet(side, 3), 32, PIECEWISE, length=0.05),
    "vision transformer 2 x 64, GELU": Case(lambda side: build("vit", "gelu", side, 2, 64), 28, CURVED, segments=2),
    "three Conv2d(16), GELU": Case(lambda side: convolutions(side, "gelu"), 28, CURVED, length=0.3),
    "784-3x128, GELU": Case(lambda side: build("mlp", "gelu", side, 3, 128), 28, CURVED, segments=32, repeats=3),
    "784-3x128, SwiGLU": Case(lambda side: build("mlp", "swiglu", side, 3, 128), 28, CURVED, segments=32, repeats=3),
}

HEADER = (
    "network", "units", "segments", "share of each", "regions on it", "s a segment", "times as fast as the general engine",
    "the same switches", "peak memory, MiB", "time / that of 129 equidistant points",
)  # fmt: skip

TEXT = """Segments between images of different classes, or a share of each; "the same switches" says whether both engines found
the same switches of each unit, r1, r2 and first codes. The engine of piecewise linear networks evaluates each layer only in the
boxes that a kink reaches; where these cover the plane, as in ResNets, that gains little. The engine of smooth networks
interpolates."""

GROWTH = """Networks of 3 x 3 convolutions at 28 x 28, untrained. Boxes widen by two positions a convolution, and the time of a switch
grows with their area."""


def are_equal(one: Walks, other: Walks) -> bool:
    """Tell whether two engines found the same integers."""
    switches = [torch.bincount(walks.segment * walks.num_units + walks.unit) for walks in (one, other)]
    pairs = [
        switches,
        *([f(one), f(other)] for f in (walk_range, walk_length, Walks.num_regions)),
        [one.first_codes, other.first_codes],
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def compare(name: str, model: nn.Module, case: Case, start: Tensor, end: Tensor) -> list[str]:
    """Return a network's row."""
    fast, general = case.engines
    segment_walks(model, start[:1], torch.lerp(start[:1], end[:1], 0.01), engine=fast)  # warms up
    with PeakMemory() as peak:
        segment_walks(model, start, end, engine=fast)
    ways = {
        "ours": lambda: segment_walks(model, start, end, engine=fast),
        "general": lambda: segment_walks(model, start, end, engine=general),
        "points": lambda: PerSegment.of(sampled_distances(model, start, end, num_points=129)),
    }
    turns = Turns(ways, case.repeats)
    walks = turns.results["ours"]
    return [
        name,
        f"{walks.num_units:,}",
        f"{len(start)}",
        f"{case.length:g}",
        f"{walks.num_regions().double().mean():,.0f}",
        f"{turns.median('ours') / len(start):.3g}",
        turns.ratio("general", "ours"),
        "yes" if are_equal(walks, turns.results["general"]) else "NO",
        f"{peak.bytes / 2**20:,.0f}",
        turns.ratio("ours", "points"),
    ]


def growth(page: Page, start: Tensor, end: Tensor) -> None:
    """Add the time of kinks against depth and width."""
    page.add("## Growth")
    page.say(GROWTH)
    page.table("convolutions", "channels", "switches on a segment", "s a segment", "us a switch")
    segment_walks(convolutions(28, "relu", 1, 4).eval(), start[:1], end[:1])  # warms up
    for depth, channels in ((2, 16), (4, 16), (8, 16), (3, 8), (3, 16), (3, 32)):
        model = convolutions(28, "relu", depth, channels).eval()
        took, walks = seconds(lambda model=model: segment_walks(model, start, end))
        events, each = len(walks.position), took / len(start)
        page.row(f"{depth}", f"{channels}", f"{events / len(start):,.0f}", f"{each:.3f}", f"{took / max(1, events) * 1e6:.0f}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--segments", type=positive, help="instead of each network's own")
    options.add_argument("--length", type=float, help="share of each segment that is walked, instead of each network's own")
    options.add_argument("--repeats", type=positive, help="instead of each network's own")
    options.add_argument("--steps", type=int, default=200, help="training steps of each network")
    arguments = parse(options)
    images, labels = (part[:20_000] for part in load_training(arguments.data_dir))
    pairs = (labels[:-1] != labels[1:]).nonzero().squeeze(1)
    own = {name: value for name in ("segments", "length", "repeats") if (value := getattr(arguments, name)) is not None}
    with Page("engines", "Convolutional and smooth networks", arguments.output_dir) as page:
        page.say(f"Trained for {arguments.steps} steps. {TEXT} {CLOCK}")
        page.table(*HEADER)
        for name in arguments.networks:
            case = replace(NETWORKS[name], **own)
            inputs = F.pad(images.view(-1, 28, 28), [(case.side - 28) // 2] * 4).flatten(1)
            model = train(case.build(case.side), inputs, labels, arguments.steps).eval()
            start, end = inputs[pairs[: case.segments]], inputs[pairs[: case.segments] + 1]
            page.row(*compare(name, model, case, start, torch.lerp(start, end, case.length)))
        growth(page, images[pairs[:2]], torch.lerp(images[pairs[:2]], images[pairs[:2] + 1], own.get("length", 1.0)))


if __name__ == "__main__":
    main()

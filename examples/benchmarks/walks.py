"""How long exact walks take, as ratios to other ways of following a network along the same segments in the same run.

python examples/benchmarks/walks.py [--data-dir FOLDER] [--segments 64] [--repeats 3] [--output-dir docs/results]
"""

from __future__ import annotations

import copy
import ctypes
import sys
import threading
import warnings
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from comparing import CLOCK, Turns, seconds
from idx import load_training
from models import build, resnet18, vgg16
from options import positive
from pages import Page, parse, parser

from fold_lightning import activation_codes, segment_walks, stream_walks, walk_length
from fold_lightning.walks.pieces import Pieces
from fold_lightning.walks.scheduler import PieceScheduler


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with a ReLU between."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_cnn(pool: type[nn.Module]) -> nn.Sequential:
    """Two convolutions with a pooling of the given kind behind each, and two linear layers."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), pool(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), pool(2)),
        *(nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """A few hundred steps of Adam, enough for a network that folds as trained ones do."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    return model


def region_by_region(model: nn.Sequential, start: Tensor, end: Tensor) -> int:
    """Events of an MLP's walks: step to the nearest zero crossing, one forward pass of value and slope for each region."""
    weights = [(m.weight.double(), m.bias.double()) for m in model if isinstance(m, nn.Linear)][:-1]
    start, slope0 = start.double(), (end - start).double()
    position, events = torch.zeros(len(start), 1, dtype=torch.float64), 0
    while True:
        value, slope, ahead = start + position * slope0, slope0, []
        for weight, bias in weights:
            value, slope = F.linear(value, weight, bias), slope @ weight.T
            # Behind a crossing its unit is at 0, with the sign of its slope.
            on = torch.where(value.abs() < 1e-12, slope > 0, value > 0)
            distance = -value / slope
            ahead.append(torch.where(distance > 1e-12, distance, torch.inf).amin(1, keepdim=True))
            value, slope = value * on, slope * on
        position = position + torch.cat(ahead, 1).amin(1, keepdim=True)
        going = position.squeeze(1) < 1
        events += int(going.sum())
        if not going.any():
            return events
        start, slope0, position = start[going], slope0[going], position[going]


def one_at_a_time(model: nn.Sequential, start: Tensor, end: Tensor) -> int:
    return sum(region_by_region(model, a[None], b[None]) for a, b in zip(start, end, strict=True))


def spread_points(start: Tensor, end: Tensor, counted: Tensor) -> Tensor:
    """As many points of each segment as it has regions, evenly spread, in float64: what a pass over a point of each region takes."""
    fraction = torch.cat([(torch.arange(int(n)).double() + 0.5) / int(n) for n in counted])[:, None]
    which = torch.arange(len(start)).repeat_interleave(counted)
    return torch.lerp(start.double()[which], end.double()[which], fraction)


def in_batches(model: nn.Module, points: Tensor) -> None:
    with torch.no_grad():
        for batch in points.split(4096):
            model(batch)


class PeakMemory:
    """The process's resident memory above what it was, sampled every few milliseconds (Linux)."""

    def __enter__(self) -> PeakMemory:
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # or what the allocator kept from before would not show
        self._before, self.bytes, self._stop = _resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.bytes = max(self.bytes, _resident() - self._before)


def _resident() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


HEADER = (
    "network", "regions on a segment", "ms a segment", "/ a forward pass over a point of each region",
    "/ 1,000 equidistant points, float32", "/ region by region, all at once", "/ region by region, one at a time",
    "the same switches", "/ without its self-check", "peak memory, MiB",
)  # fmt: skip

TEXT = """Columns with a stroke are the time of exact walks divided by that of another way. A forward pass over a point of each
region, in float64, is what a way needs that evaluates the network in every region; walks can take less, because neighbouring
regions differ in one unit. Equidistant points miss regions. "Region by region" goes to the nearest crossing, and needs a pass for
each region. Ratios are medians of turns, with the least and the greatest; the two slowest ways get one turn."""


def compare(name: str, model: nn.Module, start: Tensor, end: Tensor, repeats: int, *, steps: bool) -> list[str]:
    """Return a network's row; the ways that know MLPs alone are left out where `steps` is False."""
    with PeakMemory() as peak:
        walks = segment_walks(model, start, end)
    counted = walks.num_regions()
    points = spread_points(start, end, counted)
    double, few = copy.deepcopy(model).double(), max(1, len(start) // 8)
    ours = {"ours": lambda: segment_walks(model, start, end)}
    ways = {"reference": lambda: in_batches(double, points), "unchecked": lambda: _unchecked(model, start, end)}
    if steps:
        ways["points"] = lambda: _uniform(model, start, end)
    turns = Turns(ours | ways, repeats)
    cells = {way: turns.ratio("ours", way) for way in ways}
    same = ""
    if steps:
        slow = {
            "all": lambda: region_by_region(model, start, end),
            "each": lambda: one_at_a_time(model, start[:few], end[:few]),
        }
        once = Turns(ours | slow, 1)
        cells |= {"all": once.ratio("ours", "all"), "each": once.ratio("ours", "each", few / len(start))}
        same = "yes" if once.results["all"] == int(walk_length(walks).sum()) else "NO"
    beside = [cells.get(way, "") for way in ("reference", "points", "all", "each")]
    first = [name, f"{counted.double().mean():,.0f}", f"{turns.median('ours') / len(start) * 1e3:.2f}"]
    return [*first, *beside, same, cells["unchecked"], f"{peak.bytes / 2**20:,.0f}"]


def _unchecked(model: nn.Module, start: Tensor, end: Tensor) -> None:
    """Walks without the verification of their pieces."""

    def trusted(_: PieceScheduler, pieces: Pieces, *__: object, **___: object) -> Tensor:
        return torch.ones(len(pieces), dtype=torch.bool)

    with patch.object(PieceScheduler, "_verified", trusted):
        segment_walks(model, start, end)


def _uniform(model: nn.Module, start: Tensor, end: Tensor) -> None:
    weight = torch.linspace(0, 1, 1000)[:, None]
    with torch.no_grad():
        for a, b in zip(start.split(4), end.split(4), strict=True):
            z = torch.lerp(a[:, None], b[:, None], weight).flatten(0, 1)
            for module in model[:-1]:
                z = module(z)
                if isinstance(module, nn.Linear):
                    bits = (z > 0).view(len(a), 1000, -1)
                    (bits[:, 1:] ^ bits[:, :-1]).sum()


def large(name: str, model: nn.Module, start: Tensor, end: Tensor) -> list[str]:
    """Return the row of a network of 10^5 units and more, seen through its classifier's layers."""
    units = activation_codes(model, start[:1]).bits.shape[1]
    with PeakMemory() as peak, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that walks are not exact is in the row
        took, walks = seconds(lambda: segment_walks(model, start, end, layers="classifier.*"))
    return [
        name,
        f"{units:,}",
        f"{walks.num_units:,}",
        f"{walks.num_regions().double().mean():.1f}",
        f"{took / len(start):.1f}",
        f"{peak.bytes / 2**20:,.0f}",
        f"{int(walks.complete.sum())} of {len(start)}",
    ]


def stream(page: Page, images: Tensor, labels: Tensor, steps: int, count: int) -> None:
    """Add the memory of many walks in one call and in a stream, of which r2 is kept."""
    model = train(mlp(784, 64, 64, 64, 10), images, labels, steps)
    generator = torch.Generator().manual_seed(0)
    first, last = torch.randint(len(images), (2, count), generator=generator)
    start, end = images[first], images[last]

    def in_a_stream() -> int:
        return sum(int(walks.table()["r2"].sum()) for walks in stream_walks(model, start, end))

    def in_one_call() -> int:
        return int(segment_walks(model, start, end).table()["r2"].sum())

    page.add("## Many walks", f"{count:,} walks of 784-3x64-10, of which r2 alone is kept.")
    page.table("way", "s", "peak memory, MiB", "switches")
    for name, way in (("stream_walks", in_a_stream), ("segment_walks", in_one_call)):
        with PeakMemory() as peak:
            took, found = seconds(way)
        page.row(f"`{name}`", f"{took:.0f}", f"{peak.bytes / 2**20:,.0f}", f"{found:,}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--segments", type=positive, default=64)
    options.add_argument("--repeats", type=positive, default=3)
    options.add_argument("--steps", type=int, default=200, help="training steps of each network")
    options.add_argument("--stream", type=int, default=4_000, help="walks in a stream and in one call; 0 leaves them out")
    options.add_argument("--large", action="store_true", help="also VGG16 and ResNet-18, which takes minutes")
    arguments = parse(options)
    images, labels = load_training(arguments.data_dir)
    start, end = images[: arguments.segments], images[arguments.segments : 2 * arguments.segments]
    networks = {
        "784-512-512-512-10": (mlp(784, 512, 512, 512, 10), True),
        "784-8x128-10": (mlp(784, *[128] * 8, 10), True),
        "small CNN, average pooling": (small_cnn(nn.AvgPool2d), False),
        "small CNN, max pooling": (small_cnn(nn.MaxPool2d), False),
        "784-3x128-10, GELU": (build("mlp", "gelu", 28, 3, 128), False),
        "784-3x128-10, SwiGLU": (build("mlp", "swiglu", 28, 3, 128), False),
    }
    with Page("walks_large", "Exact walks of trained networks", arguments.output_dir) as page:
        page.say(f"Trained for {arguments.steps} steps, {len(start)} segments between images. {TEXT} {CLOCK}")
        page.table(*HEADER)
        for name, (model, steps) in networks.items():
            train(model, images, labels, arguments.steps)
            page.row(*compare(name, model, start, end, arguments.repeats, steps=steps))
        if arguments.stream:
            stream(page, images, labels, arguments.steps, arguments.stream)
        if arguments.large:
            page.add("## Networks of 10^5 units", "Trained for 20 steps, and seen through the layers of their classifiers.")
            page.table("network", "units", "counted", "regions on a segment", "s a segment", "peak memory, MiB", "complete")
            page.row(*large("VGG16 at 28 x 28", train(vgg16(28), images, labels, 20).eval(), start[:2], end[:2]))
            padded = [F.pad(x[:2].view(-1, 28, 28), (2, 2, 2, 2)).flatten(1) for x in (start, end)]
            bigger = F.pad(images[:2560].view(-1, 28, 28), (2, 2, 2, 2)).flatten(1)
            page.row(*large("ResNet-18 at 32 x 32", train(resnet18(32), bigger, labels[:2560], 20).eval(), *padded))


if __name__ == "__main__":
    main()

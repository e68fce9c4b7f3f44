"""How long exact walks take, as ratios to other ways of following a network along the same segments in the same run.

python examples/benchmarks/walks.py [--data-dir FOLDER] [--segments 64] [--repeats 5] [--large]
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from idx import load_split
from models import build, resnet18, vgg16

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


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


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


def compare(name: str, model: nn.Module, start: Tensor, end: Tensor, repeats: int, *, steps: bool) -> None:
    """Prints a network's row, and for an MLP the ratios to the other ways."""
    with PeakMemory() as peak:
        walks = segment_walks(model, start, end)
    counted = walks.num_regions()
    fraction = torch.cat([(torch.arange(int(n)).double() + 0.5) / int(n) for n in counted])[:, None]
    which = torch.arange(len(start)).repeat_interleave(counted)
    points = torch.lerp(start.double()[which], end.double()[which], fraction)
    double = copy.deepcopy(model).double()
    regions = int(counted.sum())
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        ways: dict[str, Callable[[], object]] = {
            "exact": lambda: segment_walks(model, start, end),
            "one forward pass over a point of each region, float64": lambda: in_batches(double, points),
        }
        if steps:
            ways["1,000 equidistant points, float32"] = lambda: _uniform(model, start, end)
        for way, function in ways.items():
            times.setdefault(way, []).append(seconds(function))
    if steps:
        events = 0

        def all_at_once() -> None:
            nonlocal events
            events = region_by_region(model, start, end)

        times["region by region, all at once"] = [seconds(all_at_once)]
        few = max(1, len(start) // 8)
        times["region by region, one at a time"] = [
            seconds(lambda: one_at_a_time(model, start[:few], end[:few])) * len(start) / few
        ]
        agree = events == int(walk_length(walks).sum())
        print(f"  region by region found {'the same number of' if agree else 'ANOTHER NUMBER OF'} switches ({events:,})")
    exact = statistics.median(times["exact"])
    print(
        f"{name}: {len(start)} segments, {regions / len(start):,.0f} regions each, {exact / len(start) * 1e3:.2f} ms a segment, "
        f"{regions / exact:,.0f} regions/s, peak {peak.bytes / 2**20:,.0f} MiB, exact {int(walks.exact.sum())}"
    )
    for way, values in times.items():
        if way != "exact":
            ratios = [a / b for a, b in zip(times["exact"], values, strict=False)] if len(values) > 1 else [exact / values[0]]
            print(f"  exact / {way:<55} {statistics.median(ratios):.3f}  (1 / {1 / statistics.median(ratios):.1f})")


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


def large(name: str, model: nn.Module, start: Tensor, end: Tensor) -> None:
    """Prints how a network of 10^5 units and more is walked, seen through its classifier's layers."""
    units = activation_codes(model, start[:1]).bits.shape[1]
    with PeakMemory() as peak, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that walks are not exact is in the row
        begin = time.perf_counter()
        walks = segment_walks(model, start, end, layers="classifier.*")
        took = time.perf_counter() - begin
    print(
        f"{name}: {units:,} units, {walks.num_units:,} counted, {walks.num_regions().double().mean():.1f} regions on a segment, "
        f"{took / len(start):.1f} s a segment, peak {peak.bytes / 2**20:,.0f} MiB, complete {int(walks.complete.sum())}"
    )


def self_check(model: nn.Module, start: Tensor, end: Tensor, repeats: int) -> None:
    """Prints what verification adds to a walk."""

    def trusted(_: PieceScheduler, pieces: Pieces, *__: object) -> Tensor:
        return torch.ones(len(pieces), dtype=torch.bool)

    ratios = []
    for _ in range(repeats):
        checked = seconds(lambda: segment_walks(model, start, end))
        with patch.object(PieceScheduler, "_verified", trusted):
            ratios.append(checked / seconds(lambda: segment_walks(model, start, end)))
    print(f"  with its self-check / without {statistics.median(ratios):.3f}")


def stream(images: Tensor, labels: Tensor, steps: int, count: int) -> None:
    """Prints the memory of many walks in one call and in a stream, of which r1, r2 and chi are kept."""
    model = train(mlp(784, 64, 64, 64, 10), images, labels, steps)
    generator = torch.Generator().manual_seed(0)
    first, last = torch.randint(len(images), (2, count), generator=generator)
    start, end = images[first], images[last]

    def in_a_stream() -> int:
        return sum(int(walks.table()["r2"].sum()) for walks in stream_walks(model, start, end))

    def in_one_call() -> int:
        return int(segment_walks(model, start, end).table()["r2"].sum())

    found = []
    for name, way in (("a stream", in_a_stream), ("one call", in_one_call)):
        with PeakMemory() as peak:
            begin = time.perf_counter()
            found.append(way())
            took = time.perf_counter() - begin
        print(f"784-3x64-10, {count:,} walks in {name}: {took:.0f} s, peak {peak.bytes / 2**20:,.0f} MiB", flush=True)
    print(f"  {'the same' if found[0] == found[1] else 'ANOTHER NUMBER OF'} switches: {found[0]:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; random inputs and labels otherwise")
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="training steps of each network")
    parser.add_argument("--stream", type=int, default=0, help="only the memory of so many walks, in a stream and in one call")
    parser.add_argument("--large", action="store_true", help="also VGG16 and ResNet-18, which takes minutes")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.data_dir:
        images, labels = load_split(arguments.data_dir, "train")
    else:
        images, labels = torch.rand(4096, 784), torch.randint(10, (4096,))
    start, end = images[: arguments.segments], images[arguments.segments : 2 * arguments.segments]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if arguments.stream:
        stream(images, labels, arguments.steps, arguments.stream)
        return
    networks = {
        "784-512-512-512-10": (mlp(784, 512, 512, 512, 10), True),
        "784-8x128-10": (mlp(784, *[128] * 8, 10), True),
        "CNN, average pooling": (small_cnn(nn.AvgPool2d), False),
        "CNN, max pooling": (small_cnn(nn.MaxPool2d), False),
    }
    for name, (model, steps) in networks.items():
        train(model, images, labels, arguments.steps)
        compare(name, model, start, end, arguments.repeats, steps=steps)
        self_check(model, start, end, arguments.repeats)
    for activation in ("gelu", "swiglu"):
        model = train(build("mlp", activation, 28, 3, 128), images, labels, arguments.steps)
        compare(f"784-3x128-10, {activation}", model, start, end, arguments.repeats, steps=False)
    if arguments.large:
        large("VGG16 at 28 x 28", train(vgg16(28), images, labels, 20).eval(), start[:2], end[:2])
        padded = [F.pad(x[:2].view(-1, 28, 28), (2, 2, 2, 2)).flatten(1) for x in (start, end)]
        bigger = F.pad(images[:2560].view(-1, 28, 28), (2, 2, 2, 2)).flatten(1)
        large("ResNet-18 at 32 x 32", train(resnet18(32), bigger, labels[:2560], 20).eval(), *padded)


if __name__ == "__main__":
    main()

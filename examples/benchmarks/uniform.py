"""How long walks through equidistant points take, as ratios to plain forward passes over the same points in the same run.

python examples/benchmarks/uniform.py [--networks mlp cnn vit resnet18] [--num-points 129] [--dtype float32] [--device cpu]
    [--output-dir docs/results]

Forward passes take the points in batches as large as those of the walks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from comparing import CLOCK, Turns
from models import build, resnet18
from options import positive
from pages import Page, parse, parser
from walks import PeakMemory, mlp

from fold_lightning import segment_walks
from fold_lightning.activations.evaluation import evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.folding import PerSegment
from fold_lightning.walks import sampled_distances
from fold_lightning.walks.uniform import MAX_BYTES, rows_at_once

NETWORKS: dict[str, tuple[str, Callable[[], nn.Module], int, int]] = {
    "mlp": ("784-3x512", lambda: mlp(784, 512, 512, 512, 10), 784, 64),
    "cnn": ("three Conv2d(128)", lambda: build("cnn", "relu", 28, 3, 128), 784, 64),
    "vit": ("vision transformer 2 x 64", lambda: build("vit", "gelu", 28, 2, 64), 784, 64),
    "resnet18": ("ResNet-18", lambda: resnet18(32), 1024, 4),
}
"""Names in the table, builders, the length of flattened images, and the number of segments."""

HEADER = ("network", "units", "segments", "images", "ms a plain pass of an image", "time / a plain pass", "inspection, s",
          "switches on a segment", "peak memory, MiB")  # fmt: skip

SHORT = 2
"""Segments of the run whose memory is watched, which also warms up."""

LISTED = 1
"""Segments whose events are listed: a ResNet-18's are too many to list all."""


def compare(name: str, model: nn.Module, width: int, segments: int, arguments: argparse.Namespace) -> list[str]:
    """Return the row of a network."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    model = model.to(device, dtype).eval()
    start, end = (torch.rand(segments, width, device=device) for _ in range(2))
    options = {"num_points": arguments.num_points}
    with evaluate_on_replica(model, start) as replica:
        structure = inspect(replica, start)
    batch = rows_at_once(structure, dtype, MAX_BYTES)
    batch = batch // arguments.num_points * arguments.num_points or batch

    def waited(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    def forward() -> None:
        position = torch.linspace(0, 1, arguments.num_points, device=device)[:, None]
        with torch.no_grad():
            for a, b in zip(start.split(64), end.split(64), strict=True):
                for points in torch.lerp(a[:, None], b[:, None], position).flatten(0, 1).to(dtype).split(batch):
                    model(points)

    def measured() -> PerSegment:
        return PerSegment.of(sampled_distances(model, start, end, **options))

    def inspection() -> None:
        with evaluate_on_replica(model, start) as replica:
            inspect(replica, start)

    with PeakMemory() if device.type == "cpu" else nullcontext() as peak:
        PerSegment.of(sampled_distances(model, start[:SHORT], end[:SHORT], **options))
    turns = Turns({"plain": waited(forward), "ours": waited(measured), "inspection": inspection}, arguments.repeats)
    images = segments * arguments.num_points
    events = segment_walks(model, start[:LISTED], end[:LISTED], method="uniform", **options).unit.numel()
    return [
        name,
        f"{structure.num_units:,}",
        f"{segments}",
        f"{images:,}",
        f"{1e3 * turns.median('plain') / images:.3g}",
        turns.ratio("ours", "plain"),
        f"{turns.median('inspection'):.2f}",
        f"{events / LISTED:,.0f}",
        f"{peak.bytes / 2**20:,.0f}" if peak else "-",
    ]


def main() -> None:
    options = parser(__doc__, data=None)
    options.add_argument("--segments", type=positive, help="instead of each network's own")
    options.add_argument("--num-points", type=positive, default=129)
    options.add_argument("--repeats", type=positive, default=3)
    options.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32", "float64"))
    options.add_argument("--device", default="cpu")
    options.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS], help="ResNet-18 takes a minute")
    arguments = parse(options)
    with Page("uniform", "Equidistant points", arguments.output_dir) as page:
        page.say(
            f"Untrained networks and random images, {arguments.num_points} points a segment, {arguments.dtype} on "
            f"{arguments.device}, beside plain forward passes over as many images in the same batches. {CLOCK}"
        )
        page.table(*HEADER)
        for name in arguments.networks:
            title, build_network, width, segments = NETWORKS[name]
            page.row(*compare(title, build_network(), width, arguments.segments or segments, arguments))


if __name__ == "__main__":
    main()

"""How long walks through equidistant points take, as ratios to plain forward passes over the same points in the same run.

python examples/benchmarks/uniform.py [--segments 64] [--num-points 129] [--repeats 3] [--dtype float32] [--device cpu]
    [--networks mlp cnn vit resnet18]

On a processor one thread computes, and its own time is taken, which other programs disturb least. Forward passes take the points in
batches as large as those of the walks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import build, resnet18
from walks import PeakMemory, mlp

from fold_lightning import segment_walks
from fold_lightning.activations.evaluation import evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.folding import PerSegment
from fold_lightning.walks import sampled_distances
from fold_lightning.walks.uniform import MAX_BYTES, rows_at_once

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp": (lambda: mlp(784, 512, 512, 512, 10), 784),
    "cnn": (lambda: build("cnn", "relu", 28, 3, 128), 784),
    "vit": (lambda: build("vit", "gelu", 28, 2, 64), 784),
    "resnet18": (lambda: resnet18(32), 1024),
}
"""Builders of networks, and the length of their flattened images."""

SHORT = 4
"""Segments of the run whose memory is watched, which also warms up."""

LISTED = 1
"""Segments whose events are listed: a ResNet-18's are too many to list all."""


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the time of a call: of this thread on a processor, of the clock on any other device."""
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def compare(name: str, model: nn.Module, width: int, arguments: argparse.Namespace) -> None:
    """Print the row of a network."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    model = model.to(device, dtype).eval()
    start, end = (torch.rand(arguments.segments, width, device=device) for _ in range(2))
    options = {"num_points": arguments.num_points}
    with evaluate_on_replica(model, start) as replica:
        structure = inspect(replica, start)
    batch = rows_at_once(structure, dtype, MAX_BYTES)
    batch = batch // arguments.num_points * arguments.num_points or batch

    def forward() -> None:
        position = torch.linspace(0, 1, arguments.num_points, device=device)[:, None]
        with torch.no_grad():
            for a, b in zip(start.split(64), end.split(64), strict=True):
                for points in torch.lerp(a[:, None], b[:, None], position).flatten(0, 1).to(dtype).split(batch):
                    model(points)

    def inspection() -> None:
        with evaluate_on_replica(model, start) as replica:
            inspect(replica, start)

    def listed() -> int:
        return segment_walks(model, start[:LISTED], end[:LISTED], method="uniform", **options).unit.numel()

    ways = {
        "forward": forward,
        "measured": lambda: PerSegment.of(sampled_distances(model, start, end, **options)),
        "inspection alone": inspection,
    }
    with PeakMemory() if device.type == "cpu" else nullcontext() as peak:
        chi = PerSegment.of(sampled_distances(model, start[:SHORT], end[:SHORT], **options)).chi
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way, function in ways.items():
            times[way].append(seconds(function, device))
    ratio = statistics.median(a / b for a, b in zip(times["measured"], times["forward"], strict=True))
    per_image = statistics.median(times["forward"]) / (arguments.segments * arguments.num_points)
    said = f", peak {peak.bytes / 2**20:,.0f} MiB" if peak else ""
    print(
        f"{name}: {structure.num_units:,} units, batches of {batch}, {1e3 * per_image:.3f} ms a forward pass, "
        f"measured / forward {ratio:.3f}, inspection {statistics.median(times['inspection alone']):.2f} s, "
        f"{listed() / LISTED:,.0f} events a segment, mean chi {chi.mean():.3f}{said}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--num-points", type=int, default=129)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32", "float64"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS], help="ResNet-18 takes minutes on a processor"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.dtype}")
    for name in arguments.networks:
        build_network, width = NETWORKS[name]
        compare(name, build_network(), width, arguments)


if __name__ == "__main__":
    main()

"""Walks random curved networks by interpolation and by refinement alone, and lets the network itself judge where they differ.

python tests/fuzz_curved.py --networks 300 --seed 0      # exits with 1 if interpolation missed or made up a switch
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import Walks, activation_codes, segment_walks, walk_length, walk_range
from fold_lightning.walks.walks import ENGINES

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from models import SwiGLU, build

DENSE = 20_001

SMOOTH = (nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Tanhshrink, nn.LogSigmoid)
KINKED = (nn.ELU, nn.Softsign, nn.Hardswish, nn.ReLU, nn.LeakyReLU)


class Softmaxed(nn.Module):
    """Weighs its inputs by their softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.softmax(x, 1) * x.shape[1]


def random_network(seed: int) -> tuple[nn.Module, Tensor, Tensor, str]:
    """Return a network in float64, the ends of three segments, and what was drawn."""
    torch.manual_seed(seed)
    draw = lambda *options: options[int(torch.randint(len(options), ()))]  # noqa: E731
    kind = draw("mlp", "mlp", "mlp", "norm", "softmax", "swiglu", "kinked", "vit", "cnn", "pool")
    activation = draw(*(KINKED if kind == "kinked" else SMOOTH))
    gain, depth, width, inputs = draw(0.5, 1.0, 2.0, 4.0), draw(1, 2, 3, 4), draw(4, 8, 16, 32), draw(1, 2, 5, 10)
    if kind in ("vit", "cnn"):
        model, inputs = build(kind, draw("gelu", "silu", "tanh"), side=8, depth=1 + depth % 2, width=8), 64
    else:
        layers: list[nn.Module] = []
        for outputs in [width] * (1 + depth):
            last = width if layers else inputs
            if kind == "swiglu":
                layers.append(SwiGLU(last, outputs))
                continue
            layers.append(nn.Linear(last, outputs, bias=draw(True, True, False)))
            layers += [nn.LayerNorm(outputs)] if kind in ("norm", "kinked") else []
            layers += [Softmaxed()] if kind == "softmax" else []
            layers += [nn.MaxPool1d(3, 1, 1)] if kind == "pool" else []
            layers.append(activation())
        model = nn.Sequential(*layers, nn.Linear(width, 2))
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data *= gain if parameter.dim() > 1 else 1.0
    scale = draw(0.3, 1.0, 3.0)
    start = scale * torch.randn(3, inputs, dtype=torch.float64)
    end = draw(-start, scale * torch.randn(3, inputs, dtype=torch.float64), start + 0.1 * torch.randn_like(start))
    return (
        model,
        start,
        end,
        f"{kind} {activation.__name__} gain {gain} depth {depth} width {width} inputs {inputs} scale {scale}",
    )


def refined(model: nn.Module, start: Tensor, end: Tensor) -> Walks:
    """Return the walks by refinement alone."""
    return segment_walks(model, start, end, engine="curved refinement")


def switches(walks: Walks) -> Tensor:
    """Return how often each unit switches on each segment, int64 (S, N)."""
    units = walks.segment * walks.num_units + walks.unit
    return torch.bincount(units, minlength=walks.num_segments * walks.num_units).view(walks.num_segments, -1)


def is_real(model: nn.Module, start: Tensor, end: Tensor, walks: Walks, segment: int, unit: int) -> bool:
    """Return whether a unit's bits in the middles between its switches are those of a walk."""
    events = (walks.segment == segment) & (walks.unit == unit)
    places = torch.cat([torch.zeros(1), walks.position[events], torch.ones(1)]).double()
    middles = (places[1:] + places[:-1]) / 2
    bits = activation_codes(model, torch.lerp(start[segment], end[segment], middles[:, None])).bits[:, unit]
    expected = walks.first_codes[segment, unit] ^ (torch.arange(len(bits)) % 2 == 1)
    return torch.equal(bits, expected)


def spread(walks: Walks, other: Walks, segment: int, unit: int) -> float:
    """Return the length of the part of a segment on which two walks differ in one unit's bit."""
    places = torch.cat([w.position[(w.segment == segment) & (w.unit == unit)] for w in (walks, other)])
    edges = torch.cat([torch.zeros(1), places.sort().values, torch.ones(1)]).double()
    middles = (edges[1:] + edges[:-1]) / 2
    bits = []
    for w in (walks, other):
        own = w.position[(w.segment == segment) & (w.unit == unit)]
        bits.append(w.first_codes[segment, unit] ^ (torch.searchsorted(own.contiguous(), middles) % 2 == 1))
    return float(edges.diff()[bits[0] != bits[1]].sum())


def compare(seed: int) -> Counter[str]:
    """Return what the two engines and the network itself say of one random network."""
    model, start, end, drawn = random_network(seed)
    walks, other = segment_walks(model, start, end), refined(model, start, end)
    counts = Counter(segments=walks.num_segments, events=len(walks.unit), networks=1)
    counts += Counter(list(ENGINES)[engine] for engine in walks.engine.tolist())
    mine, theirs = switches(walks), switches(other)
    dense = None
    for segment, unit in ((mine != theirs) | (walks.first_codes != other.first_codes)).nonzero().tolist():
        if dense is None:
            dense = switches(segment_walks(model, start, end, method="uniform", num_points=DENSE))
        real = is_real(model, start, end, walks, segment, unit), is_real(model, start, end, other, segment, unit)
        seen = int(dense[segment, unit])
        counts["units that differ"] += 1
        good = real[0] and mine[segment, unit] >= seen and (mine > theirs)[segment, unit] >= real[1]
        verdict = "refinement is wrong" if good else "interpolation is wrong"
        if not good and spread(walks, other, segment, unit) <= float(walks.resolution[segment]):
            verdict = "interpolation left it undecided, and said so"
        counts[verdict] += 1
        found = f"interpolation {int(mine[segment, unit])}, refinement {int(theirs[segment, unit])}, {DENSE} points {seen}"
        decided = f"resolution {float(walks.resolution[segment]):.0e}, {float(other.resolution[segment]):.0e}"
        print(f"seed {seed} segment {segment} unit {unit} ({drawn}): switches by {found}; {decided}; real {real}", flush=True)
    measures = {"r1": walk_range, "r2": walk_length, "regions": Walks.num_regions}
    for name, measure in measures.items():
        unequal = measure(walks) != measure(other)
        counts[f"segments whose {name} differs"] += int(unequal.sum())
        for segment in unequal.nonzero().squeeze(1).tolist():
            found = [int(measure(each)[segment]) for each in (walks, other)]
            print(f"seed {seed} segment {segment} ({drawn}): {name} by interpolation and by refinement {found}", flush=True)
    counts["segments left undecided above 1e-6"] += int((walks.resolution > 1e-6).sum())
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.networks):
        counts += compare(seed)
    for what, count in sorted(counts.items()):
        print(f"{count:>8,} {what}")
    return int(counts["interpolation is wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Walks segments of random networks by kinks and by the growing batch, and compares all there is.

python tests/fuzz_walks.py --networks 500                        # seeds 0 to 499; exits with 1 if anything is wrong
python tests/fuzz_walks.py --networks 200 --seed 1000 --kind ties   # against exact rational arithmetic
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections import Counter

import torch
from torch import Tensor, nn

from fold_lightning import segment_walks, walk_length, walk_range
from fold_lightning.activations.inspection import InputsRefused
from fold_lightning.walks.walks import KINKS, Walks
from helpers.convolutional_models import RandomConvolutional, integer_convolutional
from helpers.reference import layers_of, rational_codes

SEGMENTS = 3


def differences(one: Walks, two: Walks) -> list[str]:
    """Return in what two walks of the same segments differ."""
    switches = [torch.bincount(w.segment * w.num_units + w.unit, minlength=w.num_segments * w.num_units) for w in (one, two)]
    pairs = {
        "first codes": (one.first_codes, two.first_codes),
        "switches": switches,
        "r1": (walk_range(one), walk_range(two)),
        "r2": (walk_length(one), walk_length(two)),
        "regions": (one.num_regions(), two.num_regions()),
        "exact": (one.exact, two.exact),
    }
    found = [name for name, (a, b) in pairs.items() if not torch.equal(a, b)]
    return found or (["positions"] if _distance(one, two) > 1e-9 else [])


def _distance(one: Walks, two: Walks) -> float:
    """Return how far apart the positions are at which the same units switch."""
    sorted_positions = []
    for walks in (one, two):
        key = walks.segment * walks.num_units + walks.unit
        order = torch.argsort(key, stable=True)
        sorted_positions.append(walks.position[order])
    a, b = sorted_positions
    return float((a - b).abs().max()) if len(a) else 0.0


def compare_convolutional(seed: int) -> tuple[list[str], Walks]:
    """Walk segments of a random convolutional network by kinks and by the growing batch."""
    random = RandomConvolutional(seed)
    start, end = random.inputs(SEGMENTS), random.inputs(SEGMENTS)
    return _compare(random.network, start, end)


def compare_ties(seed: int) -> tuple[list[str], Walks]:
    """Walk integer segments of a small convolutional network, and compare with exact rational arithmetic."""
    model, start, end = integer_convolutional(seed)
    layers, _ = layers_of(copy.deepcopy(model), tuple(start.shape[1:]))
    walks = segment_walks(model, start, end)
    wrong = []
    for i in range(len(start)):
        _, codes = rational_codes(layers, *(x[i].flatten().int().tolist() for x in (start, end)))
        if walks.codes(i).tolist() != [list(code) for code in codes]:
            wrong.append(f"codes of segment {i}")
    return wrong, walks


def _compare(network: nn.Module, start: Tensor, end: Tensor) -> tuple[list[str], Walks]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walks = segment_walks(network, start, end, engine="kinks")
        other = segment_walks(network, start, end, engine="growing batch")
    return differences(walks, other), walks


KINDS = {"convolutional": compare_convolutional, "ties": compare_ties}


def main() -> int:
    """Compare walks of random networks, and return how many were wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--kind", choices=KINDS, default="convolutional")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    counts: Counter[str] = Counter()
    begin = time.process_time()
    for seed in range(arguments.seed, arguments.seed + arguments.networks):
        try:
            wrong, walks = KINDS[arguments.kind](seed)
        except InputsRefused:  # torch does not take planes so small
            counts["refused by torch"] += 1
            continue
        counts["networks"] += 1
        counts["segments"] += walks.num_segments
        counts["switches"] += len(walks.unit)
        counts["segments by kinks alone"] += int((walks.engine == KINKS).sum())
        counts["networks without kinks"] += bool((walks.engine != KINKS).all())
        counts["exact"] += int(walks.exact.sum())
        if wrong:
            counts["wrong"] += 1
            print(f"seed {seed}: {', '.join(wrong)} differ. {walks.explain()}", flush=True)
        elif bool((walks.engine != KINKS).any()):
            counts[next(iter(walks.notes.values()))[:90]] += 1
    print(*(f"{name}: {count}" for name, count in counts.items()), f"{time.process_time() - begin:.0f} s", sep="\n")
    return min(counts["wrong"], 1)


if __name__ == "__main__":
    sys.exit(main())

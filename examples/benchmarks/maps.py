"""How long a map of all regions of a plane's window takes, beside a raster of points.

    python examples/benchmarks/maps.py [--data-dir FOLDER] [--raster 600] [--repeats 3] [--output-dir docs/results]

Windows are those that `slice_map` chooses, through three inputs that are classified right where those are legible. A raster is the
codes of as many points as a square picture has pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import CLOCK, median_seconds, seconds
from idx import load_training
from models import pooled
from options import positive
from pages import Page, parse, parser
from walks import mlp, train

from fold_lightning import activation_codes, slice_map

WIDTHS = ((64, 64, 64, 64), (784, 512, 512, 512))
"""Of a network of shrunk images, and of one of whole ones."""


HEADER = (
    "network", "regions", "s", "regions a second", "areas differ by", "points of a raster", "codes it shows", "its time / ours",
)  # fmt: skip

TEXT = """All regions of the windows that `slice_map` chooses, through three inputs of different classes, zoomed on the first
where regions are many. A raster is the codes of points in the same window; it misses regions smaller than a pixel. The areas of all
regions add up to the window's."""


def three_inputs(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """One input of each of three classes, classified right where one is."""
    with torch.no_grad():
        right = model(inputs).argmax(1) == labels
    found = []
    for label in labels.unique()[[3, 5, 8]].tolist():
        rows = (labels == label).nonzero().squeeze(1)
        found.append(inputs[rows[right[rows].int().argmax()]])
    return torch.stack(found)


def compare(name: str, model: nn.Module, inputs: Tensor, arguments: argparse.Namespace, **options: object) -> list[str]:
    """Return a network's row: the map, and a raster of the same window."""
    found = slice_map(model, inputs, **options)
    took = median_seconds(lambda: slice_map(model, inputs, **options), arguments.repeats)
    x0, x1, y0, y1 = found.window
    error = abs(float(found.areas.sum()) / ((x1 - x0) * (y1 - y0)) - 1)
    side = arguments.raster
    axes = [torch.linspace(low, high, side, dtype=torch.float64) for low, high in ((x0, x1), (y0, y1))]

    def raster() -> int:
        parts = torch.cartesian_prod(*axes).split(2**14)
        return len(
            torch.cat([activation_codes(model, found.inputs(some).to(inputs.dtype)).bits for some in parts]).unique(dim=0)
        )

    beside, seen = seconds(raster)
    cells = [f"{len(found):,}", f"{took:.2f}", f"{len(found) / took:,.0f}", f"{error:.0e}"]
    return [name, *cells, f"{side} x {side}", f"{seen:,}", f"{beside / took:.1f}"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--raster", type=positive, default=600, help="points along a side of the raster")
    options.add_argument("--repeats", type=positive, default=3)
    options.add_argument("--steps", type=int, default=100, help="training steps")
    arguments = parse(options)
    images, labels = load_training(arguments.data_dir)
    shrunk = nn.functional.avg_pool2d(images.view(-1, 1, 28, 28)[..., 2:26, 2:26], 3).flatten(1)
    networks = [
        (f"{features}-{widths}", mlp(features, *widths, 10), given, most)
        for (features, *widths), given, most in zip(WIDTHS, (shrunk, images), (3_000, 6_000), strict=True)
    ]
    networks.append(("CNN 8-16, max pooling", pooled(28, 8, 16, hidden=64), images, 1_000))
    with Page("maps_large", "Maps of a plane through images", arguments.output_dir) as page:
        page.say(f"Networks of images are trained for {arguments.steps} steps. {TEXT} {CLOCK}")
        page.table(*HEADER)
        small = mlp(2, 16, 16, 10)
        page.row(*compare("2-[16, 16], untrained", small, torch.zeros(1, 2), arguments, window=100.0))
        for name, model, inputs, most in networks:
            train(model, inputs, labels, arguments.steps)
            page.row(*compare(name, model, three_inputs(model, inputs, labels), arguments, max_regions=most))


if __name__ == "__main__":
    main()

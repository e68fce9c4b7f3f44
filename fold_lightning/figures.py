"""Figures: what a notebook or TensorBoard shows of walks and between classes. They need matplotlib, the extra `figures`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fold_lightning.folding import folding_profile
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_NAMED = 20
"""More classes than these are not all named, and their values not written."""


SCALES = (0.1, 0.2, 0.5, 1.0)
"""Where a scale of chi may end: few steps, so that pictures of one run can be compared."""


SliceRegions = tuple[list[Tensor], Tensor, float]
"""The polygons of a slice, their Hamming distances from the first, and how far to each side they were looked for."""


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_walk(walks: Walks, i: int) -> Figure:
    r"""How far segment `i` gets from its first code, and how its folding grows.

    Args:
        walks: S walks.
        i: Which segment.

    Returns:
        A figure that no backend holds; the lower curve is `folding_profile`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> there_and_back = torch.tensor([[[False], [True], [False]]])
        >>> figure = plot_walk(Walks.from_codes(there_and_back), 0)
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['Hamming distance\nfrom the start', 'chi so far']
    """
    _require_matplotlib()
    from matplotlib.figure import Figure

    codes, chi = walks.codes(i), folding_profile(walks, i)
    distance = (codes != codes[0]).sum(1)
    steps = torch.unique_consecutive(walks.position[walks.segment == i % walks.num_segments])
    edges = torch.cat([steps.new_zeros(1), steps, steps.new_ones(1)]).cpu().numpy()
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.stairs(distance.cpu().numpy(), edges, baseline=None, color="tab:blue")
    upper.set_ylabel("Hamming distance\nfrom the start")
    upper.set_title(f"{len(codes):,} regions, chi = {chi[-1]:.3f}")
    lower.stairs(chi.cpu().numpy(), edges, baseline=None, color="tab:orange")
    lower.set_ylabel("chi so far")
    lower.set_xlabel("t along the segment")
    lower.set_xlim(0, 1)
    lower.set_ylim(0, 1)
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return figure


def plot_folding_matrix(matrix: Tensor, class_names: Sequence[str] | None = None) -> Figure:
    """The folding between each ordered pair of classes, as `global_folding` gives it.

    Args:
        matrix: (C, C), rows for the class where a segment starts; NaN, for pairs without segments, stays blank.
        class_names: C names; None takes the numbers.

    Returns:
        A figure that no backend holds.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> figure = plot_folding_matrix(torch.tensor([[torch.nan, 0.25], [0.5, torch.nan]]), ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['.25', '.50']
    """
    _require_matplotlib()
    from matplotlib.figure import Figure

    values = matrix.detach().double().cpu()
    names = [str(c) for c in range(len(values))] if class_names is None else list(class_names)
    every = -(-len(names) // MOST_NAMED)
    size = min(9.0, 3.0 + 0.4 * len(names))
    figure = Figure(figsize=(size, 0.85 * size), layout="constrained")
    axis = figure.subplots()
    largest = values.nan_to_num(0.0).amax().item() if len(values) else 0.0
    top = next(limit for limit in SCALES if largest <= limit or limit == SCALES[-1])
    image = axis.imshow(values.numpy(), vmin=0.0, vmax=top, cmap="viridis")
    axis.set_xticks(range(0, len(names), every), names[::every], rotation=90 if max(map(len, names), default=0) > 3 else 0)
    axis.set_yticks(range(0, len(names), every), names[::every])
    axis.set_xlabel("to class")
    axis.set_ylabel("from class")
    if len(names) <= MOST_NAMED:
        for row, column in (~values.isnan()).nonzero().tolist():
            value = values[row, column].item()
            text = f"{value:.2f}".lstrip("0") if 0 < value < 1 else f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="black" if value > 0.6 * top else "white")
    figure.colorbar(image, label="chi")
    return figure


def plot_slice(polygons: Sequence[Tensor], distances: Tensor, *, extent: float) -> Figure:
    """The activation regions of a plane around an input, as far as they are known, by their Hamming distance from the input's.

    Args:
        polygons: The vertices (V, 2) of R regions, in any order; the input is at 0, its region the first.
        distances: int64 (R,), in how many units their codes differ from the input's.
        extent: How far the picture reaches to each side.

    Returns:
        A figure that no backend holds.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> figure = plot_slice([square, square + torch.tensor([2.0, 0.0])], torch.tensor([0, 1]), extent=3.0)
        >>> figure.axes[0].get_title()
        "an input's region of 4 faces, and 1 around it"
    """
    _require_matplotlib()
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    around = [polygon[_turn(polygon)].cpu().numpy() for polygon in polygons]
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axis = figure.subplots()
    patches = PolyCollection(around, array=distances.cpu().numpy(), cmap="viridis_r", edgecolors="white", linewidths=0.5)
    patches.set_clim(0, max(1, int(distances.max())))
    axis.add_collection(patches)
    axis.add_collection(PolyCollection(around[:1], facecolors="none", edgecolors="black", linewidths=1.5))
    axis.plot(0, 0, "k.", markersize=4)
    axis.set_xlim(-extent, extent)
    axis.set_ylim(-extent, extent)
    axis.set_aspect("equal")
    axis.set_title(f"an input's region of {len(around[0])} faces, and {len(around) - 1} around it")
    axis.set_xlabel("along the slice's first direction")
    axis.set_ylabel("along its second")
    figure.colorbar(patches, label="units that differ", ticks=MaxNLocator(integer=True))
    return figure


def _turn(polygon: Tensor) -> Tensor:
    """The order of the vertices (V, 2) of a convex polygon around its middle."""
    x, y = (polygon - polygon.mean(0)).unbind(1)
    return torch.atan2(y, x).argsort()


def _require_matplotlib() -> None:
    if not is_available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'fold-lightning[figures]'.")

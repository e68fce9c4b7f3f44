"""Figures: what a notebook or TensorBoard shows of walks and between classes. They need matplotlib, the extra `figures`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fold_lightning.folding.along_walks import distance_profile, folding_profile
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path


MOST_NAMED = 20
"""More classes than these are not all named, and their values not written."""


TEXT_SIZE = 8.5 / 72
"""In inches."""

GAP = 0.06
"""Between a text and what it stands beside, in inches."""

SCALES = (0.1, 0.2, 0.5, 1.0)
"""Where a scale of chi may end: few steps, so that pictures of one run can be compared."""


ON_FRAME = 1e-9
"""Of a picture's extent, how close to its frame what was cut off there lies."""

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
    from matplotlib.ticker import MaxNLocator

    distance, chi = distance_profile(walks, i).cpu(), folding_profile(walks, i).cpu()
    steps = torch.unique_consecutive(walks.only(i).position).cpu()
    edges = torch.cat([steps.new_zeros(1), steps, steps.new_ones(1)]).numpy()
    figure = Figure(figsize=(6.4, 4.2))
    upper, lower = _axes(figure, (0.125, 0.54, 0.85, 0.385)), _axes(figure, (0.125, 0.115, 0.85, 0.385))
    upper.title.set_text(f"{len(chi):,} regions, chi = {chi[-1]:.3f}")
    lower.set_xlabel("t along the segment")
    for axis, values, color, label in (
        (upper, distance, "tab:blue", "Hamming distance\nfrom the start"),
        (lower, chi, "tab:orange", "chi so far"),
    ):
        axis.plot(edges, torch.cat([values[:1], values]).numpy(), drawstyle="steps", color=color, linewidth=1.2)
        axis.set_ylabel(label)
        axis.set_xlim(0, 1)
        axis.grid(alpha=0.3)
        axis.set_xticks([0, 0.5, 1] if axis is lower else [])
    upper.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_ylim(0, 1)
    lower.set_yticks([0, 0.5, 1])
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
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['from class', 'chi']
    """
    _require_matplotlib()
    from matplotlib.figure import Figure

    values = matrix.detach().double().cpu()
    names = [str(c) for c in range(len(values))] if class_names is None else list(class_names)
    every = -(-len(names) // MOST_NAMED)
    size = min(9.0, 3.0 + 0.4 * len(names))
    longest = max(map(len, names), default=0)
    left = min(0.4, (0.5 + 0.09 * longest) / size)
    figure = Figure(figsize=(size, 0.85 * size))
    axis, bar = _axes(figure, (left, left, 0.86 - left, 0.97 - left)), _axes(figure, (0.88, left, 0.03, 0.97 - left))
    largest = values.nan_to_num(0.0).amax().item() if len(values) else 0.0
    top = next(limit for limit in SCALES if largest <= limit or limit == SCALES[-1])
    image = axis.pcolormesh(values.numpy(), vmin=0.0, vmax=top, cmap="viridis")
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("to class", labelpad=0.85 * 72 * left * size - 17)
    axis.set_ylabel("from class", labelpad=72 * left * size - 20)
    named = [(name, place + 0.5) for place, name in enumerate(names) if place % every == 0 and name.strip()]
    below, turned = ((1.0, 0.5), 90) if longest > 3 else ((0.5, 1.0), 0)
    _write(axis, [(_shape(name, below, turned), (place, len(names)), "black") for name, place in named])
    _write(axis, [(_shape(name, (1.0, 0.5)), (0, place), "black") for name, place in named])
    if len(names) <= MOST_NAMED:
        _write(
            axis,
            [_number(values[row, column].item(), row, column, top) for row, column in (~values.isnan()).nonzero().tolist()],
        )
    figure.colorbar(image, cax=bar, label="chi", ticks=[0, top / 2, top])
    return figure


def _number(value: float, row: int, column: int, top: float) -> tuple[Path, tuple[float, float], str]:
    """A value written in its cell, in a color that is not the cell's."""
    text = f"{value:.2f}".lstrip("0") if 0 < value < 1 else f"{value:.0f}"
    return _shape(text, (0.5, 0.5)), (column + 0.5, row + 0.5), "black" if value > 0.6 * top else "white"


def _write(axis: Axes, texts: Sequence[tuple[Path, tuple[float, float], str]]) -> None:
    """Writes shapes at places in colors, all at once: each text by itself, or each tick, takes a millisecond."""
    from matplotlib.collections import PathCollection

    if not texts:
        return
    shapes, places, colors = zip(*texts, strict=True)
    on_paper, in_axis = axis.figure.dpi_scale_trans, axis.transData
    letters = PathCollection(shapes, offsets=places, offset_transform=in_axis, facecolors=colors, linewidths=0, clip_on=False)
    letters.set_transform(on_paper)
    axis.add_collection(letters, autolim=False)


@lru_cache(maxsize=512)
def _shape(text: str, anchor: tuple[float, float], turn: int = 0) -> Path:
    """The shape of a text, in inches, around a point of its box; a little off it if that is on its border.

    Args:
        text: What to write.
        anchor: The point, from (0, 0) at the left end of the line to (1, 1) at the right, as high as a capital letter.
        turn: In degrees, counter-clockwise.
    """
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    path = TextPath((0, 0), text, size=TEXT_SIZE)
    width = path.vertices[:, 0].max() if len(path.vertices) else 0.0
    x, y = (-share * extent + GAP * (1 - 2 * share) for share, extent in zip(anchor, (width, 0.73 * TEXT_SIZE), strict=True))
    return path.transformed(Affine2D().translate(x, y).rotate_deg(turn))


def plot_slice(polygons: Sequence[Tensor], distances: Tensor, *, extent: float) -> Figure:
    """The activation regions of a plane around an input, as far as they are known, by their Hamming distance from the input's.

    Args:
        polygons: The vertices (V, 2) of R regions, in any order, cut off at the frame; the input is at 0, its region the first.
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
        "4 faces of an input's region, and 1 region around it"
    """
    _require_matplotlib()
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    around = [polygon[_turn(polygon)].cpu().numpy() for polygon in polygons]
    figure = Figure(figsize=(5.4, 4.4))
    axis, bar = _axes(figure, (0.17, 0.12, 0.65, 0.81)), _axes(figure, (0.85, 0.12, 0.035, 0.81))
    patches = PolyCollection(around, array=distances.cpu().numpy(), cmap="viridis_r", edgecolors="white", linewidths=0.5)
    patches.set_clim(0, max(1, int(distances.max())))
    axis.add_collection(patches)
    axis.add_collection(PolyCollection(around[:1], facecolors="none", edgecolors="black", linewidths=1.5))
    axis.plot(0, 0, "k.", markersize=4)
    axis.set_xlim(-extent, extent)
    axis.set_ylim(-extent, extent)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(3))
    faces, others = _faces_inside(around[0], extent), len(around) - 1
    axis.title.set_text(
        f"{faces} face{'s' * (faces != 1)} of an input's region, and {others} region{'s' * (others != 1)} around it"
    )
    axis.set_xlabel("along the slice's first direction")
    axis.set_ylabel("along its second")
    figure.colorbar(patches, cax=bar, label="units that differ", ticks=MaxNLocator(3, integer=True))
    return figure


def _faces_inside(polygon: np.ndarray, extent: float) -> int:
    """How many edges (V, 2) of a polygon do not run along the frame."""
    on_frame = np.abs(np.stack([polygon - extent, polygon + extent], axis=2)) < ON_FRAME * extent
    along = on_frame & np.roll(on_frame, -1, axis=0)
    return int((~along.any(axis=(1, 2))).sum())


def _axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Axes at a fixed place with a title at one: looking for places takes longer than all the drawing."""
    axes = figure.add_axes(place)
    axes.set_title("", y=1.0)
    return axes


def _turn(polygon: Tensor) -> Tensor:
    """The order of the vertices (V, 2) of a convex polygon around its middle."""
    x, y = (polygon - polygon.mean(0)).unbind(1)
    return torch.atan2(y, x).argsort()


def _require_matplotlib() -> None:
    if not is_available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'fold-lightning[figures]'.")

"""The figure of folding between classes, a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning.figures.layout import (
    LABEL_HEIGHT,
    LINE_HEIGHT,
    MARGIN,
    POINTS,
    SCALE_WIDTH,
    SMALL,
    TICK_LENGTH,
    add_frame,
    add_scale,
    set_xlabel,
    set_ylabel,
    widest,
)
from fold_lightning.figures.style import QUIET, check_available, distinct, end_of_scale, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 20
"""Maximum number of classes that are all named at the axes."""

MAX_VALUES = 12
"""Maximum number of classes for which cells contain their values."""

MAX_TICKS = 14
"""Maximum number of names at an axis with more than `MAX_NAMED` classes: 20 are illegible if TensorBoard halves the figure."""

MAX_UPRIGHT = 3
"""Maximum length of names, in characters, that are written horizontally below the columns; longer ones are rotated."""

CELL, LEAST_SIDE, LARGEST_SIDE, MAX_WIDTH = 0.4, 1.6, 4.4, 6.4
"""Side of a cell, least and largest side of the matrix, maximum width of the figure, in inches: TensorBoard shrinks wider ones."""

SCALE_SPACE = 0.9
"""Space for the colour bar with its tick labels and label, in inches."""

MAX_CELLS = 30
"""Maximum number of classes for which all pairs are cells; with more, few pairs are drawn as squares of fixed, visible size."""

EMPTY = "#e4e4e4"
"""Colour of cells of pairs without segments."""

LIGHT = 0.6
"""Share of the scale above which a cell is so light that its text is black."""


def plot_folding_matrix(matrix: Tensor, class_names: Sequence[str] | None = None) -> Figure:
    """Draw chi of each ordered pair of classes as a matrix.

    Args:
        matrix: (C, C), as from `global_folding`: the row is the class at which segments start, the column the class at which
            they end. NaN marks pairs without segments, which have no colour of the scale.
        class_names: C names; None shows the numbers of the classes.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> figure = plot_folding_matrix(torch.tensor([[torch.nan, 0.25], [0.5, torch.nan]]), ["cat", "dog"])
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['from class', 'chi']
    """
    check_available()
    from matplotlib.figure import Figure

    values = matrix.detach().double().cpu()
    count = len(values)
    shown = range(0, count, -(-count // (MAX_NAMED if count <= MAX_NAMED else MAX_TICKS)) if count else 1)
    names = [str(c) for c in range(count)] if class_names is None else [literal(name) for name in distinct(class_names)]
    labels = [names[c] for c in shown]
    width, is_upright = widest(labels), max(map(len, labels), default=0) <= MAX_UPRIGHT
    left = MARGIN + LINE_HEIGHT + MARGIN + width + TICK_LENGTH
    bottom = MARGIN + LABEL_HEIGHT + TICK_LENGTH + (LINE_HEIGHT if is_upright else width)
    side = max(LEAST_SIDE, min(LARGEST_SIDE, CELL * count, MAX_WIDTH - left - SCALE_SPACE))
    figure = Figure(figsize=(left + side + SCALE_SPACE, bottom + side + 2 * MARGIN))
    axis = add_frame(figure, left, bottom, SCALE_SPACE, 2 * MARGIN)
    top = end_of_scale(values.nan_to_num(0.0).amax().item() if count else 0.0)
    _draw_pairs(axis, values, top)
    axis.set_xticks(shown, labels, rotation=0 if is_upright else 90)
    axis.set_yticks(shown, labels)
    set_xlabel(axis, "to class")
    set_ylabel(axis, "from class")
    scale = add_scale(figure, (left + side + 2 * MARGIN, bottom, SCALE_WIDTH, side), "viridis", top, "chi")
    scale.set_yticks([0, top / 2, top])
    return figure


def _draw_pairs(axis: Axes, values: Tensor, top: float) -> None:
    """Draw a cell for each pair; or squares of fixed size, for few pairs of more than `MAX_CELLS` classes."""
    count, (rows, columns) = len(values), (~values.isnan()).nonzero(as_tuple=True)
    colors: dict[str, Any] = {"vmin": 0.0, "vmax": top, "cmap": "viridis"}
    if count > MAX_CELLS and len(rows) < count**2 / 8:
        found = values[rows, columns]
        axis.scatter(columns, rows, 24, found, marker="s", edgecolors=QUIET, linewidths=0.5, clip_on=False, **colors)
        axis.set_xlim(-0.5, count - 0.5)
        axis.set_ylim(count - 0.5, -0.5)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        return
    axis.set_facecolor(EMPTY)
    axis.imshow(values.numpy(), aspect="auto", **colors)
    if 0 < count <= MAX_VALUES:
        _write_values(axis, values[rows, columns].tolist(), torch.stack([columns, rows], 1).numpy(), top)


def _write_values(axis: Axes, values: list[float], places: np.ndarray[Any, Any], top: float) -> None:
    """Write values (n,) at positions (n, 2) as one artist, because n text artists take ten times as long to draw."""
    from matplotlib.collections import PathCollection
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    figure: Any = axis.figure
    texts = [cell_text(value) for value in values]
    paths = {text: TextPath((0, 0), text, size=SMALL) for text in set(texts)}
    centered = {
        text: path.transformed(
            Affine2D().translate(-np.ptp(path.vertices[:, 0]) / 2 - path.vertices[:, 0].min(), -0.36 * SMALL)
        )
        for text, path in paths.items()
    }
    ink = ["black" if value > LIGHT * top else "white" for value in values]
    written = PathCollection(
        [centered[text] for text in texts], facecolors=ink, linewidths=0, offsets=places, offset_transform=axis.transData
    )
    written.set_transform(Affine2D().scale(1 / POINTS) + figure.dpi_scale_trans)
    axis.add_collection(written, autolim=False)


def cell_text(value: float) -> str:
    """Return chi with two digits, as in the cells of this figure and of the Folding tab; halves are rounded up.

    Example:
        >>> [cell_text(value) for value in (0.0, 0.125, 0.375, 1.0)]
        ['0', '.13', '.38', '1.00']
    """
    if value == 0:
        return "0"
    single = Decimal(float(np.float32(value)))  # the precision of the log, which the tab shows
    return str(single.quantize(Decimal("0.01"), ROUND_HALF_UP)).removeprefix("0")

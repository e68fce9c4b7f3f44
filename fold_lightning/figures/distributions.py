"""Figures of face counts, of unit activity, and of distances between codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fold_lightning.figures.bars import draw_bars
from fold_lightning.figures.layout import (
    FRAME_BOTTOM,
    LABEL_HEIGHT,
    LINE_HEIGHT,
    MARGIN,
    RIGHT,
    TICK_LENGTH,
    above_frame,
    add_frame,
    left_of_numbers,
    set_legend,
    set_title,
    set_xlabel,
    set_ylabel,
    widest,
)
from fold_lightning.figures.style import ACCENT, PRIMARY, QUIET, WIDTH, check_available, end_of_name, open_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 64
"""Maximum number of bars; if face counts span a wider range, each bar covers several integers."""

MAX_LAYERS = 30
"""Maximum number of layers that are all named and add height to the figure; with more, rows are narrower and some unnamed."""

UNIT_COLORS = {"dead": "#bb5566", "always_active": "#004488", "other": "#ddaa33"}
"""Colours of the shares of units: Paul Tol's high-contrast scheme, which stays distinguishable in greyscale."""


def count_edges(counts: Tensor) -> list[float]:
    """Return the edges of at most 64 bins that each hold equally many integers.

    Example:
        >>> import torch
        >>> count_edges(torch.tensor([3, 5]))
        [2.5, 3.5, 4.5, 5.5]
    """
    least, most = int(counts.min()), int(counts.max())
    width = -(-(most - least + 1) // MAX_BARS)
    return [least - 0.5 + width * i for i in range((most - least) // width + 2)]


def plot_face_counts(face_counts: Tensor, bound: int | None = None, *, xlabel: str = "faces of a region") -> Figure:
    """Draw a histogram of the number of faces per region.

    Args:
        face_counts: Integers (B,), as from `face_counts`; B at least 1.
        bound: Upper bound of the mean over all regions of a network, drawn as a dashed line: 2d for inputs of d features, 2k for
            slices of k dimensions. None draws no line.
        xlabel: Label of the x-axis.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no regions.

    Example:
        >>> import torch
        >>> figure = plot_face_counts(torch.tensor([3, 4, 4, 5, 9]), bound=4)
        >>> figure.axes[0].get_title(), len(figure.axes[0].collections[0].get_paths())
        ('5.0 faces on average, over 5 regions', 7)
    """
    check_available()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    counts = face_counts.cpu().numpy()
    if len(counts) == 0:
        raise ValueError("`face_counts` must hold at least one region, got none: update the statistics first.")
    edges = np.array(count_edges(face_counts))
    regions = np.histogram(counts, edges)[0]
    least, most = (min(edges[0], counts.min() if bound is None else bound - 0.5)), max(edges[-1], (bound or 0) + 0.5)
    figure = Figure(figsize=(WIDTH, 3.4))
    left = left_of_numbers(regions.max())
    axis = add_frame(figure, left, FRAME_BOTTOM, RIGHT, above_frame(2))
    line = {"linewidths": 0.6 if len(edges) < MAX_BARS / 2 else 0.0}
    draw_bars(axis, edges[:-1], np.zeros(len(regions)), np.diff(edges), regions, PRIMARY, **line)
    axis.axvline(counts.mean(), color="black", linewidth=1.5, label=f"mean {counts.mean():.2f}")
    if bound is not None:
        axis.axvline(bound, color=ACCENT, linewidth=1.5, linestyle="--", label=f"{bound}, bound of the mean over all regions")
    set_title(axis, f"{counts.mean():.1f} faces on average, over {len(counts):,} region{'s' * (len(counts) != 1)}")
    set_legend(axis)
    set_xlabel(axis, xlabel)
    set_ylabel(axis, "regions")
    axis.set_xlim(least - 0.03 * (most - least), most + 0.03 * (most - least))
    axis.set_ylim(0, 1.05 * regions.max())
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    open_frame(axis)
    return figure


def plot_unit_activity(per_layer: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw the shares of each layer's units that are dead, always active, or neither.

    Args:
        per_layer: Layer name -> its shares, as from `UnitActivity.per_layer`.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot; layers are in the given order, the first on top.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no layers.

    Example:
        >>> import torch
        >>> shares = {"dead": torch.tensor(0.25), "always_active": torch.tensor(0.5), "active": torch.tensor(0.6)}
        >>> figure = plot_unit_activity({"net.1": shares})
        >>> [float(bars.get_paths()[0].get_extents().width) for bars in figure.axes[0].collections]
        [0.25, 0.25, 0.5]
    """
    check_available()
    if not per_layer:
        raise ValueError("`per_layer` must hold at least one layer, got none: update the metric with codes first.")
    names = list(per_layer)
    dead, always, active = (
        np.array([float(per_layer[name][what]) for name in names]) for what in ("dead", "always_active", "active")
    )
    figure, axis, places = _layer_rows(names, "share of the layer's units")
    begin = np.zeros(len(names))
    parts = {"dead": dead, "other": 1 - dead - always, "always_active": always}
    labels = {"dead": "never on", "other": "on for some inputs", "always_active": "always on: linear"}
    for what, share in parts.items():
        draw_bars(
            axis, begin, places - 0.4, share, np.full(len(names), 0.8), UNIT_COLORS[what], label=labels[what], linewidths=0
        )
        begin = begin + share
    axis.plot(active, places, "o", color="white", markeredgecolor="black", markersize=5, label="on for an input, on average")
    axis.set_xlim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)
    set_legend(axis, columns=2)
    return figure


def plot_code_distances(per_layer: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw the mean distance of codes within classes and between classes, for each layer.

    Args:
        per_layer: Layer name -> its mean distances "within" and "between" classes, as from `CodeDistances.per_layer`. A name such as
            "all units" may stand for several layers. NaN, the value without such pairs, is not drawn.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot; layers are in the given order, the first on top.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no layers.

    Example:
        >>> import torch
        >>> figure = plot_code_distances({"net.1": {"within": torch.tensor(0.125), "between": torch.tensor(0.25)}})
        >>> [line.get_xdata().tolist() for line in figure.axes[0].lines]
        [[0.125], [0.25]]
    """
    check_available()
    if not per_layer:
        raise ValueError("`per_layer` must hold at least one layer, got none: update the metric with codes first.")
    names = list(per_layer)
    within, between = (np.array([float(per_layer[name][what]) for name in names]) for what in ("within", "between"))
    figure, axis, places = _layer_rows(names, "mean Hamming distance, as a share of units")
    axis.hlines(places, within, between, color=QUIET, linewidth=2, alpha=0.6)
    axis.plot(within, places, "o", color=PRIMARY, markersize=7, label="two inputs of one class")
    axis.plot(between, places, "D", color=ACCENT, markersize=6, label="of different classes")
    axis.set_xlim(left=0)
    open_frame(axis)
    set_legend(axis, columns=2)
    return figure


def _layer_rows(names: list[str], xlabel: str) -> tuple[Figure, Axes, np.ndarray]:
    """Return a figure, its axis with a row for each layer, the first on top, and the y of the rows (n,)."""
    from matplotlib.figure import Figure

    places, every = np.arange(len(names)), -(-len(names) // MAX_LAYERS)
    shown = [end_of_name(name) for name in names[::every]]
    figure = Figure(figsize=(WIDTH, 1.4 + 0.32 * min(len(names), MAX_LAYERS)))
    left = MARGIN + widest(shown) + TICK_LENGTH
    axis = add_frame(figure, left, LABEL_HEIGHT + LINE_HEIGHT + TICK_LENGTH, RIGHT, above_frame(2, has_title=False))
    axis.set_yticks(places[::every], shown)
    axis.set_ylim(len(names) - 0.5, -0.5)
    set_xlabel(axis, xlabel, x=1.0, ha="right")  # aligned to the right, because long names leave little width
    return figure, axis, places

"""Figures of faces of regions, of the activity of units, and of the distances of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fold_lightning.figures.style import ACCENT, PRIMARY, QUIET, WIDTH, check_available, end_of_name, head, open_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 64
"""Bars up to which each number of faces has its own."""

MAX_LAYERS = 30
"""Layers up to which each has a row of its own height, and a name."""

UNIT_COLORS = {"dead": "#bb5566", "always_active": "#004488", "other": "#ddaa33"}
"""Colours of shares of units: Paul Tol's of high contrast, which stay apart in grey too."""


def count_edges(counts: Tensor) -> list[float]:
    """Return the edges of bins that each hold equally many integers, at most 64 of them.

    Example:
        >>> import torch
        >>> count_edges(torch.tensor([3, 5]))
        [2.5, 3.5, 4.5, 5.5]
    """
    least, most = int(counts.min()), int(counts.max())
    width = -(-(most - least + 1) // MAX_BARS)
    return [least - 0.5 + width * i for i in range((most - least) // width + 2)]


def plot_face_counts(face_counts: Tensor, bound: int | None = None, *, xlabel: str = "faces of a region") -> Figure:
    """Draw how many regions have how many faces.

    Args:
        face_counts: Integers (B,), as from `face_counts`; B at least 1.
        bound: 2d, or 2k for slices of k dimensions, which bounds the mean over all regions of a network; None draws none.
        xlabel: What has these faces.

    Returns:
        A figure that no backend holds.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no regions.

    Example:
        >>> import torch
        >>> figure = plot_face_counts(torch.tensor([3, 4, 4, 5, 9]), bound=4)
        >>> figure.axes[0].get_title(), len(figure.axes[0].patches)
        ('5.0 faces on average, over 5 regions', 7)
    """
    check_available()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    counts = face_counts.cpu().numpy()
    if len(counts) == 0:
        raise ValueError("`face_counts` must hold at least one region, got none: update the statistics first.")
    edges = count_edges(face_counts)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.hist(counts, edges, color=PRIMARY, edgecolor="white", linewidth=0.6 if len(edges) < MAX_BARS / 2 else 0.0)
    axis.axvline(counts.mean(), color="black", linewidth=1.5, label=f"mean {counts.mean():.2f}")
    if bound is not None:
        axis.axvline(bound, color=ACCENT, linewidth=1.5, linestyle="--", label=f"{bound}, bound of the mean over all regions")
    head(axis, f"{counts.mean():.1f} faces on average, over {len(counts):,} region{'s' * (len(counts) != 1)}")
    axis.set_xlabel(xlabel)
    axis.set_ylabel("regions")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    open_frame(axis)
    return figure


def plot_unit_activity(per_layer: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw which share of each layer's units is dead, always active, or neither.

    Args:
        per_layer: Layer name -> its shares, as from `UnitActivity.per_layer`.

    Returns:
        A figure that no backend holds; layers stand in the order given, the first on top.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no layers.

    Example:
        >>> import torch
        >>> shares = {"dead": torch.tensor(0.25), "always_active": torch.tensor(0.5), "active": torch.tensor(0.6)}
        >>> figure = plot_unit_activity({"net.1": shares})
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [0.25, 0.25, 0.5]
    """
    check_available()
    from matplotlib.figure import Figure

    if not per_layer:
        raise ValueError("`per_layer` must hold at least one layer, got none: update with codes that have layers.")
    names = list(per_layer)
    dead, always, active = (
        np.array([float(per_layer[name][what]) for name in names]) for what in ("dead", "always_active", "active")
    )
    figure = Figure(figsize=(WIDTH, 1.4 + 0.32 * min(len(names), MAX_LAYERS)), layout="constrained")
    axis = figure.subplots()
    places, begin = np.arange(len(names)), np.zeros(len(names))
    parts = {"dead": dead, "other": 1 - dead - always, "always_active": always}
    labels = {"dead": "never on", "other": "on for some inputs", "always_active": "always on: linear"}
    for what, share in parts.items():
        axis.barh(places, share, left=begin, color=UNIT_COLORS[what], label=labels[what], height=0.8)
        begin = begin + share
    axis.plot(active, places, "o", color="white", markeredgecolor="black", markersize=5, label="on for an input, on average")
    shown = places[:: -(-len(names) // MAX_LAYERS)]
    axis.set_yticks(shown, [end_of_name(names[i]) for i in shown])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of the layer's units")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return figure


def plot_code_distances(per_layer: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw how far apart codes lie within classes and between them, layer by layer.

    Args:
        per_layer: Layer name -> its "within" and "between", as from `CodeDistances.per_layer`; another name, such as "all units",
            may stand for several layers. NaN, for no such pairs, is left out.

    Returns:
        A figure that no backend holds; layers stand in the order given, the first on top.

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
    from matplotlib.figure import Figure

    if not per_layer:
        raise ValueError("`per_layer` must hold at least one layer, got none: update with codes that have layers.")
    names, places = list(per_layer), np.arange(len(per_layer))
    within, between = (np.array([float(per_layer[name][what]) for name in names]) for what in ("within", "between"))
    figure = Figure(figsize=(WIDTH, 1.4 + 0.32 * min(len(names), MAX_LAYERS)), layout="constrained")
    axis = figure.subplots()
    axis.hlines(places, within, between, color=QUIET, linewidth=2, alpha=0.6)
    axis.plot(within, places, "o", color=PRIMARY, markersize=7, label="two inputs of one class")
    axis.plot(between, places, "D", color=ACCENT, markersize=6, label="of different classes")
    shown = places[:: -(-len(names) // MAX_LAYERS)]
    axis.set_yticks(shown, [end_of_name(names[i]) for i in shown])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel("mean Hamming distance, as a share of units", loc="right")  # names may leave it little room
    open_frame(axis)
    figure.legend(loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return figure

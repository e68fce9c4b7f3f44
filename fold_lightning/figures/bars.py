"""Bars as one matplotlib artist, because hundreds of separate artists are slow to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = np.ndarray[Any, Any]


def draw_bars(axis: Axes, left: Numbers, bottom: Numbers, width: Numbers, height: Numbers, color: str, **options: Any) -> None:
    """Draw n bars on an axis.

    Args:
        axis: The axis; its limits stay as they are.
        left: (n,), left edges.
        bottom: (n,), lower edges.
        width: (n,).
        height: (n,).
        color: Colour of all bars.
        options: Options of matplotlib's `PolyCollection`, such as `label` for the legend.
    """
    from matplotlib.collections import PolyCollection

    x, y = np.stack([left, left + width], 1), np.stack([bottom, bottom + height], 1)
    corners = np.stack([x[:, [0, 1, 1, 0]], y[:, [0, 0, 1, 1]]], 2)
    line: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6}
    axis.add_collection(PolyCollection(list(corners), facecolors=color, **(line | options)), autolim=False)

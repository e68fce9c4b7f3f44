"""Positions of axes and widths of text in figures, in inches.

Axes have fixed positions: a layout engine would measure all text before drawing it, which doubles the time. The frame of an axis
is the rectangle of its spines, without tick labels and axis labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 72.0
"""Points per inch."""

TEXT, SMALL = 10.0, 8.33
"""Font sizes of titles and labels, and of legends, keys and cells, in points."""

SLACK = 1.08
"""Factor on the width of a text's outlines: drawn text is up to 8% wider, because letters are moved to whole pixels."""

MARGIN = 0.06
"""Space between text and the edge of a figure, in inches."""

RIGHT = 0.2
"""Space between a frame and the figure's right edge, in inches."""

SCALE_WIDTH = 0.18
"""Width of a colour bar, in inches."""

TITLE_HEIGHT, ROW_HEIGHT = 0.26, 0.19
"""Height of a title, and of a legend's row, in inches."""

LINE_HEIGHT, LABEL_HEIGHT, TICK_LENGTH = 0.17, 0.24, 0.1
"""Height of a line of text, height of an axis label including its margins, and length of a tick including its padding, in inches."""

FRAME_BOTTOM = LABEL_HEIGHT + 0.24
"""Space below a frame for tick labels and the axis label, in inches."""


def text_width(text: str, size: float = TEXT) -> float:
    """Return the width of a line of text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width: float = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    return SLACK * width / POINTS


def widest(texts: list[str], size: float = TEXT) -> float:
    """Return the width of the widest line of text, in inches, or 0 without lines.

    Only the three lines with most characters are measured.
    """
    return max((text_width(text, size) for text in sorted(texts, key=len)[-3:]), default=0.0)


def wrapped(text: str, width: float, most: int = 1, size: float = SMALL) -> list[str]:
    """Return text as at most `most` lines that are each at most `width` inches wide.

    Lines break between words where a word fits on a line. An ellipsis replaces text that is left over.
    """
    lines, rest = list[str](), " ".join(text.split())
    while rest:
        count = _fitting(rest, width, size)
        if count == len(rest):
            return [*lines, rest]
        if len(lines) == most - 1:
            return [*lines, f"{rest[: _fitting(rest, width, size, end='…')].rstrip()}…"]
        space = rest.rfind(" ", 0, count + 1)
        count = space if space > 0 else count
        lines.append(rest[:count])
        rest = rest[count:].lstrip()
    return lines


def _fitting(text: str, width: float, size: float, end: str = "") -> int:
    """Return the number of characters of `text`, at least 1, that fit into `width` inches with `end` after them."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle] + end, size) <= width else (low, middle - 1)
    return low


def add_frame(figure: Figure, left: float, bottom: float, right: float, top: float, **options: Any) -> Axes:
    """Add an axis, given the distances of its frame from the figure's edges in inches."""
    width, height = figure.get_size_inches()
    place = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axis: Axes = figure.add_axes(place, **options)
    return axis


def left_of_numbers(largest: float, lines: int = 1) -> float:
    """Return the space left of a frame for tick labels up to `largest` and an axis label of `lines` lines, in inches."""
    digits = len(f"{largest:.0f}") if largest >= 10 else 3  # "2.5", or "0.0"
    return MARGIN + lines * LINE_HEIGHT + TICK_LENGTH + text_width("0" * digits) + MARGIN


def above_frame(rows: int, *, has_title: bool = True) -> float:
    """Return the space above a frame for a title and a legend of `rows` rows, in inches."""
    return TITLE_HEIGHT * has_title + rows * ROW_HEIGHT + 0.1


def set_title(axis: Axes, title: str) -> None:
    """Put a title at the upper edge of the figure, above the middle of an axis."""
    figure: Any = axis.figure
    height, frame = figure.get_size_inches()[1], axis.get_position(original=True)
    y = 1 + ((1 - frame.y1) * height - MARGIN) / (frame.height * height)
    axis.set_title(title, fontsize=TEXT, y=y, pad=0, va="top")


def set_xlabel(axis: Axes, text: str, x: float = 0.5, ha: Literal["left", "center", "right"] = "center") -> None:
    """Put a label at the lower edge of the figure, below an axis."""
    from matplotlib.transforms import blended_transform_factory

    axis.set_xlabel(text, va="bottom", ha=ha)
    axis.xaxis.set_label_coords(x, MARGIN, blended_transform_factory(axis.transAxes, axis.figure.dpi_scale_trans))


def set_ylabel(axis: Axes, text: str) -> None:
    """Put a label at the left edge of the figure, along an axis."""
    from matplotlib.transforms import blended_transform_factory

    axis.set_ylabel(text, va="top", rotation_mode="anchor")
    axis.yaxis.set_label_coords(MARGIN, 0.5, blended_transform_factory(axis.figure.dpi_scale_trans, axis.transAxes))


def set_legend(axis: Axes, columns: int = 1) -> None:
    """Put a legend above an axis, centred in the figure, where it covers no data."""
    from matplotlib.transforms import blended_transform_factory

    middle = blended_transform_factory(axis.figure.transFigure, axis.transAxes)
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "bbox_transform": middle}
    axis.legend(fontsize=SMALL, ncols=columns, frameon=False, borderaxespad=0.2, **place)


def add_scale(figure: Figure, place: tuple[float, float, float, float], colors: str, top: float, label: str) -> Axes:
    """Add a colour bar from 0 to `top`.

    Args:
        figure: The figure to draw on.
        place: Left edge, lower edge, width and height of the bar, in inches.
        colors: Name of a matplotlib colormap.
        top: Upper end of the scale.
        label: Label at the right of the bar.
    """
    (left, bottom, width, height), (full_width, full_height) = place, figure.get_size_inches()
    axis = add_frame(figure, left, bottom, full_width - left - width, full_height - bottom - height)
    axis.imshow(np.linspace(0, 1, 256)[:, None], aspect="auto", origin="lower", extent=(0, 1, 0, top), cmap=colors)
    axis.set_xticks([])
    axis.yaxis.tick_right()
    axis.yaxis.set_label_position("right")
    axis.set_ylabel(label, fontsize=SMALL)
    axis.tick_params(labelsize=SMALL)
    return axis

"""The key at the right of a map: its classes, the colours of confidence, and the inputs in its plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fold_lightning.figures.layout import LINE_HEIGHT, MARGIN, SMALL, wrapped
from fold_lightning.figures.style import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = np.ndarray[Any, Any]

SWATCH_WIDTH, SWATCH_HEIGHT = 0.2, 0.11
"""Size of the box that shows a class's colour, in inches."""

RAMP_WIDTH, RAMP_HEIGHT = 1.3, SWATCH_HEIGHT + 0.03 + LINE_HEIGHT
"""Width of the colour scale, and its height including the text below, in inches."""

THUMBNAIL = 0.42
"""Longer side of a thumbnail, in inches."""

LETTER_WIDTH = 0.17
"""Width of an input's letter including the space after it, in inches."""

MAX_LINES = 3
"""Maximum number of lines for the name of an input."""

SPACE, HEADING_HEIGHT = 0.06, LINE_HEIGHT + 0.03
"""Space after an entry of several lines, and height of a heading, in inches."""


@dataclass(frozen=True)
class InputEntry:
    """Entry of an input in a key.

    Attributes:
        letter: Letter that marks the input in the map.
        lines: Lines of its name.
        picture: Thumbnail (H, W) or (H, W, 3), or None.
    """

    letter: str
    lines: list[str]
    picture: Pixels | None

    @classmethod
    def of(cls, letter: str, name: str, picture: Pixels | None, width: float) -> InputEntry:
        """Return the entry of an input in a key of `width` inches, its name wrapped to that width.

        The text after a line break in the name starts a new line, and has at most two.
        """
        width -= LETTER_WIDTH + (0.0 if picture is None else THUMBNAIL + 1.5 * MARGIN)
        first, _, second = name.partition("\n")
        rest = wrapped(second, width, MAX_LINES - 1)
        return cls(letter, wrapped(first, width, MAX_LINES - len(rest)) + rest, picture)

    @property
    def thumbnail(self) -> tuple[float, float]:
        """Width and height of the thumbnail, in inches."""
        height, width = (0, 0) if self.picture is None else self.picture.shape[:2]
        larger = max(1, width, height)
        return THUMBNAIL * width / larger, THUMBNAIL * height / larger

    @property
    def height(self) -> float:
        """Height including the space below, in inches."""
        return max(self.thumbnail[1], len(self.lines) * LINE_HEIGHT) + SPACE


class Key:
    """Column of text and small pictures, written from top to bottom.

    Args:
        figure: The figure to write on.
        left: Left edge of the column, in inches from the figure's left edge.
        right: Right edge of the column, in inches from the figure's left edge.
        top: Upper edge of the first entry, in inches from the figure's lower edge.
        bottom: Lower limit of the entries above the inputs, in inches from the figure's lower edge. It is not enforced: callers
            choose the number of entries by it.
    """

    def __init__(self, figure: Figure, left: float, right: float, top: float, bottom: float) -> None:
        self._figure, self.left, self.right, self.y, self.bottom = figure, left, right, top, bottom

    def heading(self, text: str) -> None:
        """Write a heading."""
        self._write(self.left, text, fontweight="bold")
        self.y -= HEADING_HEIGHT

    def swatch(self, color: Any, text: str, lines: int = 1) -> None:
        """Draw a box of a colour, and write its meaning on at most `lines` lines."""
        self._frame(self.left, self.y - 0.02 - SWATCH_HEIGHT, SWATCH_WIDTH, SWATCH_HEIGHT, color)
        left = self.left + SWATCH_WIDTH + MARGIN
        written = wrapped(text, self.right - left, lines)
        self._write(left, "\n".join(written))
        self.y -= max(1, len(written)) * LINE_HEIGHT

    def ramp(self, colors: Pixels, low: str, high: str) -> None:
        """Draw a scale of RGB colours (n, 3), with text at both ends."""
        self.y -= SWATCH_HEIGHT
        self._picture(colors[None], self.left, self.y, RAMP_WIDTH, SWATCH_HEIGHT, "bilinear")
        self.y -= 0.03
        self._write(self.left, low)
        self._write(self.left + RAMP_WIDTH, high, ha="right")
        self.y -= LINE_HEIGHT

    def input(self, entry: InputEntry) -> None:
        """Draw the thumbnail of an input, and write its letter and name to the right."""
        left, (width, height) = self.left, entry.thumbnail
        if entry.picture is not None:
            self._picture(entry.picture, left, self.y - height, width, height, "nearest")
            left += THUMBNAIL + 1.5 * MARGIN
        self._write(left, entry.letter, fontweight="bold")
        self._write(left + LETTER_WIDTH, "\n".join(entry.lines))
        self.y -= entry.height

    def _picture(self, pixels: Pixels, x: float, y: float, width: float, height: float, interpolation: str) -> None:
        from matplotlib.image import BboxImage
        from matplotlib.transforms import Bbox, TransformedBbox

        box = TransformedBbox(Bbox.from_bounds(x, y, width, height), self._figure.dpi_scale_trans)
        image = BboxImage(box, cmap="gray_r", interpolation=interpolation, origin="upper")
        image.set_data(pixels)
        self._figure.add_artist(image)
        self._frame(x, y, width, height, "none")

    def _frame(self, x: float, y: float, width: float, height: float, color: Any) -> None:
        from matplotlib.patches import Rectangle

        frame = Rectangle((x, y), width, height, facecolor=color, edgecolor="0.3", linewidth=0.6)
        frame.set_transform(self._figure.dpi_scale_trans)
        self._figure.add_artist(frame)

    def _write(self, x: float, text: str, **options: Any) -> None:
        where: dict[str, Any] = {"transform": self._figure.dpi_scale_trans, "va": "top", "linespacing": 1.15}
        self._figure.text(x, self.y, literal(text), fontsize=SMALL, **where, **options)

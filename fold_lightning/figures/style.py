"""Colours, checks and messages that all figures share."""

from __future__ import annotations

from importlib.util import find_spec
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#ee7733", "#009988", "#5b4fa8", "#999999")
"""Colours of classes, in turn: Paul Tol's, most of which stay apart for the colour-blind."""

PRIMARY, ACCENT, QUIET = "#4477aa", "#bb5566", "#777777"
"""Colours of what is measured, of a bound or of what it turned into, and of what it is compared with."""


WIDTH = 5.0
"""Width of a figure, in inches: TensorBoard shows one of 500 pixels about 400 wide, at which its text can be read."""


def is_available() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_available() -> None:
    """Raise `ModuleNotFoundError` if matplotlib is not installed."""
    if not is_available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'fold-lightning[figures]'.")


def plot_message(message: str) -> Figure:
    """Return a figure that says why there is none."""
    check_available()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 1.6))
    figure.text(0.5, 0.5, literal(fill(message, 80)), ha="center", va="center", fontsize="small")
    return figure


def open_frame(axis: Axes) -> None:
    """Leave the two lines of a frame at which numbers stand, and a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)


def head(axis: Axes, title: str) -> None:
    """Put a title above, and between it and the frame the legend, where it covers nothing."""
    axis.set_title(title, fontsize="medium", pad=38)
    axis.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, borderaxespad=0.2)


def shortened(name: str, most: int = 20) -> str:
    """Return the beginning of a name, at most so many characters.

    Example:
        >>> shortened("a_class_with_a_long_name", 10)
        'a_class_w…'
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def literal(text: str) -> str:
    r"""Return text as matplotlib shows it as it is, for between dollar signs it would read formulas.

    Example:
        >>> print(literal("$x^2$"))
        \$x^2\$
    """
    return text.replace("$", r"\$")


def end_of_name(name: str, most: int = 24) -> str:
    """Return the end of a layer's name, at most so many characters: beginnings are alike in a network.

    Example:
        >>> end_of_name("encoder.blocks.3.norm", 10)
        '…ks.3.norm'
    """
    return literal(name if len(name) <= most else f"…{name[1 - most :]}")

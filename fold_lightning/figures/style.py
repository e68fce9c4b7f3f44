"""Colours, checks and texts that all figures share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRIMARY, ACCENT, QUIET = "#4477aa", "#bb5566", "#777777"
"""Colours of the main values, of a second series or a bound, and of reference lines."""

SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Upper ends of the scale of chi in figures and in the Folding tab: few, so that figures of one run share a scale."""

WIDTH = 5.0
"""Width of most figures, in inches: TensorBoard shrinks their 500 pixels to about 400, at which text is still legible."""


def is_available() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_available() -> None:
    """Raise `ModuleNotFoundError` if matplotlib is not installed."""
    if not is_available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'fold-lightning[figures]'.")


def plot_message(message: str) -> Figure:
    """Return a figure that shows a message, such as the reason why a plot is missing."""
    check_available()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 1.6))
    figure.text(0.5, 0.5, literal(fill(message, 80)), ha="center", va="center", fontsize="small")
    return figure


def open_frame(axis: Axes) -> None:
    """Remove the upper and the right spine of an axis, and draw a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)


def shortened(name: str, most: int = 20) -> str:
    """Return a name cut to at most `most` characters, with an ellipsis at the end.

    Example:
        >>> shortened("a_class_with_a_long_name", 10)
        'a_class_w…'
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def end_of_scale(largest: float) -> float:
    """Return the smallest of `SCALES` that is at least a value of chi.

    Example:
        >>> end_of_scale(0.25)
        0.3
    """
    return next(limit for limit in SCALES if largest <= limit or limit == SCALES[-1])


def distinct(names: Sequence[str], most: int = 20) -> list[str]:
    """Return names cut to at most `most` characters, with their indices where cut names are equal.

    Example:
        >>> distinct(["cat", "a_long_name_of_a_cat", "a_long_name_of_a_dog"], 12)
        ['cat', 'a_long_… (1)', 'a_long_… (2)']
    """
    short = [shortened(name, most) for name in names]
    counts = Counter(short)
    numbers = [f" ({number})" if counts[name] > 1 else "" for number, name in enumerate(short)]
    return [shortened(name, most - len(number)) + number for name, number in zip(names, numbers, strict=True)]


def literal(text: str) -> str:
    r"""Escape dollar signs, between which matplotlib would read a formula.

    Example:
        >>> print(literal("$x^2$"))
        \$x^2\$
    """
    return text.replace("$", r"\$")


def end_of_name(name: str, most: int = 24) -> str:
    """Return the end of a layer's name, at most `most` characters: names of one network often begin alike.

    Example:
        >>> end_of_name("encoder.blocks.3.norm", 10)
        '…ks.3.norm'
    """
    return literal(name if len(name) <= most else f"…{name[1 - most :]}")

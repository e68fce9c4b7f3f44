"""Colours of classes in a map, the same as in the Folding tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]

CLASS_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#ee7733", "#009988", "#5b4fa8", "#999999")
"""Colours of classes, by Paul Tol: most of them can be distinguished by colour-blind readers. The last is grey."""

OTHERS = len(CLASS_COLORS) - 1
"""Index of the grey in `CLASS_COLORS`; the smallest classes share it if there are more classes than colours."""

PALE = 0.12
"""Depth of a class's colour (0 is white, 1 the full colour) at confidence `UNSURE`; at confidence 1 it is 1 - `PALE` / 2."""

UNSURE = 0.3
"""Confidence (softmax of the predicted class) up to which colours are palest."""


def color_numbers(areas: Mapping[int, float]) -> dict[int, int]:
    """Return class -> index of its colour in `CLASS_COLORS`.

    A class gets the colour ``label % 10``, or the first free one if a class of larger area has that. No two classes share a
    colour, but if there are more classes than colours, the smallest share the grey.

    Args:
        areas: Class -> its area in the map.

    Example:
        >>> color_numbers({0: 0.5, 10: 0.3, 1: 0.2})
        {0: 0, 10: 1, 1: 2}
    """
    free = list(range(len(CLASS_COLORS)))
    if len(areas) > len(free):
        free.remove(OTHERS)
    numbers = {}
    for label in sorted(areas, key=lambda label: -areas[label]):
        own = label % len(CLASS_COLORS)
        number = own if own in free else next(iter(free), OTHERS)
        if number in free:
            free.remove(number)
        numbers[label] = number
    return numbers


def shades(numbers: Numbers, confidences: Numbers) -> Numbers:
    """Return RGB colours (P, 3), paler where the model is less confident.

    Args:
        numbers: Integer (P,), indices in `CLASS_COLORS`.
        confidences: (P,), softmax of the predicted class.
    """
    from matplotlib.colors import to_rgb

    full = np.array([to_rgb(color) for color in CLASS_COLORS])[numbers]
    depth = PALE + (1 - 1.5 * PALE) * np.clip((confidences - UNSURE) / (1 - UNSURE), 0, 1)
    found: Numbers = 1 - (1 - full) * depth[:, None]
    return found


def class_areas(polygons: Sequence[Numbers], labels: Numbers) -> dict[int, float]:
    """Return class -> total area of its polygons; classes without a polygon are left out.

    Args:
        polygons: P arrays (v, 2), counter-clockwise.
        labels: (P,), the class of each polygon.

    Example:
        >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
        >>> class_areas([square, square[:3]], np.array([7, 7]))
        {7: 6.0}
    """
    sizes = np.array([len(polygon) for polygon in polygons])
    starts = np.cumsum(sizes) - sizes
    corners = np.concatenate(polygons) if len(polygons) else np.zeros((0, 2))
    following = np.arange(1, len(corners) + 1)
    following[starts + sizes - 1] = starts
    x, y = (corners - np.repeat(corners[starts], sizes, axis=0)).T  # relative to a corner, so that small areas keep digits
    areas = np.add.reduceat(x * y[following] - x[following] * y, starts) / 2
    classes, place = np.unique(labels, return_inverse=True)
    return dict(zip(classes.tolist(), np.bincount(place, areas).tolist(), strict=True))

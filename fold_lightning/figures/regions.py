"""The figure of activation regions in a plane, a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fold_lightning._checks import check_choice
from fold_lightning.figures.class_colors import OTHERS, UNSURE, class_areas, color_numbers, shades
from fold_lightning.figures.key import HEADING_HEIGHT, RAMP_HEIGHT, SPACE, InputEntry, Key
from fold_lightning.figures.layout import (
    LINE_HEIGHT,
    SCALE_WIDTH,
    TEXT,
    add_frame,
    add_scale,
    set_title,
    set_xlabel,
    set_ylabel,
)
from fold_lightning.figures.style import check_available, distinct
from fold_lightning.slice_maps import SliceMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MapColor = Literal["distance", "class"]

MAP_WIDTH, MAP_HEIGHT = 7.1, 5.3
"""Size of a map's figure, in inches."""

MAP_LEFT, MAP_BOTTOM, MAP_SIDE = 0.6, 0.55, 4.4
"""Space left of the map, space below it, and side of the map, in inches."""

KEY_LEFT, KEY_RIGHT = MAP_LEFT + MAP_SIDE + 0.16, MAP_WIDTH - 0.06
"""Left and right edge of the key, in inches."""

NAME_CHARACTERS = 40
"""Maximum length of a class's name in the key, in characters; fewer are shown if they do not fit."""

LINE_WIDTH = 0.7
"""Width of lines between up to 600 regions, in points; with R > 600 regions, sqrt(600 / R) times this."""


def plot_slice_map(
    found: SliceMap,
    *,
    color: MapColor = "distance",
    images: Tensor | None = None,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw a map of activation regions in a plane, and mark the inputs.

    Letters mark the inputs in the map. Their names and thumbnails are in a key at the right, where they cover no regions. Dashed
    lines are the segments between the inputs.

    Args:
        found: Map of R regions, as from `slice_map`.
        color: "distance" colours regions by the number of units in which their codes differ from the code of the first input's
            region, or of the region in the middle of the window if that input lies outside. "class" colours them by the predicted
            class, paler where the model is less confident, and draws the exact borders between classes.
        images: Thumbnails of the I inputs, (I, H, W), or (I, C, H, W) with 1 or 3 channels; None shows the inputs
            themselves if they have such a shape.
        names: I names of the inputs; None numbers the inputs.
        class_names: C names of the classes; None shows their numbers.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot, 7.1 inches wide.

    Raises:
        ValueError: If `color` is neither, or is "class" and the map has no scores of classes.
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> from fold_lightning import slice_map
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -2.0]]))
        >>> _ = model[0].bias.data.copy_(torch.tensor([0.0, 0.0, -1.0, 0.3]))
        >>> figure = plot_slice_map(slice_map(model, torch.zeros(1, 2), window=2.0))
        >>> figure.axes[0].get_title()
        '11 regions of a plane around an input'
    """
    check_available()
    from matplotlib.figure import Figure

    check_choice("color", color, get_args(MapColor))
    x0, x1, y0, y1 = found.window
    figure = Figure(figsize=(MAP_WIDTH, MAP_HEIGHT))
    axis = add_frame(
        figure,
        MAP_LEFT,
        MAP_BOTTOM,
        MAP_WIDTH - MAP_LEFT - MAP_SIDE,
        MAP_HEIGHT - MAP_BOTTOM - MAP_SIDE,
        xlim=(x0, x1),
        ylim=(y0, y1),
    )
    axis.locator_params(nbins=4)
    axis.tick_params(axis="y", labelrotation=90)  # numbers of a zoomed map have many digits
    for label in axis.get_yticklabels():
        label.set_verticalalignment("center")
    inputs = _inputs(found, _thumbnails(found) if images is None else images, names)
    key_top, inputs_top = MAP_BOTTOM + MAP_SIDE, MAP_BOTTOM + HEADING_HEIGHT + sum(entry.height for entry in inputs) - SPACE
    key = Key(figure, KEY_LEFT, KEY_RIGHT, key_top, inputs_top + SPACE)
    width = LINE_WIDTH * min(1.0, (600 / len(found)) ** 0.5)
    if color == "distance":
        _draw_distances(axis, found, width, (KEY_LEFT, key.bottom + SPACE, SCALE_WIDTH, key_top - key.bottom - SPACE))
    else:
        _draw_classes(axis, found, width, key, class_names)
    _mark_inputs(axis, found)
    key.y = inputs_top
    key.heading("inputs" if len(inputs) > 1 else "input")
    for entry in inputs:
        key.input(entry)
    set_title(axis, f"{len(found):,} region{'s' * (len(found) != 1)} of a plane{_place(found)}")
    set_xlabel(axis, "distance along the first direction", x=0.0, ha="left")  # the right end may hold the ticks' offset
    set_ylabel(axis, "along the second")
    return figure


def _place(found: SliceMap) -> str:
    """Return the end of the title, which describes the position of the window."""
    if len(found.marks) != 3:
        return " around an input"
    is_whole = bool((found.find(found.marks) >= 0).all())
    return " through three inputs" if is_whole else ", zoomed on one of three inputs"


def _draw_distances(axis: Axes, found: SliceMap, width: float, place: tuple[float, float, float, float]) -> None:
    """Draw regions, coloured by the distance of their codes from a reference region's code, and a colour bar at `place`."""
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import MaxNLocator

    distances, colors = found.distances, "YlGnBu"
    polygons, largest = [polygon.numpy() for polygon in found.polygons], max(1, int(distances.max()))
    patches = PolyCollection(polygons, array=distances.numpy(), cmap=colors, edgecolors=(0, 0, 0, 0.55), linewidths=width)
    patches.set_clim(0, largest)
    axis.add_collection(patches, autolim=False)
    is_inside = bool(found.find(found.marks[:1]) >= 0)
    what = f"the region of {ascii_uppercase[0]}" if is_inside else "the region in the middle"
    figure: Any = axis.figure
    scale = add_scale(figure, place, colors, largest, f"units that differ\nfrom {what}")
    scale.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _draw_classes(axis: Axes, found: SliceMap, width: float, key: Key, names: Sequence[str] | None) -> None:
    """Draw the predicted classes with their confidence and borders, and list them in the key."""
    from matplotlib.collections import PolyCollection

    pieces = found.by_class()
    polygons, labels = [polygon.numpy() for polygon in pieces.polygons], pieces.predictions.numpy()
    numbers = color_numbers(class_areas(polygons, labels))
    by_label = np.zeros(max(numbers) + 1, dtype=np.int64)
    by_label[list(numbers)] = list(numbers.values())
    colors = shades(by_label[labels], pieces.confidences.numpy())
    axis.add_collection(PolyCollection(polygons, facecolors=colors, edgecolors="face", linewidths=0.3), autolim=False)
    _draw_lines(axis, found.vertices[found.edge_ends].numpy(), color=(1, 1, 1, 0.75), linewidth=width)
    _draw_lines(axis, pieces.borders.numpy(), color="black", linewidth=1.6, solid_capstyle="round")
    key.heading("predicted")
    _list_classes(key, numbers, names, int((key.y - key.bottom - SPACE - HEADING_HEIGHT - RAMP_HEIGHT) / LINE_HEIGHT))
    key.y -= SPACE
    key.heading("confidence")
    grey = np.linspace(UNSURE, 1, 64)
    key.ramp(shades(np.full(len(grey), OTHERS), grey), f"{UNSURE:.0%} or less", "100%")


def _draw_lines(axis: Axes, ends: np.ndarray, **style: Any) -> None:
    """Draw straight lines (n, 2, 2) as one artist, separated by NaN, below the inputs."""
    gaps = np.full((len(ends), 1, 2), np.nan)
    x, y = np.concatenate([ends, gaps], 1).reshape(-1, 2).T
    axis.plot(x, y, scalex=False, scaley=False, zorder=1.5, **style)


def _list_classes(key: Key, numbers: dict[int, int], names: Sequence[str] | None, rows: int) -> None:
    """List the classes in the key with their colours.

    Names may take two lines each if these fit into `rows` lines. Classes that share the grey are only counted.
    """
    is_crowded = len(numbers) > OTHERS + 1
    named = sorted(label for label, number in numbers.items() if not (is_crowded and number == OTHERS))
    words = {label: str(label) for label in named} if names is None else dict(enumerate(distinct(names, NAME_CHARACTERS)))
    full, lines = np.ones(1), 2 if 2 * len(named) <= rows else 1
    for label in named:
        key.swatch(shades(np.array([numbers[label]]), full)[0], words[label], lines)
    if is_crowded:
        key.swatch(shades(np.array([OTHERS]), full)[0], f"{len(numbers) - len(named)} others, smaller")


def _inputs(found: SliceMap, images: Tensor | None, names: Sequence[str] | None) -> list[InputEntry]:
    """Return the key's entries of the inputs."""
    ordinals = ("the first", "the second", "the third") if len(found.marks) > 1 else ("the first input",)
    entries = []
    for number, region in enumerate(found.find(found.marks).tolist()):
        name = (names[number] if names is not None else "") or ordinals[number]
        picture = None if images is None else _as_picture(images[number])
        text = name if region >= 0 else f"{name} (outside)"
        entries.append(InputEntry.of(ascii_uppercase[number], text, picture, KEY_RIGHT - KEY_LEFT))
    return entries


def _thumbnails(found: SliceMap) -> Tensor | None:
    """Return the inputs if they have the shape of images, otherwise None."""
    shape = found.origin.shape
    if len(shape) not in (2, 3) or min(shape[-2:]) < 4 or (len(shape) == 3 and shape[0] not in (1, 3)):
        return None
    return found.inputs(found.marks)


def _mark_inputs(axis: Axes, found: SliceMap) -> None:
    """Draw the inputs as points with letters, and dashed segments between them."""
    from matplotlib.patheffects import withStroke

    marks, inside = found.marks.numpy(), (found.find(found.marks) >= 0).tolist()
    fixed: dict[str, Any] = {"scalex": False, "scaley": False}
    for pair in combinations(marks, 2):
        halo = [withStroke(linewidth=3.0, foreground="white")]
        axis.plot(*np.stack(pair).T, color="black", linewidth=1.3, linestyle=(0, (4, 3)), path_effects=halo, **fixed)
    axis.plot(*marks[inside].T, "o", markersize=5, markerfacecolor="white", markeredgecolor="black", zorder=7, **fixed)
    for letter, mark, is_inside in zip(ascii_uppercase, marks, inside, strict=False):
        if is_inside:
            away = mark - marks.mean(0) if len(marks) > 1 else np.ones(2)
            offset = 9 * away / max(np.linalg.norm(away), np.finfo(float).tiny)
            where: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "ha": "center", "va": "center"}
            halo = [withStroke(linewidth=2.5, foreground="white")]
            axis.annotate(letter, mark, fontsize=TEXT, fontweight="bold", zorder=8, path_effects=halo, **where)


def _as_picture(image: Tensor) -> np.ndarray:
    """Return an image (H, W) or (C, H, W) as (H, W) or (H, W, 3), scaled to [0, 1]."""
    values = image.detach().double().cpu()
    values = values - values.min()
    values = values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
    if values.dim() == 3:
        values = values.movedim(0, -1) if len(values) == 3 else values[0]
    picture: np.ndarray = values.numpy()
    return picture

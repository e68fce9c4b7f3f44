"""Figures of activation regions in a plane."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fold_lightning._checks import check_choice
from fold_lightning.figures.style import CLASS_COLORS, check_available, literal, shortened
from fold_lightning.slice_maps import SliceMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MapColor = Literal["distance", "class"]

LEFT, BOTTOM, WIDTH, HEIGHT = 0.12, 0.115, 0.68, 0.7846
"""Place of the map in the figure, in shares of its width and height: a square in a figure of 6 by 5.2 inches."""

GREY = 9
"""Class whose colour is grey."""

LINE_WIDTH = 0.7
"""Width of the lines between 600 regions, in points; thinner as the root of their number grows."""

PALE = 0.12
"""Depth of a class's colour where the model is no surer than `UNSURE`; it grows to 1 - `PALE` / 2 where it is sure."""

UNSURE = 0.3
"""Softmax of the predicted class from which on colours grow deeper."""

THUMBNAIL = 36.0
"""Height of a thumbnail, in points."""

NAMED_CLASSES = 12
"""Classes that the legend names: those of the largest areas."""

LEGEND_CHARACTERS, LABEL_CHARACTERS = 9, 54
"""Characters in a line of the legend, and in the label of an input."""

NAMED_AREA = 0.002
"""Share of the window that a class must fill to be named."""


def plot_slice_map(
    found: SliceMap,
    *,
    color: MapColor = "distance",
    images: Tensor | None = None,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw a map of activation regions, and where the inputs lie that its plane goes through.

    Segments between the inputs are dashed.

    Args:
        found: R regions of a window, as `slice_map` returns them.
        color: What the colour of a region shows: the "distance", in how many units its code differs from that of the first
            input's region; or the "class" that the model predicts, the paler the less sure it is, with the exact borders between
            classes. If the first input lies outside, the middle of the window takes its place.
        images: Thumbnails of the I inputs, (I, H, W), or (I, C, H, W) with 1 or 3 channels; None takes inputs of such a shape
            themselves.
        names: I names of the inputs.
        class_names: C names of the classes; None takes the numbers.

    Returns:
        A figure that no backend holds, 600 pixels wide.

    Raises:
        ValueError: For classes of a map without scores, or another `color`.
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
    figure = Figure(figsize=(6.0, 5.2))
    axis = figure.add_axes((LEFT, BOTTOM, WIDTH, HEIGHT))
    axis.set_aspect("equal")
    axis.locator_params(nbins=4)
    axis.tick_params(axis="y", labelrotation=90)  # deep in a zoom numbers have many digits
    for label in axis.get_yticklabels():
        label.set_verticalalignment("center")
    width = LINE_WIDTH * min(1.0, (600 / len(found)) ** 0.5)
    (_draw_distances if color == "distance" else _draw_classes)(figure, axis, found, width, class_names)
    axis.set_xlim(x0, x1)
    axis.set_ylim(y0, y1)
    _mark_inputs(axis, found, _thumbnails(found) if images is None else images, names)
    axis.set_title(f"{len(found):,} region{'s' * (len(found) != 1)} of a plane{_place(found)}", fontsize="medium")
    axis.set_xlabel("distance along the first direction", loc="left")  # numbers may have a common part on the right
    axis.set_ylabel("along the second")
    return figure


def _place(found: SliceMap) -> str:
    """Return where the window lies."""
    if len(found.marks) != 3:
        return " around an input"
    is_whole = bool((found.find(found.marks) >= 0).all())
    return " through three inputs" if is_whole else ", zoomed on one of three inputs"


def _draw_distances(figure: Figure, axis: Axes, found: SliceMap, width: float, _: Sequence[str] | None) -> None:
    """Draw regions by the distance of their codes from that of one."""
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import MaxNLocator

    distances = found.distances
    polygons = [polygon.numpy() for polygon in found.polygons]
    patches = PolyCollection(polygons, array=distances.numpy(), cmap="YlGnBu", edgecolors=(0, 0, 0, 0.55), linewidths=width)
    patches.set_clim(0, max(1, int(distances.max())))
    axis.add_collection(patches)
    is_inside = bool(found.find(found.marks[:1]) >= 0)
    what = "the first input's region" if is_inside else "the region in the middle"
    scale = figure.add_axes((LEFT + WIDTH + 0.02, BOTTOM, 0.03, HEIGHT))
    figure.colorbar(patches, cax=scale, label=f"units that differ from {what}", ticks=MaxNLocator(5, integer=True))


def _draw_classes(figure: Figure, axis: Axes, found: SliceMap, width: float, names: Sequence[str] | None) -> None:
    """Draw the class that is predicted, and how sure the model is of it."""
    from matplotlib.collections import LineCollection, PolyCollection

    pieces = found.by_class()
    polygons = [polygon.numpy() for polygon in pieces.polygons]
    colors = _shades(pieces.predictions.numpy(), pieces.confidences.numpy())
    axis.add_collection(PolyCollection(polygons, facecolors=colors, edgecolors="face", linewidths=0.3))
    lines = list(found.vertices[found.edge_ends].numpy())
    axis.add_collection(LineCollection(lines, colors=(1, 1, 1, 0.75), linewidths=width))
    axis.add_collection(LineCollection(list(pieces.borders.numpy()), colors="black", linewidths=1.6, capstyle="round"))
    classes, areas = _areas(pieces.polygons, pieces.predictions)
    largest = areas.argsort(descending=True)[:NAMED_CLASSES]
    seen = sorted(classes[largest[areas[largest] >= NAMED_AREA * areas.sum()]].tolist())
    handles = [
        _patch(label, 1.0, str(label) if names is None else fill(shortened(names[label]), LEGEND_CHARACTERS)) for label in seen
    ]
    beside: dict[str, Any] = {
        "frameon": False,
        "fontsize": "small",
        "alignment": "left",
        "borderaxespad": 0.0,
        "handlelength": 1.4,
    }
    figure.legend(
        handles=handles, title="predicted", loc="upper left", bbox_to_anchor=(LEFT + WIDTH + 0.02, BOTTOM + HEIGHT), **beside
    )
    sure = [_patch(GREY, value, text) for value, text in ((UNSURE, f"{UNSURE:.0%} or less"), (0.65, "65%"), (1.0, "100%"))]
    figure.legend(handles=sure, title="confidence", loc="lower left", bbox_to_anchor=(LEFT + WIDTH + 0.02, BOTTOM), **beside)


def _areas(polygons: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes (K,) that occur, and the area of each."""
    sizes = []
    for polygon in polygons:
        x, y = (polygon - polygon[0]).unbind(1)
        sizes.append((x * y.roll(-1) - x.roll(-1) * y).sum() / 2)
    classes, place = labels.unique(return_inverse=True)
    return classes, torch.zeros(len(classes), dtype=torch.float64).index_add_(0, place, torch.stack(sizes))


def _shades(labels: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Return colours (P, 3) of classes, the paler the less confident."""
    from matplotlib.colors import to_rgb

    full = np.array([to_rgb(color) for color in CLASS_COLORS])[labels % len(CLASS_COLORS)]
    depth = PALE + (1 - 1.5 * PALE) * np.clip((confidences - UNSURE) / (1 - UNSURE), 0, 1)
    shades: np.ndarray = 1 - (1 - full) * depth[:, None]
    return shades


def _patch(label: int, confidence: float, text: str) -> Any:
    """Return an entry of a legend."""
    from matplotlib.patches import Patch

    return Patch(
        facecolor=_shades(np.array([label]), np.array([confidence]))[0], edgecolor="0.3", linewidth=0.6, label=literal(text)
    )


def _thumbnails(found: SliceMap) -> Tensor | None:
    """Return the inputs as images, if they are shaped so."""
    shape = found.origin.shape
    if len(shape) not in (2, 3) or min(shape[-2:]) < 4 or (len(shape) == 3 and shape[0] not in (1, 3)):
        return None
    return found.inputs(found.marks)


def _mark_inputs(axis: Axes, found: SliceMap, images: Tensor | None, names: Sequence[str] | None) -> None:
    """Draw the inputs as points, with thumbnails and names, and the segments between them."""
    from matplotlib.patheffects import withStroke

    marks, inside = found.marks.numpy(), (found.find(found.marks) >= 0).tolist()
    halo = [withStroke(linewidth=3.0, foreground="white")]
    for pair in combinations(marks, 2):
        axis.plot(
            *np.stack(pair).T,
            color="black",
            linewidth=1.3,
            linestyle=(0, (4, 3)),
            path_effects=halo,
            scalex=False,
            scaley=False,
        )
    for number, (mark, is_inside) in enumerate(zip(marks, inside, strict=True)):
        if is_inside:
            axis.plot(*mark, "o", markersize=6, markerfacecolor="white", markeredgecolor="black", zorder=7)
            away = mark - marks.mean(0) if len(marks) > 1 else np.ones(2)
            direction = away / np.linalg.norm(away)
            name = None if names is None else names[number]
            _add_label(axis, mark, direction, None if images is None else _as_picture(images[number]), name)


def _as_picture(image: Tensor) -> np.ndarray:
    """Return an image (H, W) or (C, H, W) with values in [0, 1], dark on light if it has one channel."""
    values = image.detach().double().cpu()
    values = values - values.min()
    values = values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
    if values.dim() == 3:
        values = values.movedim(0, -1) if len(values) == 3 else values[0]
    picture: np.ndarray = values.numpy()
    return picture


def _add_label(axis: Axes, mark: np.ndarray, direction: np.ndarray, picture: np.ndarray | None, name: str | None) -> None:
    """Put a thumbnail and a name above or below a point, on the side that a direction points to."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage, TextArea, VPacker

    parts: list[Any] = []
    if picture is not None:
        parts.append(OffsetImage(picture, zoom=THUMBNAIL / picture.shape[0], cmap="gray_r", interpolation="nearest"))
    if name is not None:
        text = literal(shortened(name, LABEL_CHARACTERS))
        parts.append(TextArea(text, textprops={"fontsize": "small", "fontweight": "bold", "multialignment": "center"}))
    if parts:
        is_above = direction[1] >= 0  # wholly, for a name may be wide
        box = VPacker(children=parts, align="center", pad=0, sep=1)
        where: dict[str, Any] = {"xybox": (0, 8 if is_above else -8), "boxcoords": "offset points", "zorder": 6}
        x0, x1 = axis.get_xlim()
        where["box_alignment"] = ((mark[0] - x0) / (x1 - x0), 0.0 if is_above else 1.0)  # within the frame, however wide
        axis.add_artist(AnnotationBbox(box, (mark[0], mark[1]), pad=0.15, bboxprops={"linewidth": 0.8}, **where))

"""Figures of walks and of the folding between classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fold_lightning.figures.style import check_available
from fold_lightning.folding.along_walks import distance_profile, folding_profile
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_NAMED = 20
"""Classes up to which all are named and their values written."""


LIGHT = 0.6
"""Share of the scale from which on a cell is light, and its text black."""

SCALES = (0.1, 0.2, 0.5, 1.0)
"""Ends of the scale of chi: few, so that figures of one run can be compared."""


def plot_walk(walks: Walks, i: int) -> Figure:
    r"""Draw how far a segment's walk gets from its first code, and how its folding grows.

    Args:
        walks: S walks.
        i: Number of the segment.

    Returns:
        A figure that no backend holds; the lower curve is `folding_profile`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> there_and_back = torch.tensor([[[False], [True], [False]]])
        >>> figure = plot_walk(Walks.from_codes(there_and_back), 0)
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['Hamming distance\nfrom the start', 'chi so far']
    """
    check_available()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    distance, chi = distance_profile(walks, i).cpu(), folding_profile(walks, i).cpu()
    steps = torch.unique_consecutive(walks.only(i).position).cpu()
    edges = torch.cat([steps.new_zeros(1), steps, steps.new_ones(1)]).numpy()
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.set_title(f"{len(chi):,} regions, chi = {chi[-1]:.3f}")
    lower.set_xlabel("t along the segment")
    for axis, values, color, label in (
        (upper, distance, "tab:blue", "Hamming distance\nfrom the start"),
        (lower, chi, "tab:orange", "chi so far"),
    ):
        axis.plot(edges, torch.cat([values[:1], values]).numpy(), drawstyle="steps", color=color, linewidth=1.2)
        axis.set_ylabel(label)
        axis.set_xlim(0, 1)
        axis.grid(alpha=0.3)
        axis.set_xticks([0, 0.5, 1])
    upper.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_ylim(0, 1)
    lower.set_yticks([0, 0.5, 1])
    return figure


def plot_folding_matrix(matrix: Tensor, class_names: Sequence[str] | None = None) -> Figure:
    """Draw the folding between each ordered pair of classes, as `global_folding` gives it.

    Args:
        matrix: (C, C), rows for the class where a segment starts; NaN, for pairs without segments, stays blank.
        class_names: C names; None takes the numbers.

    Returns:
        A figure that no backend holds.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> figure = plot_folding_matrix(torch.tensor([[torch.nan, 0.25], [0.5, torch.nan]]), ["cat", "dog"])
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['from class', 'chi']
    """
    check_available()
    from matplotlib.figure import Figure

    values = matrix.detach().double().cpu()
    count = len(values)
    names = [str(c) for c in range(count)] if class_names is None else list(class_names)
    shown = range(0, count, -(-count // MAX_NAMED) if count else 1)
    size = min(9.0, 3.0 + 0.4 * count)
    figure = Figure(figsize=(size, 0.85 * size), layout="constrained")
    axis = figure.subplots()
    largest = values.nan_to_num(0.0).amax().item() if count else 0.0
    top = next(limit for limit in SCALES if largest <= limit or limit == SCALES[-1])
    image = axis.imshow(values.numpy(), vmin=0.0, vmax=top, cmap="viridis", aspect="auto")
    labels = [names[c] for c in shown]
    axis.set_xticks(shown, labels, rotation=90 if max(map(len, labels), default=0) > 3 else 0)
    axis.set_yticks(shown, labels)
    axis.set_xlabel("to class")
    axis.set_ylabel("from class")
    if count <= MAX_NAMED:
        for row, column in (~values.isnan()).nonzero().tolist():
            value = values[row, column].item()
            text = f"{value:.2f}".lstrip("0") if 0 < value < 1 else f"{value:.0f}"
            color = "black" if value > LIGHT * top else "white"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize="small")
    figure.colorbar(image, label="chi", ticks=[0, top / 2, top])
    return figure

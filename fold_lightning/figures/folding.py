"""Figures of walks and of the folding between classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fold_lightning.figures.style import ACCENT, PRIMARY, QUIET, WIDTH, check_available, head, literal, open_frame, shortened
from fold_lightning.folding.along_walks import distance_profile, folding_profile
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAMED = 20
"""Classes up to which all are named."""

MAX_VALUES = 12
"""Classes up to which values stand in the cells."""

MAX_TICKS = 14
"""Names at an axis of more classes: those of 20 would be too small where TensorBoard shows the figure at half its size."""

MAX_SIZE = 6.4
"""Width of a matrix, in inches: a larger one is shown smaller, and so is its text."""

MAX_CELLS = 30
"""Classes up to which each pair has a cell; of more, few pairs are drawn as squares that can be seen."""

EMPTY = "#e4e4e4"
"""Colour of pairs without segments."""

LIGHT = 0.6
"""Share of the scale from which on a cell is light, and its text black."""

SCALES = (0.1, 0.2, 0.5, 1.0)
"""Ends of the scale of chi: few, so that figures of one run can be compared."""

NUM_BINS = 25
"""Bars of a distribution of chi."""

BANDS = ((0.0, 1.0, "all segments", 0.15), (0.05, 0.95, "nine in ten", 0.25), (0.25, 0.75, "half of them", 0.4))
"""Ranges of a distribution over time: quantiles, name, and depth of the colour."""


def plot_walk(walks: Walks, i: int) -> Figure:
    r"""Draw how far a segment's walk gets from its first code, and how its folding grows.

    Args:
        walks: S walks.
        i: Number of the segment.

    Returns:
        A figure that no backend holds. The dashed line leads to the number of switches, the distance at which a walk that does not
        fold ends; the gap between it and the dotted line, the walk's largest distance, is chi. The lower curve is `folding_profile`.

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

    distance, chi, one = distance_profile(walks, i).cpu(), folding_profile(walks, i).cpu(), walks.only(i)
    steps, length, farthest = one.position.unique().cpu(), len(one.unit), int(distance.max())
    edges = torch.cat([steps.new_zeros(1), steps, steps.new_ones(1)]).numpy()
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    folds = f"1 - {farthest} / {length} = " if length else ""
    lower.set_xlabel("t along the segment")
    unfolded = f"unfolded: {length:,} switch{'es' * (length != 1)} evenly, none back"
    upper.plot([0, 1], [0, length], color=QUIET, linestyle="--", linewidth=1.3, label=unfolded)
    for axis, values, style in (
        (upper, distance, {"color": PRIMARY, "linewidth": 1.6, "label": f"this walk, at most {farthest:,} away (dotted)"}),
        (lower, chi, {"color": ACCENT, "linewidth": 1.6}),
    ):
        axis.plot(edges, torch.cat([values[:1], values]).numpy(), drawstyle="steps", **style)
        open_frame(axis)
    upper.axhline(farthest, color=PRIMARY, linestyle=":", linewidth=1.0)
    upper.set_ylabel("Hamming distance\nfrom the start")
    lower.set_ylabel("chi so far")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, max(1.0, 1.05 * length))
    upper.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    head(upper, f"{len(chi):,} region{'s' * (len(chi) != 1)}, chi = {folds}{chi[-1]:.3f}")
    top = _end_of_scale(chi.max().item())
    lower.set_ylim(0, top)
    lower.set_yticks([0, top / 2, top])
    return figure


def plot_folding(chi: Tensor) -> Figure:
    """Draw how the folding of segments is distributed.

    Args:
        chi: Folding of S segments (S,), S at least 1.

    Returns:
        A figure that no backend holds: bars of the segments that fold; the title has the share that does.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no segments.

    Example:
        >>> figure = plot_folding(torch.tensor([0.0, 0.125, 0.25, 0.0]))
        >>> figure.axes[0].get_title()
        '50% of 4 segments fold, chi is 0.094 on average'
    """
    check_available()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    values = _at_least_one(chi)
    folded = values[values > 0]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axis = figure.subplots()
    top = _end_of_scale(values.max().item())
    axis.hist(folded.numpy(), NUM_BINS, range=(0.0, top), color=PRIMARY, edgecolor="white", linewidth=0.6)
    axis.axvline(values.mean().item(), color="black", linewidth=1.5, label=f"mean of all {values.mean():.3f}")
    if len(folded):
        median = folded.quantile(0.5).item()
        axis.axvline(median, color=ACCENT, linewidth=1.5, linestyle="--", label=f"median of those that fold {median:.3f}")
    many = f"{len(values):,} segment{'s' * (len(values) != 1)}"
    head(axis, f"{len(folded) / len(values):.0%} of {many} fold, chi is {values.mean():.3f} on average")
    axis.set_xlabel("chi of the segments that fold")
    axis.set_ylabel("segments")
    axis.set_xlim(0, top)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    open_frame(axis)
    return figure


def plot_folding_over_steps(chi: Mapping[int, Tensor], xlabel: str = "step") -> Figure:
    """Draw how the distribution of the folding of segments moves during training.

    Args:
        chi: Step, or number of an epoch -> folding of S segments (S,); S at least 1, and at least one step. The tables of
            `read_log` have it: ``{step: torch.tensor(table["chi"]) for step, table in log["segments"].items()}``.
        xlabel: Unit of the steps.

    Returns:
        A figure that no backend holds: the mean, and the ranges of all segments, of nine and of five in ten.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no steps, or no segments at one.

    Example:
        >>> figure = plot_folding_over_steps({0: torch.tensor([0.0, 0.0]), 100: torch.tensor([0.0, 0.5])})
        >>> [line.get_ydata().tolist() for line in figure.axes[0].lines][0]
        [0.0, 0.25]
    """
    check_available()
    from matplotlib.figure import Figure

    if not chi:
        raise ValueError("`chi` must hold at least one step, got none: pass step -> chi of its segments.")
    steps = sorted(chi)
    found = [_at_least_one(chi[step]) for step in steps]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, [values.mean().item() for values in found], color="black", linewidth=1.6, label="mean", zorder=3)
    for low, high, name, depth in BANDS:
        bounds = torch.stack([values.quantile(torch.tensor([low, high], dtype=torch.float64)) for values in found]).numpy()
        axis.fill_between(steps, bounds[:, 0], bounds[:, 1], color=PRIMARY, alpha=depth, linewidth=0, label=name)
    if len(steps) == 1:
        axis.plot(steps * len(found[0]), found[0].numpy(), "o", color=PRIMARY, markersize=4, alpha=0.4)
        axis.set_xticks(steps)
    least, most = min(map(len, found)), max(map(len, found))
    many = f"{most:,} segments" if least == most else f"{least:,} to {most:,} segments"
    axis.set_title(f"chi of {many} at {len(steps):,} step{'s' * (len(steps) != 1)}", fontsize="medium")
    axis.set_xlabel(xlabel)
    axis.set_ylabel("chi")
    axis.set_ylim(0, _end_of_scale(max(values.max().item() for values in found)))
    axis.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    open_frame(axis)
    return figure


def plot_folding_matrix(matrix: Tensor, class_names: Sequence[str] | None = None) -> Figure:
    """Draw the folding between each ordered pair of classes, as `global_folding` gives it.

    Args:
        matrix: (C, C), rows for the class where a segment starts; NaN, for pairs without segments, stays grey.
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
    names = [str(c) for c in range(count)] if class_names is None else [literal(shortened(name)) for name in class_names]
    shown = range(0, count, -(-count // (MAX_NAMED if count <= MAX_NAMED else MAX_TICKS)) if count else 1)
    size = min(MAX_SIZE, 2.6 + 0.32 * count)
    figure = Figure(figsize=(size, 0.85 * size), layout="constrained")
    axis = figure.subplots()
    largest = values.nan_to_num(0.0).amax().item() if count else 0.0
    top = _end_of_scale(largest)
    scale: dict[str, Any] = {"vmin": 0.0, "vmax": top, "cmap": "viridis"}
    rows, columns = (~values.isnan()).nonzero(as_tuple=True)
    if count > MAX_CELLS and len(rows) < count**2 / 8:  # cells of so many classes would be specks
        image: Any = axis.scatter(
            columns, rows, 24, values[rows, columns], marker="s", edgecolors=QUIET, linewidths=0.5, clip_on=False, **scale
        )
        axis.set_xlim(-0.5, count - 0.5)
        axis.set_ylim(count - 0.5, -0.5)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    else:
        axis.set_facecolor(EMPTY)
        image = axis.imshow(values.numpy(), aspect="auto", **scale)
    labels = [names[c] for c in shown]
    axis.set_xticks(shown, labels, rotation=90 if max(map(len, labels), default=0) > 3 else 0)
    axis.set_yticks(shown, labels)
    axis.set_xlabel("to class")
    axis.set_ylabel("from class")
    if count <= MAX_VALUES:
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            value = values[row, column].item()
            text = f"{value:.2f}".lstrip("0") if 0 < value < 1 else f"{value:.0f}"
            color = "black" if value > LIGHT * top else "white"
            inside: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "in_layout": False,
            }  # nothing to make room for, which is slow
            axis.text(column, row, text, color=color, fontsize="small", **inside)
    figure.colorbar(image, label="chi", ticks=[0, top / 2, top])
    return figure


def _end_of_scale(largest: float) -> float:
    """Return the end of a scale of chi that holds a value."""
    return next(limit for limit in SCALES if largest <= limit or limit == SCALES[-1])


def _at_least_one(chi: Tensor) -> Tensor:
    """Return the folding of segments float64 on the CPU, of which there must be some."""
    if len(chi) == 0:
        raise ValueError("`chi` must hold at least one segment, got none: update the metric with walks first.")
    return chi.detach().double().cpu()

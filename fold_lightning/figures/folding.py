"""Figures of walks and of the folding of segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fold_lightning.figures.bars import draw_bars
from fold_lightning.figures.layout import (
    FRAME_BOTTOM,
    RIGHT,
    above_frame,
    add_frame,
    left_of_numbers,
    set_legend,
    set_title,
    set_xlabel,
    set_ylabel,
)
from fold_lightning.figures.style import ACCENT, PRIMARY, QUIET, WIDTH, check_available, end_of_scale, open_frame
from fold_lightning.folding.along_walks import distance_profile, folding_profile
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_BINS = 25
"""Number of bars in a histogram of chi."""

WALK_HEIGHTS = (FRAME_BOTTOM, 1.2, 2.5)
"""Heights in the figure of a walk, from the bottom, in inches: axis label; plot of chi; plot of the distance, title and legend."""

BANDS = ((0.0, 1.0, "all segments", 0.15), (0.05, 0.95, "nine in ten", 0.25), (0.25, 0.75, "half of them", 0.4))
"""Bands of the distribution of chi at each step: lower and upper quantile, name in the legend, and opacity."""


def plot_walk(walks: Walks, i: int) -> Figure:
    r"""Draw the distance of a segment's walk from its first code, and chi along the walk.

    Args:
        walks: S walks.
        i: Index of the segment.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot. The dashed line rises to the number of switches, the final distance
        of a walk that does not fold. The dotted line is the walk's largest distance; the gap between the two, divided by the
        number of switches, is chi. The lower curve is `folding_profile`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        IndexError: If there is no segment `i`.

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
    top, end = end_of_scale(chi.max().item()), max(1.0, 1.05 * length)
    figure = Figure(figsize=(WIDTH, sum(WALK_HEIGHTS)))
    left, middle = left_of_numbers(end, lines=2), WALK_HEIGHTS[0] + WALK_HEIGHTS[1]
    upper = add_frame(figure, left, middle, RIGHT, above_frame(2))
    lower = add_frame(figure, left, WALK_HEIGHTS[0], RIGHT, WALK_HEIGHTS[2] + 0.14, sharex=upper)
    upper.tick_params(labelbottom=False)
    set_xlabel(lower, "t along the segment")
    unfolded = f"unfolded: {length:,} switch{'es' * (length != 1)} evenly, none back"
    upper.plot([0, 1], [0, length], color=QUIET, linestyle="--", linewidth=1.3, label=unfolded)
    walk = f"this walk, at most {farthest:,} away (dotted)"
    for axis, values, color, name in ((upper, distance, PRIMARY, walk), (lower, chi, ACCENT, "chi")):
        axis.plot(edges, torch.cat([values[:1], values]).numpy(), drawstyle="steps", color=color, linewidth=1.6, label=name)
        open_frame(axis)
    upper.axhline(farthest, color=PRIMARY, linestyle=":", linewidth=1.0)
    set_ylabel(upper, "Hamming distance\nfrom the start")
    set_ylabel(lower, "chi so far")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, end)
    upper.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    folds = f"1 - {farthest} / {length} = " if length else ""
    set_title(upper, f"{len(chi):,} region{'s' * (len(chi) != 1)}, chi = {folds}{chi[-1]:.3f}")
    set_legend(upper)
    lower.set_ylim(0, top)
    lower.set_yticks([0, top / 2, top])
    return figure


def plot_folding(chi: Tensor) -> Figure:
    """Draw a histogram of chi over segments.

    Args:
        chi: chi of S segments (S,), S at least 1.

    Returns:
        A matplotlib `Figure` that is not registered with pyplot. The bars count the segments that fold; the title gives their share.

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
    figure = Figure(figsize=(WIDTH, 3.4))
    top = end_of_scale(values.max().item())
    counts = folded.histc(NUM_BINS, 0.0, top).numpy()
    left = left_of_numbers(counts.max())
    axis = add_frame(figure, left, FRAME_BOTTOM, RIGHT, above_frame(2))
    width = top / NUM_BINS
    draw_bars(axis, width * np.arange(NUM_BINS), np.zeros(NUM_BINS), np.full(NUM_BINS, width), counts, PRIMARY)
    axis.axvline(values.mean().item(), color="black", linewidth=1.5, label=f"mean of all {values.mean():.3f}")
    if len(folded):
        median = folded.quantile(0.5).item()
        axis.axvline(median, color=ACCENT, linewidth=1.5, linestyle="--", label=f"median of those that fold {median:.3f}")
    many = f"{len(values):,} segment{'s' * (len(values) != 1)}"
    set_title(axis, f"{len(folded) / len(values):.0%} of {many} fold, chi is {values.mean():.3f} on average")
    set_legend(axis)
    set_xlabel(axis, "chi of the segments that fold")
    set_ylabel(axis, "segments")
    axis.set_xlim(0, top)
    axis.set_ylim(0, max(1.0, 1.05 * counts.max()))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    open_frame(axis)
    return figure


def plot_folding_over_steps(chi: Mapping[int, Tensor], xlabel: str = "step") -> Figure:
    """Draw the distribution of chi over segments at each step of training.

    Args:
        chi: Step or epoch -> chi of S segments (S,), S at least 1; at least one step. From the tables of `read_log`:
            ``{step: torch.tensor(table["chi"]) for step, table in log["segments"].items()}``.
        xlabel: Label of the x-axis: the unit of the keys, such as "epoch".

    Returns:
        A matplotlib `Figure` that is not registered with pyplot. It shows the mean, and the ranges of all segments, of the middle
        90% and of the middle 50%.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there are no steps, or a step has no segments.

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
    figure = Figure(figsize=(WIDTH, 3.6))
    axis = add_frame(figure, left_of_numbers(1.0), FRAME_BOTTOM, 0.3, above_frame(1))
    axis.plot(steps, [values.mean().item() for values in found], color="black", linewidth=1.6, label="mean", zorder=3)
    for low, high, name, depth in BANDS:
        bounds = torch.stack([values.quantile(torch.tensor([low, high], dtype=torch.float64)) for values in found]).numpy()
        axis.fill_between(steps, bounds[:, 0], bounds[:, 1], color=PRIMARY, alpha=depth, linewidth=0, label=name)
    if len(steps) == 1:
        axis.plot(steps * len(found[0]), found[0].numpy(), "o", color=PRIMARY, markersize=4, alpha=0.4)
        axis.set_xticks(steps)
    least, most = min(map(len, found)), max(map(len, found))
    many = f"{most:,} segments" if least == most else f"{least:,} to {most:,} segments"
    set_title(axis, f"chi of {many} at {len(steps):,} step{'s' * (len(steps) != 1)}")
    set_legend(axis, columns=4)
    set_xlabel(axis, xlabel)
    set_ylabel(axis, "chi")
    top = end_of_scale(max(values.max().item() for values in found))
    axis.set_ylim(0, top)
    axis.set_yticks([0, top / 2, top])
    open_frame(axis)
    return figure


def _at_least_one(chi: Tensor) -> Tensor:
    """Return chi of the segments, float64 on the CPU; raise if there are none."""
    if len(chi) == 0:
        raise ValueError("`chi` must hold at least one segment, got none: update the metric with walks first.")
    return chi.detach().double().cpu()

"""Summaries: what the monitor logs of walks, each tag in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from fold_lightning.figures import plot_walk
from fold_lightning.folding import space_folding, summarize_folding
from fold_lightning.walks import Walks

CHI_MEAN = "folding/chi_mean"
CHI_MEDIAN = "folding/chi_median"
CHI_MAX = "folding/chi_max"
FRACTION = "folding/fraction"
REGIONS = "folding/regions"
EXACT = "folding/exact"
COMPLETE = "folding/complete"
SECONDS = "folding/seconds"
LAYER = "folding/layer/"
CHI_HISTOGRAM = "folding/chi_histogram"
WALK = "folding/walk"

LAYOUT = {
    "folding": {
        "chi": ["Multiline", [CHI_MEAN, CHI_MEDIAN, CHI_MAX, FRACTION]],
        "chi of each layer": ["Multiline", [f"{LAYER}.*"]],
        "regions on a segment": ["Multiline", [REGIONS]],
        "verified": ["Multiline", [EXACT, COMPLETE]],
    }
}
"""What TensorBoard's custom scalars show side by side."""


def folding_scalars(walks: Walks) -> dict[str, float]:
    """The scalars of some walks, tag by tag."""
    chi = space_folding(walks)
    scalars = {
        CHI_MEAN: summarize_folding(chi, "mean"),
        CHI_MEDIAN: summarize_folding(chi, "median"),
        CHI_MAX: summarize_folding(chi, "max"),
        FRACTION: summarize_folding(chi, "fraction"),
        REGIONS: walks.num_regions().double().mean(),
        EXACT: walks.exact.double().mean(),
        COMPLETE: walks.complete.double().mean(),
    }
    for layer in walks.layers:
        scalars[LAYER + layer] = summarize_folding(space_folding(walks.select(layer)), "mean")
    return {tag: value.item() for tag, value in scalars.items()}


def write_layout(loggers: Iterable[Logger]) -> None:
    """Tells TensorBoard which curves belong together."""
    for writer in _tensorboard_writers(loggers):
        writer.add_custom_scalars(LAYOUT)


def write_walks(loggers: Iterable[Logger], walks: Walks, step: int, *, figures: bool) -> None:
    """The distribution of chi, and the walk that folds most, where a logger takes them."""
    chi = space_folding(walks)
    for writer in _tensorboard_writers(loggers):
        writer.add_histogram(CHI_HISTOGRAM, chi.cpu().numpy(), step)
        if figures:
            writer.add_figure(WALK, plot_walk(walks, int(chi.argmax())), step, close=False)


def _tensorboard_writers(loggers: Iterable[Logger]) -> Iterable[Any]:
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]

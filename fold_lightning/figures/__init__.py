"""Figures of walks, of the folding between classes, of regions and units; they need matplotlib, the extra `figures`."""

from fold_lightning.figures.distributions import count_edges, plot_face_counts, plot_unit_activity
from fold_lightning.figures.folding import plot_folding_matrix, plot_walk
from fold_lightning.figures.regions import plot_slice_map
from fold_lightning.figures.style import is_available, plot_message

__all__ = [
    "count_edges",
    "is_available",
    "plot_face_counts",
    "plot_folding_matrix",
    "plot_message",
    "plot_slice_map",
    "plot_unit_activity",
    "plot_walk",
]

"""Figures of walks, folding, regions, units and codes, drawn with matplotlib (the extra `figures`)."""

from fold_lightning.figures.distributions import count_edges, plot_code_distances, plot_face_counts, plot_unit_activity
from fold_lightning.figures.folding import plot_folding, plot_folding_over_steps, plot_walk
from fold_lightning.figures.matrix import plot_folding_matrix
from fold_lightning.figures.regions import MapColor, plot_slice_map
from fold_lightning.figures.style import is_available, plot_message

__all__ = [
    "MapColor",
    "count_edges",
    "is_available",
    "plot_code_distances",
    "plot_face_counts",
    "plot_folding",
    "plot_folding_matrix",
    "plot_folding_over_steps",
    "plot_message",
    "plot_slice_map",
    "plot_unit_activity",
    "plot_walk",
]

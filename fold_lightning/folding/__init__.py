"""Folding: the range of a walk through codes compared with its length, and the folding of a network between classes."""

from fold_lightning.folding.along_walks import (
    Statistic,
    folding_profile,
    space_folding,
    summarize_folding,
    walk_length,
    walk_range,
)
from fold_lightning.folding.between_classes import Aggregate, check_aggregates, fold_across, fold_within, global_folding
from fold_lightning.folding.per_segment import PerSegment
from fold_lightning.folding.profiles import thinned_profiles

__all__ = [
    "Aggregate",
    "PerSegment",
    "Statistic",
    "check_aggregates",
    "fold_across",
    "fold_within",
    "folding_profile",
    "global_folding",
    "space_folding",
    "summarize_folding",
    "thinned_profiles",
    "walk_length",
    "walk_range",
]

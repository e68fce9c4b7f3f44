"""Walks: the codes that segments between inputs pass through."""

from fold_lightning.walks.estimate import MAX_COST, count_switches, exact_costs
from fold_lightning.walks.segment_walks import Method, segment_walks, stream_walks
from fold_lightning.walks.uniform import SampledDistances, sampled_distances, walk_chunks
from fold_lightning.walks.walks import Walks

__all__ = [
    "MAX_COST",
    "Method",
    "SampledDistances",
    "Walks",
    "count_switches",
    "exact_costs",
    "sampled_distances",
    "segment_walks",
    "stream_walks",
    "walk_chunks",
]

"""Walks: the codes that segments between inputs pass through."""

from fold_lightning.walks.estimate import count_switches
from fold_lightning.walks.segment_walks import Method, segment_walks
from fold_lightning.walks.uniform import SampledDistances, sampled_distances, walk_chunks
from fold_lightning.walks.walks import Walks

__all__ = [
    "Method",
    "SampledDistances",
    "Walks",
    "count_switches",
    "sampled_distances",
    "segment_walks",
    "walk_chunks",
]

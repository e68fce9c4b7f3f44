"""Walks: the codes that segments between inputs pass through."""

from fold_lightning.walks.deadline import LATE_POINTS, LateWalks, is_late
from fold_lightning.walks.segment_walks import segment_walks
from fold_lightning.walks.walks import Walks

__all__ = ["LATE_POINTS", "LateWalks", "Walks", "is_late", "segment_walks"]

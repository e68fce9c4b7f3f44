"""Walks: the codes that segments between inputs pass through."""

from fold_lightning.walks.deadline import LATE_POINTS, LateWalks, is_late
from fold_lightning.walks.record import Walks
from fold_lightning.walks.segments import segment_walks

__all__ = ["LATE_POINTS", "LateWalks", "Walks", "is_late", "segment_walks"]

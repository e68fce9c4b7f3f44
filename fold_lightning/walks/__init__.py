"""Walks: the codes that segments between inputs pass through."""

from fold_lightning.walks.record import Walks
from fold_lightning.walks.segments import segment_walks

__all__ = ["Walks", "segment_walks"]

"""Exact walks of convolutional networks by kinks in boxes of their planes."""

from fold_lightning.walks.kinks.engine import KinksPass

__all__ = ["KinksPass"]

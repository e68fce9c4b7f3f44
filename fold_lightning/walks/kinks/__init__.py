"""Exact walks of convolutional networks by kinks in boxes of their feature maps."""

from fold_lightning.walks.kinks.engine import DearerThanRows, KinksPass
from fold_lightning.walks.kinks.memory import Scratch

__all__ = ["DearerThanRows", "KinksPass", "Scratch"]

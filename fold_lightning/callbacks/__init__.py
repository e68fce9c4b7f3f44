"""Lightning callbacks that measure while a network trains."""

from fold_lightning.callbacks.monitor import FoldingMonitor
from fold_lightning.callbacks.single_measurement import measure

__all__ = ["FoldingMonitor", "measure"]

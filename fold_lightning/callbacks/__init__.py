"""Lightning callbacks that measure while a network trains."""

from fold_lightning.callbacks.monitor import FoldingMonitor

__all__ = ["FoldingMonitor"]

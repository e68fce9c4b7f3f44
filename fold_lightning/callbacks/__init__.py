"""Lightning callbacks that measure while a network trains."""

from lightning.pytorch import Callback

from fold_lightning.callbacks.monitor import AnyCallback, FoldingMonitor
from fold_lightning.callbacks.single_measurement import measure
from fold_lightning.lightning_packages import derive_from_both

__all__ = ["FoldingMonitor", "derive_from_both_packages", "measure"]


def derive_from_both_packages() -> None:
    """Make the callbacks subclasses of `pytorch_lightning.Callback` too, if that package has been imported."""
    derive_from_both(AnyCallback, Callback)


derive_from_both_packages()

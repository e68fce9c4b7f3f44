"""Lightning callbacks that measure while a network trains."""

from lightning.pytorch import Callback

from fold_lightning.callbacks.monitor import AnyCallback, FoldingMonitor
from fold_lightning.twins import join

__all__ = ["FoldingMonitor", "join_twins"]


def join_twins() -> None:
    """Lets the callbacks be ones of `pytorch_lightning` too, where that has been imported."""
    join(AnyCallback, Callback)


join_twins()

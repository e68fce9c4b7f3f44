"""A monitor that nobody asked for by name: it steps aside instead of raising."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from fold_lightning.callbacks.monitor import FoldingMonitor

HOOKS = """
    setup on_fit_start on_train_start on_train_batch_start on_train_epoch_end on_train_end teardown on_exception
    on_validation_epoch_start on_validation_batch_start on_validation_batch_end on_validation_epoch_end
""".split()


class MonitorFromEnvironment(FoldingMonitor):
    """The default `FoldingMonitor`, for every Trainer of a process whose environment has ``FOLD_LIGHTNING=1``.

    Where there is no logger, or a `FoldingMonitor` that the user gave, it says nothing and does nothing; where the model can't be
    measured, it says so once and does nothing more.

    Example:
        >>> monitor = MonitorFromEnvironment()
        >>> monitor.is_off
        False
    """

    gives_way = True

    def __init__(self) -> None:
        super().__init__()
        self.is_off = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.is_off = not trainer.loggers or bool(self._monitors(trainer))
            if self.is_off:
                self._run = None
        if not self.is_off:
            super().setup(trainer, pl_module, stage)


def _stepping_aside(hook: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(hook)
    def wrapped(self: MonitorFromEnvironment, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, trainer, *args, **kwargs)
        except Exception as error:
            self.is_off, self._run = True, None
            rank_zero_warn(f"The FoldingMonitor that FOLD_LIGHTNING=1 adds measures nothing: {error}")

    return wrapped


for _name in HOOKS:
    setattr(MonitorFromEnvironment, _name, _stepping_aside(getattr(MonitorFromEnvironment, _name)))

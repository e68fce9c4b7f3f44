"""The monitor that an environment variable adds; it switches itself off where a monitor added by the user would raise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from fold_lightning.callbacks.monitor import FoldingMonitor

MONITOR_HOOKS = sorted(
    name
    for name in vars(FoldingMonitor)
    if hasattr(Callback, name) and (name.startswith("on_") or name in ("setup", "teardown"))
)
"""Lightning hooks that the monitor overrides."""


class EnvironmentMonitor(FoldingMonitor):
    """The default `FoldingMonitor`, for every Trainer of a process whose environment has ``FOLD_LIGHTNING=1``.

    It measures in `fit` only, and does nothing without a logger, or if the user has added a `FoldingMonitor` that measures. If the
    model can't be measured, it warns once and switches itself off.

    Example:
        >>> monitor = EnvironmentMonitor()
        >>> monitor.is_off
        False
    """

    is_optional = True

    def __init__(self) -> None:
        super().__init__()
        self.is_off = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.is_off = stage != "fit" or not trainer.loggers or bool(self._monitors(trainer))
        if self.is_off:
            self._session = None
        else:
            super().setup(trainer, pl_module, stage)


def _switching_off(hook: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(hook)
    def wrapped(self: EnvironmentMonitor, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, trainer, *args, **kwargs)
        except Exception as error:
            self.is_off, self._session = True, None
            rank_zero_warn(f"The FoldingMonitor added by FOLD_LIGHTNING=1 stops measuring: {error}")

    return wrapped


for _name in MONITOR_HOOKS:
    setattr(EnvironmentMonitor, _name, _switching_off(getattr(EnvironmentMonitor, _name)))

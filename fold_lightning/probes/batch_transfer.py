"""Hooks that a batch passes through between a loader and a validation step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from fold_lightning.activations.replica import ModelCopy
from fold_lightning.activations.structural_copy import StructuralCopy
from fold_lightning.lightning_packages import in_both_packages


@contextmanager
def validation_stage(trainer: Trainer) -> Iterator[None]:
    """Set the Trainer's stage to validation, unless it is testing, and restore it afterwards."""
    stage = trainer.state.stage
    if stage is not RunningStage.TESTING:
        trainer.state.stage = RunningStage.VALIDATING
    try:
        yield
    finally:
        trainer.state.stage = stage


class HookCopy(ModelCopy):
    """Copies of a module, its data module and the objects they hold; parameters are shared.

    Args:
        module: The user's module.
        device: Device of the module's own tensors; other tensors keep theirs.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(module, device, None, shares_parameters=True)

    def _tensor(self, value: Tensor) -> Tensor:
        return super()._tensor(value) if id(value) in self._owned else StructuralCopy._tensor(self, value)


def batch_transfer(trainer: Trainer, module: nn.Module, copied: HookCopy, dataloader_idx: int = 0) -> Callable[[Any], Any]:
    """Return a function that converts a loader's batch to a step's batch, in the Trainer's precision and on its device.

    The hooks of the module or data module run on copies, so that their side effects do not reach training. A module without
    hooks gets Lightning's defaults.

    Args:
        trainer: The Trainer.
        module: The module that the Trainer trains, or any other.
        copied: Copier of the module and the data module.
        dataloader_idx: Index of the loader, which is passed to the hooks.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    classes = in_both_packages(LightningDataModule)

    def hook(name: str) -> Any:
        if datamodule is not None and all(is_overridden(name, datamodule, cls) for cls in classes):
            return getattr(copied(datamodule), name)
        return getattr(copied(module) if hasattr(module, name) else DataHooks(), name)

    before, transfer, after = map(hook, ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"))

    def as_a_step_gets_it(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = before(batch, dataloader_idx)  # by position, as Lightning does, because users may rename arguments
        batch = transfer(batch, device, dataloader_idx)
        return after(batch, dataloader_idx)

    return as_a_step_gets_it

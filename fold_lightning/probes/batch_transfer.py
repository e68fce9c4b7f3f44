"""From a loader to a validation step: the hooks that a batch passes through."""

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
    """Let the Trainer say that it validates, and give back what it said; a Trainer that tests says that it tests."""
    stage = trainer.state.stage
    if stage is not RunningStage.TESTING:
        trainer.state.stage = RunningStage.VALIDATING
    try:
        yield
    finally:
        trainer.state.stage = stage


class HookCopy(ModelCopy):
    """Copies a module, its data module and what they hold; parameters are shared.

    Args:
        module: The user's module.
        device: Device of the module's own tensors; others stay where they are.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(module, device, None, shares_parameters=True)

    def _tensor(self, value: Tensor) -> Tensor:
        return super()._tensor(value) if id(value) in self._owned else StructuralCopy._tensor(self, value)


def batch_transfer(trainer: Trainer, module: nn.Module, copied: HookCopy, dataloader_idx: int = 0) -> Callable[[Any], Any]:
    """Return the function that takes a batch of a loader to what a step gets, in the Trainer's precision, on its device.

    The hooks of the module or data module run on copies, so that whatever they change is not changed for training. A module that has
    none gets Lightning's.

    Args:
        trainer: The Trainer.
        module: The module that it trains, or any other.
        copied: Makes the copies.
        dataloader_idx: Number of the loader, which the hooks get.
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
        batch = before(batch, dataloader_idx)  # by position, as Lightning does: users name arguments as they like
        batch = transfer(batch, device, dataloader_idx)
        return after(batch, dataloader_idx)

    return as_a_step_gets_it

"""From a loader to a step: the hooks that a batch passes through."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from fold_lightning.activations.replica import ModelCopy


def as_a_step_gets_it(trainer: Trainer, batch: Any) -> Any:
    """Return a batch of a loader in the Trainer's precision, through the hooks of the module or data module, on the device.

    The hooks run on copies, so that whatever they change is not changed for training.
    """
    module, datamodule = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    copied = ModelCopy(module, device, None)

    def hook(name: str) -> Any:
        owner = datamodule if datamodule is not None and is_overridden(name, datamodule) else module
        return getattr(copied(owner), name)

    batch = trainer.precision_plugin.convert_input(batch)
    batch = hook("on_before_batch_transfer")(batch, dataloader_idx=0)
    batch = hook("transfer_batch_to_device")(batch, device=device, dataloader_idx=0)
    return hook("on_after_batch_transfer")(batch, dataloader_idx=0)

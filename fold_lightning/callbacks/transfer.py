"""What a Trainer does with a batch between its loader and a step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def as_a_step_gets_it(trainer: Trainer, batch: Any) -> Any:
    """A batch of a loader in the Trainer's precision, through the hooks of the module or data module, on the device."""
    batch = trainer.precision_plugin.convert_input(batch)
    # As the Trainer's own loops do: it knows whether the hook of the module or of the data module counts.
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

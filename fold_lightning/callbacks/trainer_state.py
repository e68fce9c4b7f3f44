"""What a monitor reads off a Trainer: whether it validates, its step, and which tags something waits for."""

from __future__ import annotations

import math

from lightning.pytorch import Callback, Trainer


def will_validate(trainer: Trainer) -> bool:
    """Return whether a validation epoch will run before training ends, as far as the Trainer's settings tell."""
    if not has_validation_data(trainer):
        return False
    every, max_epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if max_epochs is None or max_epochs < 0:
        return True
    if every is not None:
        return max_epochs // every > trainer.current_epoch // every
    batches, interval = max_epochs * trainer.num_training_batches, trainer.val_check_batch
    return interval is None or math.isinf(batches) or interval <= batches  # None: after so many seconds


def has_validation_data(trainer: Trainer) -> bool:
    """Return whether there are validation batches; a loader may be there and empty, or not yet be there before a later epoch."""
    batches = trainer.num_val_batches
    return trainer.enable_validation and (not batches or sum(batches) > 0)


def logged_step(trainer: Trainer, *, is_counted: bool = False) -> int:
    """Return the step at which Lightning writes what is logged now; `global_step` counts every optimizer of a step.

    Args:
        trainer: The Trainer.
        is_counted: Whether the last step has been counted already, as when an epoch or training ends.
    """
    return max(0, trainer.fit_loop.epoch_loop._batches_that_stepped - is_counted)


def awaited_tags(trainer: Trainer) -> dict[str, str]:
    """Return the tags by which a callback or a learning-rate schedule decides, and which of them does."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
    named = [(getattr(callback, "monitor", None), type(callback).__name__) for callback in callbacks]
    named += [
        (schedule.monitor, "A learning-rate schedule")
        for schedule in trainer.lr_scheduler_configs
        if schedule.reduce_on_plateau
    ]
    return {tag: who for tag, who in named if isinstance(tag, str)}

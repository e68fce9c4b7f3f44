"""State of a Trainer: whether it validates, its step, and the tags that callbacks monitor."""

from __future__ import annotations

import math

from lightning.pytorch import Callback, Trainer


def will_validate(trainer: Trainer) -> bool:
    """Return whether a validation epoch will run before training ends, as far as the Trainer's settings tell."""
    if not has_validation_data(trainer):
        return False
    every, interval, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch, trainer.num_training_batches
    if interval is None or math.isinf(batches):  # validation after some seconds, or at the end of a stream
        return True
    first = interval if every is None or interval <= batches else batches
    if every is not None:
        first += (every - 1 - trainer.current_epoch % every) * batches
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - trainer.current_epoch
    steps = math.inf if trainer.max_steps == -1 else trainer.max_steps - trainer.global_step
    return first <= min(epochs * batches, steps * trainer.accumulate_grad_batches)


def has_validation_data(trainer: Trainer) -> bool:
    """Return whether there are, or may be, validation batches: a loader may be empty, or be made only in a later epoch."""
    batches = trainer.num_val_batches
    return trainer.enable_validation and (not batches or sum(batches) > 0)


def logged_step(trainer: Trainer, *, is_counted: bool = False) -> int:
    """Return the step at which Lightning logs now; unlike `global_step` it does not count the steps of each optimizer.

    Args:
        trainer: The Trainer.
        is_counted: Whether the last step has already been counted, as at the end of an epoch or of training.
    """
    return max(0, trainer.fit_loop.epoch_loop._batches_that_stepped - is_counted)


def monitored_tags(trainer: Trainer) -> dict[str, str]:
    """Return tag -> name of the callback or learning-rate schedule that monitors it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
    named = [(getattr(callback, "monitor", None), type(callback).__name__) for callback in callbacks]
    named += [
        (schedule.monitor, "A learning-rate schedule")
        for schedule in trainer.lr_scheduler_configs
        if schedule.reduce_on_plateau
    ]
    return {tag: who for tag, who in named if isinstance(tag, str)}

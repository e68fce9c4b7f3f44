"""The regularizer's push in a Trainer: its held gradient is added to the task's before each optimizer step."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from fold_lightning.callbacks.regularization import BATCHES_OF_A_STEP, TERM, WEIGHT, Regularization
from fold_lightning.lightning_packages import in_both_packages
from fold_lightning.regularizer import HeldGradient


def has_whole_gradients(trainer: Trainer) -> bool:
    """Return whether each process holds the gradients of all parameters, averaged, before the optimizer's step."""
    whole = (*in_both_packages(SingleDeviceStrategy), *in_both_packages(DDPStrategy))
    return isinstance(trainer.strategy, whole) and not isinstance(trainer.strategy, in_both_packages(DeepSpeedStrategy))


class HeldPush(Regularization):
    """Push on the gradients of each optimizer, by the rule of `FoldingRegularizer.push`.

    With automatic optimization, gradients are pushed after they have been accumulated, averaged over processes and unscaled,
    and before they are clipped. With manual optimization, they are pushed in `optimizer.step()`, after any changes by
    `training_step`. The term is computed on the current batch, the last of accumulated ones; its gradient is the mean over
    processes. Each optimizer has its own held gradient and count of steps.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._held: dict[int, HeldGradient] = {}  # by the optimizer's index
        self._inputs: tuple[Tensor, Tensor | None] | None = None

    def stop(self, pl_module: LightningModule) -> None:
        self.end_batch()

    def begin_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if self._progress is None:
            self._progress = self._check_first_batch(trainer, pl_module, batch)
        self.regularizer.progress = self._progress.progress(trainer)
        # Within a batch, manual optimization may make any number of steps.
        may_be_due = not pl_module.automatic_optimization or any(
            self._is_due(self._held.get(number)) for number in range(len(trainer.optimizers))
        )
        if may_be_due and self.regularizer.current_weight:
            self._inputs = self._inputs_of(batch)  # before the step, which may modify it

    def end_batch(self) -> None:
        self._inputs = None

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if all(parameter.grad is None for parameter in parameters):  # `training_step` returned None
            return
        number = next(number for number, other in enumerate(trainer.optimizers) if other is optimizer)
        held = self._held.setdefault(number, HeldGradient())
        is_due, weight = self._is_due(held), self.regularizer.current_weight
        if is_due:
            self._scalars[WEIGHT] = weight
            if weight:
                self._renew(trainer, pl_module, held, parameters)
            else:
                self._scalars = {WEIGHT: weight, TERM: 0.0}
        held.push(parameters, (self.regularizer.share or 0.0) * weight, self.regularizer.warm_steps)
        self._log(trainer, pl_module, is_new=is_due)

    def state(self) -> dict[str, Any]:
        return {"held": {number: held.state() for number, held in self._held.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        for number, held in state.get("held", {}).items():
            self._held[number] = HeldGradient()
            self._held[number].restore(held)

    def _is_due(self, held: HeldGradient | None) -> bool:
        return held is None or held.steps % self.regularizer.every_n_steps == 0

    def _renew(self, trainer: Trainer, pl_module: LightningModule, held: HeldGradient, parameters: list[nn.Parameter]) -> None:
        """Recompute the term's gradient; a process without a term contributes zeros, because the other processes wait for it."""
        self.regularizer.draws = trainer.global_step * BATCHES_OF_A_STEP
        average = None
        if trainer.world_size > 1:
            average = functools.partial(trainer.strategy.reduce, reduce_op="mean")
        with torch.enable_grad():
            term = None
            if self._inputs is not None:
                with trainer.precision_plugin.forward_context():
                    term = self._term(pl_module, self._inputs)
            length = held.renew(None if term is None else term / self.regularizer.current_weight, parameters, average)
        if not math.isfinite(length):
            self._leave_out("Its gradient is not finite.")

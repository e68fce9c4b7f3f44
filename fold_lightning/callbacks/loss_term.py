"""The regularizer's term in a Trainer: it is added to the loss of any LightningModule with automatic optimization."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from fold_lightning.callbacks.regularization import BATCHES_OF_A_STEP, TERM, WEIGHT, Regularization

STEPS_WHERE_CLIPPED = 2
"""Largest `every_n_steps` at which clipping keeps most of the term: chi rose 5.6-fold with 2, 2.7-fold with 8."""


class LossTerm(Regularization):
    """Wrapper of a LightningModule's `training_step` that adds the regularizer's term to the loss during a fit.

    The term is part of the loss: it is scaled, divided among accumulated batches, synchronised and clipped like the loss, also
    where no process holds the whole gradient. It is added in every n-th optimizer step, multiplied by n, to all batches of that
    step.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._given: dict[str, Any] | None = None  # the instance's own `training_step`, if it has one
        self._step, self._batch_of_step = -1, 0

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap the `training_step`.

        Raises:
            MisconfigurationException: For manual optimization.
        """
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "`regularize=` adds a term to the loss that `training_step` returns here, but this module optimizes manually. Turn "
                "`automatic_optimization` on, or train without sharding and with a `share`. Or add the term by hand: make "
                "`regularizer = FoldingRegularizer()` in `__init__`, and in `training_step` write `loss = loss + regularizer(self, "
                "inputs, labels)`; set `regularizer.progress`, in [0, 1], as training goes on."
            )
        super().start(trainer, pl_module)
        every_n_steps = self.regularizer.every_n_steps
        if trainer.gradient_clip_val and every_n_steps > STEPS_WHERE_CLIPPED:
            rank_zero_warn(
                f"Gradients are clipped, and the folding regularizer adds its term every {every_n_steps}th step, "
                f"times {every_n_steps}: clipping removes most of it. Use "
                f"`FoldingRegularizer(every_n_steps={STEPS_WHERE_CLIPPED})`."
            )
        original = pl_module.training_step
        self._given = {name: value for name, value in vars(pl_module).items() if name == "training_step"}
        pl_module.training_step = StepWithTerm(self, trainer, pl_module, original)  # type: ignore[method-assign]

    def stop(self, pl_module: LightningModule) -> None:
        """Restore the module's own `training_step`, if it is wrapped."""
        if self._given is not None:
            vars(pl_module).pop("training_step", None)
            vars(pl_module).update(self._given)
        self._given = None

    def call(
        self, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call `training_step` and return its output, with the term added in steps where it is due."""
        batch = args[0] if args else next(iter(kwargs.values()), None)
        if self._progress is None:
            self._progress = self._check_first_batch(trainer, pl_module, batch)
        step = trainer.global_step
        self._batch_of_step = self._batch_of_step + 1 if step == self._step else 0
        self._step = step
        is_due, weight = step % self.regularizer.every_n_steps == 0, 0.0
        if is_due:
            self.regularizer.progress = self._progress.progress(trainer)
            weight = self.regularizer.current_weight
        inputs = self._inputs_of(batch) if weight else None  # before the step, which may modify it
        output = original(*args, **kwargs)
        if output is None:
            return None
        if is_due:
            self.regularizer.draws = step * BATCHES_OF_A_STEP + self._batch_of_step
            output = self._add_term(pl_module, weight, inputs, output)
        self._log(trainer, pl_module, is_new=is_due)
        return output

    def _add_term(
        self, pl_module: LightningModule, weight: float, inputs: tuple[Tensor, Tensor | None] | None, output: Any
    ) -> Any:
        self._scalars[WEIGHT] = weight
        if inputs is None:
            self._scalars = {WEIGHT: weight, TERM: 0.0}
            return output
        term = self._term(pl_module, inputs)
        return output if term is None else _add(output, self.regularizer.every_n_steps * term)


class StepWithTerm:
    """A module's `training_step` with the term; copying or pickling the module yields its `training_step` without the term."""

    def __init__(
        self, regularization: LossTerm, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any]
    ) -> None:
        functools.update_wrapper(self, original)
        self._regularization, self._trainer, self._module, self._original = regularization, trainer, pl_module, original
        self._own = vars(pl_module).get("training_step")  # if the instance has one that is not its class's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._regularization.call(self._trainer, self._module, self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return _without_term(memo.get(id(self._module), self._module), copy.deepcopy(self._own, memo))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[LightningModule, Callable[..., Any] | None]]:
        return _without_term, (self._module, self._own)


def _without_term(pl_module: LightningModule, own: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the `training_step` of a module: the instance's own, or its class's."""
    return own if own is not None else types.MethodType(type(pl_module).training_step, pl_module)


def _add(output: Any, term: Tensor) -> Any:
    """Return the output of `training_step` with the term added to its loss."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return output  # Lightning raises for it
    return {**output, "loss": loss + term} if isinstance(output, Mapping) else loss + term

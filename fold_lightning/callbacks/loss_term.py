"""The regularizer in a Trainer: adds its term to the loss of any LightningModule with automatic optimization."""

from __future__ import annotations

import copy
import functools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from fold_lightning.probes import split_batch
from fold_lightning.regularizer import FoldingRegularizer

BY_HAND = (
    "Or call the regularizer by hand: `regularizer = FoldingRegularizer()` in `__init__`, and in `training_step` "
    "`loss = loss + regularizer(self, inputs, labels)`; set `regularizer.progress`, in [0, 1], as training goes on."
)

TERM, WEIGHT, SOFT_CHI = "regularizer/term", "regularizer/weight", "regularizer/soft_chi"

BATCHES_OF_A_STEP = 2**10
"""Batches that may make up one optimizer step before its segments repeat those of the next."""

STEPS_WHERE_CLIPPED = 2
"""`every_n_steps` of the default term where gradients are clipped; a larger multiple would mostly be clipped away."""


def as_regularizer(regularize: Any, layers: str | list[str] | None, seed: int) -> FoldingRegularizer | None:
    """Return the regularizer that `FoldingMonitor(regularize=...)` asks for: none, the default, one of that weight, or itself.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(regularize, FoldingRegularizer):
        return regularize
    if regularize is True:
        return FoldingRegularizer(layers=layers, seed=seed)
    if isinstance(regularize, (int, float)) and not isinstance(regularize, bool):
        return FoldingRegularizer(regularize, layers=layers, seed=seed)
    if regularize is not False:
        raise TypeError(f"`regularize` must be a bool, a weight, or a `FoldingRegularizer`, got {regularize!r}.")
    return None


def regularizer_hyperparameters(regularizer: FoldingRegularizer | None) -> dict[str, Any]:
    """Return what a run logs of its regularizer; the same names without one, so that runs with and without it compare."""
    if regularizer is None:
        return {"regularize": False, "regularize_weight": 0.0, "regularize_schedule": "none", "regularize_every_n_steps": 0}
    schedule = regularizer.schedule
    return {
        "regularize": True,
        "regularize_weight": regularizer.weight,
        "regularize_schedule": schedule if isinstance(schedule, str) else getattr(schedule, "__name__", repr(schedule)),
        "regularize_every_n_steps": regularizer.every_n_steps,
    }


class LossTerm:
    """Wrapper of a LightningModule's `training_step` that adds the regularizer's term to the loss while it is fitted.

    The term is part of the loss: it is scaled, divided among accumulated batches, clipped and synchronised as that is. It is added in
    every n-th optimizer step, n-fold, in all batches of that step. The segments drawn follow from the step, so a run that goes on
    from a checkpoint draws what it would have drawn.

    Args:
        regularizer: The regularizer.
        batch_to_inputs: As of `FoldingMonitor`.
        forward: As of `FoldingMonitor`.
        by_default: Whether the regularizer has the defaults: the term is then added in every second step where gradients are clipped.
    """

    def __init__(
        self,
        regularizer: FoldingRegularizer,
        batch_to_inputs: Callable[[Any], Any] | None,
        forward: str | Callable[..., Any] | None,
        *,
        by_default: bool = False,
    ) -> None:
        self.regularizer = regularizer
        self._by_default, self._every_n_steps = by_default, regularizer.every_n_steps
        self._batch_to_inputs, self._forward = batch_to_inputs, forward
        self._given: dict[str, Any] | None = None  # what the module's own attributes held of a `training_step`
        self._progress: TrainingProgress | None = None
        self._scalars: dict[str, Any] = {}
        self._logged_epoch = -1
        self._warned: set[str] = set()

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap the `training_step`.

        Raises:
            MisconfigurationException: For manual optimization, and for a module that another monitor regularizes.
        """
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "`regularize=` adds a term to the loss that `training_step` returns, but this module optimizes manually. "
                f"Turn `automatic_optimization` on. {BY_HAND}"
            )
        original = pl_module.training_step
        if isinstance(original, StepWithTerm):
            raise MisconfigurationException(
                "Two callbacks regularize this module: set `regularize=` of one FoldingMonitor only."
            )
        self._progress = None
        self.regularizer.forget()
        self._every_n_steps = self._every_n(trainer)
        self._scalars, self._logged_epoch = {}, -1
        self._warned.clear()
        self._given = {name: value for name, value in vars(pl_module).items() if name == "training_step"}
        pl_module.training_step = StepWithTerm(self, trainer, pl_module, original)  # type: ignore[method-assign]

    def stop(self, pl_module: LightningModule) -> None:
        """Give the module's own `training_step` back; do nothing if it has it."""
        if self._given is not None:
            vars(pl_module).pop("training_step", None)
            vars(pl_module).update(self._given)
        self._given = None

    def _every_n(self, trainer: Trainer) -> int:
        every_n_steps = self.regularizer.every_n_steps
        if not trainer.gradient_clip_val or every_n_steps <= STEPS_WHERE_CLIPPED:
            return every_n_steps
        if self._by_default:
            rank_zero_info("Gradients are clipped, so the folding regularizer adds its term in every second step.")
            return STEPS_WHERE_CLIPPED
        rank_zero_warn(
            f"Gradients are clipped, and the folding regularizer adds its term every {every_n_steps}th step, {every_n_steps}-fold: "
            f"clipping takes most of it away. Take `FoldingRegularizer(every_n_steps={STEPS_WHERE_CLIPPED})`."
        )
        return every_n_steps

    def _check_first_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> TrainingProgress:
        """Raise, before anything is trained, for what can't be regularized."""
        steps = TrainingProgress(trainer, self.regularizer)
        try:
            inputs, labels = split_batch(batch, self._batch_to_inputs)
            self.regularizer.check(pl_module, inputs, labels, forward=self._forward)
        except Exception as error:
            raise MisconfigurationException(f"`regularize=` can't use the first batch. {_said(error)} {BY_HAND}") from error
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
            rank_zero_warn(
                "LBFGS calls `training_step` several times in a step, and the folding regularizer draws other segments each time: "
                "its line search can't settle. Take another optimizer, or `regularize=False`."
            )
        return steps

    def call(
        self, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return what `training_step` returns, with the term where it is due."""
        batch = args[0] if args else next(iter(kwargs.values()), None)
        if self._progress is None:
            self._progress = self._check_first_batch(trainer, pl_module, batch)
        steps, step = self._progress, trainer.global_step
        batch_of_step = steps.next_batch(step)
        is_due, weight = step % self._every_n_steps == 0, 0.0
        if is_due:
            self.regularizer.progress = steps.progress(trainer)
            weight = self.regularizer.current_weight
        inputs = self._inputs_of(batch) if weight else None  # before the step may take it apart
        output = original(*args, **kwargs)
        if output is None:
            return None
        if is_due:
            self.regularizer.draws = step * BATCHES_OF_A_STEP + batch_of_step
            output = self._add_term(pl_module, weight, inputs, output)
        if is_due or trainer.current_epoch != self._logged_epoch:  # Lightning forgets what was logged when an epoch ends
            self._logged_epoch = trainer.current_epoch
            pl_module.log_dict(self._scalars, on_step=True, on_epoch=False, batch_size=1)
        return output

    def _add_term(
        self, pl_module: LightningModule, weight: float, inputs: tuple[Tensor, Tensor | None] | None, output: Any
    ) -> Any:
        self._scalars[WEIGHT] = weight
        if inputs is None:
            self._scalars = {WEIGHT: weight, TERM: 0.0}
            return output
        try:
            term = self.regularizer(pl_module, *inputs, forward=self._forward)
        except (TypeError, ValueError) as error:
            self._leave_out(str(error))
            return output
        if not bool(term.isfinite()):
            self._leave_out("It is not finite.")
            return output
        if not term.requires_grad:
            self._warn_once(
                "The folding regularizer's term depends on no weight that is trained, so it pushes nothing: all that counts is "
                "frozen."
            )
        self._scalars |= {TERM: term.detach(), SOFT_CHI: self.regularizer.soft_chi}
        return _add(output, self._every_n_steps * term)

    def _inputs_of(self, batch: Any) -> tuple[Tensor, Tensor | None] | None:
        try:
            return split_batch(batch, self._batch_to_inputs)
        except Exception as error:  # of the user's `batch_to_inputs`
            self._leave_out(_said(error))
            return None

    def _leave_out(self, why: str) -> None:
        self.regularizer.num_skipped += 1
        self._warn_once(
            f"The folding regularizer's term is left out of a step. {why} (Training goes on; `num_skipped` of the "
            "regularizer counts. This warning is shown once.)"
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            rank_zero_warn(message)
        self._warned.add(message)


class StepWithTerm:
    """A module's `training_step` with the term; a copy of the module, pickled or not, has its own without."""

    def __init__(
        self, regularization: LossTerm, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any]
    ) -> None:
        functools.update_wrapper(self, original)
        self._regularization, self._trainer, self._module, self._original = regularization, trainer, pl_module, original
        self._own = vars(pl_module).get("training_step")  # where it is the module's own and not its class's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._regularization.call(self._trainer, self._module, self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return _without_term(memo.get(id(self._module), self._module), copy.deepcopy(self._own, memo))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[LightningModule, Callable[..., Any] | None]]:
        return _without_term, (self._module, self._own)


def _without_term(pl_module: LightningModule, own: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the `training_step` of a module, its own or that of its class."""
    return own if own is not None else types.MethodType(type(pl_module).training_step, pl_module)


class TrainingProgress:
    """Share of a training that has passed.

    Args:
        trainer: The Trainer.
        regularizer: Regularizer whose schedule has an end.

    Raises:
        MisconfigurationException: If the schedule ends with the training, and that has no end that could be known.
    """

    def __init__(self, trainer: Trainer, regularizer: FoldingRegularizer) -> None:
        self._until_epoch = regularizer.until_epoch
        self._all = trainer.estimated_stepping_batches if self._until_epoch is None else math.inf
        if self._all < 0 and trainer.max_epochs is not None:  # a loader without length, so that epochs are all that is known
            self._until_epoch = trainer.max_epochs
        endless = regularizer.schedule == "constant" and regularizer.until == 1
        if self._until_epoch is None and math.isinf(self._all) and not endless:
            raise MisconfigurationException(
                "The schedule of `regularize=` ends with the training, but this one has neither `max_epochs` nor `max_steps`. Give "
                "the Trainer one of them, or `regularize=FoldingRegularizer(until_epoch=...)`, or `schedule='constant'`."
            )
        self._step, self._batches = -1, 0

    def next_batch(self, step: int) -> int:
        """Return the number of the batch among those of this optimizer step."""
        self._batches = self._batches + 1 if step == self._step else 0
        self._step = step
        return self._batches

    def progress(self, trainer: Trainer) -> float:
        """Return the share of the training that has passed, or of the way to the epoch at which the schedule ends."""
        if self._until_epoch is not None:
            return min(1.0, trainer.current_epoch / self._until_epoch)
        return min(1.0, trainer.global_step / max(1.0, self._all))


def _said(error: Exception) -> str:
    """Return what an error says, with its name where it is none of ours: a `KeyError` says only the key."""
    return str(error) if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: {error}."


def _add(output: Any, term: Tensor) -> Any:
    """Return the output of `training_step` with the term added to its loss."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return output  # Lightning says what is wrong with it
    return {**output, "loss": loss + term} if isinstance(output, Mapping) else loss + term

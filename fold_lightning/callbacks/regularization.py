"""The regularizer in a Trainer: the base of its push and its loss term."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from fold_lightning._checks import is_number
from fold_lightning.activations.inspection import InputsRefused, LayersVary, PassFailed
from fold_lightning.callbacks.trainer_state import logged_step
from fold_lightning.probes import NoInputs, split_batch
from fold_lightning.regularizer import FoldingRegularizer

FORM_ERRORS = (NoInputs, InputsRefused, PassFailed, LayersVary)
"""Errors for a batch or a `forward` of a form that the monitor can't use, while a part of the model may be pushed by hand."""

BY_HAND = (
    "Or push a part of the model by hand: make `regularizer = FoldingRegularizer()` in `__init__`, and after the backward pass and "
    "before gradients are clipped, as in `on_before_optimizer_step`, call `regularizer.push(part, inputs, labels)` with the inputs "
    "of that part; set `regularizer.progress`, in [0, 1], as training goes on."
)

TERM, WEIGHT, SOFT_CHI = "regularizer/term", "regularizer/weight", "regularizer/soft_chi"

REGULARIZER_TAGS = {
    TERM: "The folding term of a batch, as used by the push or the loss.",
    WEIGHT: "Weight of the folding term, by its schedule.",
    SOFT_CHI: "The differentiable chi of a batch's segments, on which the term depends.",
}
"""Tags of a regularizer, with their descriptions."""

BATCHES_OF_A_STEP = 2**10
"""Maximum number of batches per optimizer step; beyond it, segments would repeat those of the next step."""


def as_regularizer(regularize: Any, layers: str | list[str] | None, seed: int) -> FoldingRegularizer | None:
    """Return the regularizer of `FoldingMonitor(regularize=...)`: None, the default, one of a given weight, or a given one.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(regularize, FoldingRegularizer):
        return regularize
    if regularize is True:
        return FoldingRegularizer(layers=layers, seed=seed)
    if is_number(regularize):
        return FoldingRegularizer(regularize, layers=layers, seed=seed)
    if regularize is not False:
        is_class = isinstance(regularize, type) and issubclass(regularize, FoldingRegularizer)
        got = f"the class itself: write `{regularize.__name__}()`" if is_class else repr(regularize)
        raise TypeError(f"`regularize` must be a bool, a weight, or a `FoldingRegularizer`, got {got}.")
    return None


def regularizer_hyperparameters(regularizer: FoldingRegularizer | None) -> dict[str, Any]:
    """Return the regularizer's hyperparameters for a run's log, with the same names without one, so that runs can be compared."""
    if regularizer is None:
        nothing = {"weight": 0.0, "share": 0.0, "schedule": "none", "every_n_steps": 0}
        return {"regularize": False} | {f"regularize_{name}": value for name, value in nothing.items()}
    schedule = regularizer.schedule
    return {
        "regularize": True,
        "regularize_weight": regularizer.weight,
        "regularize_share": 0.0 if regularizer.share is None else regularizer.share,
        "regularize_schedule": schedule if isinstance(schedule, str) else getattr(schedule, "__name__", repr(schedule)),
        "regularize_every_n_steps": regularizer.every_n_steps,
    }


class Regularization:
    """A regularizer that acts while a Trainer fits a module; subclasses define how.

    The segments drawn depend only on the step, so a run that resumes from a checkpoint draws the same ones. A model that can't
    be regularized raises an error at the first batch; a batch that fails later goes without the term, and the first one warns.

    Args:
        regularizer: The regularizer.
        batch_to_inputs: As in `FoldingMonitor`.
        forward: As in `FoldingMonitor`.
    """

    def __init__(
        self,
        regularizer: FoldingRegularizer,
        batch_to_inputs: Callable[[Any], Any] | None,
        forward: str | Callable[..., Any] | None,
    ) -> None:
        self.regularizer = regularizer
        self._batch_to_inputs, self._forward = batch_to_inputs, forward
        self._progress: TrainingProgress | None = None
        self._scalars: dict[str, Any] = {}
        self._logged_epoch = -1
        self._is_described = False
        self._warned: set[str] = set()

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare for a fit."""
        self._progress = None
        self.regularizer.forget()

    def stop(self, pl_module: LightningModule) -> None:
        """Restore the module; do nothing if that has been done."""

    def begin_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Handle a batch before its training step."""

    def end_batch(self) -> None:
        """Forget the batch."""

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Change the gradients of an optimizer, after the backward pass and before they are clipped."""

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, from which a run resumes bit for bit."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint, before training begins."""

    def _check_first_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> TrainingProgress:
        """Raise for a model or batch that can't be regularized, before any training step; return the progress of training."""
        steps = TrainingProgress(trainer, pl_module, self.regularizer)
        try:
            inputs, labels = split_batch(batch, self._batch_to_inputs)
            self.regularizer.check(pl_module, inputs, labels, forward=self._forward)
        except Exception as error:
            raise MisconfigurationException(
                f"`regularize=` can't use the first batch. {_error_text(error)}"
                f"{f' {BY_HAND}' if isinstance(error, FORM_ERRORS) else ''}"
            ) from error
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
            rank_zero_warn(
                "LBFGS evaluates the loss several times per step, and the folding regularizer changes each gradient differently, so "
                "the line search may not converge. Use another optimizer, or `regularize=False`."
            )
        return steps

    def _inputs_of(self, batch: Any) -> tuple[Tensor, Tensor | None] | None:
        try:
            return split_batch(batch, self._batch_to_inputs)
        except Exception as error:  # of the user's `batch_to_inputs`
            self._leave_out(_error_text(error))
            return None

    def _term(self, pl_module: LightningModule, inputs: tuple[Tensor, Tensor | None]) -> Tensor | None:
        """Return the term of a batch; if it fails or is not finite, count that and return None."""
        try:
            term: Tensor = self.regularizer(pl_module, *inputs, forward=self._forward)
        except (TypeError, ValueError) as error:
            self._leave_out(str(error))
            return None
        if not bool(term.isfinite()):
            self._leave_out("It is not finite.")
            return None
        if not term.requires_grad and len(pl_module.trainer.optimizers) == 1:  # with several, each trains a part
            self._warn_once(
                "The folding regularizer's term depends on no trained weight, so it has no effect. Unfreeze the layers before its "
                "activations, or set `regularize=False`. (This warning is shown once.)"
            )
        self._scalars |= {TERM: term.detach(), SOFT_CHI: self.regularizer.soft_chi}
        return term

    def _log(self, trainer: Trainer, pl_module: LightningModule, *, is_new: bool) -> None:
        """Log the last term if it is new, or if an epoch has ended, after which Lightning forgets it."""
        if is_new or trainer.current_epoch != self._logged_epoch:
            self._logged_epoch = trainer.current_epoch
            pl_module.log_dict(self._scalars, on_step=True, on_epoch=False, batch_size=1)

    def first_scalars(self) -> dict[str, float]:
        """Return the first values of a fit, in the first call after they exist; else an empty dict."""
        if self._is_described or SOFT_CHI not in self._scalars:
            return {}
        self._is_described = True
        return {tag: float(value) for tag, value in self._scalars.items()}

    def _leave_out(self, why: str) -> None:
        self.regularizer.num_skipped += 1
        self._warn_once(
            f"The folding regularizer's term is left out of a step. {why} (Training goes on; the regularizer's "
            "`num_skipped` counts such steps. This warning is shown once.)"
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            rank_zero_warn(message)
        self._warned.add(message)


class TrainingProgress:
    """Progress of a training, as a share.

    Args:
        trainer: The Trainer.
        pl_module: The fitted module.
        regularizer: The regularizer, whose schedule may end with the training.

    Raises:
        MisconfigurationException: If the schedule ends with the training, and the training's end is unknown.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, regularizer: FoldingRegularizer) -> None:
        self._is_manual = not pl_module.automatic_optimization
        self._until_epoch = regularizer.until_epoch
        self._all = trainer.estimated_stepping_batches if self._until_epoch is None else math.inf
        if self._all < 0 and trainer.max_epochs is not None:  # a loader without length: only epochs are known
            self._until_epoch = trainer.max_epochs
        endless = regularizer.schedule == "constant" and regularizer.until == 1
        if self._until_epoch is None and math.isinf(self._all) and not endless:
            raise MisconfigurationException(
                "The schedule of `regularize=` ends with the training, but the Trainer has neither `max_epochs` nor `max_steps`. Set "
                "one of them, or use `FoldingRegularizer(until_epoch=...)` or `FoldingRegularizer(schedule='constant')`."
            )

    def progress(self, trainer: Trainer) -> float:
        """Return the share of training that has passed, in [0, 1], up to the epoch at which the schedule ends if it has one."""
        if self._until_epoch is not None:
            return min(1.0, trainer.current_epoch / self._until_epoch)
        if not self._is_manual:
            return min(1.0, trainer.global_step / max(1.0, self._all))
        # With manual optimization, `global_step` and `max_steps` count the steps of all optimizers, but `_all` counts batches.
        of_steps = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
        return min(1.0, max(of_steps, logged_step(trainer) / max(1.0, self._all)))


def _error_text(error: Exception) -> str:
    """Return an error's message, preceded by its class unless it is a TypeError or ValueError: a `KeyError` says only the key."""
    return str(error) if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: {error}."

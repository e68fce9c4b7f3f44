"""Calls of a LightningModule's step up to its call of `forward`, for steps that prepare a batch before the model gets it."""

from __future__ import annotations

import inspect
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from fold_lightning.activations.replica import original_module
from fold_lightning.lightning_packages import in_both_packages


class ForwardReturned(BaseException):  # a step's `except Exception` does not catch it
    """Signal that ends a step when the model's `forward` has returned; the argument is the output."""


def step_names(model: nn.Module) -> list[str]:
    """Return the names of a module's own steps that may be called, most likely first.

    A `training_step` with manual optimization is left out, because it uses the optimizers before it calls the model.

    Example:
        >>> class Module(LightningModule):
        ...     def validation_step(self, batch, batch_idx): ...
        >>> step_names(Module()), step_names(nn.Linear(2, 2))
        (['validation_step'], [])
    """
    module = original_module(model)
    packages = in_both_packages(LightningModule)
    if not isinstance(module, packages):
        return []
    names = ["validation_step", "training_step"] if module.automatic_optimization else ["validation_step"]
    return [name for name in names if all(getattr(type(module), name) is not getattr(cls, name) for cls in packages)]


def call_step(model: nn.Module, name: str, batch: Any) -> Any:
    """Call a step with a batch, and return the output of its first call of `forward`; the rest of the step does not run.

    Args:
        model: A replica of a LightningModule.
        name: Name of the step.
        batch: The batch.

    Raises:
        TypeError: If the step ends without a call of `forward`.
    """
    own = {key: value for key, value in vars(model).items() if key == "forward"}
    forward = model.forward

    def forward_and_end(*args: Any, **kwargs: Any) -> Any:
        raise ForwardReturned(forward(*args, **kwargs))

    step = getattr(type(model), name)
    vars(model)["forward"] = forward_and_end
    try:
        step(model, batch, *_numbers(step))
    except ForwardReturned as end:
        return end.args[0]
    finally:
        del vars(model)["forward"]
        vars(model).update(own)
    raise TypeError(f"`{name}` does not call the module's `forward`")


def _numbers(step: Any) -> list[int]:
    """Return the step's arguments after the batch, all 0: `batch_idx` if it takes one, `dataloader_idx` if that is required."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(step).parameters.values()
    wanted = sum(parameter.kind in kinds for parameter in parameters) - 2
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return [0]
    required = sum(p.kind in kinds and p.default is p.empty for p in parameters) - 2
    return [0] * max(required, min(wanted, 1))

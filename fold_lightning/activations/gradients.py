"""Pre-activations that can be differentiated: the user's model as it is, in evaluation mode, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import checkpoint

from fold_lightning.activations.architecture import Architecture, inspect_model
from fold_lightning.activations.borrowing import (
    BorrowedModel,
    Forward,
    borrow,
    eager,
    original_module,
    preserved_random_state,
)
from fold_lightning.activations.codes import PreActivations, check_inputs
from fold_lightning.activations.layers import Patterns
from fold_lightning.activations.snapshot import Snapshot
from fold_lightning.activations.table import Thresholds

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that torch gives a module: parameters, buffers, hooks, ..."""


def look_at(model: nn.Module, inputs: Tensor, layers: Patterns = None, forward: Forward = None) -> Architecture:
    """What a first look at a model tells; the arguments and errors are those of `activation_codes`."""
    check_inputs(inputs)
    with borrow(model, inputs, forward) as borrowed:
        return inspect_model(borrowed, inputs, layers)


def pre_activations(
    model: nn.Module, architecture: Architecture, inputs: Tensor, forward: Forward = None
) -> list[tuple[Thresholds, Tensor]]:
    """The pre-activations of each counted layer, and its thresholds, in execution order, with gradients.

    One forward pass in evaluation mode, in the dtype and the autocast context that the model is in, up to the last counted layer.
    Modes, buffers, attributes, lists, dicts, sets and random states are as before when it ends.

    Args:
        model: The user's model.
        architecture: What a first look at it told.
        inputs: (B, ...), where the model is and in the dtype that it takes; they get marked.
        forward: How to call the model, as of `activation_codes`.

    Returns:
        Thresholds and pre-activations (B, n) for each layer that the pass met.
    """
    model = original_module(model)
    found: list[tuple[Thresholds, Tensor]] = []

    def read(layer: str, thresholds: Thresholds, z: Tensor) -> None:
        if layer in architecture.counted:
            # A clone, for an activation in place overwrites what the gradient needs.
            found.append((thresholds, architecture.per_input(layer, z, len(inputs)).clone()))

    with _in_evaluation(model):
        PreActivations(_ModelInUse(model, forward, inputs.device), architecture.needed[-1], read).run(inputs)
    return found


class _ModelInUse(BorrowedModel):
    """A model with its own weights, in its own dtype."""

    in_float64 = False

    def float64(self, tensor: Tensor) -> Tensor:
        return tensor


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, on copies of the buffers, lest what a pass writes into them is there when the loss is differentiated."""
    before = [(vars(module), vars(module).copy()) for module in model.modules()]
    contents = [Snapshot(module, without=OF_EVERY_MODULE) for module in model.modules()]
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    try:
        for attributes, was in before:
            attributes["training"] = False
            attributes["_buffers"] = {name: b if b is None else copies[id(b)] for name, b in was["_buffers"].items()}
        with preserved_random_state(), eager(), _kept_in_memory():
            yield
    finally:
        for attributes, was in before:
            attributes.clear()
            attributes.update(was)
        for snapshot in contents:
            snapshot.restore()


@contextmanager
def _kept_in_memory() -> Iterator[None]:
    """Gradient checkpointing does nothing: it would run the pass again when the loss is differentiated, in training mode then."""
    before = {name: getattr(checkpoint, name) for name in STAND_INS if hasattr(checkpoint, name)}
    try:
        for name in before:
            setattr(checkpoint, name, STAND_INS[name])
        yield
    finally:
        for name, function in before.items():
            setattr(checkpoint, name, function)


def _kept(*_: Any, **__: Any) -> Iterator[None]:
    yield


class _Called:
    """Stands in for a function of autograd that would keep no results."""

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return function(*args)


STAND_INS = {"_checkpoint_without_reentrant_generator": _kept, "CheckpointFunction": _Called}
"""For what `torch.utils.checkpoint.checkpoint` calls, by the name that it looks up in its module."""

"""Pre-activations that can be differentiated: a replica with the user's own parameters, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.utils import checkpoint

from fold_lightning.activations.evaluation import Forward, Replica, eager, preserved_random_state, without_global_hooks
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.layer_pass import LayerPass
from fold_lightning.activations.registry import Thresholds


def pre_activations(
    model: nn.Module, structure: ModelStructure, inputs: Tensor, forward: Forward = None
) -> list[tuple[Thresholds, Tensor]]:
    """Return the pre-activations of each counted layer, and its thresholds, in execution order, with gradients.

    One forward pass in evaluation mode, in the dtype and the autocast context that the model is in, up to the last counted layer.
    It runs a replica whose parameters are the user's own, so that gradients reach them and nothing else of the model changes.

    Args:
        model: The user's model.
        structure: Result of its inspection.
        inputs: Inputs (B, ...), on the model's device and in the dtype that it takes; they get marked.
        forward: How to call the model, as of `activation_codes`.

    Returns:
        Thresholds and pre-activations (B, n) for each layer that the pass met.

    Raises:
        LayersVary: If the pass meets other layers than the inspection did.
    """
    found: list[tuple[Thresholds, Tensor]] = []

    def read(layer: str, thresholds: Thresholds, units: Tensor) -> None:
        if layer in structure.counted:
            found.append((thresholds, units.clone()))  # an activation in place overwrites what the gradient needs

    with preserved_random_state(), eager(), without_global_hooks(), _kept_in_memory():
        replica = Replica(model, forward, inputs.device, dtype=None, shares_parameters=True)
        with preserved_random_state(*replica.shared_generators):
            LayerPass(replica, structure, read).run(inputs)
    return found


@contextmanager
def _kept_in_memory() -> Iterator[None]:
    """Turn gradient checkpointing off: it would run the pass again when the loss is differentiated, in training mode then."""
    before = {name: getattr(checkpoint, name) for name in STAND_INS if hasattr(checkpoint, name)}
    try:
        for name in before:
            setattr(checkpoint, name, STAND_INS[name])
        yield
    finally:
        for name, function in before.items():
            setattr(checkpoint, name, function)


def _keep(*_: Any, **__: Any) -> Iterator[None]:
    yield


STAND_INS = {
    "_checkpoint_without_reentrant_generator": _keep,
    "CheckpointFunction": SimpleNamespace(apply=lambda function, _, *args: function(*args)),
}
"""Stand-ins for functions that `torch.utils.checkpoint.checkpoint` calls, by the name that it looks up in its module."""

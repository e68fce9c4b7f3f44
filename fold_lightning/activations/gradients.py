"""Differentiable pre-activations, from a replica in evaluation mode with the user's own parameters."""

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

    One forward pass runs in evaluation mode, in the model's dtype and the current autocast context, up to the last counted
    layer. It runs on a replica that has the user's own parameters, so that gradients reach them and nothing else of the model
    changes.

    Args:
        model: The user's model.
        structure: Result of its inspection.
        inputs: Inputs (B, ...), on the model's device and in its dtype; they are marked in place.
        forward: How to call the model, as in `activation_codes`.

    Returns:
        Thresholds and pre-activations (B, n) of each counted layer.

    Raises:
        LayersVary: If the pass runs other layers than the inspection found.
    """
    found: list[tuple[Thresholds, Tensor]] = []

    def read(layer: str, thresholds: Thresholds, units: Tensor) -> None:
        if layer in structure.counted:
            found.append((thresholds, units.clone()))  # an in-place activation would overwrite them

    with preserved_random_state(), eager(), without_global_hooks(), _kept_in_memory():
        replica = Replica(model, forward, inputs.device, dtype=None, shares_parameters=True)
        with preserved_random_state(*replica.shared_generators):
            LayerPass(replica, structure, read).run(inputs)
    return found


@contextmanager
def _kept_in_memory() -> Iterator[None]:
    """Turn gradient checkpointing off, because it would repeat the pass in backward, after this context has ended."""
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
"""Replacements for functions that `torch.utils.checkpoint.checkpoint` calls, by their names in its module."""

"""Activation regions of many inputs, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm

from fold_lightning._checks import check_integer
from fold_lightning._progress import progress_bar
from fold_lightning.activations.codes import check_inputs
from fold_lightning.activations.evaluation import evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.regions.around_inputs import ActivationRegions, activation_regions, random_directions

BATCH_BYTES = 2**25
"""Bytes of the half-spaces of a batch, 32 MiB; memory holds several copies of them."""


def stream_regions(
    model: nn.Module, inputs: Tensor, *, batch_size: int | None = None, progress: bool = False, **options: Any
) -> Iterator[ActivationRegions]:
    """Yield the regions around many inputs, one batch at a time, so that memory does not grow with their number.

    A region with 1,536 units in 784 features takes 10 MB, 8 bytes for each coefficient of its half-spaces. Its number of faces and
    its distance from the boundary take 8 bytes each.

    Args:
        model: A module of piecewise linear operations, as in `activation_regions`.
        inputs: Floating-point inputs (B, ...), on the model's device.
        batch_size: Number of inputs per batch; None takes as many as have 32 MiB of half-spaces.
        progress: Whether to show a progress bar on a terminal.
        options: Other arguments of `activation_regions`. The random directions of `subspace=k` are drawn for each batch, with `seed`
            plus the number of its first input as the seed, so they depend on the batch size.

    Returns:
        An iterator over the regions of each batch. The model's weights are read again for each batch.

    Raises:
        ValueError: As `activation_regions` does; if `batch_size` is less than 1.
        TypeError: As `activation_regions` does; if `batch_size` is not an integer.

    Example:
        >>> import torch
        >>> from fold_lightning import FaceStatistics, face_counts
        >>> model, faces = nn.Sequential(nn.Linear(2, 4), nn.ReLU()), FaceStatistics()
        >>> for regions in stream_regions(model, torch.randn(600, 2), batch_size=256):
        ...     faces.update(face_counts(regions))
        >>> faces.compute()["max"] <= 4
        tensor(True)
    """
    check_inputs(inputs)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    bound = signature(activation_regions).bind(model, inputs, **options)
    bound.apply_defaults()
    subspace, seed = bound.arguments["subspace"], bound.arguments["seed"]
    with evaluate_on_replica(model, inputs, bound.arguments["forward"]) as replica:
        structure = inspect(replica, inputs, bound.arguments["layers"])
    if isinstance(subspace, Tensor):
        if subspace.dim() != 3 or len(subspace) != len(inputs):
            raise ValueError(f"Directions of `subspace` must be ({len(inputs)}, k, features), got {tuple(subspace.shape)}.")
        dimension = subspace.shape[1]
    else:
        features = inputs[0].numel()
        dimension = features if subspace is None else random_directions(1, subspace, features, seed).shape[1]
    size = batch_size or max(1, BATCH_BYTES // (8 * structure.num_units * dimension))
    return _stream(model, inputs, size, progress_bar(len(inputs), "regions", progress), options, subspace, seed)


def _stream(
    model: nn.Module,
    inputs: Tensor,
    size: int,
    bar: tqdm[Any],
    options: dict[str, Any],
    subspace: int | Tensor | None,
    seed: int,
) -> Iterator[ActivationRegions]:
    with bar:
        for first in range(0, len(inputs), size):
            some = inputs[first : first + size]
            own = subspace[first : first + size] if isinstance(subspace, Tensor) else subspace
            yield activation_regions(model, some, **options | {"subspace": own, "seed": seed + first})
            bar.update(len(some))

"""Probes that the user gives: a tensor, inputs and labels, or a map-style data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from fold_lightning.activations.structural_copy import StructuralCopy
from fold_lightning.probes.batch_parts import describe_tensor
from fold_lightning.probes.classes import as_classes
from fold_lightning.probes.loaders import DEFAULT_BATCH_SIZE, ItemReader, choose_items


def user_batches(probes: Any, count: int, seed: int, copied: StructuralCopy) -> tuple[Iterator[Any], int]:
    """Return batches of the user's probes, and the number of probes in all.

    Args:
        probes: Inputs (B, ...), a pair of inputs and labels, or a map-style data set.
        count: Items to read of a data set.
        seed: Seed of their choice.
        copied: Makes the copy of a data set that is read in its stead.

    Raises:
        TypeError: If it is none of these.
        ValueError: If labels are no classes.
    """
    check_user_probes(probes)
    if is_tensors(probes):
        return iter([probes]), len(probes if isinstance(probes, Tensor) else probes[0])
    dataset = copied(probes)
    reader = ItemReader(dataset, default_collate, choose_items(range(len(dataset)), count, seed), DEFAULT_BATCH_SIZE)
    return reader.batches(), len(reader.indices)


def check_user_probes(probes: Any) -> None:
    """Raise if the user's probes are of no kind that is understood.

    Raises:
        TypeError: If they are no tensor, no pair of tensors and no map-style data set.
        ValueError: If labels are no classes.
    """
    if isinstance(probes, Tensor):
        return
    if _is_pair(probes):
        inputs, labels = probes
        if as_classes(labels, len(inputs)) is None:
            raise ValueError(
                f"Labels of `probes` must be integer classes (B,) for inputs {tuple(inputs.shape)}, got "
                f"{describe_tensor(labels)}: pass class indices, or the inputs alone."
            )
    elif not (hasattr(probes, "__getitem__") and hasattr(probes, "__len__")):
        raise TypeError(
            f"`probes` must be inputs (B, ...), a pair of inputs and labels, or a map-style dataset, got {type(probes).__name__}."
        )


def is_tensors(probes: Any) -> bool:
    """Return whether probes are inputs, or inputs and labels, which are taken as they are: all of them, and not unpacked."""
    return isinstance(probes, Tensor) or _is_pair(probes)


def _is_pair(probes: Any) -> bool:
    return isinstance(probes, (tuple, list)) and len(probes) == 2 and all(isinstance(part, Tensor) for part in probes)

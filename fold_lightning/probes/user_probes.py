"""The user's own probes: inputs, inputs and labels, or a map-style data set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fold_lightning.activations.structural_copy import StructuralCopy
from fold_lightning.probes.batch_parts import describe_tensor
from fold_lightning.probes.classes import as_classes
from fold_lightning.probes.loaders import DEFAULT_BATCH_SIZE, ItemReader, choose_items


def user_batches(probes: Any, count: int, seed: int, copied: StructuralCopy) -> tuple[Iterator[Any], int]:
    """Return batches of the user's probes, and the total number of probes.

    Args:
        probes: Tensors or a map-style data set, as `user_probes` returns them.
        count: Maximum number of items to read from a data set.
        seed: Seed by which these are chosen.
        copied: Copier of the data set, so that the copy is read.
    """
    if is_tensors(probes):
        return iter([probes]), len(probes if isinstance(probes, Tensor) else probes[0])
    dataset = copied(probes)
    reader = ItemReader(dataset, default_collate, choose_items(range(len(dataset)), count, seed), DEFAULT_BATCH_SIZE)
    return reader.batches(), len(reader.indices)


def user_probes(probes: Any, name: str = "probes") -> Any:
    """Convert the user's probes to a tensor or a pair of tensors; return a map-style data set itself.

    NumPy arrays, and values that convert to one, such as data frames, become tensors.

    Args:
        probes: Inputs (B, ...), a pair of inputs and class labels, or a map-style data set.
        name: Name of the user's argument, for error messages.

    Raises:
        TypeError: If they are none of these.
        ValueError: If there are no inputs, or labels are not classes.

    Example:
        >>> user_probes((np.zeros((2, 3)), [0, 1]))[1]
        tensor([0, 1])
    """
    if is_array(probes):
        return _as_inputs(probes, name)
    if is_pair(probes):
        inputs = _as_inputs(probes[0], name)
        return inputs if probes[1] is None else (inputs, _as_labels(probes[1], inputs, name))
    check_probes(probes, name)
    return probes


def check_probes(probes: Any, name: str = "probes") -> None:
    """Raise unless a value is inputs, a pair of inputs and labels, or a map-style data set, as far as its type shows.

    Raises:
        TypeError: If it is none of these.
    """
    if is_array(probes):
        return
    if isinstance(probes, (type, str, bytes)) or not (hasattr(probes, "__getitem__") and hasattr(probes, "__len__")):
        got = f"the class {probes.__name__}" if isinstance(probes, type) else type(probes).__name__
        raise TypeError(f"`{name}` must be inputs (B, ...), a pair of inputs and labels, or a map-style dataset, got {got}.")


def is_tensors(probes: Any) -> bool:
    """Return whether probes are a tensor or a pair of tensors, which are all used, without `batch_to_inputs`."""
    return isinstance(probes, Tensor) or (is_pair(probes) and all(isinstance(part, Tensor) for part in probes))


def is_pair(probes: Any) -> bool:
    """Return whether probes are a pair of inputs and labels; the labels may be None or a list."""
    return (
        isinstance(probes, (tuple, list))
        and len(probes) == 2
        and is_array(probes[0])
        and (is_array(probes[1]) or probes[1] is None or _is_flat_list(probes[1]))
    )


def is_array(value: Any) -> bool:
    """Return whether a value is a tensor, or converts to an array like a data frame."""
    return not isinstance(value, type) and (
        isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape"))
    )


def _is_flat_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, (int, float, str, np.generic)) for each in value)


def _as_inputs(value: Any, name: str) -> Tensor:
    tensor = _as_tensor(value)
    if tensor is None:
        raise TypeError(
            f"`{name}` must hold numbers, got {np.asarray(value).dtype}: convert them, such as with `.astype('float32')`."
        )
    if tensor.dim() == 0:
        raise ValueError(f"`{name}` must be inputs (B, ...), got a single number.")
    if len(tensor) == 0:
        raise ValueError(f"`{name}` must hold inputs (B, ...), got none: shape {tuple(tensor.shape)}.")
    return tensor


def _as_labels(value: Any, inputs: Tensor, name: str) -> Tensor:
    labels = _as_tensor(value)
    if labels is not None and labels.dim() == 0:
        raise ValueError(
            f"`{name}` must be a batch of inputs (B, ...) and labels (B,), got shape {tuple(inputs.shape)} and one label: stack "
            "several with `torch.stack`."
        )
    if labels is None or as_classes(labels, len(inputs)) is None:
        got = describe_tensor(labels) if labels is not None else f"{np.asarray(value).dtype} {np.shape(value)}"
        what = "number them with `numpy.unique(labels, return_inverse=True)[1]`" if labels is None else "pass class indices"
        raise ValueError(
            f"Labels of `{name}` must be integer classes (B,) for inputs {tuple(inputs.shape)}, got {got}: {what}, or pass the "
            "inputs alone."
        )
    return labels


def _as_tensor(value: Any) -> Tensor | None:
    """Convert an array to a tensor, without a copy if possible; None if it holds no numbers."""
    if isinstance(value, Tensor):
        return value
    array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a read-only array, which is never written
            return torch.as_tensor(array)
    except TypeError:  # of text or objects
        return None

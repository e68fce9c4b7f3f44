"""The inputs and labels of a batch, found by its form alone, without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fold_lightning.probes.batch_parts import (
    Path,
    describe_batch,
    names_on,
    part_at,
    parts_of,
    tensors_by_path,
)
from fold_lightning.probes.classes import as_classes

LABEL_NAMES = frozenset("label labels target targets y class classes cls".split())

INPUT_NAMES = frozenset(
    """input inputs image images img x features pixel_values data signal audio waveform input_values input_features
    inputs_embeds input_ids token_ids tokens ids text""".split()
)

SIDE_NAMES = ("mask", "masks", "weight", "weights", "length", "lengths", "index", "idx", "position_ids")
"""Endings of the names of tensors that accompany inputs; these are tried last."""

BatchToInputs = Callable[[Any], Any]


class NoInputs(TypeError):
    """Error for a batch that has no floating-point tensor where inputs are expected."""


def split_batch(batch: Any, batch_to_inputs: BatchToInputs | None = None) -> tuple[Tensor, Tensor | None]:
    """Return the inputs (B, ...) of a batch, and its class labels int64 (B,) or None.

    A batch is a tensor, or a dict, tuple, list, named tuple, dataclass or object with tensors, nested or not. The inputs of a
    tuple or list are in its first part. Among several floating-point tensors, one with a name of inputs ("x", "image", ...) is
    preferred, then one with two or more dimensions, then the first one; masks and weights come last. Labels are a tensor with a
    name of labels ("y", "label", "target", ...), or the first tensor with one number per row after the first part of a tuple or
    list; `as_classes` converts them to classes.

    Args:
        batch: The batch.
        batch_to_inputs: Function of the batch that returns inputs or (inputs, labels).

    Raises:
        NoInputs: If a batch has no floating-point tensor where inputs are expected.

    Example:
        >>> import torch
        >>> inputs, labels = split_batch(({"image": torch.zeros(2, 3)}, {"label": torch.tensor([0, 1])}))
        >>> inputs.shape, labels
        (torch.Size([2, 3]), tensor([0, 1]))
    """
    if batch_to_inputs is not None:
        batch = apply_function(batch_to_inputs, batch)
    is_sequence = isinstance(batch, (tuple, list)) and not hasattr(batch, "_asdict")
    paths = [path for path in input_paths(batch) if not is_sequence or path[0] == 0]
    floating = [path for path in paths if part_at(batch, path).is_floating_point()]
    if not floating:
        raise NoInputs(f"No inputs found in {describe_batch(batch)}: {HINT}")
    inputs = part_at(batch, floating[0])
    labels = label_path(batch, floating[0])
    return inputs, None if labels is None else as_classes(part_at(batch, labels), len(inputs))


def apply_function(batch_to_inputs: BatchToInputs, batch: Any) -> Any:
    """Return the result of the user's function of a batch.

    Raises:
        TypeError: If it is None.
    """
    result = batch_to_inputs(batch)
    if result is None:
        raise TypeError("`batch_to_inputs` must return inputs (B, ...) or (inputs, labels), got None: end it with `return`.")
    return result


HINT = (
    "expected a floating-point tensor (B, ...), a tuple that begins with one, or a dict with one. Pass `batch_to_inputs=`, a "
    "function of the batch that returns inputs or (inputs, labels). Let it return integer images as floats, in the range that "
    "the model takes: `lambda batch: (batch[0].float() / 255, batch[1])`. Segments run between the embeddings of token "
    "ids if the model has exactly one `nn.Embedding` that takes them; otherwise let it return their embeddings, and pass "
    "`forward=` with the rest of the model."
)


def input_paths(batch: Any) -> list[Path]:
    """Return the paths to tensors that may be the inputs, most likely first; labels are left out.

    Tensors with a name of inputs come first, then those with two or more dimensions, then others; masks, weights and lengths
    come last. Otherwise the order is the batch's.
    """
    found = [
        (_rank(path, tensor), path)
        for path, tensor in tensors_by_path(batch)
        if tensor.dim() > 0 and not tensor.is_complex() and not names_on(path) & LABEL_NAMES
    ]
    return [path for _, path in sorted(found, key=lambda item: item[0])]


def _rank(path: Path, tensor: Tensor) -> tuple[bool, bool, bool]:
    return is_side(path), not names_on(path) & INPUT_NAMES, tensor.dim() < 2


def is_side(path: Path) -> bool:
    """Return whether a tensor has the name of one that accompanies inputs, such as a mask."""
    return bool(path) and str(path[-1]).lower().endswith(SIDE_NAMES)


def _may_be_labels(tensor: Tensor) -> bool:
    """Return whether a tensor has one number per row, or one-hot rows, unlike tables and images."""
    return tensor.dim() == 1 or (tensor.dim() == 2 and (tensor.shape[1] == 1 or as_classes(tensor, len(tensor)) is not None))


def label_path(batch: Any, inputs: Path, num_taken: int = 1) -> Path | None:
    """Return the path to the labels of a batch; None if no tensor seems to be labels.

    Args:
        batch: The batch.
        inputs: Path to its inputs.
        num_taken: Number of first parts of a tuple or list that are not labels, because the model takes them.
    """
    found = list(tensors_by_path(batch))
    for path, _ in found:
        if names_on(path) & LABEL_NAMES:
            return path
    if isinstance(batch, (tuple, list)):
        keys = list(parts_of(batch) or {})
        later = [(path, tensor) for path, tensor in found if keys.index(path[0]) >= num_taken and path != inputs]
        return next((path for path, tensor in later if _may_be_labels(tensor)), None)
    return None

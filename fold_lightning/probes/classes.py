"""Class labels: what counts as one in a batch, in a sample, and in a model's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

MIN_TARGETS = 32
"""Labelled inputs below which integer labels are always classes: a few inputs of many classes all have different labels."""


def as_classes(labels: Any, count: int) -> Tensor | None:
    """Return labels as classes int64 (B,); None for labels that are no classes.

    Classes are integers or booleans (B,) or (B, 1), zeros and ones of any dtype, and one-hot rows (B, C).

    Example:
        >>> import torch
        >>> as_classes(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 2)
        tensor([1, 0])
        >>> as_classes(torch.tensor([0.3, 1.0]), 2)
    """
    if not isinstance(labels, Tensor) or labels.is_complex() or labels.dim() not in (1, 2) or len(labels) != count:
        return None
    is_binary = bool(((labels == 0) | (labels == 1)).all())
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.dim() == 2:
        return labels.int().argmax(1) if is_binary and bool((labels.sum(1) == 1).all()) else None
    return labels.long() if is_binary or not labels.is_floating_point() else None


def without_targets(labels: Tensor | None, num_outputs: int | None = None) -> Tensor | None:
    """Return the class labels of a sample; None for integers that are targets of a regression, or number the inputs.

    Labels are classes where each is one of the model's outputs. Others are targets if more than half of at least 32 labelled
    inputs have a label that no other input has: of 1,000 inputs of 1,000 classes about a third do.

    Args:
        labels: int64 (B,), negative where an input has no class.
        num_outputs: Numbers that the model returns for an input; None if that is not known.

    Example:
        >>> import torch
        >>> without_targets(torch.arange(1000) * 3) is None
        True
    """
    if labels is None:
        return None
    has_class = labels[labels >= 0]
    if len(has_class) < MIN_TARGETS or (num_outputs is not None and int(has_class.max()) < num_outputs):
        return labels
    _, occurrences = has_class.unique(return_counts=True)
    return None if 2 * int((occurrences == 1).sum()) > len(has_class) else labels


def predicted_classes(output: Any, num_classes: int) -> Tensor | None:
    """Return the class int64 (B,) that a model's output gives to each input; None if its numbers are not one per class.

    Understood are logits (B, C), one logit (B,) or (B, 1) for two classes, a tuple that begins with one of these, and a dict or
    object with `logits`.

    Args:
        output: Output of the model.
        num_classes: C. An output of another width, such as an embedding, gives no classes.

    Example:
        >>> import torch
        >>> predicted_classes(torch.tensor([[0.1, 0.7], [2.0, 1.0]]), 2)
        tensor([1, 0])
        >>> predicted_classes(torch.zeros(2, 32), 4)
    """
    logits = logits_in(output)
    if logits is None:
        return None
    if logits.dim() == 2 and logits.shape[1] == num_classes > 1:
        return logits.argmax(1)
    is_one_logit = logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1)
    return (logits.flatten() > 0).long() if is_one_logit and num_classes == 2 else None


def logits_in(output: Any) -> Tensor | None:
    """Return the tensor of a model's output that may be logits."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, (tuple, list)) and not hasattr(output, "logits"):
        output = output[0] if output else None
    output = getattr(output, "logits", output)
    return output if isinstance(output, Tensor) and output.is_floating_point() else None

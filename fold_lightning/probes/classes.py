"""Class labels of a batch and of a sample, and classes predicted by a model's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

MIN_TARGETS = 32
"""Number of labelled inputs below which labels that occur once still count as classes, because a few inputs of many classes may
all have different labels."""

SEEN_SHARE = 0.8
"""Outputs count as one per class only if the labels take at least this share of them, and at least this share of the distinct
values expected if all classes are equally frequent: 5 outputs with labels of 4 classes do, an embedding of 8 numbers does not."""

LEAST_LIKELY = 0.01
"""Outputs do not count as one per class if it is less likely than this that all labels of the sample are as small as they are, were
each output a class and all equally frequent. Labels from 0 to 7 are no sample of the 784 outputs of an autoencoder of images."""

MAX_NAME = 40
"""Maximum number of characters of a class name."""

MAX_NESTED = 8
"""Maximum nesting of data sets, as in `Subset`, to which class names are searched."""


def as_classes(labels: Any, count: int) -> Tensor | None:
    """Convert labels to classes int64 (B,); None for labels that are not classes.

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
    """Return the class labels of a sample; None for integers that are regression targets, or indices of the inputs.

    Several different negative values mean targets, and so do more than two different labels of a model that returns one number.
    Otherwise, labels that are all below the number of outputs are classes. Of the rest, at least 32 labels are targets if more
    than half of them occur once: of 1,000 inputs of 1,000 classes, about a third do.

    Args:
        labels: int64 (B,), negative where an input has no class.
        num_outputs: Number of the model's outputs per input; None if unknown.

    Example:
        >>> import torch
        >>> without_targets(torch.arange(1000) * 3) is None
        True
    """
    if labels is None:
        return None
    has_class, others = labels[labels >= 0], labels[labels < 0].unique()
    if len(others) > 1 or (num_outputs == 1 and len(has_class.unique()) > 2):
        return None
    if len(has_class) < MIN_TARGETS or (num_outputs is not None and int(has_class.max()) < num_outputs):
        return labels
    _, occurrences = has_class.unique(return_counts=True)
    return None if 2 * int((occurrences == 1).sum()) > len(has_class) else labels


def class_names_of(dataset: Any) -> tuple[str, ...]:
    """Return the class names in a data set's `classes`, as torchvision has them, or in that of the data set it wraps; else ().

    Example:
        >>> from types import SimpleNamespace as Dataset
        >>> class_names_of(Dataset(dataset=Dataset(classes=["cat", "dog"])))
        ('cat', 'dog')
    """
    for _ in range(MAX_NESTED):
        names = getattr(dataset, "classes", None)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return tuple(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names)
        dataset = getattr(dataset, "dataset", None)
    return ()


def name_of_class(label: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number if it has no name."""
    return names[label] if 0 <= label < len(names) else str(label)


def predicted_classes(output: Any, num_classes: int) -> Tensor | None:
    """Return the class int64 (B,) that a model's output predicts for each input; None if the output does not score the classes.

    Accepted are logits or probabilities (B, C), one logit (B,) or (B, 1) for two classes, or one probability where all numbers
    lie in [0, 1]; a tuple that begins with one of these, and a dict or object with `logits`.

    Args:
        output: Output of the model.
        num_classes: Number C of classes. An output of another width, such as an embedding, gives no classes.

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
    is_one_number = logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1)
    if not is_one_number or num_classes != 2:
        return None
    is_probability = bool(((logits >= 0) & (logits <= 1)).all())
    return (logits.flatten() > (0.5 if is_probability else 0)).long()


def num_classes_of(labels: Tensor, num_outputs: int | None) -> int:
    """Return the number of classes: the largest label plus 1, or the number of outputs if the sample may lack some classes.

    Args:
        labels: Labels int64 (B,), B at least 1, none negative.
        num_outputs: Number of the model's outputs per input; None if unknown.

    Example:
        >>> import torch
        >>> labels = torch.arange(300) % 9
        >>> num_classes_of(labels, 10), num_classes_of(labels, 32), num_classes_of(labels[:8], 784)
        (10, 9, 8)
    """
    num_labelled = int(labels.max()) + 1
    if num_outputs is None or num_outputs <= num_labelled:
        return num_labelled
    expected = num_outputs * (1 - (1 - 1 / num_outputs) ** len(labels))  # different labels, if classes are equally frequent
    share = num_labelled / num_outputs
    reaches_most = share >= SEEN_SHARE or share ** len(labels) >= LEAST_LIKELY
    return num_outputs if reaches_most and len(labels.unique()) >= SEEN_SHARE * expected else num_labelled


def logits_in(output: Any) -> Tensor | None:
    """Return the tensor of a model's output that may be logits."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, (tuple, list)) and not hasattr(output, "logits"):
        output = output[0] if output else None
    output = getattr(output, "logits", output)
    return output if isinstance(output, Tensor) and output.is_floating_point() else None

"""What a batch holds, and what a model says of it: inputs, class labels, predicted classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class")

INPUT_KEYS = ("input", "inputs", "image", "images", "img", "x", "features", "pixel_values")

BatchToInputs = Callable[[Any], Any]


def split_batch(batch: Any, batch_to_inputs: BatchToInputs | None = None) -> tuple[Tensor, Tensor | None]:
    """The inputs (B, ...) of a batch, and its class labels (B,) if it has some.

    Understood are a tensor, a tuple or list that begins with one (a second one is the labels), and a dict, of dicts too, or a
    named tuple: its tensor under "image", "input", "x" or the like, else its first floating-point one that is no label, one of
    two or more dimensions if it has some; labels under "label", "target", "y" or the like. Labels are classes if they are integers
    or booleans (B,) or (B, 1), zeros and ones of any type, or one-hot (B, C); anything else, as in regression, is none.

    Raises:
        TypeError: If a batch has no floating-point tensor where inputs are expected.

    Example:
        >>> import torch
        >>> inputs, labels = split_batch({"image": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
        >>> inputs.shape, labels
        (torch.Size([2, 3]), tensor([0, 1]))
    """
    if batch_to_inputs is not None:
        batch = batch_to_inputs(batch)
    inputs, labels = _parts(batch)
    if not _is_inputs(inputs):
        raise TypeError(
            f"No inputs found in a batch of {_describe(batch)}: expected a floating-point tensor (B, ...), a tuple that begins "
            "with one, or a dict with one. Pass `batch_to_inputs=`, a function of the batch that returns inputs or (inputs, labels). "
            "Let it return images of integers as floats, in the range that the model takes: "
            "`lambda batch: (batch[0].float() / 255, batch[1])`. Token ids have no straight segments between them: let it return "
            "their embeddings, and pass `forward=` with the rest of the model."
        )
    return inputs, _classes(labels, len(inputs))


def predicted_classes(output: Any) -> tuple[Tensor, int] | None:
    """The class int64 (B,) that a model's output says for each input, and how many classes it knows; None if it says none.

    Understood are logits (B, C) of two or more classes (the largest), one logit (B,) or (B, 1) (its sign), a tuple that begins
    with them, and a dict or object with `logits`.

    Example:
        >>> import torch
        >>> predicted_classes(torch.tensor([[0.1, 0.7], [2.0, 1.0]]))
        (tensor([1, 0]), 2)
    """
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.dim() == 2 and output.shape[1] > 1:
        return output.argmax(1), output.shape[1]
    return ((output.flatten() > 0).long(), 2) if output.dim() in (1, 2) else None


def _parts(batch: Any) -> tuple[Any, Any]:
    """What seem to be the inputs and the labels."""
    if isinstance(batch, Mapping):
        return _by_name(batch)
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        return batch, None
    first, second = (*batch, None, None)[:2]
    if not hasattr(batch, "_asdict"):
        return first, second
    inputs, labels = _by_name(batch._asdict())
    return inputs, second if labels is None and inputs is first else labels


def _by_name(batch: Mapping[Any, Any]) -> tuple[Any, Any]:
    found = list(_named_tensors(batch))
    labels = [value for names, value in found if names & {*LABEL_KEYS}]
    called_inputs = [value for names, value in found if names & {*INPUT_KEYS} and not names & {*LABEL_KEYS}]
    others = [value for names, value in found if not names & {*LABEL_KEYS}]
    candidates = called_inputs or [value for value in others if value.dim() > 1 and _is_inputs(value)] or others
    return next(filter(_is_inputs, candidates), next(iter(candidates), None)), next(iter(labels), None)


def _named_tensors(batch: Mapping[Any, Any], names: frozenset[str] = frozenset()) -> Iterator[tuple[frozenset[str], Tensor]]:
    """The tensors of a dict and of dicts in it, with the names on the way to them."""
    for key, value in batch.items():
        path = names | {str(key).lower()}
        if isinstance(value, Mapping):
            yield from _named_tensors(value, path)
        elif isinstance(value, Tensor):
            yield path, value


def _is_inputs(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _classes(labels: Tensor | Any, count: int) -> Tensor | None:
    """Labels as classes int64 (B,): integers or booleans, zeros and ones, in (B,) or (B, 1); or one-hot. None for anything else."""
    if not isinstance(labels, Tensor) or labels.is_complex() or labels.dim() not in (1, 2) or len(labels) != count:
        return None
    is_binary = bool(((labels == 0) | (labels == 1)).all())
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.dim() == 2:
        return labels.int().argmax(1) if is_binary and bool((labels.sum(1) == 1).all()) else None
    return labels.long() if is_binary or not labels.is_floating_point() else None


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a {_describe_item(batch)}"
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with keys {list(batch)}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {type(batch).__name__} of {', '.join(_describe_item(item) for item in batch) or 'nothing'}"
    return f"type {type(batch).__name__}"


def _describe_item(item: Any) -> str:
    return f"{item.dtype} tensor {tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__name__

"""Probes: the inputs at which a monitor looks, and the segments between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class")

BatchToInputs = Callable[[Any], Any]


@dataclass(frozen=True)
class Segments:
    """S segments between inputs.

    Attributes:
        start: Inputs (S, ...).
        end: Inputs (S, ...).
        start_class: int64 (S,) the class of each start; None without labels.
        end_class: int64 (S,), likewise.
    """

    start: Tensor
    end: Tensor
    start_class: Tensor | None = None
    end_class: Tensor | None = None

    def first(self, count: int) -> Segments:
        """Some of them."""
        classes = (c if c is None else c[:count] for c in (self.start_class, self.end_class))
        return Segments(self.start[:count], self.end[:count], *classes)

    def to(self, device: torch.device) -> Segments:
        """The same on another device."""
        classes = (c if c is None else c.to(device) for c in (self.start_class, self.end_class))
        return Segments(self.start.to(device), self.end.to(device), *classes)


def split_batch(batch: Any, batch_to_inputs: BatchToInputs | None = None) -> tuple[Tensor, Tensor | None]:
    """The inputs (B, ...) of a batch, and its class labels (B,) if it has some.

    Understood are a tensor, a tuple or list that begins with one (a second one of integers is the labels), and a dict (its first
    floating-point tensor; labels under "label", "target", "y" or the like).

    Raises:
        TypeError: If a batch has no floating-point tensor where inputs are expected.

    Example:
        >>> inputs, labels = split_batch({"image": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
        >>> inputs.shape, labels
        (torch.Size([2, 3]), tensor([0, 1]))
    """
    if batch_to_inputs is not None:
        batch = batch_to_inputs(batch)
    inputs: Any
    labels: Any
    if isinstance(batch, Mapping):
        inputs = next((v for v in batch.values() if _is_inputs(v)), None)
        labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        inputs, labels = (*batch, None, None)[:2]
    else:
        inputs, labels = batch, None
    if not _is_inputs(inputs):
        raise TypeError(
            f"No inputs found in a batch of {_describe(batch)}: expected a floating-point tensor (B, ...), a tuple that begins "
            "with one, or a dict with one. Pass `batch_to_inputs=`, a function of the batch that returns inputs or (inputs, labels). "
            "Token ids have no straight segments between them: let it return their embeddings, and pass `forward=` with the rest of "
            "the model."
        )
    return inputs, labels if _are_classes(labels, len(inputs)) else None


def first_map_style(loaders: Any) -> DataLoader[Any] | None:
    """The first loader, of one or of nested lists and dicts, whose dataset can be read by index in batches; None if none can."""
    if isinstance(loaders, DataLoader):
        by_index = not isinstance(loaders.dataset, IterableDataset) and loaders.batch_sampler is not None
        return loaders if by_index and hasattr(loaders.dataset, "__len__") and len(loaders.dataset) else None
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return next(filter(None, map(first_map_style, loaders)), None)
    return None


def gather_inputs(
    dataset: Dataset[Any],
    count: int,
    seed: int,
    collate: Callable[[list[Any]], Any] = default_collate,
) -> Any:
    """A batch of `count` items of a map-style dataset, chosen by a seed; all of them if there are no more."""
    size = len(dataset)  # type: ignore[arg-type]
    if size == 0:
        raise ValueError("The data set to take probes from is empty: give it items, or pass `probes=`.")
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]
    return collate([dataset[i] for i in chosen.tolist()])


def user_probes(probes: Any, count: int, seed: int, batch_to_inputs: BatchToInputs | None) -> tuple[Tensor, Tensor | None]:
    """Inputs and labels of what a user gave: a tensor, (inputs, labels), or a map-style dataset.

    Raises:
        TypeError: If it is none of these.
        ValueError: If labels are no classes, or there are fewer than two inputs.
    """
    if isinstance(probes, (tuple, list)) and len(probes) == 2 and all(isinstance(p, Tensor) for p in probes):
        inputs, labels = split_batch(probes)
        if labels is None:
            raise ValueError(
                f"Labels of `probes` must be integer classes (B,) for inputs {tuple(inputs.shape)}, got {probes[1].dtype} "
                f"{tuple(probes[1].shape)}: pass class indices, or the inputs alone."
            )
    elif isinstance(probes, Tensor):
        inputs, labels = split_batch(probes)
    elif hasattr(probes, "__getitem__") and hasattr(probes, "__len__"):
        inputs, labels = split_batch(gather_inputs(probes, count, seed), batch_to_inputs)
    else:
        raise TypeError(
            f"`probes` must be inputs (B, ...), a pair of inputs and labels, or a map-style dataset, got {type(probes).__name__}."
        )
    _check_several(inputs)
    return inputs, labels


def finite_inputs(inputs: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The inputs without NaN and infinite values, and their labels."""
    good = torch.isfinite(inputs.flatten(1)).all(1) if inputs.dim() > 1 else torch.isfinite(inputs)
    return inputs[good], None if labels is None else labels[good.to(labels.device)]


def draw_segments(inputs: Tensor, labels: Tensor | None, count: int, seed: int) -> Segments:
    """Segments between inputs, spread evenly over the ordered pairs of different classes where there are labels.

    Args:
        inputs: (B, ...), B at least 2.
        labels: int64 (B,); None, or a single class, gives segments between any two inputs.
        count: How many.
        seed: Of a generator of their own.

    Raises:
        ValueError: If there are fewer than two inputs.

    Example:
        >>> segments = draw_segments(torch.arange(4.0)[:, None], torch.tensor([0, 0, 1, 1]), count=4, seed=0)
        >>> sorted(zip(segments.start_class.tolist(), segments.end_class.tolist()))
        [(0, 1), (0, 1), (1, 0), (1, 0)]
    """
    _check_several(inputs)
    generator = torch.Generator().manual_seed(seed)
    if labels is None or len(classes := labels.unique().cpu()) < 2:
        start = torch.randint(len(inputs), (count,), generator=generator)
        end = (start + torch.randint(1, len(inputs), (count,), generator=generator)) % len(inputs)
        return Segments(inputs[start], inputs[end])
    labels = labels.cpu()
    pairs = torch.cartesian_prod(classes, classes)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    pairs = pairs[torch.arange(count) % len(pairs)]
    start, end = (_one_of_each(labels, side, generator) for side in pairs.T)
    return Segments(inputs[start], inputs[end], pairs[:, 0], pairs[:, 1])


def _check_several(inputs: Tensor) -> None:
    if len(inputs) < 2:
        raise ValueError(f"Segments need at least 2 inputs to go between, got {len(inputs)}: give more data or `probes=`.")


def _one_of_each(labels: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """For each wanted class the index of a random input of it."""
    weight = torch.rand(len(classes), len(labels), generator=generator)
    return weight.where(labels == classes[:, None], -1.0).argmax(1)


def _is_inputs(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _are_classes(labels: Any, count: int) -> bool:
    return (
        isinstance(labels, Tensor)
        and labels.shape == (count,)
        and not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    )


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

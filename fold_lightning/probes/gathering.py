"""Where probes come from: a user's own, items of a data set, or batches that pass by."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from fold_lightning.activations.borrowing import preserved_random_state
from fold_lightning.probes.batches import BatchToInputs, split_batch
from fold_lightning.probes.segments import check_several

Pool = tuple[Tensor, Tensor | None]
"""Inputs (B, ...) on the CPU, and their class labels (B,) if they have some."""


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
    if callable(at_once := getattr(dataset, "__getitems__", None)):  # as a loader does
        return collate(at_once(chosen.tolist()))
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
    check_several(inputs)
    return inputs, labels


def seed_everything(seed: int) -> None:
    """Makes a data set that augments its items give the same ones in each run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def finite_inputs(inputs: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The inputs without NaN and infinite values, and their labels."""
    good = torch.isfinite(inputs.flatten(1)).all(1) if inputs.dim() > 1 else torch.isfinite(inputs)
    return inputs[good], None if labels is None else labels[good.to(labels.device)]


class ProbeSource:
    """A pool of inputs for probes, from the first place that has some.

    Args:
        count: How many inputs to look for.
        seed: Of the choice among more.
        probes: The user's own inputs; None takes those of a loader.
        batch_to_inputs: What unpacks a batch.
    """

    def __init__(self, count: int, seed: int, probes: Any = None, batch_to_inputs: BatchToInputs | None = None) -> None:
        self._count, self._seed, self._probes, self._batch_to_inputs = count, seed, probes, batch_to_inputs
        self._passing: list[Pool] | None = [] if probes is None else None
        self._odd: Exception | None = None
        self._from_stream = False

    def at_start(self, loaders: Any, to_device: Callable[[Any], Any]) -> Pool | None:
        """The user's own, or items of the first loader whose data set can be read by index; or what has passed, if it is enough.

        Items are read by index and collated here: iterating a loader would move its generator and the global one. A data set that
        can't be read so, for it is made for worker processes alone, is one whose batches are awaited.

        Raises:
            TypeError: If a batch holds no inputs.
        """
        if self._probes is not None:
            with preserved_random_state(self._probes):
                return self._ready(user_probes(self._probes, self._count, self._seed, self._batch_to_inputs))
        batch = self._read(first_map_style(loaders), to_device)
        if batch is not None:
            return self._ready(split_batch(batch, self._batch_to_inputs))
        return self.from_stream() if self.is_full or self._odd is not None else None

    def _read(self, loader: DataLoader[Any] | None, to_device: Callable[[Any], Any]) -> Any:
        if loader is None:
            return None
        try:
            with preserved_random_state(loader.dataset, loader.collate_fn):
                seed_everything(self._seed)
                return to_device(gather_inputs(loader.dataset, self._count, self._seed, loader.collate_fn))
        except Exception as error:
            rank_zero_info(
                f"FoldingMonitor takes the first inputs that pass: the data set can't be read by index here ({error!r})."
            )
            return None

    @property
    def is_full(self) -> bool:
        """Whether enough inputs have passed."""
        return sum(len(inputs) for inputs, _ in self._passing or []) >= self._count

    def collect(self, batch: Any) -> None:
        """Keeps the first inputs of a stream of batches that can't be read by index."""
        if self._passing is None or self._odd is not None or self.is_full:
            return
        try:
            inputs, labels = split_batch(batch, self._batch_to_inputs)
        except Exception as error:  # said when the inputs are asked for, and not in the middle of a step
            self._odd = error
            return
        self._passing.append((inputs.detach().cpu().clone(), None if labels is None else labels.cpu().clone()))

    @property
    def is_stream(self) -> bool:
        """Whether the pool was what passed, which does not come again."""
        return self._from_stream

    def close(self) -> None:
        """Probes are there: keeps nothing more of what passes."""
        self._passing = None

    def restart(self) -> None:
        """Forgets what has passed: the stream begins again."""
        if self._passing is not None:
            self._passing = []

    def from_stream(self) -> Pool | None:
        """What has passed; None if nothing has.

        Raises:
            TypeError: If a batch held no inputs.
        """
        if self._odd is not None and not self._passing:
            raise self._odd
        if not self._passing:
            return None
        self._from_stream = True
        inputs, labels = zip(*self._passing, strict=True)
        classes = None if any(some is None for some in labels) else torch.cat(labels)
        return self._ready((torch.cat(inputs), classes))

    def _ready(self, pool: Pool) -> Pool:
        self._passing = None
        inputs, labels = pool
        return finite_inputs(inputs.detach().cpu(), None if labels is None else labels.cpu())

"""Items of data loaders, read by index and collated as the loader does, without iterating it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from fold_lightning.activations.structural_copy import StructuralCopy

DEFAULT_BATCH_SIZE = 32
"""Batch size if a loader does not define one."""


class Unreadable(Exception):
    """Error for items that can't be read by index; its cause gives the reason."""


def raising_unreadable(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches, and raise `Unreadable` if reading them fails."""
    try:
        yield from batches
    except Exception as error:
        raise Unreadable from error


def flat_loaders(loaders: Any) -> list[Any]:
    """Return the loaders of nested lists and dicts, in Lightning's order."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return [found for item in loaders for found in flat_loaders(item)]
    return [] if loaders is None else [loaders]


def is_read_by_index(loader: Any) -> bool:
    """Return whether a loader's items can be read by index, and there are some."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return False
    try:
        return len(loader.dataset) > 0  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, AttributeError):  # a data set without length
        return False


def first_map_style(loaders: Any) -> DataLoader[Any] | None:
    """Return the first loader whose items can be read by index, among nested lists and dicts of loaders; None if there is none."""
    return next(filter(is_read_by_index, flat_loaders(loaders)), None)


@dataclass
class ItemReader:
    """Reader of a loader's items from a copy of its data set, so that the original is not changed for training.

    Args:
        dataset: The copy of the data set.
        collate: The copy of the loader's `collate_fn`.
        indices: Indices of the items to read, in order.
        batch_size: Number of items that are collated together.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    indices: list[Any]
    batch_size: int

    @classmethod
    def of_loader(
        cls, loader: DataLoader[Any], count: int, seed: int, max_batches: float, copied: StructuralCopy
    ) -> ItemReader:
        """Choose items of a loader.

        Args:
            loader: A loader whose items can be read by index.
            count: Maximum number of items to read.
            seed: Seed by which items are chosen if there are more.
            max_batches: Number of first batches to which the loader is limited.
            copied: Copier of the data set and of the loader's functions.
        """
        dataset: Any = copied(loader.dataset)
        collate, batches = copied(loader.collate_fn), copied(loader.batch_sampler)
        batch_size = getattr(batches, "batch_size", None) or DEFAULT_BATCH_SIZE
        among = _indices_read(batches, len(dataset), max_batches)
        if max_batches < math.inf:
            processes = getattr(getattr(batches, "sampler", None), "num_replicas", 1)
            count = min(count, int(max_batches) * batch_size * processes)
        return cls(dataset, collate, choose_items(among, count, seed), batch_size)

    def batches(self) -> Iterator[Any]:
        """Yield batches of the items; the last one may be smaller."""
        for first in range(0, len(self.indices), self.batch_size):
            yield self.read(self.indices[first : first + self.batch_size])

    def read(self, indices: list[Any]) -> Any:
        """Return a batch of the items with these indices."""
        if callable(at_once := getattr(self.dataset, "__getitems__", None)):  # as a data loader does
            return self.collate(at_once(indices))
        return self.collate([self.dataset[index] for index in indices])


def read_batches(form: Any, readers: dict[int, ItemReader]) -> Iterator[Any]:
    """Yield batches in the form of the loaders: one batch, or lists and dicts of them, until the first loader is exhausted.

    Args:
        form: A loader, or nested lists and dicts of loaders.
        readers: Id of a loader -> its reader.
    """
    if isinstance(form, Mapping):
        together = zip(*(read_batches(part, readers) for part in form.values()), strict=False)
        yield from (dict(zip(form, parts, strict=True)) for parts in together)
    elif isinstance(form, (list, tuple)):
        yield from map(list, zip(*(read_batches(part, readers) for part in form), strict=False))
    else:
        yield from readers[id(form)].batches()


def max_batches(trainer: Trainer, number: int, loader: DataLoader[Any], together: bool) -> float:
    """Return the number of a loader's batches to which the Trainer is limited.

    Args:
        trainer: The Trainer.
        number: Index of the loader among those of its kind.
        loader: The loader.
        together: Whether it is a training loader.
    """
    if together:
        counts, limit = [trainer.num_training_batches] * (number + 1), trainer.limit_train_batches
    elif trainer.testing:
        counts, limit = trainer.num_test_batches, trainer.limit_test_batches
    else:
        counts, limit = trainer.num_val_batches, trainer.limit_val_batches
    if number < len(counts) and counts[number] > 0:
        return float(counts[number])
    return limit if isinstance(limit, int) else math.floor(limit * len(loader))


def choose_items(indices: Sequence[Any], count: int, seed: int) -> list[Any]:
    """Return up to `count` of the indices in random order, without repetition."""
    if len(indices) == 0:
        raise ValueError("The data set must hold at least 2 inputs, got 0: pass more data.")
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:count]
    return [indices[i] for i in order.tolist()]


def seed_generators(seed: int) -> None:
    """Seed all random generators, so that a data set with random augmentation gives the same items in each run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _indices_read(batches: Any, num_items: int, max_batches: float) -> Sequence[Any]:
    """Return the indices of the items that a batch sampler reads, over all processes."""
    if type(batches) is BatchSampler:
        sampler = batches.sampler
        most = int(min(num_items, max_batches * batches.batch_size))
        if type(sampler) is RandomSampler:  # the first batches may contain any item
            return range(num_items)
        if isinstance(sampler, DistributedSampler) and type(sampler).__iter__ is DistributedSampler.__iter__:
            return range(num_items if sampler.shuffle else min(num_items, most * sampler.num_replicas))
        if type(sampler) is SequentialSampler:
            return range(most)
    each = itertools.islice(batches, None if max_batches == math.inf else int(max_batches))
    return list(dict.fromkeys(itertools.islice(itertools.chain.from_iterable(each), num_items)))

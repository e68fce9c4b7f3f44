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
"""Items that are collated together where a loader does not say how many."""


class Unreadable(Exception):
    """Items cannot be read by index; the cause says why."""


def raising_unreadable(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches, and raise `Unreadable` for whatever fails in reading them."""
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
    """Return whether a loader makes batches of items that can be read by index, and has some."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return False
    try:
        return len(loader.dataset) > 0  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, AttributeError):  # of a data set that does not tell its length
        return False


def first_map_style(loaders: Any) -> DataLoader[Any] | None:
    """Return the first loader that is read by index, of one or of nested lists and dicts; None if none is."""
    return next(filter(is_read_by_index, flat_loaders(loaders)), None)


@dataclass
class ItemReader:
    """Reads items of a loader from a copy of its data set, so that training finds it as it was.

    Args:
        dataset: The copy of the data set.
        collate: The copy of the function that makes a batch of a list of items.
        indices: Indices of the items to be read, in order.
        batch_size: Items that are collated together.
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
            loader: A loader that is read by index.
            count: Most items to read.
            seed: Seed of the choice among more.
            max_batches: Batches, from the first, to which the loader is limited.
            copied: Makes the copies.
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
        """Yield batches of the items, the last one as large as what is left."""
        for first in range(0, len(self.indices), self.batch_size):
            yield self.read(self.indices[first : first + self.batch_size])

    def read(self, indices: list[Any]) -> Any:
        """Return a batch of some items."""
        if callable(at_once := getattr(self.dataset, "__getitems__", None)):  # as a loader does
            return self.collate(at_once(indices))
        return self.collate([self.dataset[index] for index in indices])


def read_batches(form: Any, readers: dict[int, ItemReader]) -> Iterator[Any]:
    """Yield batches of a loader; of lists and dicts of loaders, lists and dicts of batches, until the first has no more.

    Args:
        form: A loader, or lists and dicts of loaders.
        readers: Reader of each loader, by its id.
    """
    if isinstance(form, Mapping):
        together = zip(*(read_batches(part, readers) for part in form.values()), strict=False)
        yield from (dict(zip(form, parts, strict=True)) for parts in together)
    elif isinstance(form, (list, tuple)):
        yield from map(list, zip(*(read_batches(part, readers) for part in form), strict=False))
    else:
        yield from readers[id(form)].batches()


def max_batches(trainer: Trainer, number: int, loader: DataLoader[Any], together: bool) -> float:
    """Return the batches of a loader to which the Trainer is limited.

    Args:
        trainer: The Trainer.
        number: Number of the loader among those of its kind.
        loader: The loader.
        together: Whether it is a loader of training.
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
    """Return `count` of some indices in random order, without repetition; all of them if there are no more."""
    if len(indices) == 0:
        raise ValueError("The data set is empty, got 0 items: give one that holds at least 2 inputs.")
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:count]
    return [indices[i] for i in order.tolist()]


def seed_everything(seed: int) -> None:
    """Let a data set that augments its items give the same ones in each run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _indices_read(batches: Any, num_items: int, max_batches: float) -> Sequence[Any]:
    """Return the indices of the items that a sampler of batches reads, in all processes together."""
    if type(batches) is BatchSampler:
        sampler = batches.sampler
        most = int(min(num_items, max_batches * batches.batch_size))
        if type(sampler) is RandomSampler:  # any of the items may be in the first batches
            return range(num_items)
        if isinstance(sampler, DistributedSampler) and type(sampler).__iter__ is DistributedSampler.__iter__:
            return range(num_items if sampler.shuffle else min(num_items, most * sampler.num_replicas))
        if type(sampler) is SequentialSampler:
            return range(most)
    each = itertools.islice(batches, None if max_batches == math.inf else int(max_batches))
    return list(dict.fromkeys(itertools.islice(itertools.chain.from_iterable(each), num_items)))

"""Where probes come from: a user's own, items of a data set, or batches that pass by."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from fold_lightning.activations.evaluation import preserved_random_state, undisturbed
from fold_lightning.activations.replica import ModelCopy
from fold_lightning.activations.structural_copy import StructuralCopy
from fold_lightning.probes.batches import BatchToInputs, split_batch
from fold_lightning.probes.segments import check_several

Pool = tuple[Tensor, Tensor | None]
"""Inputs (B, ...) on the CPU, and their class labels (B,) if they have some."""

READ_ALL = (SequentialSampler, RandomSampler, DistributedSampler)
"""Samplers that leave no item out, but in other processes."""


def first_map_style(loaders: Any) -> DataLoader[Any] | None:
    """The first loader, of one or of nested lists and dicts, whose dataset can be read by index in batches; None if none can."""
    if isinstance(loaders, DataLoader):
        by_index = not isinstance(loaders.dataset, IterableDataset) and loaders.batch_sampler is not None
        return loaders if by_index and _has_items(loaders.dataset) else None
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return next(filter(None, map(first_map_style, loaders)), None)
    return None


def _has_items(dataset: Any) -> bool:
    try:
        return len(dataset) > 0
    except (TypeError, NotImplementedError, AttributeError):  # one that does not tell its length
        return False


def gather_inputs(
    dataset: Dataset[Any],
    count: int,
    seed: int,
    collate: Callable[[list[Any]], Any] = default_collate,
    among: Sequence[Any] | None = None,
) -> Any:
    """A batch of `count` items of a map-style dataset, chosen by a seed; all of them if there are no more.

    Args:
        dataset: Of items.
        count: How many.
        seed: Of the choice.
        collate: Makes a batch of a list of items.
        among: Indices of the items to choose from; None takes all of the dataset.
    """
    indices = range(len(dataset)) if among is None else among  # type: ignore[arg-type]
    if len(indices) == 0:
        raise ValueError("The data set to take probes from is empty: give it items, or pass `probes=`.")
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:count]
    chosen = [indices[i] for i in order.tolist()]
    if callable(at_once := getattr(dataset, "__getitems__", None)):  # as a loader does
        return collate(at_once(chosen))
    return collate([dataset[i] for i in chosen])


def gather_as_loaded(loaders: Any, count: int, seed: int) -> Any:
    """Return a batch of the items that a loader reads; for lists and dicts of loaders, their batches likewise.

    Iterating a loader would move its generator and the global one, so items are read by index and collated here, from a copy of
    the data set: whatever reading changes of it, training finds it as it was.
    """
    if isinstance(loaders, Mapping):
        return {name: gather_as_loaded(loader, count, seed) for name, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [gather_as_loaded(loader, count, seed) for loader in loaders]
    if first_map_style(loaders) is None:
        raise TypeError(f"a {type(loaders).__name__} gives its items in its own order")
    copied = StructuralCopy()
    dataset, collate, batches = copied(loaders.dataset), copied(loaders.collate_fn), copied(loaders.batch_sampler)
    with preserved_random_state(*copied.shared_generators):
        seed_everything(seed)
        return gather_inputs(dataset, count, seed, collate, _indices_read(batches, len(dataset)))


def _indices_read(batches: Any, num_items: int) -> Sequence[Any] | None:
    """Return the items that a sampler of batches reads: None for all, so unless a sampler of the user's chooses."""
    if type(batches) is BatchSampler and type(batches.sampler) in READ_ALL:
        return None
    each = itertools.chain.from_iterable(batches)
    return list(dict.fromkeys(itertools.islice(each, num_items)))


def user_probes(
    probes: Any, count: int, seed: int, batch_to_inputs: BatchToInputs | None, copied: StructuralCopy | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return inputs and labels of a tensor, of (inputs, labels), or of a map-style dataset.

    Args:
        probes: One of these.
        count: Number of items to read of a dataset.
        seed: Seed of their choice.
        batch_to_inputs: Unpacks a batch of them.
        copied: Copies dataset and function, which are read in their stead.

    Raises:
        TypeError: If it is none of these.
        ValueError: If labels are no classes, or there are fewer than two inputs.
    """
    copied = copied or StructuralCopy()
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
        dataset, batch_to_inputs = copied(probes), copied(batch_to_inputs)
        with undisturbed(), preserved_random_state(*copied.shared_generators):
            inputs, labels = split_batch(gather_inputs(dataset, count, seed), batch_to_inputs)
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


def _copied(batch: Any) -> Any:
    try:
        return copy.deepcopy(batch)
    except Exception:  # what can't be copied is trusted to be read only
        return batch


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
        model: Which that may use.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        probes: Any = None,
        batch_to_inputs: BatchToInputs | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._count, self._seed, self._probes, self._batch_to_inputs = count, seed, probes, batch_to_inputs
        self._model = model
        self._passing: list[Pool] | None = [] if probes is None else None
        self._odd: Exception | None = None
        self._from_stream = False

    def at_start(self, loaders: Any, to_model: Callable[[Any], Any], *, together: bool = False) -> Pool | None:
        """The user's own, or items of the first loader whose data set can be read by index; or what has passed, if it is enough.

        A data set that can't be read so, for it is made for worker processes alone, is one whose batches are awaited.

        Args:
            loaders: One, or lists and dicts of them.
            to_model: What a Trainer does with a batch before a step gets it.
            together: Whether each batch holds one of every loader, as in training.

        Raises:
            TypeError: If a batch holds no inputs.
        """
        if self._probes is not None:
            probes = user_probes(self._probes, self._count, self._seed, self._batch_to_inputs, self._copier())
            return self._ready(probes)
        odd: Exception | None = None
        may_pass = False
        for form in self._forms(loaders, together):
            if (batch := self._read(form, to_model)) is None:
                may_pass = True
                continue
            try:
                return self._ready(self.split(batch))
            except Exception as error:
                odd = odd or error
        if odd is not None and not may_pass:
            raise odd
        return self.from_stream() if self.is_full or (self._odd is not None and not self._passing) else None

    def _forms(self, loaders: Any, together: bool) -> list[Any]:
        """Of which loaders a batch may be one: whether those of a validation come together is not known."""
        first = first_map_style(loaders)
        if self._batch_to_inputs is None:
            return [first]
        return [loaders] if together or isinstance(loaders, DataLoader) else [first, loaders]

    def _read(self, loaders: Any, to_model: Callable[[Any], Any]) -> Any:
        if first_map_style(loaders) is None:
            return None
        try:
            with undisturbed():
                return to_model(gather_as_loaded(loaders, self._count, self._seed))
        except Exception as error:
            rank_zero_info(
                f"FoldingMonitor takes the first inputs that pass: the data set can't be read by index here ({error!r})."
            )
            return None

    def split(self, batch: Any) -> Pool:
        """The inputs of a batch and their labels; whatever the user's function does, batch, model and random states stay as they are.

        Raises:
            TypeError: If there are no inputs.
        """
        if self._batch_to_inputs is None:
            return split_batch(batch)
        copied = self._copier()
        batch_to_inputs = copied(self._batch_to_inputs)
        with undisturbed(), preserved_random_state(*copied.shared_generators):
            return split_batch(_copied(batch), batch_to_inputs)

    def _copier(self) -> StructuralCopy:
        """Return what copies values that may refer to the model: its copy has the model's own parameters."""
        if self._model is None:
            return StructuralCopy()
        device = next((parameter.device for parameter in self._model.parameters()), torch.device("cpu"))
        return ModelCopy(self._model, device, None)

    @property
    def is_full(self) -> bool:
        """Whether enough inputs have passed."""
        return sum(len(inputs) for inputs, _ in self._passing or []) >= self._count

    def collect(self, batch: Any) -> None:
        """Keeps the first inputs of a stream of batches that can't be read by index."""
        if self._passing is None or self.is_full:
            return
        try:
            inputs, labels = self.split(batch)
            if self._passing and inputs.shape[1:] != self._passing[0][0].shape[1:]:
                return  # they fit into no table with the others
        except Exception as error:  # said when the inputs are asked for, and not in the middle of a step
            self._odd = error
            return
        self._passing.append((inputs.detach().cpu().clone(), None if labels is None else labels.cpu().clone()))

    @property
    def is_stream(self) -> bool:
        """Whether the pool was what passed, which does not come again."""
        return self._from_stream

    def close(self) -> None:
        """A checkpoint kept what passed before it: keeps nothing more."""
        self._passing, self._from_stream = None, True

    def restart(self) -> None:
        """Forgets what has passed: the stream begins again."""
        if self._passing is not None:
            self._passing, self._odd = [], None

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

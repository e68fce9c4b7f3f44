"""The source of probes: the user's own, items of a loader, or batches of a stream."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fold_lightning.activations.codes import check_inputs
from fold_lightning.activations.evaluation import Forward, preserved_random_state, undisturbed
from fold_lightning.activations.structural_copy import StructuralCopy
from fold_lightning.probes.batch_parts import describe_tensor
from fold_lightning.probes.batch_transfer import HookCopy, batch_transfer, validation_stage
from fold_lightning.probes.batches import BatchToInputs
from fold_lightning.probes.classes import class_names_of, without_targets
from fold_lightning.probes.item_collector import ItemCollector
from fold_lightning.probes.loaders import (
    ItemReader,
    Unreadable,
    first_map_style,
    flat_loaders,
    is_read_by_index,
    max_batches,
    raising_unreadable,
    read_batches,
    seed_generators,
)
from fold_lightning.probes.model_input import ModelInput
from fold_lightning.probes.probe_set import ProbeSet
from fold_lightning.probes.segments import check_several
from fold_lightning.probes.trials import device_of
from fold_lightning.probes.user_probes import is_tensors, user_batches, user_probes

LONG_START = 5.0
"""Seconds of reading above which a message reports the time."""


class ProbeSource:
    """Source of probes: the user's own, items of a loader, or the first batches of a stream.

    Args:
        count: Maximum number of inputs.
        seed: Seed by which items are chosen if there are more.
        probes: The user's own probes: inputs (B, ...), inputs and labels, or a map-style data set; None takes items of a
            loader.
        batch_to_inputs: Function of a batch that returns inputs or (inputs, labels).
        forward: How to call the model, as in `activation_codes`.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        probes: Any = None,
        batch_to_inputs: BatchToInputs | None = None,
        forward: Forward = None,
    ) -> None:
        self._count, self._seed, self._probes = count, seed, probes
        self._batch_to_inputs, self._forward = batch_to_inputs, forward
        self._collected = ItemCollector(count)
        self._model_input: ModelInput | None = None
        self._first_error: Exception | None = None
        self._num_failed = 0
        self._kept: dict[str, Any] | None = None

    def class_names(self, loaders: Any) -> tuple[str, ...]:
        """Return the class names of the probes' data set; empty if it has none."""
        try:
            return class_names_of(next(iter(flat_loaders(loaders)), None) if self._probes is None else self._probes)
        except Exception:  # in a property of the user's data set
            return ()

    def read(self, trainer: Trainer, model: LightningModule, loaders: Any, *, together: bool) -> ProbeSet | None:
        """Return the user's probes, or items of the first loader that can be read by index.

        Items are read as a validation step would get them, within the Trainer's limits of batches.

        Args:
            trainer: The Trainer, which is not changed.
            model: The module that it trains, which is not changed.
            loaders: Validation, test or training loaders: one, or nested lists and dicts. None if the Trainer has not loaded
                them yet.
            together: Whether each batch combines a batch of every loader, as in training.

        Returns:
            The probes; None if batches must be collected first.

        Raises:
            TypeError: If a batch has no inputs.
            ValueError: If the model does not take them.
        """
        begin = time.perf_counter()
        if self._probes is not None:
            found: ProbeSet | None = self._from_user(model)
        elif self._kept is not None:
            found = self.from_stream(model)
        else:
            found = self._from_loaders(trainer, model, loaders, together)
        seconds = time.perf_counter() - begin
        if found is not None and seconds > LONG_START:
            rank_zero_info(
                f"fold_lightning took {seconds:.0f} s to read {len(found)} inputs before the first measurement: a smaller "
                "`num_inputs`, or inputs in memory, take less. (This message is shown once.)"
            )
        return found

    def collect(self, trainer: Trainer, model: LightningModule, batch: Any) -> None:
        """Collect the first inputs of a stream's batches, if no loader can be read by index.

        Args:
            trainer: The Trainer that runs the step.
            model: The module, which is not changed.
            batch: A batch as a step gets it, which is not changed.
        """
        if self._probes is not None or self.is_full:
            return
        try:
            if self._model_input is None:
                self._model_input = self._choose(model, batch)
            if self._kept is None:
                self._collected.add(*self._model_input.parts(batch, model))
        except Exception as error:  # raised by `from_stream`, not in the middle of a step
            self._first_error = self._first_error or error
            self._num_failed += 1

    @property
    def is_full(self) -> bool:
        """True if enough batches have been collected."""
        return self._model_input is not None if self._kept is not None else self._collected.is_full

    def from_stream(self, model: nn.Module) -> ProbeSet | None:
        """Return the collected inputs; None if there are none.

        Raises:
            TypeError: If a batch held no inputs.
            ValueError: If the model does not take them.
        """
        if self._kept is not None and self._model_input is not None:
            chosen = self._model_input.with_held(self._kept["held"])
            return ProbeSet(self._kept["items"], self._kept["labels"], chosen, is_stream=True)
        if self._first_error is not None and len(self._collected) == 0:
            raise self._first_error
        if (len(self._collected) == 0 and not self._collected.num_not_finite) or self._model_input is None:
            return None
        probes = self._probe_set(self._collected, self._model_input, is_stream=True)
        if self._num_failed:
            rank_zero_info(
                f"fold_lightning leaves out {self._num_failed} batches without inputs. The first: {self._first_error}"
            )
        return probes

    def restart(self) -> None:
        """Discard the collected inputs, because the stream begins again."""
        self._collected, self._model_input = ItemCollector(self._count), None
        self._first_error, self._num_failed = None, 0

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the items of `ProbeSet.state` from a checkpoint; the first batch determines how to call the model."""
        self._kept = None if self._probes is not None else state

    def attach(self, probes: ProbeSet) -> ProbeSet:
        """Add the user's functions to probes from another process, because pickling leaves them out."""
        chosen = probes.model_input.with_callables(self._batch_to_inputs, self._forward)
        return ProbeSet(probes.items, probes.labels, chosen, probes.is_stream, probes.is_given)

    def _choose(self, model: nn.Module, batch: Any, *, unpacks: bool = True) -> ModelInput:
        function = self._batch_to_inputs if unpacks else None
        try:
            return ModelInput.choose(model, batch, batch_to_inputs=function, forward=self._forward)
        except TypeError:
            if not unpacks:  # the user's own tensors: `batch_to_inputs` does not apply
                check_inputs(batch if isinstance(batch, Tensor) else batch[0], finite=False)
            raise

    def _from_user(self, model: nn.Module) -> ProbeSet:
        copied, probes = HookCopy(model, device_of(model)), user_probes(self._probes)
        batches, count = user_batches(probes, self._count, self._seed, copied)
        with undisturbed(), preserved_random_state(*copied.shared_generators):
            seed_generators(self._seed)
            unpacks = not is_tensors(probes)
            sample, chosen = self._gather(model, batches, ItemCollector(count, max_bytes=math.inf), unpacks=unpacks)
        if unpacks:
            return self._probe_set(sample, chosen)
        _check_sample(sample)
        return ProbeSet(sample.items, sample.labels, chosen, is_given=True)

    def _from_loaders(self, trainer: Trainer, model: LightningModule, loaders: Any, together: bool) -> ProbeSet | None:
        first_error: Exception | None = None
        may_pass = False
        for form in self._forms(loaders, together):
            if not flat_loaders(form) or not all(map(is_read_by_index, flat_loaders(form))):
                may_pass = True
                continue
            try:
                return self._read(trainer, model, loaders, form, together)
            except Unreadable as error:
                may_pass = True
                rank_zero_info(
                    "fold_lightning takes the inputs of the first batches, because the data set cannot be read by index "
                    f"({error.__cause__!r})."
                )
            except Exception as error:
                first_error = first_error or error
        if first_error is not None and not may_pass:
            raise first_error
        return (
            self.from_stream(model) if self.is_full or (self._first_error is not None and len(self._collected) == 0) else None
        )

    def _forms(self, loaders: Any, together: bool) -> list[Any]:
        """Return the forms of loaders to try, because it is unknown whether a validation batch combines all loaders."""
        first = first_map_style(loaders)
        if self._batch_to_inputs is None:
            return [first]
        return [loaders] if together or isinstance(loaders, DataLoader) else [first, loaders]

    def _read(self, trainer: Trainer, model: LightningModule, loaders: Any, form: Any, together: bool) -> ProbeSet:
        copied = StructuralCopy()
        wanted = flat_loaders(form)
        with undisturbed(), validation_stage(trainer):
            try:
                seed_generators(self._seed)  # the user's samplers may draw random numbers
                readers = {
                    id(loader): ItemReader.of_loader(
                        loader, self._count, self._seed, max_batches(trainer, number, loader, together), copied
                    )
                    for number, loader in enumerate(flat_loaders(loaders))
                    if any(loader is other for other in wanted)
                }
                hooks = HookCopy(model, trainer.strategy.root_device)
                number = 0 if together else next(i for i, other in enumerate(flat_loaders(loaders)) if other is wanted[0])
                transfer = batch_transfer(trainer, model, hooks, number)
            except Exception as error:
                raise Unreadable from error
            with preserved_random_state(*copied.shared_generators, *hooks.shared_generators):
                return self._probe_set(*self._gather_padded(model, lambda: map(transfer, read_batches(form, readers)), readers))

    def _gather_padded(
        self, model: nn.Module, batches: Callable[[], Iterable[Any]], readers: dict[int, ItemReader]
    ) -> tuple[ItemCollector, ModelInput]:
        """Gather items of batches; if batches are padded to different lengths, collate all items in one batch."""

        def gather(*, of_any_shape: bool) -> tuple[ItemCollector, ModelInput]:
            seed_generators(self._seed)
            return self._gather(model, raising_unreadable(batches()), ItemCollector(self._count), of_any_shape=of_any_shape)

        sample, chosen = gather(of_any_shape=False)
        if not sample.num_other_shapes:
            return sample, chosen
        sizes = {key: reader.batch_size for key, reader in readers.items()}
        try:
            for reader in readers.values():
                reader.batch_size = len(reader.indices)
            return gather(of_any_shape=True)
        except Unreadable:  # they can't be collated together: items with the first one's shape are kept
            for key, size in sizes.items():
                readers[key].batch_size = size
            return gather(of_any_shape=True)

    def _gather(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sample: ItemCollector,
        *,
        of_any_shape: bool = True,
        unpacks: bool = True,
    ) -> tuple[ItemCollector, ModelInput]:
        chosen: ModelInput | None = None
        for batch in batches:
            chosen = chosen or self._choose(model, batch, unpacks=unpacks)
            sample.add(*chosen.parts(batch, model))
            if sample.is_full or (sample.num_other_shapes and not of_any_shape):
                break
        assert chosen is not None
        return sample, chosen

    def _probe_set(self, sample: ItemCollector, chosen: ModelInput, *, is_stream: bool = False) -> ProbeSet:
        _check_sample(sample)
        return ProbeSet(sample.items, without_targets(sample.labels, chosen.num_outputs), chosen, is_stream)


def _check_sample(sample: ItemCollector) -> None:
    """Raise if too few items are left, and report the numbers of those left out and of those whose labels are missing."""
    check_several(len(sample), sample.num_not_finite, sample.num_other_shapes)
    if sample.num_other_shapes:
        rank_zero_info(
            f"fold_lightning leaves out {sample.num_other_shapes} inputs, whose shape or dtype is not that of the first input, "
            f"{describe_tensor(sample.items[0])}."
        )
    if sample.num_unlabelled:
        rank_zero_info(
            f"fold_lightning measures without classes: of {len(sample)} inputs, {sample.num_unlabelled} are in batches whose labels "
            "are missing, are not classes, or are not one per input. Labels of every batch must be integers, -1 where an input has "
            "no class (`batch_to_inputs=` may return them)."
        )
    if sample.num_not_finite:
        rank_zero_info(f"fold_lightning leaves out {sample.num_not_finite} inputs, which hold NaN or infinite values.")

"""The callback that measures folding while Lightning trains."""

from __future__ import annotations

import random
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from fold_lightning import figures as drawing
from fold_lightning.activations.borrowing import preserved_random_state
from fold_lightning.probes import (
    Segments,
    draw_segments,
    finite_inputs,
    first_map_style,
    gather_inputs,
    split_batch,
    user_probes,
)
from fold_lightning.summaries import SECONDS, folding_scalars, write_layout, write_walks
from fold_lightning.walks import Walks, segment_walks

INPUTS_PER_SEGMENT = 8
"""How many inputs are looked at for each segment, so that most pairs of classes find theirs."""


class FoldingMonitor(Callback):
    """Measures how the network folds its input space, during training.

    On segments between validation inputs (training inputs where there is no validation), the same all through the run and
    spread evenly over pairs of classes where labels are there, the network's exact walks are found and their folding is
    logged: in `on_validation_epoch_end`, in `on_train_epoch_end` where there is no validation, and once before training, at
    step 0. Values go through `self.log`, so `ModelCheckpoint` and `EarlyStopping` can use them; epochs without a measurement, or
    with one that failed, keep the last, and an epoch that has none yet is measured. The model, its gradients and all random
    states stay as they were: training with the monitor is bit-identical.
    A measurement that fails during training is skipped with one warning.

    Logged, all without unit unless named:

    - ``folding/chi_mean``, ``folding/chi_median``, ``folding/chi_max`` in [0, 1): the space folding measure chi (`space_folding`)
      over the segments; the median is that of the segments that fold.
    - ``folding/fraction`` in [0, 1]: the share of segments that fold.
    - ``folding/regions``, at least 1: mean number of activation regions on a segment.
    - ``folding/exact``, ``folding/complete`` in [0, 1]: the share of segments whose walk verified itself; that was walked to its end.
    - ``folding/seconds``: what the measurement took.
    - ``folding/layer/<name>`` in [0, 1): mean chi seen through that layer's bits alone.
    - to TensorBoard only: ``folding/chi_histogram``, and with matplotlib the figure ``folding/walk`` of the segment that folds most.

    Args:
        every_n_epochs: Measure every so many epochs, and after the first that has no value yet.
        measure_at_start: Whether to measure before training too.
        layers: Whose bits count: a layer's name, a glob pattern or several of them; None counts every activation.
        probes: Inputs of your own: a tensor (B, ...), a pair of inputs and class labels, or a map-style dataset; None takes
            the validation data.
        num_segments: How many segments to walk.
        seed: Of the choice of inputs and segments.
        batch_to_inputs: A function of a batch that returns its inputs or (inputs, labels); needed where the batch is no tensor,
            no tuple that begins with one, and no dict.
        forward: How to call the model on inputs: the name of one of its methods or submodules, or a callable of
            (model, inputs); None calls the LightningModule itself.
        figures: Whether to draw; None draws where matplotlib is installed.

    Raises:
        ValueError: If a number is out of range.
        ModuleNotFoundError: If figures are wanted and matplotlib is not installed.

    Example:
        >>> from fold_lightning import FoldingMonitor
        >>> monitor = FoldingMonitor(every_n_epochs=2, layers="encoder.*")
        >>> # trainer = Trainer(callbacks=[monitor], logger=TensorBoardLogger("logs"))
    """

    _segments: Segments | None

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        measure_at_start: bool = True,
        layers: str | list[str] | None = None,
        probes: Any = None,
        num_segments: int = 64,
        seed: int = 0,
        batch_to_inputs: Callable[[Any], Any] | None = None,
        forward: str | Callable[..., Any] | None = None,
        figures: bool | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("every_n_epochs", every_n_epochs), ("num_segments", num_segments)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be a whole number of at least 0, got {seed!r}.")
        if batch_to_inputs is not None and not callable(batch_to_inputs):
            raise TypeError(f"`batch_to_inputs` must be a function of a batch, got {batch_to_inputs!r}.")
        if figures and not drawing.is_available():
            raise ModuleNotFoundError("`figures=True` needs matplotlib: pip install 'fold-lightning[figures]'.")
        self.every_n_epochs = every_n_epochs
        self.measure_at_start = measure_at_start
        self.layers = layers
        self.probes = probes
        self.num_segments = num_segments
        self.seed = seed
        self.batch_to_inputs = batch_to_inputs
        self.forward = forward
        self.figures = drawing.is_available() if figures is None else figures
        self._forget()
        if probes is not None:
            with preserved_random_state():
                user_probes(probes, 2, seed, batch_to_inputs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not trainer.loggers:
            raise MisconfigurationException(
                "FoldingMonitor logs what it measures, but the Trainer has no logger. Use `Trainer(logger=True)` or give it one, "
                "such as `TensorBoardLogger('logs')`; or take the callback away."
            )
        self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._segments = self._segments_at_start(trainer)
        if trainer.is_global_zero:
            write_layout(trainer.loggers)
        if self._segments is None:
            return
        if not self.measure_at_start or trainer.global_step > 0:
            self._walk(pl_module, self._segments.first(1))  # refuses now what could not be measured later
            return
        self._measure(trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(self._scalars, step=0)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect(batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not _validates(trainer):
            self._collect(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._measure_and_log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _validates(trainer):
            self._measure_and_log(trainer, pl_module)

    def _forget(self) -> None:
        self._segments = None
        self._passing: list[tuple[Tensor, Tensor | None]] | None = [] if self.probes is None else None
        self._scalars: dict[str, float] = {}
        self._last_epoch = 0
        self._has_failed = False
        self._warned: set[str] = set()

    @property
    def _num_inputs(self) -> int:
        return INPUTS_PER_SEGMENT * self.num_segments

    def _choose(self, inputs: Tensor, labels: Tensor | None) -> Segments:
        self._passing = None
        inputs, labels = finite_inputs(inputs.detach().cpu(), labels)
        return draw_segments(inputs, labels, self.num_segments, self.seed)

    def _segments_at_start(self, trainer: Trainer) -> Segments | None:
        """Segments between the user's probes or items of a dataset; None where only a stream of batches will bring inputs."""
        # Items are read by index and collated here: iterating a loader would move its generator and the global one.
        with preserved_random_state():
            _seed_all(self.seed)
            if self.probes is not None:
                return self._choose(*user_probes(self.probes, self._num_inputs, self.seed, self.batch_to_inputs))
            loaders = trainer.val_dataloaders if _validates(trainer) else trainer.train_dataloader
            loader = first_map_style(loaders)
            if loader is None:
                return self._segments_from_stream()
            batch = gather_inputs(loader.dataset, self._num_inputs, self.seed, loader.collate_fn)
            batch = trainer.strategy.batch_to_device(batch)
            return self._choose(*split_batch(batch, self.batch_to_inputs))

    def _collect(self, batch: Any) -> None:
        """Keeps the first inputs of a stream of batches that can't be read by index."""
        if self._passing is None or sum(len(inputs) for inputs, _ in self._passing) >= self._num_inputs:
            return
        inputs, labels = split_batch(batch, self.batch_to_inputs)
        self._passing.append((inputs.detach().cpu().clone(), None if labels is None else labels.cpu().clone()))

    def _segments_from_stream(self) -> Segments | None:
        if not self._passing:
            return None
        inputs, labels = zip(*self._passing, strict=True)
        classes = None if any(some is None for some in labels) else torch.cat(labels)
        return self._choose(torch.cat(inputs), classes)

    def _measure_and_log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        passed = epoch // self.every_n_epochs > self._last_epoch // self.every_n_epochs
        if passed or epoch == self._last_epoch or not self._scalars:
            self._last_epoch = epoch
            try:
                self._measure(trainer, pl_module)
            except Exception as error:  # a failed measurement must not cost the run
                if not self._has_failed:
                    rank_zero_warn(
                        f"FoldingMonitor measured nothing at epoch {trainer.current_epoch}: {error} (training goes on; said once)"
                    )
                self._has_failed = True
        if self._scalars:
            pl_module.log_dict(self._scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        begin = time.perf_counter()
        if self._segments is None:
            self._segments = self._segments_from_stream()
        if self._segments is None:
            raise RuntimeError("no batch with inputs has passed yet")
        walks = self._walk(pl_module, self._segments)
        scalars = folding_scalars(walks)
        if trainer.is_global_zero:
            write_walks(trainer.loggers, walks, trainer.global_step, figures=self.figures)
        self._scalars = scalars | {SECONDS: time.perf_counter() - begin}

    def _walk(self, pl_module: LightningModule, segments: Segments) -> Walks:
        segments = segments.to(pl_module.device)
        with self._each_warning_once():
            return segment_walks(pl_module, segments.start, segments.end, layers=self.layers, forward=self.forward)

    @contextmanager
    def _each_warning_once(self) -> Iterator[None]:
        """What a measurement warns of, it would warn of in every epoch."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            self._warn_once(str(warning.message), warning.category)

    def _warn_once(self, message: str, category: type[Warning] = UserWarning) -> None:
        without_numbers = re.sub(r"\d+", "", message)
        if without_numbers not in self._warned:
            rank_zero_warn(message, category=category)
        self._warned.add(without_numbers)


def _validates(trainer: Trainer) -> bool:
    """Whether there will be validation epochs; a loader may be there and empty."""
    return trainer.enable_validation and sum(trainer.num_val_batches) > 0


def _seed_all(seed: int) -> None:
    """Makes a dataset that augments its items give the same ones in each run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

"""The callback that measures folding while Lightning trains."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from fold_lightning import figures as drawing
from fold_lightning import summaries
from fold_lightning.activations.borrowing import preserved_random_state
from fold_lightning.callbacks.measurement import CodeCounts, Measurement
from fold_lightning.callbacks.regularization import Regularization, as_regularizer
from fold_lightning.metrics import GlobalFolding
from fold_lightning.probes import (
    FaceInputs,
    FaceProbes,
    FaceSubspace,
    Pool,
    ProbeSource,
    Segments,
    check_face_arguments,
    draw_segments,
    split_batch,
    user_probes,
)
from fold_lightning.regions import NoPolytopes
from fold_lightning.regularizer import FoldingRegularizer

DEFAULT_INPUTS = 1000
"""Inputs looked at where all that pass are counted."""

INPUTS_PER_SEGMENT = 8
"""How many inputs are looked at for each segment, so that most pairs of classes find theirs."""


SETTINGS = (
    *("every_n_epochs", "layers", "num_segments", "segments_per_pair", "num_inputs", "seed", "folding", "codes", "faces"),
    "face_subspace",
)
"""What of a monitor's arguments is among a run's hyperparameters."""


@dataclass(frozen=True)
class Measured:
    """What one process has measured: scalars, counts that may have to be gathered, whether there are classes, seconds."""

    scalars: dict[str, float]
    counts: CodeCounts | None
    has_classes: bool
    seconds: float


class FoldingMonitor(Callback):
    """Measures how the network folds its input space, during training.

    On segments between validation inputs (training inputs where there is no validation), the same all through the run and
    spread evenly over ordered pairs of classes where labels are there, the network's exact walks are found and their folding is
    logged; and the codes of such inputs are counted. It measures in `on_validation_epoch_end`, in `on_train_epoch_end` where
    there is no validation, and once before training, at step 0. Values go through `self.log`, so `ModelCheckpoint` and
    `EarlyStopping` can use them; epochs without a measurement, or with one that failed, keep the last, and an epoch that has none
    yet is measured. The model, its gradients and all random states stay as they were: training with the monitor is
    bit-identical, unless `regularize=` asks for more folding. A measurement that fails during training is skipped with one warning.

    Labels are classes if they are integers or booleans (B,) or (B, 1), zeros and ones of any type, or one-hot (B, C); a negative one
    says that its input has none. Inputs of a stream that can't be read by index are those that pass first, and there is a
    measurement before training only if the sanity check saw enough of them. Processes share what passes, and the same probes.

    Logged, all without unit unless named:

    - ``folding/chi_mean``, ``folding/chi_median``, ``folding/chi_max`` in [0, 1): the space folding measure chi (`space_folding`)
      over the segments; the median is that of the segments that fold.
    - ``folding/fraction`` in [0, 1]: the share of segments that fold.
    - ``folding/phi`` in [0, 1): Phi_N (`global_folding`), the median over the ordered pairs of classes that have segments of the
      largest chi of each; absent without labels of two classes.
    - ``folding/regions``, at least 1: mean number of activation regions on a segment.
    - ``folding/exact``, ``folding/complete`` in [0, 1]: the share of segments whose walk verified itself; that was walked to its end.
    - ``folding/segments``: how many segments were walked.
    - ``folding/seconds``: what the measurement took, codes and all.
    - ``folding/layer/<name>`` in [0, 1): mean chi seen through that layer's bits alone.
    - ``codes/distinct``, ``codes/layer/<name>``: how many activation regions the inputs occupy (`DistinctCodes`), by all units and
      by those of a layer; ``codes/distinct_fraction`` in (0, 1]: the same for each input.
    - ``codes/distinct_correct``: the same of the inputs that are classified correctly; absent without labels, and where the
      model's output is no logits for them (the largest of as many as there are classes, or the sign of one).
    - ``faces/mean``, ``faces/max``: how many faces the activation regions around up to 64 inputs have (`face_counts`), or random
      slices of theirs; ``faces/bound``: 2d, or 2k in slices of k dimensions, which bounds the mean over **all** regions, while
      regions around points may exceed it; ``faces/random_mean``, ``faces/random_max``: the same around random inputs, if asked
      for. Absent where the network curves before a layer that counts.
    - with `regularize=`, from steps that have a term, of the first process: ``regularizer/term``, ``regularizer/weight`` and, in
      [0, 1), ``regularizer/soft_chi`` (`FoldingRegularizer`).
    - to TensorBoard only: the histograms ``folding/chi_histogram`` and ``faces/histogram`` (``faces/random_histogram``); with
      matplotlib the figures ``folding/walk`` of the segment that folds most, ``folding/phi_matrix`` of the pairs of classes and
      ``regions/slice`` of the regions around an input; and, when training ends, the codes as an embedding.

    Args:
        every_n_epochs: Measure every so many epochs, and after the first that has no value yet.
        measure_at_start: Whether to measure before training too.
        layers: Whose bits count: a layer's name, a glob pattern or several of them; None counts every activation.
        probes: Inputs of your own: a tensor (B, ...), a pair of inputs and class labels, or a map-style dataset; None takes
            the validation data.
        num_segments: How many segments to walk.
        segments_per_pair: How many to walk for each ordered pair of different classes, instead of `num_segments` in all.
        num_inputs: Of how many inputs to count codes; "all" counts those of the first validation loader, as its batches pass,
            by one more forward pass each; then the measurement before training has none, and under DDP an input that the
            sampler repeats counts twice in the fraction.
        folding: Whether to walk segments.
        codes: Whether to count codes.
        faces: Whether to count faces of regions: True or "data" around inputs, "random" around inputs spread evenly over the box that
            these span, "both".
        face_subspace: k, to count those of random slices of k dimensions; "whole" for those of whole regions; "auto" takes whole
            regions of up to 4 features and slices of 2 dimensions beyond. It is among the run's hyperparameters.
        seed: Of the choice of inputs, segments and slices.
        batch_to_inputs: A function of a batch that returns its inputs or (inputs, labels); needed where the batch is no tensor,
            no tuple that begins with one, and no dict.
        forward: How to call the model on inputs: the name of one of its methods or submodules, or a callable of
            (model, inputs); None calls the LightningModule itself.
        figures: Whether to draw; None draws where matplotlib is installed.
        regularize: Whether to push the network to fold: True adds the term of a `FoldingRegularizer` to the loss, a number is its
            weight (below 0 it discourages folding), and one of your own has your own arguments. Training is another one then.

    Raises:
        ValueError: If a number is out of range.
        ModuleNotFoundError: If figures are wanted and matplotlib is not installed.

    Example:
        >>> from fold_lightning import FoldingMonitor
        >>> monitor = FoldingMonitor(every_n_epochs=2, layers="encoder.*")
        >>> # trainer = Trainer(callbacks=[monitor], logger=TensorBoardLogger("logs"))
    """

    _pool: Pool | None
    _segments: Segments | None
    _faces: FaceProbes | None
    _counts: CodeCounts | None
    _lost: Exception | None
    _measurement: Measurement

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        measure_at_start: bool = True,
        layers: str | list[str] | None = None,
        probes: Any = None,
        num_segments: int = 64,
        segments_per_pair: int | None = None,
        num_inputs: int | Literal["all"] = 1000,
        seed: int = 0,
        folding: bool = True,
        codes: bool = True,
        faces: bool | FaceInputs = True,
        face_subspace: int | FaceSubspace = "auto",
        batch_to_inputs: Callable[[Any], Any] | None = None,
        forward: str | Callable[..., Any] | None = None,
        figures: bool | None = None,
        regularize: bool | float | FoldingRegularizer = False,
    ) -> None:
        super().__init__()
        whole = {"every_n_epochs": every_n_epochs, "num_segments": num_segments}
        whole |= {} if segments_per_pair is None else {"segments_per_pair": segments_per_pair}
        if layers is not None and not isinstance(layers, (str, list, tuple)):
            raise TypeError(f"`layers` must be names or glob patterns, got {layers!r}.")
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
        if num_inputs != "all" and (not isinstance(num_inputs, int) or isinstance(num_inputs, bool) or num_inputs < 2):
            raise ValueError(f"`num_inputs` must be a whole number of at least 2, or 'all', got {num_inputs!r}.")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be a whole number of at least 0, got {seed!r}.")
        check_face_arguments(faces, face_subspace)
        if not folding and not codes and not faces and regularize is False:
            raise ValueError(
                "With `folding=False`, `codes=False` and `faces=False` there is nothing to measure: take the callback away."
            )
        if batch_to_inputs is not None and not callable(batch_to_inputs):
            raise TypeError(f"`batch_to_inputs` must be a function of a batch, got {batch_to_inputs!r}.")
        if figures and not drawing.is_available():
            raise ModuleNotFoundError("`figures=True` needs matplotlib: pip install 'fold-lightning[figures]'.")
        self.every_n_epochs = every_n_epochs
        self.measure_at_start = measure_at_start
        self.layers = layers
        self.probes = probes
        self.num_segments = num_segments
        self.segments_per_pair = segments_per_pair
        self.num_inputs = num_inputs
        self.seed = seed
        self.folding = folding
        self.codes = codes
        self.faces = faces
        self.face_subspace: int | FaceSubspace = face_subspace
        self.batch_to_inputs = batch_to_inputs
        self.forward = forward
        self.figures = drawing.is_available() if figures is None else figures
        self.regularizer = as_regularizer(regularize, layers, seed)
        self._regularization = None
        if self.regularizer is not None:
            by_default = not isinstance(regularize, FoldingRegularizer)
            self._regularization = Regularization(self.regularizer, batch_to_inputs, forward, by_default=by_default)
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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._regularization is not None:
            self._regularization.start(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._regularization is not None:
            self._regularization.stop(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._regularization is not None:
            self._regularization.stop(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counts_all and not _validates(trainer):
            raise MisconfigurationException(
                "`num_inputs='all'` counts the codes of validation batches as they pass, and this run has no validation: give it "
                "some, or a number of inputs."
            )
        with preserved_random_state():
            _seed_all(self.seed)
            loaders = trainer.val_dataloaders if _validates(trainer) else trainer.train_dataloader
            self._take(trainer, self._source.at_start(loaders, trainer.strategy.batch_to_device))
        if trainer.is_global_zero:
            settings = {name: getattr(self, name) for name in SETTINGS}
            if self._faces is not None:
                settings["face_dimension"] = self._faces.dimension
            summaries.write_settings(trainer.loggers, {"folding_monitor": settings})
            summaries.write_layout(trainer.loggers)
        if self._pool is None:
            self._source.restart()  # the sanity check's batches come again
            return
        if not self.measure_at_start or trainer.global_step > 0:
            self._refuse_what_cannot_be_measured(pl_module)
            return
        self._settle(self._measure(trainer, pl_module))
        summaries.write_start(trainer.loggers, self._scalars, None if self._faces is None else self._faces.describe())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not _validates(trainer):
            self._source.collect(batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.codes and self._counts_all and self._is_due(trainer):
            self._counts, self._lost = CodeCounts(self._measurement), None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 0:
            self._source.collect(batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._counts is None or self._lost is not None or dataloader_idx > 0:
            return
        try:
            self._counts.add(pl_module, split_batch(batch, self.batch_to_inputs))
        except Exception as error:
            self._lost = error

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._measure_and_log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _validates(trainer):
            self._measure_and_log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._pool is None or not self.codes or not trainer.is_global_zero or not summaries.draws(trainer.loggers):
            return
        try:
            inputs, labels = self._counted()
            codes, _ = self._measurement.codes(pl_module, inputs)
            summaries.write_embedding(trainer.loggers, codes.bits, labels, trainer.global_step)
        except Exception as error:
            self._warn_of_failure(trainer, error)

    def _forget(self) -> None:
        most = INPUTS_PER_SEGMENT * self.num_segments
        count = max(most, DEFAULT_INPUTS if self.num_inputs == "all" else self.num_inputs)
        self._source = ProbeSource(count, self.seed, self.probes, self.batch_to_inputs)
        self._pool = None
        self._segments = None
        self._faces = None
        self._counts = None
        self._lost = None
        self._measurement = Measurement(self.layers, self.forward)
        self._scalars: dict[str, float] = {}
        self._last_epoch = 0
        self._has_failed = False

    @property
    def _counts_all(self) -> bool:
        return self.num_inputs == "all" and self.probes is None

    def _take(self, trainer: Trainer, pool: Pool | None) -> None:
        """Takes inputs for all of the run, the same in all processes."""
        self._pool = pool = trainer.strategy.broadcast(pool)
        if pool is not None and self.folding:
            self._segments = draw_segments(*pool, self.num_segments, self.seed, per_pair=self.segments_per_pair)
            rank_zero_info(f"FoldingMonitor walks {self._segments.describe()}.")
        if pool is not None and self.faces:
            self._faces = FaceProbes.of(pool[0], self.faces, self.face_subspace, self.seed)

    def _counted(self) -> Pool:
        """The inputs whose codes are counted, and their labels."""
        assert self._pool is not None
        inputs, labels = self._pool
        every = len(inputs) if self.probes is not None else DEFAULT_INPUTS
        count = every if self.num_inputs == "all" else self.num_inputs
        return inputs[:count], None if labels is None else labels[:count]

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return False
        epoch = trainer.current_epoch + 1
        passed = epoch // self.every_n_epochs > self._last_epoch // self.every_n_epochs
        return passed or epoch == self._last_epoch or not self._scalars

    def _measure_and_log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due(trainer):
            self._last_epoch = trainer.current_epoch + 1
            measured = None
            try:
                measured = self._measure(trainer, pl_module)
            except Exception as error:  # a failed measurement must not cost the run
                self._warn_of_failure(trainer, error)
            # What one process failed to measure, none logs: they would wait for each other for ever.
            agreed = trainer.strategy.reduce_boolean_decision(measured is not None)
            if agreed and measured is not None:
                self._settle(measured)
            elif measured is not None:
                self._warn_of_failure(trainer, RuntimeError("another process could not"))
            self._counts = None
        if self._scalars:
            pl_module.log_dict(self._scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> Measured:
        begin = time.perf_counter()
        if self._pool is None:
            self._take(trainer, self._source.from_stream())
        if self._pool is None:
            raise RuntimeError("no batch with inputs has passed yet")
        if self._lost is not None:
            raise self._lost
        scalars = self._measure_folding(trainer, pl_module) | self._measure_faces(trainer, pl_module)
        counts, has_classes = None, False
        if self.codes:
            has_classes = self._measurement.says_classes(pl_module, self._pool)
            counts = self._counts if self._counts_all else CodeCounts(self._measurement, sync=False)
            if counts is not None and not self._counts_all:
                counts.add(pl_module, self._counted())
        return Measured(scalars, counts, has_classes, time.perf_counter() - begin)

    def _settle(self, measured: Measured) -> None:
        """Gathers what all processes have counted."""
        begin, codes = time.perf_counter(), {}
        if (counts := measured.counts) is not None:
            codes = summaries.codes_scalars(counts.distinct, counts.correct if measured.has_classes else None)
        took = measured.seconds + time.perf_counter() - begin
        self._scalars = measured.scalars | codes | {summaries.SECONDS: took}

    def _measure_folding(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        if self._segments is None:
            return {}
        walks = self._measurement.walks(pl_module, self._segments)
        between = self._segments.between_classes()
        folding = None
        if between is not None:
            folding = GlobalFolding(len(between.classes), sync_on_compute=False)
            folding.update(walks, between.start, between.end)
        if trainer.is_global_zero:
            matrix = None if between is None or folding is None else (folding.matrix(), between.classes)
            summaries.write_walks(trainer.loggers, walks, trainer.global_step, matrix=matrix, figures=self.figures)
        return summaries.folding_scalars(walks, folding)

    def _measure_faces(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        if (probes := self._faces) is None:
            return {}
        try:
            data, random = (
                None if inputs is None else self._measurement.faces(pl_module, inputs, probes.subspace, probes.seed)
                for inputs in (probes.data, probes.random)
            )
        except NoPolytopes as reason:
            rank_zero_info(f"FoldingMonitor counts no faces. {reason}")
            self._faces = None
            return {}
        if trainer.is_global_zero:
            picture = None
            if self.figures and probes.dimension > 1 and summaries.draws(trainer.loggers):
                assert self._pool is not None
                picture = self._measurement.slice(pl_module, self._pool[0][:1], probes.seed)
            summaries.write_faces(trainer.loggers, data, random, trainer.global_step, picture=picture)
        return summaries.faces_scalars(data, random, probes.dimension)

    def _refuse_what_cannot_be_measured(self, pl_module: LightningModule) -> None:
        if self._segments is not None:
            self._measurement.walks(pl_module, self._segments.first(1))
        if self.codes:
            self._measurement.codes(pl_module, self._counted()[0][:2])
        if (probes := self._faces) is not None:
            assert self._pool is not None
            with suppress(NoPolytopes):
                self._measurement.faces(pl_module, self._pool[0][:1], probes.subspace, probes.seed)

    def _warn_of_failure(self, trainer: Trainer, error: Exception) -> None:
        if not self._has_failed:
            rank_zero_warn(
                f"FoldingMonitor measured nothing at epoch {trainer.current_epoch}: {error} (training goes on; said once)"
            )
        self._has_failed = True


def _validates(trainer: Trainer) -> bool:
    """Whether there will be validation epochs; a loader may be there and empty."""
    return trainer.enable_validation and sum(trainer.num_val_batches) > 0


def _seed_all(seed: int) -> None:
    """Makes a dataset that augments its items give the same ones in each run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

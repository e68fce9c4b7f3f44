"""The callback that measures folding while Lightning trains it: when it measures, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fold_lightning.callbacks.measurement import CodeCounts
from fold_lightning.callbacks.regularization import Regularization, as_regularizer
from fold_lightning.callbacks.run import Run
from fold_lightning.callbacks.settings import Settings
from fold_lightning.probes import FaceInputs, FaceSubspace, user_probes
from fold_lightning.regularizer import FoldingRegularizer
from fold_lightning.summaries import unmeasured


class AnyCallback(Callback):
    """A callback of `lightning.pytorch`, and of `pytorch_lightning` where that is imported."""


class FoldingMonitor(AnyCallback):
    """Measures how the network folds its input space, during training.

    On segments between validation inputs (training inputs where there is no validation), the same all through the run and spread
    evenly over ordered pairs of classes where labels are there, the network's exact walks are found and their folding is logged;
    and the codes of such inputs are counted. It measures in `on_validation_epoch_end`, in `on_train_epoch_end` where there is no
    validation, and once before training, at step 0. Values go through `self.log`, so `ModelCheckpoint` and `EarlyStopping` can use
    them; in epochs without a measurement, or with one that failed, they find the last, while loggers get none. An epoch that has
    none yet is measured. The model, its gradients and all random states stay as they were: training with the monitor is
    bit-identical, unless `regularize=` asks for more folding. A measurement that fails during training is skipped with one warning;
    as long as none has succeeded, callbacks that wait for a tag find NaN, `EarlyStopping` the worst value there is, for it would
    stop at NaN. By default it takes about 2 % of the time that training takes, by measuring as many of the segments and inputs as
    that allows.

    Labels are classes if they are integers or booleans (B,) or (B, 1), zeros and ones of any type, or one-hot (B, C); a negative one
    says that its input has none. Inputs of a stream that can't be read by index are those that pass first, and there is a
    measurement before training only if the sanity check saw enough of them. All processes look at the same probes and share the
    work, and the values are those of one process. A run that goes on from a checkpoint goes on with the same probes.
    Measured are the weights in the module at that moment: before `WeightAveraging` in the list of callbacks the averaged ones,
    after it those that train on.

    Logged, all without unit unless named:

    - ``folding/chi_mean``, ``folding/chi_median``, ``folding/chi_max`` in [0, 1): the space folding measure chi (`space_folding`)
      over the segments; the median is that of the segments that fold.
    - ``folding/fraction`` in [0, 1]: the share of segments that fold.
    - ``folding/phi`` in [0, 1): Phi_N (`global_folding`), the median over the ordered pairs of classes that have segments of the
      largest chi of each; absent without labels of two classes.
    - ``folding/regions``, at least 1: mean number of activation regions on a segment.
    - ``folding/exact``, ``folding/complete`` in [0, 1]: the share of segments whose walk verified itself; that was walked to its end.
    - ``folding/segments``, ``codes/inputs``, ``faces/inputs``: how many segments were walked, of how many inputs codes were
      counted, and around how many faces.
    - ``folding/seconds``: what the measurement took in s, codes and all, without pictures.
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
      ``regions/slice`` of the regions around an input (of all layers); and, when training ends, the codes as an embedding.

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
        max_seconds: How long a measurement may take. "auto" takes 2 % of the time since the last one, 0.05 s at least, and measures
            less often where that or the fewest inputs and segments take longer than the share, once that came to 3 s in all; but
            always when training ends, and in every epoch if a callback or a learning rate schedule monitors one of the tags; a number
            is kept at each measurement, but for the fewest inputs; None has no limit, so that values depend on no clock. What does
            not fit is left out from the end, by a decision of the first process, and the tags say how much was measured. Walks have
            1 s in any case; if not even one is walked in its time, its segment is looked at at 33 points, ``folding/complete`` is
            0, and a warning says so. `num_inputs="all"` counts them all in any case.
        forward: How to call the model on inputs: the name of one of its methods or submodules, or a callable of
            (model, inputs); None calls the LightningModule itself.
        figures: Whether to draw at every measurement; None draws where matplotlib is installed, when training ends and as often
            before as that takes 0.5 % of the time.
        regularize: Whether to push the network to fold: True adds the term of a `FoldingRegularizer` to the loss, a number is its
            weight (below 0 it discourages folding), and one of your own has your own arguments. Training is another one then.

    Raises:
        ValueError: If a number is out of range, or nothing is left to measure.
        TypeError: If an argument is of another kind.
        ModuleNotFoundError: If figures are wanted and matplotlib is not installed.

    Example:
        >>> from fold_lightning import FoldingMonitor
        >>> monitor = FoldingMonitor(every_n_epochs=2, layers="encoder.*")
        >>> # trainer = Trainer(callbacks=[monitor], logger=TensorBoardLogger("logs"))
    """

    gives_way = False

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
        max_seconds: float | Literal["auto"] | None = "auto",
        batch_to_inputs: Callable[[Any], Any] | None = None,
        forward: str | Callable[..., Any] | None = None,
        figures: bool | None = None,
        regularize: bool | float | FoldingRegularizer = False,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            every_n_epochs=every_n_epochs,
            measure_at_start=measure_at_start,
            layers=layers,
            probes=probes,
            num_segments=num_segments,
            segments_per_pair=segments_per_pair,
            num_inputs=num_inputs,
            seed=seed,
            folding=folding,
            codes=codes,
            faces=faces,
            face_subspace=face_subspace,
            max_seconds=max_seconds,
            batch_to_inputs=batch_to_inputs,
            forward=forward,
            figures=figures,
        )
        if probes is not None:
            user_probes(probes, 2, seed, batch_to_inputs)
        self.regularizer = as_regularizer(regularize, layers, seed)
        if not self.settings.measures and self.regularizer is None:
            raise ValueError(
                "With `folding=False`, `codes=False` and `faces=False` there is nothing to measure: take the callback away."
            )
        self._regularization = None
        if self.regularizer is not None:
            by_default = not isinstance(regularize, FoldingRegularizer)
            self._regularization = Regularization(self.regularizer, batch_to_inputs, forward, by_default=by_default)
        self._run: Run | None = None
        self._counts: CodeCounts | None = None
        self._lost: Exception | None = None
        self._is_due = False

    @property
    def state_key(self) -> str:
        """Under which a checkpoint keeps the state."""
        settings = self.settings
        return self._generate_state_key(
            layers=settings.layers, folding=settings.folding, codes=settings.codes, faces=settings.faces
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._refuse(trainer)
        self._run = Run(self.settings, trainer) if self.settings.measures else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._regularization is not None:
            self._regularization.start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            self._run.begin(trainer, pl_module)
            self._show_last(self._run, trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._run is None:
            return
        self._run.go_on(trainer)
        if not self._run.validates and trainer.is_global_zero:
            self._run.source.collect(batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts, self._lost, self._is_due = None, None, False
        if self._run is not None and _is_fitting(trainer):
            self._run.go_on(trainer)
            self._is_due = self._run.is_due(trainer, self.settings.every_n_epochs)
        if self._is_due and self._run is not None and self.settings.counts_all:
            self._counts = CodeCounts(self._run.measurement)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._run is not None and trainer.state.fn == "fit" and dataloader_idx == 0 and trainer.is_global_zero:
            self._run.source.collect(batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._run is None or self._counts is None or self._lost is not None or dataloader_idx > 0:
            return
        try:
            self._counts.add(pl_module, self._run.source.split(batch))
        except Exception as error:
            self._lost = error

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None and _is_fitting(trainer) and self._run.validates:
            self._measure_and_log(self._run, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None and not self._run.validates:
            self._is_due = self._run.is_due(trainer, self.settings.every_n_epochs)
            self._measure_and_log(self._run, trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            self._run.end(trainer, pl_module)
            self._show_last(self._run, trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._run is not None and self._run.is_measuring:
            self._run.warn_of_failure(trainer, exception)
        if self._regularization is not None:
            self._regularization.stop(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._regularization is not None:
            self._regularization.stop(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._run is None else self._run.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._run is not None and state_dict:
            self._run.restore(state_dict)

    def _refuse(self, trainer: Trainer) -> None:
        if not trainer.loggers:
            raise MisconfigurationException(
                "FoldingMonitor logs what it measures, but the Trainer has no logger. Use `Trainer(logger=True)` or give it one, "
                "such as `TensorBoardLogger('logs')`; or take the callback away."
            )
        if self.settings.measures and len(self._monitors(trainer)) > 1:
            raise MisconfigurationException(
                "Two FoldingMonitors would log under the same tags: take one of them away, or let it regularize alone "
                "(`folding=False, codes=False, faces=False, regularize=True`)."
            )

    def _monitors(self, trainer: Trainer) -> list[FoldingMonitor]:
        """Those of a Trainer that measure, and that the user asked for."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
        monitors = (callback for callback in callbacks if isinstance(callback, FoldingMonitor))
        return [monitor for monitor in monitors if monitor.settings.measures and not monitor.gives_way]

    def _measure_and_log(self, run: Run, trainer: Trainer, pl_module: LightningModule) -> None:
        is_new = self._is_due and run.try_to_measure(trainer, pl_module, self._counts, self._lost)
        self._counts = None
        if is_new:  # the same in all processes, so the largest is their value
            pl_module.log_dict(
                run.scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1, reduce_fx="max"
            )
        else:
            self._show_last(run, trainer)

    def _show_last(self, run: Run, trainer: Trainer) -> None:
        """Lets callbacks find the last values: one that waits for a tag in vain would end the training."""
        found = run.scalars or self._nothing(trainer)
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in found.items()})

    def _nothing(self, trainer: Trainer) -> dict[str, float]:
        """What callbacks find as long as no measurement has succeeded: NaN, or the worst value where one would stop at that."""
        settings = self.settings
        values = unmeasured(folding=settings.folding, codes=settings.codes, faces=bool(settings.faces))
        for stopping in trainer.early_stopping_callbacks:
            if stopping.check_finite and stopping.monitor in values:
                worst = torch.finfo(torch.float32).max if stopping.mode == "min" else torch.finfo(torch.float32).min
                values[stopping.monitor] = worst if stopping.divergence_threshold is None else stopping.divergence_threshold
        return values


def _is_fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking

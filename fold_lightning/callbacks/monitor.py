"""The callback that measures folding while Lightning trains: its arguments, and what it does in each hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from fold_lightning.callbacks.held_push import HeldPush, has_whole_gradients
from fold_lightning.callbacks.loss_term import LossTerm
from fold_lightning.callbacks.regularization import (
    REGULARIZER_TAGS,
    Regularization,
    as_regularizer,
    regularizer_hyperparameters,
)
from fold_lightning.callbacks.session import Session
from fold_lightning.callbacks.settings import Method, Settings
from fold_lightning.callbacks.trainer_state import has_validation_data, logged_step, will_validate
from fold_lightning.folding import Aggregate
from fold_lightning.probes import FaceSubspace
from fold_lightning.regularizer import FoldingRegularizer


class AnyCallback(Callback):
    """A callback of `lightning.pytorch`, and of `pytorch_lightning` where that is imported."""


class FoldingMonitor(AnyCallback):
    """Measures how the network folds its input space, during training.

    It looks at validation inputs (training inputs where there is no validation): at the exact walks of segments between them, spread
    evenly over ordered pairs of classes, at their codes, and at the regions around them. The sample is drawn once, when training
    begins, by the seed and never by a clock, and all of it is measured each time: before training, at the end of due epochs, and
    when training ends. Where measuring takes more than `max_overhead` of the training's time, fewer epochs are measured, not fewer
    segments. `trainer.validate` and `trainer.test` measure once.

    Values go through `self.log`, so `ModelCheckpoint` and `EarlyStopping` can use them; epochs that they decide by are always
    measured, and in epochs without a measurement they find the last values, while loggers get none. The model, its gradients and all
    random states stay as they were: training with the monitor is bit-identical, unless `regularize=` asks for more folding. What
    can't be measured is refused before training; a measurement that fails later costs one warning.

    Labels are classes if they are integers or booleans (B,) or (B, 1), zeros and ones of any type, or one-hot (B, C), and not as
    many different ones as in a regression; a negative one says that its input has none. Inputs of a stream that can't be read by
    index are those that pass first. All processes look at the same sample and share the work, and the values are those of one
    process. A run that goes on from a checkpoint goes on with the same sample. The weights measured are those in the module at that
    moment: before `WeightAveraging` in the list of callbacks the averaged ones, after it those that train on.

    Logged, all without unit unless named:

    - ``folding/chi_mean``, ``folding/chi_median``, ``folding/chi_max`` in [0, 1): the space folding measure chi (`space_folding`)
      over the segments; the median is that of the segments that fold.
    - ``folding/fraction`` in [0, 1]: the share of segments that fold.
    - ``folding/phi`` in [0, 1): Phi_N (`global_folding`), the median over the ordered pairs of classes that have segments of the
      largest chi of each, unless `within=` and `across=` say otherwise; absent without labels of two classes. The tag's
      description has the number of segments of a pair, which must be equal where values are compared.
    - ``folding/regions``, at least 1: mean number of activation regions on a segment; absent for method "uniform".
    - ``folding/exact``, ``folding/complete`` in [0, 1]: the share of segments whose walk is exact and verified itself; that was not
      given up.
    - ``folding/layer/<name>`` in [0, 1): mean chi seen through that layer's bits alone.
    - ``codes/distinct``, ``codes/layer/<name>``: how many activation regions the inputs occupy (`DistinctCodes`), by all units and
      by those of a layer; ``codes/distinct_fraction`` in (0, 1]: the same for each input.
    - ``codes/distinct_correct``: the same of the inputs that are classified correctly; absent without labels, and where the
      model's output has not as many numbers as there are classes (or one for two).
    - ``codes/within``, ``codes/between`` in [0, 1]: mean Hamming distance of the codes of two inputs of one class, and of different
      classes, as a share of units (`CodeDistances`); absent without labels.
    - ``units/dead``, ``units/always_active``, ``units/active`` in [0, 1]: share of units that no input activates; that every input
      does; mean share active (`UnitActivity`); and the same of a layer, ``units/dead/<name>``.
    - ``faces/mean``, ``faces/max``: how many faces the activation regions around inputs have (`face_counts`), or random slices of
      theirs; ``faces/bound``: 2d, or 2k in slices of k dimensions, which bounds the mean over **all** regions, while regions around
      points may exceed it. Absent where the network curves before a layer that counts.
    - ``regions/distance_mean``, ``regions/distance_median``: how far inputs lie from the borders of these regions or slices
      (`boundary_distances`), in the unit of the inputs.
    - ``monitor/seconds``: the time of the measurement in s, without figures.
    - with `regularize=`, from steps that take the term anew, of the first process: ``regularizer/term``, ``regularizer/weight`` (the
      weight by the schedule) and, in [0, 1), ``regularizer/soft_chi`` (`FoldingRegularizer`).
    - to TensorBoard only: the histograms ``folding/chi_histogram`` and ``faces/histogram``; with matplotlib the figures
      ``folding/walk`` of the segment that folds most, ``folding/chi_over_steps``, the distribution of chi at all measurements,
      ``folding/phi_matrix`` of the pairs of classes, ``codes/distances`` and ``units/by_layer``, ``faces/counts`` with the bound,
      and ``regions/slice``, the map of regions in a plane through inputs of three classes (`slice_map`, of all layers), with
      ``regions/slice_by_class`` where several are predicted there; and, when training ends, the codes as an embedding, by all units
      and by each layer.

    The sample's sizes, the method and its reason are among the run's hyperparameters.

    Args:
        every_n_epochs: Measure every so many epochs.
        every_n_train_steps: Measure every so many optimizer steps too; None measures at epochs only.
        measure_at_start: Whether to measure before training.
        max_overhead: Share of the training's time that measuring may take, the next measurement and that at the end included, before
            due epochs are left out, once it takes more than 10 s in all; None measures every due epoch. Epochs by which a callback or
            a learning-rate schedule decides are never left out.
        layers: Layers whose bits count: a name, a glob pattern or several of them; None counts every activation.
        probes: Inputs to measure: a tensor (B, ...), a pair of inputs and class labels, or a map-style dataset; None takes the
            validation data.
        method: "exact" walks segments through every region, "uniform" looks at `num_points` equidistant points in the model's own
            precision; "auto" chooses once, when training begins, by the number of switches on some segments.
        num_points: Points of a segment for method "uniform".
        num_segments: Segments to walk; as many for each ordered pair of classes, so up to 128, where there are at most 128 pairs.
        segments_per_pair: Segments for each ordered pair of different classes, in place of `num_segments`.
        within: How Phi_N takes the segments of one pair of classes together: "max", "median" or "mean" of those that fold. The
            largest grows with the number of segments of a pair, so only values of equally many compare; the median does not.
        across: How Phi_N takes pairs of classes together: "max", "median" or "mean".
        num_inputs: Inputs whose codes are counted.
        num_regions: Inputs around which faces are counted.
        seed: Seed of the choice of inputs, segments and slices.
        folding: Whether to walk segments.
        codes: Whether to count codes and measure their distances.
        units: Whether to measure the activity of units.
        faces: Whether to count faces of regions.
        face_subspace: k, to count those of random slices of k dimensions; "whole" for those of whole regions; "auto" takes whole
            regions of up to 4 features and slices of 2 dimensions beyond.
        batch_to_inputs: A function of a batch that returns its inputs or (inputs, labels), where the inputs are not found or wrong.
        forward: How to call the model on inputs: the name of one of its methods or submodules, or a callable of
            (model, inputs); None calls the LightningModule itself.
        figures: Whether to draw at every measurement; None draws, where matplotlib is installed, when training ends and at the 1st,
            2nd, 4th, 8th, ... measurement, and leaves the Folding tab's map then, with or without matplotlib; False never draws.
            True leaves the embeddings of the codes at every measurement too.
        regularize: Whether to push the network to fold: True adds the push of a `FoldingRegularizer` to the gradients, a number is
            its weight (0.3: three tenths of that push; below 0 it discourages folding), and a `FoldingRegularizer` has arguments of
            its own. Training then differs.

    Raises:
        ValueError: If a number is out of range, or nothing is left to measure.
        TypeError: If an argument is of another kind.
        ModuleNotFoundError: If figures are wanted and matplotlib is not installed.

    Example:
        >>> from fold_lightning import FoldingMonitor
        >>> monitor = FoldingMonitor(every_n_epochs=2, layers="encoder.*")
        >>> # trainer = Trainer(callbacks=[monitor], logger=TensorBoardLogger("logs"))
    """

    is_optional = False

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        measure_at_start: bool = True,
        max_overhead: float | None = 0.05,
        layers: str | list[str] | None = None,
        probes: Any = None,
        method: Method = "auto",
        num_points: int = 129,
        num_segments: int = 64,
        segments_per_pair: int | None = None,
        within: Aggregate = "max",
        across: Aggregate = "median",
        num_inputs: int = 1000,
        num_regions: int = 64,
        seed: int = 0,
        folding: bool = True,
        codes: bool = True,
        units: bool = True,
        faces: bool = True,
        face_subspace: int | FaceSubspace = "auto",
        batch_to_inputs: Callable[[Any], Any] | None = None,
        forward: str | Callable[..., Any] | None = None,
        figures: bool | None = None,
        regularize: bool | float | FoldingRegularizer = False,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            measure_at_start=measure_at_start,
            max_overhead=max_overhead,
            layers=layers,
            probes=probes,
            method=method,
            num_points=num_points,
            num_segments=num_segments,
            segments_per_pair=segments_per_pair,
            within=within,
            across=across,
            num_inputs=num_inputs,
            num_regions=num_regions,
            seed=seed,
            folding=folding,
            codes=codes,
            units=units,
            faces=faces,
            face_subspace=face_subspace,
            batch_to_inputs=batch_to_inputs,
            forward=forward,
            figures=figures,
        )
        self.regularizer = as_regularizer(regularize, layers, seed)
        if not self.settings.measures and self.regularizer is None:
            raise ValueError(
                "With `folding=False`, `codes=False`, `units=False` and `faces=False` there is nothing to measure: take the callback "
                "away."
            )
        self._is_set_up = False
        self._regularization: Regularization | None = None
        self._session: Session | None = None
        self._measures_in_validation = True
        self._logged_before: set[str] = set()

    @property
    def state_key(self) -> str:
        """Key under which a checkpoint keeps the state; before `setup` another one for each monitor.

        Lightning refuses callbacks with equal keys when the Trainer is made, without a word about tags; `setup` says what to do.
        """
        if not self._is_set_up:
            return f"{type(self).__qualname__}{{'id': {id(self)}}}"
        settings = self.settings
        return self._generate_state_key(
            layers=settings.layers,
            folding=settings.folding,
            codes=settings.codes,
            units=settings.units,
            faces=settings.faces,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._session = self._regularization = None
        self._is_set_up = True
        if stage == "fit":
            self._check_trainer(trainer)
            self._regularization = self._regularize(trainer)
        if self.settings.measures and stage in ("fit", "validate", "test"):
            self._session = Session(self.settings, trainer, regularizer_hyperparameters(self.regularizer))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._regularization is not None:
            self._regularization.start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        session = self._session
        if session is None:
            return
        self._measures_in_validation = session.all_processes(will_validate(trainer))
        from_training = not has_validation_data(trainer) or (
            trainer.val_dataloaders is None and not self._measures_in_validation
        )
        loaders = trainer.train_dataloader if from_training else trainer.val_dataloaders
        session.begin(trainer, pl_module, loaders, together=from_training)
        if self.settings.measure_at_start and trainer.global_step == 0 and session.sample is not None:
            values = session.measure(trainer, pl_module, step=0, is_first=True)
            session.write_scalars(trainer, values, step=0)
        session.start_training()
        self._publish_last_values(trainer, session)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._session is not None and not self._measures_in_validation:
            self._session.collect(trainer, pl_module, batch)
        if self._regularization is not None:
            self._regularization.begin_batch(trainer, pl_module, batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._regularization is not None:
            self._regularization.before_step(trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._regularization is not None:
            self._regularization.end_batch()
            if self._session is not None:
                self._session.describe_scalars(trainer, self._regularization.first_scalars(), REGULARIZER_TAGS)
        if self._session is not None and self._session.step_is_due(trainer.global_step):
            self._measure_between_epochs(self._session, trainer, pl_module, step=logged_step(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and trainer.state.fn == "validate":
            self._session.try_to_begin(trainer, pl_module, trainer.val_dataloaders)
        self._logged_before = set(trainer.logged_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            new = trainer.logged_metrics.keys() - self._logged_before
            self._session.name_metrics(trainer, sorted(new))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._session is not None and dataloader_idx == 0:
            self._session.collect(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and not trainer.sanity_checking and self._measures_in_validation:
            self._measure_epoch(self._session, trainer, pl_module, step=logged_step(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and not self._measures_in_validation:
            self._measure_epoch(self._session, trainer, pl_module, step=logged_step(trainer, is_counted=True))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None:
            self._measure_at_end(self._session, trainer, pl_module, is_finished=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None:
            self._session.try_to_begin(trainer, pl_module, trainer.test_dataloaders)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._session is not None and dataloader_idx == 0:
            self._session.collect(trainer, pl_module, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None:
            self._measure_epoch(self._session, trainer, pl_module, step=logged_step(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._regularization is not None:
            self._regularization.stop(pl_module)
        session = self._session
        is_interrupted = isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.world_size == 1
        if session is not None and is_interrupted and not session.is_measuring and trainer.global_step > 0:
            steps = len(trainer.optimizers) * (logged_step(trainer) + 1)  # whether the last step is over and not counted
            self._measure_at_end(session, trainer, pl_module, is_counted=trainer.global_step < steps)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._regularization is not None:
            self._regularization.stop(pl_module)

    def state_dict(self) -> dict[str, Any]:
        state = {} if self._session is None else self._session.state()
        regularization = {} if self._regularization is None else self._regularization.state()
        return state | ({"regularization": regularization} if regularization else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        regularization = state.pop("regularization", {})
        if self._session is not None and state:
            self._session.restore(state)
        if self._regularization is not None:
            self._regularization.restore(regularization)

    def _regularize(self, trainer: Trainer) -> Regularization | None:
        """Return the way in which the regularizer acts: by its push, where gradients are whole and it has a share."""
        if self.regularizer is None:
            return None
        arguments = (self.regularizer, self.settings.batch_to_inputs, self.settings.forward)
        if self.regularizer.share is None:
            return LossTerm(*arguments)
        if has_whole_gradients(trainer):
            return HeldPush(*arguments)
        rank_zero_info("Gradients are sharded, so the folding regularizer adds its term to the loss: `share` does nothing.")
        return LossTerm(*arguments)

    def _measure_epoch(self, session: Session, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """Measure at the end of an epoch, if it is due, and log."""
        values: dict[str, float] = {}
        epoch = trainer.current_epoch + 1
        is_due = trainer.state.fn != "fit" or session.epoch_is_due(epoch)
        if is_due and not (self.settings.every_n_train_steps and session.is_measured(trainer.global_step)):
            values = session.try_to_measure(trainer, pl_module, step=step, epoch=epoch)
        if values:  # the same in all processes, so the largest is their value
            pl_module.log_dict(
                values, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1, reduce_fx="max"
            )
        self._publish_last_values(trainer, session, without=values)

    def _measure_between_epochs(self, session: Session, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """Measure between epochs and write to the loggers, which `self.log` gives its values there too late or not at all."""
        values = session.try_to_measure(trainer, pl_module, step=step)
        session.write_scalars(trainer, values, step=step)
        self._publish_last_values(trainer, session)

    def _measure_at_end(
        self,
        session: Session,
        trainer: Trainer,
        pl_module: LightningModule,
        *,
        is_counted: bool = True,
        is_finished: bool = False,
    ) -> None:
        """Measure where training ends, unless these weights were, and draw."""
        if not session.is_measured(trainer.global_step):
            self._measure_between_epochs(session, trainer, pl_module, step=logged_step(trainer, is_counted=is_counted))
        session.end(trainer, is_finished=is_finished)

    def _publish_last_values(self, trainer: Trainer, session: Session, without: Any = ()) -> None:
        """Let callbacks find the last values: one that waits for a tag in vain would end the training."""
        values = {tag: torch.tensor(value) for tag, value in session.values_for_callbacks().items() if tag not in without}
        trainer.callback_metrics.update(values)

    def _check_trainer(self, trainer: Trainer) -> None:
        if not trainer.loggers:
            raise MisconfigurationException(
                "FoldingMonitor logs what it measures, but the Trainer has no logger. Use `Trainer(logger=True)` or give it one, "
                "such as `TensorBoardLogger('logs')`; or take the callback away."
            )
        if self.settings.measures and len(self._monitors(trainer)) > 1:
            raise MisconfigurationException(
                "Expected one FoldingMonitor that measures, got two or more, which would log under the same tags, such as "
                "'folding/phi': take one of them away, or let it regularize alone "
                "(`folding=False, codes=False, units=False, faces=False, regularize=True`)."
            )
        if self.regularizer is not None and self._number_of_regularizers(trainer) > 1:
            raise MisconfigurationException(
                "Two callbacks regularize this module: set `regularize=` of one FoldingMonitor only."
            )

    def _number_of_regularizers(self, trainer: Trainer) -> int:
        """Return how many monitors of a Trainer regularize."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
        return sum(isinstance(callback, FoldingMonitor) and callback.regularizer is not None for callback in callbacks)

    def _monitors(self, trainer: Trainer) -> list[FoldingMonitor]:
        """Return the monitors of a Trainer that measure and that the user asked for."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
        monitors = (callback for callback in callbacks if isinstance(callback, FoldingMonitor))
        return [monitor for monitor in monitors if monitor.settings.measures and not monitor.is_optional]

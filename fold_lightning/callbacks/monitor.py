"""The callback that measures folding while Lightning trains."""

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
from fold_lightning.lightning_packages import AnyCallback
from fold_lightning.probes import FaceSubspace
from fold_lightning.regularizer import FoldingRegularizer


class FoldingMonitor(AnyCallback):
    """Callback that measures how the network folds its input space, during training.

    It takes validation inputs (training inputs if there is no validation) and measures three things: walks of segments
    between them, spread evenly over ordered pairs of classes; their codes; and the regions around them. The sample is drawn
    once, when training begins, and depends only on the seed. All of it is measured before training, at the end of due epochs,
    and when training ends. If measuring takes more than `max_overhead` of the training's time, fewer epochs are measured, not
    fewer segments. `trainer.validate` and `trainer.test` measure once.

    Values are logged by `self.log`, so `ModelCheckpoint` and `EarlyStopping` can monitor them. If a callback does, every due
    epoch is measured. In epochs without a measurement, callbacks get the last values, and loggers none. The model, its
    gradients and all random states are left unchanged: training with the monitor is bit-identical to training without it,
    unless `regularize=` is set. A model that can't be measured raises an error before training; a measurement that fails later
    only warns, once.

    Labels count as classes if they are integers or booleans (B,) or (B, 1), zeros and ones of any type, or one-hot (B, C), and
    do not look like regression targets; a negative label means that its input has no class. From a stream that can't be read by
    index, the first inputs are taken. Processes share the work on one sample, and values equal those of a single process. A run
    that resumes from a checkpoint with the same arguments and data draws the same sample; if the sample differs, it warns. The
    module's current weights are measured: if the monitor stands before `WeightAveraging` in the list of callbacks, these are the
    averaged weights, after it the weights in training.

    Logged tags; values have no unit unless one is named:

    - ``folding/chi_mean``, ``folding/chi_median``, ``folding/chi_max`` in [0, 1): the space folding measure chi
      (`space_folding`) over the segments; the median is taken over the segments that fold.
    - ``folding/fraction`` in [0, 1]: the share of segments that fold.
    - ``folding/phi`` in [0, 1): Phi_N (`global_folding`), by default the median over ordered pairs of classes of each pair's
      largest chi (see `within` and `across`); absent without labels of two classes. Only values with equally many segments per
      pair are comparable; the tag's description has their number.
    - ``folding/regions``, at least 1: mean number of activation regions on a segment; absent with method "uniform".
    - ``folding/exact``, ``folding/complete`` in [0, 1]: the shares of segments whose walk is exact and verified, and whose walk
      reached the end.
    - ``folding/layer/<name>`` in [0, 1): mean chi of that layer's bits alone.
    - ``codes/distinct``, ``codes/layer/<name>``: number of activation regions that the inputs occupy (`DistinctCodes`), by all
      units and by a layer's; ``codes/distinct_fraction`` in (0, 1]: the former divided by the number of inputs.
    - ``codes/distinct_correct``: the same number for correctly classified inputs; absent without labels, if the model's output
      does not have one number per class (or one for two classes), and if tensors that differ between inputs are held fixed.
    - ``codes/within``, ``codes/between`` in [0, 1]: mean Hamming distance between codes of two inputs of the same class and of
      different classes, as a share of units (`CodeDistances`); absent without labels.
    - ``units/dead``, ``units/always_active``, ``units/active`` in [0, 1]: share of units that no input activates, share that
      every input activates, and mean share that an input activates (`UnitActivity`); per layer as ``units/dead/<name>`` and so
      on.
    - ``faces/mean``, ``faces/max``: number of faces of the activation regions around inputs (`face_counts`), or of random
      slices of these regions; ``faces/bound``: 2d, or 2k in slices of k dimensions, which bounds the mean over **all** regions
      of the network, but not over regions around inputs. Absent if the network is not piecewise linear up to the last layer
      that counts.
    - ``regions/distance_mean``, ``regions/distance_median``: distance of inputs from the boundaries of these regions or slices
      (`boundary_distances`), in the unit of the inputs.
    - ``monitor/seconds``: duration of the measurement without figures, in seconds.
    - with `regularize=`, at steps that recompute the term, from the first process: ``regularizer/term``, ``regularizer/weight``
      (the scheduled weight) and, in [0, 1), ``regularizer/soft_chi`` (`FoldingRegularizer`).
    - to TensorBoard only: the histograms ``folding/chi_histogram`` and ``faces/histogram``; with matplotlib the figures
      ``folding/walk`` of the segment that folds most, ``folding/chi_over_steps``, the distribution of chi at all measurements,
      ``folding/phi_matrix`` of the pairs of classes, ``codes/distances`` and ``units/by_layer``, ``faces/counts`` with the
      bound, ``regions/slice``, the map of regions in a plane through inputs of three classes (`slice_map`, of all layers), and
      ``regions/slice_by_class`` if several classes are predicted there; when training ends, the codes as embeddings, of all
      units and of each layer.

    The hyperparameters of the run include the sample's sizes, the method and the reason for it.

    Args:
        every_n_epochs: Number of epochs from one measurement to the next.
        every_n_train_steps: Number of optimizer steps from one measurement to the next, in addition to epochs; None measures at
            epochs only.
        measure_at_start: Whether to measure before training.
        max_overhead: Maximum share of the training's time for measuring, including the next measurement and the one at the end;
            due epochs beyond it are skipped. None measures every due epoch. The limit applies only above 10 s of measuring in
            total, and not if a callback or a learning-rate schedule monitors one of the tags.
        layers: Layers whose bits count: a name, a glob pattern or several of them; None counts every activation.
        probes: Inputs to measure: a tensor (B, ...), a pair of inputs and class labels, or a map-style dataset; None takes the
            validation data.
        method: "exact" walks segments through every region, "uniform" evaluates `num_points` equidistant points in the model's
            own precision; "auto" chooses once, when training begins, by the estimated cost of exact walks on some segments.
        num_points: Points per segment for method "uniform".
        num_segments: Number of segments. Each ordered pair of classes gets equally many if there are at most 128 pairs,
            for which the number is rounded up.
        segments_per_pair: Number of segments for each ordered pair of different classes; replaces `num_segments`.
        within: How Phi_N aggregates the segments that fold of one pair of classes: "max", "median" or "mean". The maximum grows
            with the number of segments per pair, so only values with equal numbers are comparable; the median does not.
        across: How Phi_N aggregates pairs of classes: "max", "median" or "mean".
        num_inputs: Number of inputs whose codes are counted.
        num_regions: Number of inputs around which faces are counted.
        seed: Seed by which inputs, segments and slices are drawn.
        folding: Whether to walk segments.
        codes: Whether to count codes and measure their distances.
        units: Whether to measure the activity of units.
        faces: Whether to count faces of regions.
        face_subspace: k counts faces of random slices with k dimensions; "whole" counts faces of whole regions; "auto" means
            "whole" for inputs of up to 4 features, and 2 for larger ones.
        batch_to_inputs: Function of a batch that returns its inputs or (inputs, labels), if inputs are not found, or are the
            wrong ones.
        forward: How to call the model on inputs: the name of one of its methods or submodules, or a callable of
            (model, inputs); None calls the LightningModule itself.
        figures: True draws figures and the Folding tab's map at every measurement. None draws at the 1st, 2nd, 4th, 8th, ...
            measurement and when training ends: figures if matplotlib is installed, the map in any case. False draws neither.
            Embeddings of the codes are written at every measurement with True, else when training ends.
        regularize: Whether to train the network to fold more: True adds the push of a default `FoldingRegularizer` to the
            gradients, a number sets its weight (0.3: three tenths of that push; below 0 it discourages folding), and a
            `FoldingRegularizer` sets all of its arguments.

    Raises:
        ValueError: If a number is out of range, or there is nothing to measure and no regularizer.
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
                "With `folding=False`, `codes=False`, `units=False` and `faces=False` there is nothing to measure: enable one, or "
                "remove the callback."
            )
        self._is_set_up = False
        self._regularization: Regularization | None = None
        self._session: Session | None = None
        self._measures_in_validation = True
        self._logged_before: set[str] = set()

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint; unique to each monitor before `setup`.

        Lightning rejects equal keys when the Trainer is made, with an error that does not mention tags; that of `setup` does.
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
            session.log.write_scalars(trainer, values, session.descriptions(), step=0)
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
                self._session.log.describe_scalars(trainer, self._regularization.first_scalars(), REGULARIZER_TAGS)
        if self._session is not None and self._session.step_is_due(trainer.global_step):
            self._measure_between_epochs(self._session, trainer, pl_module, step=logged_step(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and trainer.state.fn == "validate":
            self._session.try_to_begin(trainer, pl_module, trainer.val_dataloaders)
        self._logged_before = set(trainer.logged_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            new = trainer.logged_metrics.keys() - self._logged_before
            self._session.log.name_metrics(trainer, sorted(new), self._session.descriptions())

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
            # The last step may be over but not counted.
            steps = len(trainer.optimizers) * (logged_step(trainer) + 1)
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
        """Return how the regularizer acts: by a push if gradients are not sharded and it has a share, else by a loss term."""
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
        if values:  # equal in all processes, so that the maximum changes nothing
            pl_module.log_dict(
                values, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1, reduce_fx="max"
            )
        self._publish_last_values(trainer, session, without=values)

    def _measure_between_epochs(self, session: Session, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """Measure between epochs and write to the loggers directly, because `self.log` would do so too late or not at all."""
        values = session.try_to_measure(trainer, pl_module, step=step)
        session.log.write_scalars(trainer, values, session.descriptions(), step=step)
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
        """Measure when training ends, unless these weights were measured, and draw."""
        if not session.is_measured(trainer.global_step):
            self._measure_between_epochs(session, trainer, pl_module, step=logged_step(trainer, is_counted=is_counted))
        session.end(trainer, is_finished=is_finished)

    def _publish_last_values(self, trainer: Trainer, session: Session, without: Any = ()) -> None:
        """Give the last values to callbacks, because one that misses its monitored tag would end the training."""
        values = {tag: torch.tensor(value) for tag, value in session.values_for_callbacks().items() if tag not in without}
        trainer.callback_metrics.update(values)

    def _check_trainer(self, trainer: Trainer) -> None:
        if self.settings.measures and not trainer.loggers:
            raise MisconfigurationException(
                "FoldingMonitor logs its measurements, but the Trainer has no logger. Use `Trainer(logger=True)`, or pass one, such "
                "as `TensorBoardLogger('logs')`; or remove the callback."
            )
        if self.settings.measures and len(self._monitors(trainer)) > 1:
            raise MisconfigurationException(
                "Expected one FoldingMonitor that measures, got two or more, which would log under the same tags, such as "
                "'folding/phi': remove one of them, or let it only regularize "
                "(`folding=False, codes=False, units=False, faces=False, regularize=True`)."
            )
        if self.regularizer is not None and self._number_of_regularizers(trainer) > 1:
            raise MisconfigurationException(
                "Two callbacks regularize this module: set `regularize=` in only one FoldingMonitor."
            )

    def _number_of_regularizers(self, trainer: Trainer) -> int:
        """Return how many monitors of a Trainer regularize."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
        return sum(isinstance(callback, FoldingMonitor) and callback.regularizer is not None for callback in callbacks)

    def _monitors(self, trainer: Trainer) -> list[FoldingMonitor]:
        """Return the monitors of a Trainer that measure and that the user added."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning does not declare
        monitors = (callback for callback in callbacks if isinstance(callback, FoldingMonitor))
        return [monitor for monitor in monitors if monitor.settings.measures and not monitor.is_optional]

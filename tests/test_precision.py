"""The monitor beside other precisions, compiled and checkpointed models, and other callbacks: unnoticed, and right."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fold_lightning.activations.gradients import STAND_INS
from helpers.invisible import Beside, assert_invisible, first_weight, measured_by_hand, training
from helpers.training import Model, data, loaders, sample_of, watch

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*already exist within another group",
    "ignore:.*fp16 is not supported on CPU",
    "ignore:None of the inputs have requires_grad",  # torch says it of a validation, too
)


def small(**options: Any) -> Any:
    return watch(**({"num_segments": 6, "num_inputs": 20} | options))


def precision(name: str) -> dict[str, Any]:
    if name == "16-mixed, scaled":  # which a Trainer refuses on a CPU, though torch does not
        return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}
    return {"precision": name}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["16-mixed", "16-mixed, scaled", "bf16-mixed", "bf16-true", "64-true"])
def test_in_every_precision_the_stored_weights_are_measured_and_training_does_not_notice(tmp_path: Path, name: str) -> None:
    monitor = small()
    trainer = assert_invisible(tmp_path, monitor=monitor, how=lambda: precision(name))
    stored = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(name, torch.float32)
    assert first_weight(trainer.lightning_module).dtype == stored
    by_hand = measured_by_hand(monitor, trainer.lightning_module)
    assert {tag: trainer.logger.said[-1][1][tag] for tag in by_hand} == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_probes_are_what_a_step_gets_in_that_precision(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    monitor = small()
    training(tmp_path, monitor, how=lambda: {"precision": name, "max_epochs": 1})
    probes = sample_of(monitor).probes.items
    assert probes.dtype == dtype
    assert all((probe == data(40, 1).tensors[0].to(dtype)).all(1).any() for probe in probes)


class Quiet(Model):
    """Logs nothing itself: `self.log` can't be compiled."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def compiled_submodule() -> Model:
    model = Model()
    model.net = torch.compile(model.net, backend="eager")
    return model


def compiled_in_place() -> Model:
    model = Model()
    model.net.compile(backend="eager")
    return model


def compiled_forward() -> Model:
    model = Model()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda: torch.compile(Quiet(), backend="eager"), compiled_submodule, compiled_in_place, compiled_forward],
    ids=["module", "submodule", "in place", "forward"],
)
def test_a_compiled_model_is_measured_as_the_original_and_training_does_not_notice(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    torch.compiler.reset()
    monitor = small()
    trainer = assert_invisible(tmp_path, monitor=monitor, model=make)
    plain = Model()
    weights = trainer.lightning_module.state_dict()
    plain.load_state_dict({name.replace("_orig_mod.", ""): value for name, value in weights.items()})
    by_hand = measured_by_hand(monitor, plain)
    said = trainer.logger.said[-1][1]
    assert {tag: said[tag] for tag in by_hand} == pytest.approx(by_hand, rel=1e-6)
    assert {"folding/layer/net.2", "folding/layer/net.5"} <= said.keys()


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_is_seen_through_and_training_does_not_notice(tmp_path: Path, use_reentrant: bool) -> None:
    class Checkpointed(Model):
        def forward(self, x: Tensor) -> Tensor:
            return self.net[5:](checkpoint(self.net[2:5], self.net[:2](x), use_reentrant=use_reentrant))

    monitor = small()
    trainer = assert_invisible(tmp_path, monitor=monitor, model=Checkpointed)
    plain = Model()
    plain.load_state_dict(trainer.lightning_module.state_dict())
    by_hand = measured_by_hand(monitor, plain)
    assert {tag: trainer.logger.said[-1][1][tag] for tag in by_hand} == pytest.approx(by_hand, rel=1e-6)


class Split(Model):
    """With a backbone, and an optimizer of what is not frozen."""

    @property
    def backbone(self) -> nn.Module:
        return self.net[:3]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 1e-2)


class Unfreezes(BaseFinetuning):
    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.net[:2])

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[:2], optimizer, lr=1e-3)


COMPANIONS: dict[str, Callable[[], Callback]] = {
    "EMAWeightAveraging": lambda: callbacks.EMAWeightAveraging(decay=0.5),
    "WeightAveraging": lambda: callbacks.WeightAveraging(),
    "StochasticWeightAveraging": lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1),
    "ModelPruning": lambda: ModelPruning("l1_unstructured", amount=0.3),
    "BaseFinetuning": Unfreezes,
    "BackboneFinetuning": lambda: BackboneFinetuning(1, lambda epoch: 1.5),
    "GradientAccumulationScheduler": lambda: GradientAccumulationScheduler({1: 2}),
    "LearningRateMonitor": LearningRateMonitor,
    "DeviceStatsMonitor": lambda: DeviceStatsMonitor(cpu_stats=False),
}


def fit_beside(
    tmp_path: Path, make: Callable[[], Callback], order: str, monitor: Any, **options: Any
) -> tuple[Trainer, Beside, Callback]:
    """Trains unnoticed with a monitor before or after a callback, and a witness next to the monitor."""
    companions: list[Callback] = []

    def made() -> Callback:
        companions.append(make())
        return companions[-1]

    beside = Beside(monitor)
    ours = [monitor, beside]
    trainer = assert_invisible(tmp_path, *([*ours, made] if order == "before" else [made, *ours]), monitor=monitor, **options)
    return trainer, beside, companions[-1]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", [name for name in COMPANIONS if hasattr(callbacks, name)])
def test_beside_other_callbacks_the_weights_in_the_module_are_measured_and_training_does_not_notice(
    tmp_path: Path, name: str, order: str
) -> None:
    model = Split if "Finetuning" in name else Model
    trainer, beside, _ = fit_beside(tmp_path, COMPANIONS[name], order, small(), model=model, how=lambda: {"max_epochs": 3})
    said = [values for _, values in trainer.logger.said][1:]
    assert len(beside.seen) >= 3
    for values, by_hand in zip(said, beside.seen, strict=True):
        assert {tag: values[tag] for tag in by_hand} == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(callbacks, "WeightAveraging"), reason="Lightning has had it since 2.6")
@pytest.mark.parametrize("name", ["EMAWeightAveraging", "WeightAveraging"])
def test_averaged_weights_are_measured_by_a_monitor_before_weight_averaging_and_trained_ones_by_one_after_it(
    tmp_path: Path, name: str
) -> None:
    """`WeightAveraging` puts them into the module from its `on_validation_epoch_start` to its `on_validation_epoch_end`."""
    weights = {}
    for order in ("before", "after"):
        trainer, beside, averaging = fit_beside(tmp_path, COMPANIONS[name], order, small())
        weights[order] = beside.weights[-1]
        averaged = first_weight(trainer.lightning_module)
        assert torch.equal(averaged, first_weight(averaging._average_model.module))  # what training leaves
    assert torch.equal(weights["before"], averaged) and not torch.equal(weights["after"], averaged)


@pytest.mark.slow
def test_the_average_of_stochastic_weight_averaging_is_measured_last(tmp_path: Path) -> None:
    """`StochasticWeightAveraging` trains on, and puts its average into the module for an epoch more, which renews batch norms."""
    trainer, beside, _ = fit_beside(
        tmp_path, COMPANIONS["StochasticWeightAveraging"], "before", small(), how=lambda: {"max_epochs": 3}
    )
    assert torch.equal(beside.weights[-1], first_weight(trainer.lightning_module))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(beside.weights))
    assert [step for step, _ in trainer.logger.said][-2:] == [8, 9]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "validates", "pruned"),
    [("before", True, [False, True]), ("before", False, [False, True]), ("after", False, [True] * 2)],
)
def test_pruning_is_measured_an_epoch_later_where_it_comes_after_the_measurement(
    tmp_path: Path, order: str, validates: bool, pruned: list[bool]
) -> None:
    """`ModelPruning` prunes in `on_train_epoch_end`: after a validation, or in the order of the callbacks where there is none."""
    given = loaders if validates else lambda: loaders()[:1]
    # Weights that Lightning 2.4 resets to their first values lack the zeros until the next pass.
    pruning = functools.partial(ModelPruning, "l1_unstructured", amount=0.3, use_lottery_ticket_hypothesis=False)
    _, beside, _ = fit_beside(tmp_path, pruning, order, small(), given=given)
    assert [bool((weight == 0).any()) for weight in beside.weights] == pruned


def test_torch_still_has_the_functions_that_stand_ins_of_gradient_checkpointing_replace() -> None:
    assert all(callable(getattr(torch.utils.checkpoint, name)) for name in STAND_INS)

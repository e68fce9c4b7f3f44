"""When the monitor measures: due epochs and steps, within a share of the training's time, and at its end."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks import measure_set, schedule, session
from fold_lightning.callbacks.measures.sources import InputSource, SegmentSource
from fold_lightning.callbacks.schedule import FREE_SECONDS, Schedule
from helpers.training import FIGURES, TAGS, Model, Recorder, Stream, data, fit, loaders, watch


class Clock:
    """A clock that only tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        for module in (measure_set, schedule, session):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(clock: Clock, plan: Schedule, epochs: int, epoch_seconds: float, cost: float) -> list[int]:
    """Return the epochs that are measured, each of which takes so long, and each measurement so long."""
    plan.record(cost, epoch=0, step=0)  # before training
    clock.now += cost
    plan.start_training()
    measured = []
    for epoch in range(1, epochs + 1):
        clock.now += epoch_seconds
        if plan.epoch_is_due(epoch):
            plan.record(cost, epoch=epoch, step=epoch)
            clock.now += cost
            measured.append(epoch)
    return measured


def test_measuring_takes_no_more_than_its_share_of_the_training_or_ten_seconds(clock: Clock) -> None:
    measured = run(clock, Schedule(1, None, 0.05), 1000, epoch_seconds=10.0, cost=3.0)
    assert measured[:2] == [1, 24]  # 3, 6 s and 3 for the end: ten are free; 12 s are 5 % of 240
    spent = 3.0 * (1 + len(measured) + 1)
    assert 0.9 * 0.05 * 10_000 <= spent <= 0.05 * 10_000
    gaps = [b - a for a, b in itertools.pairwise(measured[1:])]
    assert max(gaps[2:]) <= 7 and min(gaps[2:]) >= 5  # 3 s of 5 % are 60 s of training, evenly


@pytest.mark.parametrize("cost", [0.01, FREE_SECONDS / 30])
def test_what_takes_ten_seconds_in_all_is_never_left_out(clock: Clock, cost: float) -> None:
    plan = Schedule(1, None, 0.0)
    assert run(clock, plan, 25, epoch_seconds=0.001, cost=cost) == [*range(1, 26)]


@pytest.mark.parametrize("awaited", [False, True])
def test_without_limit_or_where_values_decide_every_due_epoch_is_measured(clock: Clock, awaited: bool) -> None:
    plan = Schedule(3, None, 0.01 if awaited else None)
    if awaited:
        plan.lift_limit()
    assert run(clock, plan, 12, epoch_seconds=0.1, cost=100.0) == [3, 6, 9, 12]


def test_a_schedule_goes_on_from_a_checkpoint(clock: Clock) -> None:
    before = Schedule(1, None, 0.05)
    run(clock, before, 10, epoch_seconds=100.0, cost=40.0)
    state = before.state()
    clock.now += 1e6  # the time in which nothing ran does not count
    after = Schedule(1, None, 0.05)
    after.restore(state)
    assert after.state() == state
    assert not after.epoch_is_due(11) and not after.is_measured(11)


class Slow:
    """Lets each measurement of codes take so long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> None:
        observe = InputSource.observe

        def slow(*given: Any) -> Any:
            clock.now += seconds
            return observe(*given)

        monkeypatch.setattr(InputSource, "observe", slow)


@pytest.mark.slow
def test_a_slow_measurement_measures_fewer_epochs_and_not_fewer_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    class Steady(Model):
        def on_train_epoch_start(self) -> None:
            clock.now += 100.0

    Slow(monkeypatch, clock, 12.0)
    rows, walk = [], SegmentSource.walk

    def counting(self: SegmentSource, model: LightningModule, which: Tensor) -> Any:
        rows.append(len(which))
        return walk(self, model, which)

    monkeypatch.setattr(SegmentSource, "walk", counting)
    logger = fit(tmp_path, FoldingMonitor(segments_per_pair=2, figures=False), model=Steady(), max_epochs=9).logger
    # 12 s before training; with 12 more, and 12 at the end, they are 5 % of 720 s.
    assert [step for step, _ in logger.said] == [0, 23, 26]
    assert set(rows[1:]) == {12}


@pytest.mark.slow
@pytest.mark.parametrize("who", ["checkpoint", "stopping", "schedule"])
def test_epochs_by_which_something_decides_are_always_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, who: str
) -> None:
    class Scheduled(Model):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "folding/chi_mean"}}

    Slow(monkeypatch, clock, 100.0)
    beside = {
        "checkpoint": [ModelCheckpoint(tmp_path, monitor="units/dead")],
        "stopping": [EarlyStopping("folding/phi", patience=9)],
    }
    model = Scheduled() if who == "schedule" else Model()
    trainer = fit(tmp_path, FoldingMonitor(num_segments=4, figures=False), *beside.get(who, []), model=model, max_epochs=4)
    assert [step for step, _ in trainer.logger.said] == [0, 2, 5, 8, 11]


@pytest.mark.slow
def test_steps_are_measured_between_epochs(tmp_path: Path) -> None:
    monitor = watch(every_n_train_steps=2, num_segments=4)
    checkpoint = ModelCheckpoint(tmp_path, monitor="folding/chi_mean", every_n_train_steps=2, save_top_k=-1)
    trainer = fit(tmp_path, monitor, checkpoint, max_epochs=2)
    said = trainer.logger.said
    assert [step for step, _ in said] == [0, 1, 2, 3, 5]  # steps 2 and 4, the ends of epochs, and step 6 but once
    assert all(set(values) == TAGS for _, values in said)
    by_step = {step: values["folding/chi_mean"] for step, values in said}
    assert checkpoint.best_k_models and min(checkpoint.best_k_models.values()) == pytest.approx(
        min(by_step[step] for step in (1, 3, 5)), rel=1e-6
    )


@pytest.mark.parametrize("val_check_interval", [1.0, 100])
def test_a_training_that_ends_within_an_epoch_is_measured_there(tmp_path: Path, val_check_interval: Any) -> None:
    options = {"max_steps": 4, "max_epochs": 3, "val_check_interval": val_check_interval, "check_val_every_n_epoch": None}
    if val_check_interval == 1.0:
        options["check_val_every_n_epoch"] = 1
    trainer = fit(tmp_path, watch(num_segments=4), **options)
    assert [step for step, _ in trainer.logger.said] == [0, 2, 3]
    assert all(set(values) == TAGS for _, values in trainer.logger.said)


def test_early_stopping_ends_with_a_measurement(tmp_path: Path) -> None:
    stopping = EarlyStopping("train/loss", stopping_threshold=1e9, check_on_train_epoch_end=True)
    trainer = fit(tmp_path, watch(num_segments=4, every_n_epochs=5), stopping, max_epochs=9)
    assert trainer.current_epoch == 1
    assert [step for step, _ in trainer.logger.said] == [0, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"check_val_every_n_epoch": 9},
        {"limit_val_batches": 0},
        {"val_check_interval": 100, "check_val_every_n_epoch": None},
    ],
    ids=str,
)
def test_where_validation_never_comes_training_epochs_are_measured(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = fit(tmp_path, watch(num_segments=4), max_epochs=2, **options)
    assert [step for step, _ in trainer.logger.said] == [0, 2, 5]


@pytest.mark.slow
def test_training_that_ends_before_its_first_validation_is_measured_by_its_own_inputs(tmp_path: Path) -> None:
    given = loaders(None, Stream(data(33, 1)))
    trainer = fit(tmp_path, watch(num_segments=4), given=given, max_steps=2, max_epochs=-1, num_sanity_val_steps=0)
    assert [step for step, _ in trainer.logger.said] == [1]


@pytest.mark.slow
def test_a_stream_is_measured_once_its_batches_have_passed(tmp_path: Path) -> None:
    trainer = fit(tmp_path, watch(num_segments=4), given=loaders(Stream(data(45)), Stream(data(33, 1))), num_sanity_val_steps=0)
    assert [step for step, _ in trainer.logger.said] == [2, 5]
    trainer = fit(tmp_path, watch(num_segments=4), given=(DataLoader(Stream(data(45)), 20),))
    assert [step for step, _ in trainer.logger.said] == [2, 5]


def test_a_measurement_of_over_a_minute_is_explained_once_with_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    Slow(monkeypatch, clock, 80.0)
    with pytest.warns(UserWarning, match=r"took 80 s: 6 segments at 0 s each, 40 inputs at 2 s each, 40 regions") as warned:
        fit(tmp_path, watch(segments_per_pair=1, figures=False))
    assert sum("A measurement took" in str(warning.message) for warning in warned) == 1


@pytest.mark.parametrize("tag", ["folding/phi", "folding/layer/net.2", "codes/distinct", "codes/between"])
def test_a_callback_that_waits_for_a_tag_this_run_lacks_is_refused_before_training(tmp_path: Path, tag: str) -> None:
    """Without labels there is no Phi_N, without codes no distinct ones, and one layer alone counts."""

    class Untrained(Model):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError("training began")

    monitor = watch(probes=data(40, 1).tensors[0], codes=False, layers="net.5", num_segments=4)
    with pytest.raises(Exception, match=f"ModelCheckpoint monitors '{tag}', which this run does not log"):
        fit(tmp_path, monitor, ModelCheckpoint(tmp_path, monitor=tag), model=Untrained())


def test_a_tag_of_exact_walks_is_refused_with_the_method_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'folding/regions', which this run does not log: .*more with `method='exact'`"):
        fit(tmp_path, watch(method="uniform"), ModelCheckpoint(tmp_path, monitor="folding/regions"))


def test_tags_of_the_users_own_are_let_alone(tmp_path: Path) -> None:
    class Logs(Model):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("codes/of_mine", 1.0)

    checkpoint = ModelCheckpoint(tmp_path, monitor="codes/of_mine")
    fit(tmp_path, watch(num_segments=4), checkpoint, model=Logs(), max_epochs=1)
    assert checkpoint.best_model_score == 1


@pytest.mark.slow
def test_figures_are_drawn_at_the_first_second_fourth_measurement_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tb")
    fit(tmp_path, watch(num_segments=4), logger=[logger, Recorder()], max_epochs=6)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    for tag in FIGURES:
        assert [image.step for image in events.Images(tag)] == [0, 2, 8, 17]


@pytest.mark.slow
def test_two_runs_of_a_seed_log_equal_values_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    from lightning.pytorch import seed_everything

    said = []
    for seconds in (0.0, 5.0):
        with monkeypatch.context() as patch:
            Slow(patch, clock, seconds)
            seed_everything(0, verbose=False)
            said.append(fit(tmp_path, FoldingMonitor(figures=False), max_epochs=4).logger.said)
    shared = {step for step, _ in said[1]}
    assert shared < {step for step, _ in said[0]}  # fewer epochs where measuring takes long
    for step, values in said[1]:
        once = dict(said[0])[step]
        assert {tag: once[tag] for tag in TAGS - {"monitor/seconds"}} == {
            tag: values[tag] for tag in TAGS - {"monitor/seconds"}
        }

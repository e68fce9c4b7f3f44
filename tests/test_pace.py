"""How much is measured in the time there is, told by a clock that the tests move."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from test_monitor import TAGS, Model, fit, loaders

from fold_lightning import FoldingMonitor, Walks
from fold_lightning.callbacks import pace
from fold_lightning.callbacks.measurement import Measurement
from fold_lightning.callbacks.pace import SHARE, Allowance, Pace


class Clock:
    """Stands still but for what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(pace, "time", moved)
    return moved


def measured(paced: Pace, clock: Clock, seconds: float | None, cost: Callable[[int], float], count: int = 64) -> int:
    """How many rows are taken if n rows at once cost so much."""
    done = 0
    for block in paced.blocks(count, seconds):
        assert block.start == done and len(block) > 0
        done = block.stop
        clock.now += cost(len(block))
    return done


def test_without_limit_all_is_taken_at_once(clock: Clock) -> None:
    assert list(Pace(1).blocks(64, None)) == [range(64)]


@pytest.mark.parametrize("each", [0.001, 0.01, 0.1, 0.7, 5.0])
@pytest.mark.parametrize("a_call", [0.0, 0.008, 0.1, 0.3])
@pytest.mark.parametrize("seconds", [0.05, 1.0, 3.0])
def test_a_limit_is_kept_wherever_one_row_fits_it_and_most_of_it_is_used(
    clock: Clock, each: float, a_call: float, seconds: float
) -> None:
    paced = Pace(1)
    for _ in range(9):
        begin = clock.now
        done = measured(paced, clock, seconds, lambda n: a_call + n * each)
        assert clock.now - begin <= max(seconds, a_call + each) * (1 + 1e-9)
    assert done == 64 or a_call + 2 * done * each > pace.MORE_SHARE * seconds


@pytest.mark.parametrize(("count", "least", "each"), [(64, 8, 0.0001), (144, 64, 0.00003), (64, 1, 0.0002), (50, 1, 0.0002)])
@pytest.mark.parametrize("first", [0.0, 0.02])
def test_calls_that_cost_more_than_their_rows_end_with_all_of_them(
    clock: Clock, count: int, least: int, each: float, first: float
) -> None:
    paced, slower = Pace(least), [first]
    done = [measured(paced, clock, 0.03, lambda n: 0.003 + each * n + (slower.pop() if slower else 0), count) for _ in range(6)]
    assert done[-1] == count and done == sorted(done)


@pytest.mark.parametrize(
    "cost",
    [
        lambda n: 0.01 * n**1.3,  # a call of many is slower than many calls
        lambda n: 0.05 if n == 1 else 0.01 * n,  # the first of all calls is slower
        lambda n: 0.02 * n if n < 3 else 0.001 * n,
    ],
)
def test_a_cost_that_is_no_line_breaks_no_limit(clock: Clock, cost: Callable[[int], float]) -> None:
    paced = Pace(1)
    for _ in range(6):
        begin = clock.now
        done = measured(paced, clock, 0.5, cost)
        assert clock.now - begin <= 0.5 * (1 + 1e-9)
    assert done >= 8


@pytest.mark.parametrize(("stalls", "fewest"), [([4], 144), ([4, 5], 64)])
def test_a_stall_is_forgotten(clock: Clock, stalls: list[int], fewest: int) -> None:
    paced = Pace(64)
    done = [
        measured(paced, clock, 0.03, lambda n, i=i: (0.003 + 0.00003 * n) * (25 if i in stalls else 1), 144) for i in range(12)
    ]
    assert done[:4] == [144] * 4 and min(done) == fewest and done[-2:] == [144, 144]


def test_the_same_number_is_taken_as_long_as_it_fits(clock: Clock) -> None:
    paced = Pace(1)
    costs = [0.04, 0.03, 0.05, 0.06, 0.02, 0.0301]
    assert [measured(paced, clock, 1.0, lambda n, each=each: n * each) for each in costs] == [16] * 6
    costs = [0.1, 0.1, 0.1, 0.01, 0.001, 0.001, 0.001]  # what has changed has to come again
    assert [measured(paced, clock, 1.0, lambda n, each=each: n * each) for each in costs] == [*(16, 16, 8, 8, 8, 32, 64)]


@pytest.mark.parametrize("seed", range(5))
def test_noise_leaves_the_number_as_it_is(clock: Clock, seed: int) -> None:
    draw, paced = random.Random(seed), Pace(1)
    done = [measured(paced, clock, 1.0, lambda n: (0.1 + 0.02 * n) * draw.uniform(0.7, 1.3)) for _ in range(40)]
    assert len(set(done[5:])) == 1 and done[-1] in (16, 32)


def test_the_fewest_rows_are_taken_in_any_case(clock: Clock) -> None:
    assert measured(Pace(8), clock, 0.01, lambda n: n * 1.0) == 8
    assert measured(Pace(8), clock, 0.01, lambda n: n * 1.0, count=5) == 5
    assert next(Pace(1).blocks(64, 0.01, processes=3)) == range(3)


def test_a_pace_goes_on_from_a_checkpoint(clock: Clock) -> None:
    first, second = Pace(1), Pace(1)
    measured(first, clock, 1.0, lambda n: n * 0.04)
    second.restore(first.state())
    assert measured(second, clock, 1.0, lambda n: n * 0.03) == 16


def measurements(clock: Clock, allowance: Allowance, epochs: int, epoch: float, cost: float) -> list[int]:
    """The epochs in which something is measured, if an epoch and a measurement take so long."""
    measured = []
    for number in range(epochs):
        clock.now += epoch
        if allowance.affords:
            measured.append(number)
            clock.now += cost
            allowance.spend(cost)
    return measured


def test_by_default_a_measurement_takes_a_share_of_what_training_took(clock: Clock) -> None:
    allowance = Allowance("auto")
    clock.now += 100
    assert allowance.affords and allowance.seconds == pytest.approx(100 * SHARE)
    allowance.spend(2.0)
    clock.now += 0.1
    assert allowance.affords and allowance.seconds == pace.LEAST_SECONDS
    assert measurements(clock, Allowance("auto"), 50, 100.0, 2.0) == list(range(50))


@pytest.mark.parametrize("cost", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("epoch", [0.02, 1.0, 10.0])
def test_what_takes_longer_than_its_share_waits_and_a_run_of_seconds_need_not(clock: Clock, epoch: float, cost: float) -> None:
    epochs = int(5000 / epoch)
    measured = measurements(clock, Allowance("auto"), epochs, epoch, cost)
    assert len(measured) * cost <= 5000 * SHARE + pace.EXTRA_SECONDS + 2 * cost
    assert len(measured) == epochs or len(measured) * max(cost, pace.LEAST_SECONDS) >= 0.9 * 5000 * SHARE
    assert measured[:10] == list(range(10)) or cost > pace.LEAST_SECONDS
    waited = [later - earlier for earlier, later in pairwise(measured)]
    assert max(waited[-10:]) <= 1 + max(cost, pace.LEAST_SECONDS) / (epoch * SHARE)


def test_one_slow_measurement_lets_none_wait(clock: Clock) -> None:
    allowance = Allowance("auto")
    for seconds in (0.05, 0.05, 0.4, 0.05, 0.05, 3.0, 0.05):
        clock.now += 0.1
        assert allowance.affords
        clock.now += seconds
        allowance.spend(seconds)


def test_where_values_are_awaited_no_measurement_waits(clock: Clock) -> None:
    allowance = Allowance("auto", waits=False)
    for _ in range(3):
        clock.now += 1.1
        assert allowance.affords
        allowance.spend(1.0)


def test_a_limit_of_ones_own_is_the_same_each_time_and_none_is_none(clock: Clock) -> None:
    allowance = Allowance(0.5)
    with pytest.warns(UserWarning, match="took 1.2 s, though `max_seconds=0.5`") as warned:
        for _ in range(3):
            clock.now += 1
            assert allowance.affords and allowance.seconds == 0.5
            allowance.spend(1.2)
    assert len(warned) == 1
    assert Allowance(None).seconds is None and Allowance(None).affords
    with pytest.warns(UserWarning, match="took 9.0 s: the fewest inputs"):
        Allowance("auto").spend(9.0)


def test_a_monitor_keeps_its_limit_by_fewer_segments_and_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, walks = Clock(), Measurement.walks

    def slow(self: Measurement, model: LightningModule, segments: Any, seconds: float | None) -> Any:
        clock.now += 0.1 * len(segments)
        return walks(self, model, segments, None)

    monkeypatch.setattr(Measurement, "walks", slow)
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr("fold_lightning.callbacks.survey.time", clock)
    monitor = FoldingMonitor(max_seconds=1.0, num_segments=50)
    trainer = fit(tmp_path, monitor)
    for _, values in trainer.logger.said:
        assert set(values) == TAGS
        assert values["folding/segments"] == 8 and values["folding/seconds"] == pytest.approx(0.8)
    chi = monitor._run.measurement.walks(trainer.lightning_module, monitor._run.probes.segments.of(slice(8)), None)
    assert trainer.logger.said[-1][1]["folding/regions"] == pytest.approx(chi.num_regions().double().mean().item(), rel=1e-6)


def late_from(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Of the segments that are walked at once those from a number on take too long."""
    walks = Measurement.walks

    def late(self: Measurement, model: LightningModule, segments: Any, seconds: float | None) -> Any:
        times = [slice(0, number)] * (number > 0) + [slice(number, None)] * (len(segments) > number)
        parts = [walks(self, model, segments.of(s), None if s.start == 0 and number else 0.0) for s in times]
        return Walks.concatenate(parts)

    monkeypatch.setattr(Measurement, "walks", late)


def test_walks_that_no_time_suffices_for_are_looked_at_in_points_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_from(monkeypatch, 0)
    with pytest.warns(UserWarning, match="can't walk a segment of this network in .* s, so it looks at 33 points") as warned:
        trainer = fit(tmp_path, FoldingMonitor(max_seconds=3, num_segments=4))
    assert sum("walk" in str(w.message) for w in warned) == 1
    assert [(said["folding/complete"], said["folding/exact"]) for _, said in trainer.logger.said] == [(0, 0)] * 3


def test_walks_that_come_too_late_are_left_out_where_others_came_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_from(monkeypatch, 3)
    monitor = FoldingMonitor(max_seconds=50, num_segments=8)
    trainer = fit(tmp_path, monitor)
    counts = [(said["folding/complete"], said["folding/segments"]) for _, said in trainer.logger.said]
    assert counts == [(1, 7), (1, 3), (1, 3)]  # the first measurement takes them block by block: 1, 3 and 4
    monkeypatch.undo()
    walks = monitor._run.measurement.walks(trainer.lightning_module, monitor._run.probes.segments.of(slice(3)), None)
    assert trainer.logger.said[-1][1]["folding/regions"] == pytest.approx(walks.num_regions().double().mean().item(), rel=1e-6)


def steps_of(trainer: Trainer) -> list[int]:
    return [step for step, _ in trainer.logger.said]


def test_what_training_has_not_earned_is_not_measured_but_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Allowance, "affords", False)
    assert steps_of(fit(tmp_path, FoldingMonitor(), max_epochs=4)) == [0, 11]
    assert steps_of(fit(tmp_path, FoldingMonitor(measure_at_start=False), max_epochs=4)) == [2, 11]
    assert steps_of(fit(tmp_path, FoldingMonitor(), max_epochs=-1, max_steps=9)) == [0, 8]
    assert steps_of(fit(tmp_path, FoldingMonitor(), max_epochs=3, val_check_interval=1)) == [0, 8]
    assert steps_of(fit(tmp_path, FoldingMonitor(), max_epochs=4, check_val_every_n_epoch=3)) == [0, 11]
    assert steps_of(fit(tmp_path, FoldingMonitor(), EarlyStopping("val/loss", min_delta=9.0, patience=1), max_epochs=9)) == [
        0,
        5,
    ]
    without = fit(tmp_path, FoldingMonitor(), max_epochs=4, given=loaders()[:1])
    assert steps_of(without) == [0, 11]
    assert without.callback_metrics["folding/seconds"] == pytest.approx(without.logger.said[-1][1]["folding/seconds"])
    assert steps_of(fit(tmp_path, FoldingMonitor(every_n_epochs=3), max_epochs=4)) == [0, 11]
    assert steps_of(fit(tmp_path, FoldingMonitor(every_n_epochs=5), max_epochs=4)) == [0]


def test_a_measurement_at_the_end_that_cannot_be_written_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Allowance, "affords", False)
    monkeypatch.setattr("fold_lightning.summaries.write_end", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert steps_of(fit(tmp_path, FoldingMonitor())) == [0]


class Plateau(Model):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "folding/chi_mean"}}


@pytest.mark.parametrize(
    ("beside", "model"),
    [
        ([EarlyStopping("faces/mean", patience=9)], Model),
        ([ModelCheckpoint(monitor="codes/distinct")], Model),
        ([], Plateau),
    ],
)
def test_where_something_decides_by_the_values_each_epoch_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: list[Any], model: type[Model]
) -> None:
    spend = Allowance.spend
    monkeypatch.setattr(Allowance, "spend", lambda allowance, seconds: spend(allowance, seconds + 100))  # nothing is affordable
    assert steps_of(fit(tmp_path, FoldingMonitor(num_segments=4), max_epochs=4)) == [0, 2, 11]
    monitor = FoldingMonitor(num_segments=4)
    assert steps_of(fit(tmp_path, monitor, *beside, model=model(), max_epochs=4)) == [0, 2, 5, 8, 11]


def test_a_stall_in_another_part_takes_no_segment_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, walks, codes, calls = Clock(), Measurement.walks, Measurement.codes, []

    def stalling(self: Measurement, model: LightningModule, inputs: Any) -> Any:
        calls.append(len(inputs))
        clock.now += 5.0 if len(calls) == 8 else 0.01
        return codes(self, model, inputs)

    def slow(self: Measurement, model: LightningModule, segments: Any, seconds: float | None) -> Any:
        clock.now += 0.05 * len(segments)
        return walks(self, model, segments, seconds)

    monkeypatch.setattr(Measurement, "codes", stalling)
    monkeypatch.setattr(Measurement, "walks", slow)
    for module in ("pace", "survey"):
        monkeypatch.setattr(f"fold_lightning.callbacks.{module}.time", clock)
    with pytest.warns(UserWarning, match="took 5.4 s"):
        said = [values for _, values in fit(tmp_path, FoldingMonitor(max_seconds=1.0), max_epochs=8).logger.said]
    assert max(values["folding/seconds"] for values in said) > 5
    assert {values["folding/segments"] for values in said} == {8}


@pytest.mark.parametrize("value", [0, -1, True, "soon", float("nan")])
def test_a_limit_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(
        ValueError, match="`max_seconds` must be a number of seconds above 0, 'auto', or None for no limit, got"
    ):
        FoldingMonitor(max_seconds=value)

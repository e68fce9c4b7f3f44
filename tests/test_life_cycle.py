"""A monitor through all that a Trainer does: fits again, resumes, is interrupted, killed, and runs loops of every shape."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer import event_file_writer
from test_batches import Stream
from test_monitor import TAGS, Model, Recorder, data, fit, loaders, watch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.tensorboard import SummaryWriter

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.survey import Survey
from fold_lightning.event_files import shown_until

pytestmark = pytest.mark.filterwarnings(
    *("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*Checkpoint directory", "ignore:.*resuming")
)


def test_fit_validate_test_and_fit_again(tmp_path: Path) -> None:
    class Tested(Model):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.validation_step(batch, batch_idx)

    model, monitor, recorder = Tested(), watch(num_segments=4), Recorder()
    trainer = fit(tmp_path, monitor, model=model, logger=recorder)
    assert [step for step, _ in recorder.said] == [0, 2, 5]
    said = list(recorder.said)
    trainer.validate(model, loaders()[1], verbose=False)
    trainer.test(model, loaders()[1], verbose=False)
    assert recorder.said == said  # it measures while a network trains
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, *loaders())
    assert [step for step, _ in recorder.said] == [0, 2, 5, 8, 11]
    alone = Trainer(callbacks=[watch()], logger=Recorder(), enable_progress_bar=False, default_root_dir=tmp_path)
    alone.validate(model, loaders()[1], verbose=False)
    assert not alone.logger.said


def test_a_monitor_that_goes_from_one_trainer_to_another_begins_anew(tmp_path: Path) -> None:
    monitor = watch(num_segments=4, every_n_epochs=2)
    first = fit(tmp_path, monitor, max_epochs=3)
    second = fit(tmp_path, monitor, model=Model(), given=loaders(val=data(40, 7)), max_epochs=3)
    assert [step for step, _ in first.logger.said] == [step for step, _ in second.logger.said]
    assert (monitor._run.probes.segments.start[0] == data(40, 7).tensors[0]).all(1).any()


class Undropped(Model):
    """Trains alike whatever the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3].p = 0.0


def resumed(tmp_path: Path, given: Any, **options: Any) -> tuple[Recorder, Recorder, FoldingMonitor, FoldingMonitor]:
    """What is said in four epochs at a stretch, and in two that go on from a checkpoint of the first two."""
    seed_everything(0, verbose=False)
    whole = watch(**options)
    at_once = fit(tmp_path, whole, model=Undropped(), given=given(), max_epochs=4, logger=Recorder())
    seed_everything(0, verbose=False)
    checkpoint = ModelCheckpoint(tmp_path, filename="two")
    fit(tmp_path, watch(**options), checkpoint, model=Undropped(), given=given(), max_epochs=2, logger=Recorder())
    seed_everything(5, verbose=False)
    goes_on, recorder = watch(**options), Recorder()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
    trainer = Trainer(
        max_epochs=4, callbacks=[goes_on], logger=recorder, default_root_dir=tmp_path, enable_checkpointing=False, **quiet
    )
    trainer.fit(Undropped(), *given(), ckpt_path=checkpoint.best_model_path)
    return at_once.logger, recorder, whole, goes_on


@pytest.mark.parametrize("form", ["items", "stream", "no validation"])
def test_a_resumed_run_goes_on_with_the_same_probes_and_steps(tmp_path: Path, form: str) -> None:
    class Moving(IterableDataset[Any]):
        """A stream that does not begin anew: what passes first is different each time."""

        seed = 0

        def __iter__(self) -> Any:
            Moving.seed += 1
            return iter(data(40, Moving.seed))

    def given() -> Any:
        return loaders(None, Moving()) if form == "stream" else loaders()[: 1 if form == "no validation" else 2]

    _, second, whole, goes_on = resumed(tmp_path, given, num_segments=4, num_inputs=40)
    assert [step for step, _ in second.said] == [8, 11]
    if form != "stream":
        assert torch.equal(whole._run.probes.pool[0], goes_on._run.probes.pool[0])
    path = next(tmp_path.glob("two*.ckpt"))
    states = torch.load(path, weights_only=True)["callbacks"]  # nothing in it is more than numbers, words and tensors
    (state,) = (state for key, state in states.items() if "FoldingMonitor" in key)
    assert goes_on._run.probes.fingerprint == state["fingerprint"]
    assert ("pool" in state) == (form == "stream")  # what can be read again takes no room in a checkpoint


@pytest.mark.parametrize("every", [1, 2])
def test_the_values_after_resuming_are_those_of_a_run_at_a_stretch(tmp_path: Path, every: int) -> None:
    def given() -> Any:
        return DataLoader(data(), batch_size=20), DataLoader(data(40, 1), batch_size=20)

    at_once, second, *_ = resumed(tmp_path, given, num_segments=8, every_n_epochs=every)
    measured = at_once.said[-2 // every :]
    for (step, values), (same_step, same) in zip(measured, second.said, strict=True):
        assert step == same_step and values.keys() == same.keys() == TAGS
        assert all(values[tag] == pytest.approx(same[tag], rel=1e-6) for tag in TAGS - {"folding/seconds"})


def test_probes_that_have_changed_since_are_said(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="one")
    fit(tmp_path, watch(num_segments=4), checkpoint, max_epochs=1)
    trainer = Trainer(
        max_epochs=2, callbacks=[watch(num_segments=4)], logger=Recorder(), default_root_dir=tmp_path, enable_progress_bar=False
    )
    with pytest.warns(UserWarning, match="not with the same probes"):
        trainer.fit(Model(), *loaders(val=data(40, 9)), ckpt_path=checkpoint.best_model_path)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"fast_dev_run": True}, []),
        ({"limit_train_batches": 2, "limit_val_batches": 1}, [0, 1, 3]),
        ({"overfit_batches": 1}, [0, 0, 1]),
        ({"val_check_interval": 1, "max_epochs": 1}, [0, 0, 1, 2]),
        ({"val_check_interval": 2, "check_val_every_n_epoch": None}, [0, 1, 3, 5]),
        ({"check_val_every_n_epoch": 2, "max_epochs": 4}, [0, 5, 11]),
        ({"check_val_every_n_epoch": 2, "max_epochs": 4, "num_sanity_val_steps": 0}, [5, 11]),
        ({"max_steps": 4, "max_epochs": -1}, [0, 2]),
        ({"limit_val_batches": 0}, [0, 2, 5]),
        ({"num_sanity_val_steps": 0}, [0, 2, 5]),
        ({"num_sanity_val_steps": -1}, [0, 2, 5]),
        ({"accumulate_grad_batches": 3}, [0, 0, 1]),
        ({"reload_dataloaders_every_n_epochs": 1}, [0, 2, 5]),
        ({"max_time": {"minutes": 5}}, [0, 2, 5]),
        ({"limit_train_batches": 0}, []),
    ],
    ids=str,
)
def test_loops_of_every_shape(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    trainer = fit(tmp_path, watch(num_segments=4), **options)
    said = [] if options.get("fast_dev_run") else trainer.logger.said
    assert [step for step, _ in said] == steps
    assert all(set(values) == TAGS for _, values in said)


def test_several_validation_loaders_are_probed_by_their_first(tmp_path: Path) -> None:
    class Several(Model):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    monitor = watch(num_segments=4, num_inputs="all")
    train, val = loaders()
    trainer = fit(tmp_path, monitor, model=Several(), given=(train, [val, loaders(val=data(30, 8))[1]]))
    assert trainer.logger.said[-1][1]["codes/inputs"] == 40
    starts = monitor._run.probes.segments.start
    assert all((start == data(40, 1).tensors[0]).all(1).any() for start in starts)


class Breaking:
    """Lets the n-th measurement of walks raise an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int, error: BaseException) -> None:
        self.calls, take = 0, Survey._take_walks

        def breaking(*given: Any) -> None:
            self.calls += 1
            if self.calls == nth:
                raise error
            take(*given)

        monkeypatch.setattr(Survey, "_take_walks", breaking)


def test_an_exception_in_a_measurement_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Breaking(monkeypatch, 2, RuntimeError("out of memory"))
    with pytest.warns(UserWarning, match="measured nothing at epoch 0: out of memory"):
        trainer = fit(tmp_path, watch(num_segments=4), ModelCheckpoint(tmp_path, monitor="folding/chi_mean"), max_epochs=3)
    assert trainer.current_epoch == 3
    assert list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("validates", [True, False])
def test_a_first_measurement_that_fails_costs_no_callback_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validates: bool
) -> None:
    Breaking(monkeypatch, 1, RuntimeError("out of memory"))
    tags = ("folding/chi_mean", "folding/phi", "codes/distinct", "faces/mean")
    checkpoints = [ModelCheckpoint(tmp_path / tag.replace("/", " "), monitor=tag, mode="max", save_top_k=9) for tag in tags]
    stopping = [
        EarlyStopping("folding/regions", mode="max", patience=9),
        EarlyStopping("codes/inputs", patience=9),
        EarlyStopping("folding/fraction", patience=9, divergence_threshold=2.0),
    ]
    with pytest.warns(UserWarning, match="measured nothing at epoch 0: out of memory"):
        trainer = fit(
            tmp_path,
            watch(num_segments=4, measure_at_start=False),
            *checkpoints,
            *stopping,
            max_epochs=3,
            given=loaders() if validates else loaders()[:1],
        )
    assert trainer.current_epoch == 3
    said = [step for step, values in trainer.logger.said if "folding/chi_mean" in values]
    assert len(said) == 2 and not any(v != v for _, values in trainer.logger.said for v in values.values())
    for checkpoint in checkpoints:
        assert len(checkpoint.best_k_models) == 3 and math.isfinite(checkpoint.best_model_score)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interruption_in_a_measurement_costs_neither_weights_nor_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    Breaking(monkeypatch, 2, error)
    model = Model()
    with pytest.warns(UserWarning, match="measured nothing at epoch 0"), pytest.raises(SystemExit):
        fit(tmp_path, watch(num_segments=4), OnExceptionCheckpoint(tmp_path), ModelCheckpoint(tmp_path), model=model)
    saved = torch.load(tmp_path / "on_exception.ckpt", weights_only=False)
    assert saved["global_step"] == 3
    assert all(torch.equal(saved["state_dict"][name], value) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_an_exception_of_the_training_itself_is_not_the_monitors(tmp_path: Path) -> None:
    class Broken(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("a bug in the step")

    with warnings.catch_warnings(record=True) as caught, pytest.raises(RuntimeError, match="a bug in the step"):
        warnings.simplefilter("always")
        fit(tmp_path, watch(num_segments=4), model=Broken())
    assert not any("FoldingMonitor" in str(warning.message) for warning in caught)


def test_what_cannot_be_written_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning import summaries

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(summaries, "write_distributions", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        trainer = fit(tmp_path, watch(num_segments=4))
    assert [set(values) for _, values in trainer.logger.said] == [TAGS] * 3


def test_two_monitors_of_the_same_tags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="log under the same tags"):
        fit(tmp_path, watch(), watch(layers="net.2"))
    only = {"folding": False, "codes": False, "faces": False}
    trainer = fit(tmp_path, watch(num_segments=4), watch(regularize=True, **only), max_epochs=1)
    assert set(trainer.logger.said[-1][1]) == TAGS


def shown(folder: str) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of each curve, step by step; each step once, to its server and to scripts that read the files."""
    events = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    server = ServerAccumulator(folder, tensor_size_guidance={"scalars": 0}).Reload()
    curves = {}
    for tag in TAGS - {"folding/seconds"}:
        points, served = events.Scalars(tag), server.Tensors(tag)
        assert len({point.step for point in points}) == len(points), f"{tag} has a step twice"
        assert [point.step for point in served] == [point.step for point in points]
        curves[tag] = {point.step: point.value for point in points}
    return curves


def test_a_killed_run_resumes_into_the_same_curves(tmp_path: Path) -> None:
    script = Path(__file__).parent / "fit_and_be_killed.py"

    def run(name: str, kill_in_epoch: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(tmp_path), name, str(kill_in_epoch)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert (done := run("whole", -1)).returncode == 0, done.stderr
    assert run("killed", 5).returncode == -signal.SIGKILL
    assert (done := run("killed", -1)).returncode == 0, done.stderr
    whole, killed = shown(str(tmp_path / "whole" / "version_0")), shown(str(tmp_path / "killed" / "version_0"))
    assert len(list((tmp_path / "killed" / "version_0").glob("events*"))) == 2
    assert whole == killed and sorted(whole["folding/chi_mean"]) == [0, *range(2, 24, 3)]


class ByImages(Model):
    """Draws a curve of its own on another axis than steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images = 20 * (self.global_step + 1)
        self.logger.experiment.add_scalar("own/curve", float(images), images)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("model", [Model, ByImages])
def test_going_on_hides_no_point_from_before_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[Model], validates: bool
) -> None:
    # Files of one second are read in the order of their numbers as words: 10 before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    given = loaders() if validates else loaders()[:1]
    every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    logger = TensorBoardLogger(tmp_path, name="tb", version=0)
    fit(tmp_path, watch(num_segments=4), every, model=model(), given=given, max_epochs=4, logger=logger)
    for epoch in (1, 2):  # twice broken off after four epochs
        logger = TensorBoardLogger(tmp_path, name="tb", version=0)
        trainer = Trainer(
            max_epochs=4,
            callbacks=[watch(num_segments=4), every],
            logger=logger,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
        )
        trainer.fit(model(), *given, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "histograms": 0}).Reload()
    for points in (events.Scalars("folding/chi_mean"), events.Histograms("folding/chi_histogram")):
        assert {point.step for point in points} == {0, 2, 5, 8, 11}
        assert len(points) == 5 or model is ByImages
    if model is ByImages:
        assert {point.step for point in events.Scalars("own/curve")} == {20 * i for i in range(1, 13)}


def test_what_event_files_show(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step, wall_time in ((0, 10.0), (7, 11.0), (3, 12.0), (50, 20.0)):
            writer.add_scalar("curve", 1.0, step, walltime=wall_time)
    assert [shown_until(tmp_path, t) for t in (9.0, 10.0, 12.0, 20.0)] == [-1, 0, 7, 50]
    with SummaryWriter(tmp_path, filename_suffix="later") as writer:
        restart = Event(session_log=SessionLog(status=SessionLog.START), wall_time=30.0, step=5)
        writer._get_file_writer().event_writer.add_event(restart)
        writer.add_scalar("curve", 1.0, 6, walltime=31.0)
    assert [shown_until(tmp_path, t) for t in (20.0, 30.0, 31.0)] == [50, 4, 6]
    (file,) = tmp_path.glob("*later")
    file.write_bytes(file.read_bytes()[:-5])  # killed while it wrote
    assert shown_until(tmp_path, 31.0) == 4


def test_a_stream_that_ends_early_and_labels_that_some_batches_lack(tmp_path: Path) -> None:
    trainer = fit(tmp_path, watch(num_segments=4, num_inputs=32), given=loaders(Stream(data(45)), Stream(data(33, 1))))
    assert [set(values) for _, values in trainer.logger.said][-1] == TAGS


def test_a_tensorboard_run_without_checkpoint_is_not_cut(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    trainer = fit(tmp_path, watch(num_segments=4), logger=logger)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, *loaders())
    assert sorted(shown(logger.log_dir)["folding/chi_mean"]) == [0, 2, 5, 8]


class TwoOptimizers(Model):
    """Steps two optimizers with each batch, by hand."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = torch.nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.net[:3], self.net[3:])]


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {}, {"check_val_every_n_epoch": 2}], ids=str)
def test_a_resumed_run_has_each_step_once_whatever_counts_as_one(tmp_path: Path, options: dict[str, Any]) -> None:
    def run(name: str, epochs: int, *callbacks: Any, **more: Any) -> None:
        seed_everything(0, verbose=False)
        trainer = Trainer(
            max_epochs=epochs,
            callbacks=[watch(num_segments=4, figures=False), *callbacks],
            logger=TensorBoardLogger(tmp_path, name=name, version=0),
            accelerator="cpu",
            enable_progress_bar=False,
            log_every_n_steps=1,
            **options,
        )
        trainer.fit(TwoOptimizers(), DataLoader(data(), 20), DataLoader(data(40, 1), 20), **more)

    run("whole", 6)
    checkpoint = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}", every_n_train_steps=12)  # six batches
    run("broken", 4, checkpoint)
    time.sleep(1.1)  # TensorBoard reads files by their names, which tell seconds
    run("broken", 6, ckpt_path=tmp_path / "epoch=1.ckpt")
    whole, broken = (shown(str(tmp_path / name / "version_0")) for name in ("whole", "broken"))
    assert whole["folding/chi_mean"].keys() == broken["folding/chi_mean"].keys()
    assert whole == broken

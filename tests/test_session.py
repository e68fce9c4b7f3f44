"""A monitor through all that a Trainer does: fits again, resumes, is interrupted, killed, and runs loops of every shape."""

from __future__ import annotations

import math
import re
import signal
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
from torch.utils.data import DataLoader, IterableDataset

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.measures.sources import SegmentSource
from fold_lightning.callbacks.tensorboard import TensorBoard
from helpers.fit_and_be_killed import fit_and_be_killed
from helpers.processes import run_script
from helpers.training import FOLDING, TAGS, Model, Recorder, Stream, data, fit, loaders, sample_of, segments_of, watch

pytestmark = pytest.mark.filterwarnings("ignore:.*resuming")


@pytest.mark.slow
def test_fit_validate_test_and_fit_again(tmp_path: Path) -> None:
    class Tested(Model):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.validation_step(batch, batch_idx)

    model, monitor, recorder = Tested(), watch(num_segments=4), Recorder()
    trainer = fit(tmp_path, monitor, model=model, logger=recorder)
    assert [step for step, _ in recorder.said] == [0, 2, 5]
    last = dict(recorder.said[-1][1])
    for run in (trainer.validate, trainer.test):
        (values,) = run(model, loaders()[1], verbose=False)
        assert {tag: values[tag] for tag in TAGS - {"monitor/seconds"}} == pytest.approx(
            {tag: last[tag] for tag in TAGS - {"monitor/seconds"}}, rel=1e-6
        )
    assert len(recorder.said) == 5
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, *loaders())
    assert [step for step, _ in recorder.said[5:]] == [8, 11]


@pytest.mark.parametrize("probes", [None, data(20, 3).tensors[0], data(20, 3)])
def test_a_model_is_measured_by_validating_it_alone(tmp_path: Path, probes: Any) -> None:
    recorder, monitor = Recorder(), watch(num_segments=4, probes=probes)
    trainer = Trainer(callbacks=[monitor], logger=recorder, default_root_dir=tmp_path, accelerator="cpu")
    (values,) = trainer.validate(Model(), loaders()[1], verbose=False)
    assert set(values) >= FOLDING - {"folding/phi"} and len(recorder.said) == 1


@pytest.mark.slow
def test_a_monitor_that_goes_from_one_trainer_to_another_begins_anew(tmp_path: Path) -> None:
    monitor = watch(num_segments=4, every_n_epochs=2)
    first = fit(tmp_path, monitor, max_epochs=3)
    second = fit(tmp_path, monitor, model=Model(), given=loaders(val=data(40, 7)), max_epochs=3)
    assert [step for step, _ in first.logger.said] == [step for step, _ in second.logger.said]
    assert (segments_of(monitor)[0][0] == data(40, 7).tensors[0]).all(1).any()


@pytest.mark.slow
def test_a_test_of_too_few_inputs_costs_a_warning_and_leaves_the_hyperparameters(tmp_path: Path) -> None:
    class Tested(Model):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    logger = TensorBoardLogger(tmp_path, name="tb")
    trainer = fit(tmp_path, watch(num_segments=4, figures=False), model=Tested(), logger=logger)
    before = (Path(logger.log_dir) / "hparams.yaml").read_text()
    with pytest.warns(UserWarning, match="at least 2 inputs"):
        trainer.test(trainer.lightning_module, DataLoader(data(1)), verbose=False)
    assert trainer.test(trainer.lightning_module, DataLoader(data(20), 10), verbose=False)[0]["codes/distinct"] > 0
    assert (Path(logger.log_dir) / "hparams.yaml").read_text() == before


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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["items", "stream", "no validation"])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
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
        assert torch.equal(sample_of(whole).probes.items, sample_of(goes_on).probes.items)
    path = next(tmp_path.glob("two*.ckpt"))
    states = torch.load(path, weights_only=True)["callbacks"]  # nothing in it is more than numbers, words and tensors
    (state,) = (state for key, state in states.items() if "FoldingMonitor" in key)
    assert sample_of(goes_on).fingerprint == state["fingerprint"]
    assert ("probes" in state) == (form == "stream")  # what can be read again takes no room in a checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_the_values_after_resuming_are_those_of_a_run_at_a_stretch(tmp_path: Path, every: int) -> None:
    def given() -> Any:
        return DataLoader(data(), batch_size=20), DataLoader(data(40, 1), batch_size=20)

    at_once, second, *_ = resumed(tmp_path, given, num_segments=8, every_n_epochs=every)
    measured = at_once.said[-2 // every :]
    for (step, values), (same_step, same) in zip(measured, second.said, strict=True):
        assert step == same_step and values.keys() == same.keys() == TAGS
        assert all(values[tag] == pytest.approx(same[tag], rel=1e-6) for tag in TAGS - {"monitor/seconds"})


@pytest.mark.parametrize(
    ("options", "seed", "message"),
    [
        pytest.param({}, 9, "but with other inputs", marks=pytest.mark.slow),
        ({"every_n_epochs": 2}, 9, "but with other inputs"),
        pytest.param(
            {"seed": 1},
            1,
            "but with a different `seed`, so it draws a different sample.*pass the checkpoint's arguments",
            marks=pytest.mark.slow,
        ),
        ({"num_segments": 30, "num_inputs": 20}, 1, "with a different `num_segments`, `num_inputs`, so"),
        pytest.param({"segments_per_pair": 2}, 1, "with a different `segments_per_pair`, so", marks=pytest.mark.slow),
        pytest.param({"face_subspace": 1}, 1, "with a different `face_subspace`, so", marks=pytest.mark.slow),
        ({"every_n_epochs": 2, "within": "mean", "max_overhead": math.inf, "num_inputs": 90}, 1, None),  # there are 40 inputs
        pytest.param({"num_segments": 5}, 1, None, marks=pytest.mark.slow),  # still one for each pair
    ],
)
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_that_measures_another_sample_warns_why(
    tmp_path: Path, options: dict[str, Any], seed: int, message: str | None
) -> None:
    checkpoint, given = ModelCheckpoint(tmp_path, filename="one"), {"num_segments": 4, "units": False}
    fit(tmp_path, watch(**given), checkpoint, max_epochs=1)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": Recorder()}
    trainer = Trainer(max_epochs=2, callbacks=[watch(**given | options)], default_root_dir=tmp_path, **quiet)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Model(), *loaders(val=data(40, seed)), ckpt_path=checkpoint.best_model_path)
    said = [text for warning in caught if "resumes from a checkpoint" in (text := str(warning.message))]
    assert len(said) == (message is not None) and all(re.search(str(message), text) for text in said)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_state_of_another_version_is_left_alone(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="one")
    fit(tmp_path, watch(num_segments=4), checkpoint, max_epochs=1)
    content = torch.load(checkpoint.best_model_path, weights_only=True)
    (state,) = (state for key, state in content["callbacks"].items() if "FoldingMonitor" in key)
    state["settings"] = "{'num_segments': 4}"
    torch.save(content, tmp_path / "old.ckpt")
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": Recorder()}
    trainer = Trainer(max_epochs=2, callbacks=[watch(num_segments=4)], default_root_dir=tmp_path, **quiet)
    with pytest.warns(UserWarning, match="starts afresh: its state in the checkpoint is from another version"):
        trainer.fit(Model(), *loaders(), ckpt_path=tmp_path / "old.ckpt")


@pytest.mark.slow
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
        ({"max_steps": 4, "max_epochs": -1}, [0, 2, 3]),
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
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_loops_of_every_shape(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    trainer = fit(tmp_path, watch(num_segments=4), **options)
    said = [] if options.get("fast_dev_run") else trainer.logger.said
    assert [step for step, _ in said] == steps
    assert all(set(values) == TAGS for _, values in said)


def test_several_validation_loaders_are_probed_by_their_first(tmp_path: Path) -> None:
    class Several(Model):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    monitor = watch(num_segments=4)
    train, val = loaders()
    fit(tmp_path, monitor, model=Several(), given=(train, [val, loaders(val=data(30, 8))[1]]))
    assert len(sample_of(monitor).probes.items) == 40
    starts, _ = segments_of(monitor)
    assert all((start == data(40, 1).tensors[0]).all(1).any() for start in starts)


class Breaking:
    """Lets the n-th walk raise an error, the check being the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int, error: BaseException) -> None:
        self.calls, walk = 0, SegmentSource.walk

        def breaking(*given: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                raise error
            return walk(*given)

        monkeypatch.setattr(SegmentSource, "walk", breaking)


@pytest.mark.slow
def test_a_measure_that_fails_costs_one_warning_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Breaking(monkeypatch, 3, RuntimeError("out of memory"))
    monitor, checkpoint = watch(num_segments=4, figures=False), ModelCheckpoint(tmp_path, monitor="folding/chi_mean")
    with pytest.warns(UserWarning, match="could not measure everything at epoch 0: out of memory"):
        trainer = fit(tmp_path, monitor, checkpoint, max_epochs=3)
    assert trainer.current_epoch == 3
    assert list(tmp_path.glob("*.ckpt"))
    assert [set(values) for _, values in trainer.logger.said] == [TAGS, TAGS - FOLDING, TAGS, TAGS]


def test_a_first_measurement_that_fails_ends_training_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Breaking(monkeypatch, 2, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, watch(num_segments=4))


@pytest.mark.parametrize("validates", [True, False])
def test_without_a_first_value_checkpoints_find_nan_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validates: bool
) -> None:
    Breaking(monkeypatch, 2, RuntimeError("out of memory"))
    tags = ("folding/chi_mean", "folding/phi")
    checkpoints = [ModelCheckpoint(tmp_path / tag.replace("/", " "), monitor=tag, mode="max", save_top_k=9) for tag in tags]
    given = loaders() if validates else loaders()[:1]
    with pytest.warns(UserWarning, match="could not measure everything at epoch 0: out of memory"):
        trainer = fit(
            tmp_path,
            watch(num_segments=4, measure_at_start=False, figures=False),
            *checkpoints,
            EarlyStopping("codes/distinct", patience=9),
            max_epochs=3,
            given=given,
        )
    assert trainer.current_epoch == 3
    assert not any(v != v for _, values in trainer.logger.said for v in values.values())
    for checkpoint in checkpoints:
        assert len(checkpoint.best_k_models) == 3 and math.isfinite(checkpoint.best_model_score)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.filterwarnings("ignore:.*.fit\\(ckpt_path=")
def test_an_interruption_in_a_measurement_costs_neither_weights_nor_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    Breaking(monkeypatch, 3, error)
    model = Model()
    with pytest.raises(SystemExit):
        fit(
            tmp_path,
            watch(num_segments=4, figures=False),
            OnExceptionCheckpoint(tmp_path),
            ModelCheckpoint(tmp_path),
            model=model,
        )
    saved = torch.load(tmp_path / "on_exception.ckpt", weights_only=False)
    assert saved["global_step"] == 3
    assert all(torch.equal(saved["state_dict"][name], value) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_an_interruption_of_training_is_measured_as_its_end(tmp_path: Path) -> None:
    class Interrupted(Model):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 4:
                raise KeyboardInterrupt

    recorder = Recorder()
    with pytest.raises(SystemExit):
        fit(tmp_path, watch(num_segments=4), model=Interrupted(), logger=recorder)
    assert [step for step, _ in recorder.said] == [0, 2, 3]
    assert all(set(values) == TAGS for _, values in recorder.said)


def test_an_interruption_behind_a_step_is_logged_at_that_step(tmp_path: Path) -> None:
    class Interrupted(Model):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 5:
                raise KeyboardInterrupt

    recorder = Recorder()
    with pytest.raises(SystemExit):
        fit(tmp_path, watch(num_segments=4), model=Interrupted(), logger=recorder)
    assert [step for step, _ in recorder.said] == [0, 2, 4]


def test_an_exception_of_the_training_itself_is_not_the_monitors(tmp_path: Path) -> None:
    class Broken(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("a bug in the step")

    with warnings.catch_warnings(record=True) as caught, pytest.raises(RuntimeError, match="a bug in the step"):
        warnings.simplefilter("always")
        fit(tmp_path, watch(num_segments=4), model=Broken())
    assert not any("FoldingMonitor" in str(warning.message) for warning in caught)


def test_what_cannot_be_written_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(TensorBoard, "write", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        trainer = fit(tmp_path, watch(num_segments=4))
    assert [set(values) for _, values in trainer.logger.said] == [TAGS] * 3


@pytest.mark.parametrize("second", [{}, {"layers": "net.2"}, {"num_segments": 5}], ids=["alike", "layers", "segments"])
def test_two_monitors_of_the_same_tags_are_refused(tmp_path: Path, second: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="Expected one FoldingMonitor that measures, .* under the same tags"):
        fit(tmp_path, watch(), watch(**second))


def test_a_monitor_that_regularizes_alone_goes_with_one_that_measures(tmp_path: Path) -> None:
    only = {"folding": False, "codes": False, "units": False, "faces": False}
    trainer = fit(tmp_path, watch(num_segments=4), watch(regularize=True, **only), max_epochs=1)
    assert set(trainer.logger.said[-1][1]) == TAGS


def shown(folder: str) -> dict[str, dict[int, list[float]]]:
    """The points of each curve in a folder's files, step by step."""
    events = EventAccumulator(folder, size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    curves: dict[str, dict[int, list[float]]] = {}
    for tag in TAGS - {"monitor/seconds"}:
        for point in events.Scalars(tag):
            curves.setdefault(tag, {}).setdefault(point.step, []).append(point.value)
    return curves


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_run_resumes_into_the_same_curves(tmp_path: Path) -> None:
    fit_and_be_killed(tmp_path, "whole", -1)
    assert run_script("fit_and_be_killed.py", str(tmp_path), "killed", "5").returncode == -signal.SIGKILL
    fit_and_be_killed(tmp_path, "killed", -1)
    whole, killed = shown(str(tmp_path / "whole" / "version_0")), shown(str(tmp_path / "killed" / "version_0"))
    assert len(list((tmp_path / "killed" / "version_0").glob("events*"))) == 2
    assert sorted(whole["folding/chi_mean"]) == [0, *range(2, 24, 3)]
    for tag, points in whole.items():  # what was logged after the checkpoint is there twice, as Lightning's own curves are
        assert killed[tag].keys() == points.keys()
        assert all(set(killed[tag][step]) == set(values) for step, values in points.items()), tag


def test_a_stream_that_ends_early_and_labels_that_some_batches_lack(tmp_path: Path) -> None:
    trainer = fit(tmp_path, watch(num_segments=4, num_inputs=32), given=loaders(Stream(data(45)), Stream(data(33, 1))))
    assert [set(values) for _, values in trainer.logger.said][-1] == TAGS


@pytest.mark.slow
def test_a_tensorboard_run_without_checkpoint_is_not_cut(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    trainer = fit(tmp_path, watch(num_segments=4), logger=logger)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, *loaders())
    assert sorted(shown(logger.log_dir)["folding/chi_mean"]) == [0, 2, 5, 8]

"""The ways to a monitor: the command line, both packages of Lightning, other loggers, and an environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from fold_lightning import FoldingMonitor
from fold_lightning.callbacks.environment import MONITOR_HOOKS, EnvironmentMonitor
from helpers.processes import run_code, run_script
from helpers.training import TAGS, Model, Recorder, data, fit, loaders, watch

EXAMPLES = Path(__file__).parents[1] / "examples"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "accelerator": "cpu"}


def run(code: str) -> str:
    """What Python code prints in a process of its own."""
    done = run_code(code, FOLD_LIGHTNING="")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.processes
def test_the_command_line_runs_the_yaml_of_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--trainer.max_epochs=2", "--trainer.callbacks.figures=false")
    done = run_script(EXAMPLES / "cli.py", "fit", "--config", str(EXAMPLES / "cli.yaml"), *few)
    assert done.returncode == 0, done.stderr[-3000:]
    (settings,) = tmp_path.glob("logs/cli/version_0/hparams.yaml")
    assert yaml.safe_load(settings.read_text())["folding_monitor"]["max_overhead"] == 0.1
    assert list(tmp_path.glob("logs/cli/version_0/checkpoints/*.ckpt"))


def test_the_command_line_knows_and_explains_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        LightningCLI(
            Model, run=False, save_config_callback=None, args=["--trainer.callbacks.help=fold_lightning.FoldingMonitor"]
        )
    text = " ".join(capsys.readouterr().out.split())
    for name in FoldingMonitor.__init__.__kwdefaults__:
        assert f"--trainer.callbacks.{name}" in text or f"--{name}" in text or f".{name} " in text, name
    assert text.count("Layers whose bits count") and text.count("Maximum share of the training's time")


@pytest.mark.parametrize(
    ("argument", "text", "value"),
    [
        *(("max_overhead", "0.5", 0.5), ("max_overhead", "null", None), ("method", "uniform", "uniform")),
        *(("layers", "net.*", "net.*"), ("layers", "[net.2,net.5]", ["net.2", "net.5"]), ("num_inputs", "20", 20)),
        *(("num_segments", "3", 3), ("figures", "false", False), ("faces", "false", False), ("forward", "net", "net")),
        *(("every_n_train_steps", "7", 7), ("units", "false", False), ("face_subspace", "whole", "whole")),
    ],
)
def test_the_command_line_gives_plain_values(argument: str, text: str, value: Any) -> None:
    arguments = ["--trainer.callbacks+=fold_lightning.FoldingMonitor", f"--trainer.callbacks.{argument}={text}"]
    cli = LightningCLI(Model, run=False, save_config_callback=None, args=arguments)
    (monitor,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, FoldingMonitor))
    assert getattr(monitor.settings, argument) == value


TWIN = """
from fold_lightning import FoldingMonitor, DistinctCodes
import torch, pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU())
    def forward(self, x): return self.net(x)
    def training_step(self, batch, batch_idx): return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, batch_idx): pass
    def configure_optimizers(self): return torch.optim.Adam(self.parameters())
    def train_dataloader(self): return DataLoader(TensorDataset(torch.randn(40, 5), torch.arange(40) % 3), 10)
    val_dataloader = train_dataloader
"""


OTHER_TRAINER = """
checkpoint = pl.callbacks.ModelCheckpoint("c", monitor="folding/phi")
monitor = FoldingMonitor(num_segments=4, figures=False, regularize=True)
print(isinstance(monitor, pl.Callback))
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=[monitor, checkpoint], logger=TensorBoardLogger("tb"))
trainer.fit(Model())
print(sorted(tag for tag in trainer.callback_metrics if tag.startswith("folding/chi")), checkpoint.best_model_path)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(trainer.logger.log_dir); events.Reload()
print(events.Tags()["histograms"])
"""
OTHER_COMMAND_LINE = """
arguments = ["--trainer.callbacks+=fold_lightning.FoldingMonitor", "--trainer.callbacks.num_segments=3"]
cli = LightningCLI(Model, run=False, save_config_callback=None, args=arguments)
print([callback.settings.num_segments for callback in cli.trainer.callbacks if isinstance(callback, FoldingMonitor)])
"""


@pytest.mark.slow
@pytest.mark.processes
def test_it_runs_in_the_trainer_and_the_command_line_of_the_other_package_though_imported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(TWIN + OTHER_TRAINER + OTHER_COMMAND_LINE)
    assert said.splitlines()[0] == "True", "Trainers of Lightning 2.4 accept no other callback"
    assert "['folding/chi_max', 'folding/chi_mean', 'folding/chi_median']" in said and "c/epoch=" in said
    assert "folding/chi_histogram" in said and said.splitlines()[-1] == "[3]"


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("module", ["fold_lightning", "fold_lightning.callbacks", "fold_lightning.callbacks.monitor"])
def test_the_command_line_of_the_other_package_finds_the_monitor_in_any_module(module: str) -> None:
    other = TWIN.replace(
        "from fold_lightning import FoldingMonitor, DistinctCodes\n", ""
    )  # which a configuration imports alone
    command_line = OTHER_COMMAND_LINE.replace("fold_lightning.FoldingMonitor", f"{module}.FoldingMonitor")
    command_line = command_line.replace("isinstance(callback, FoldingMonitor)", "hasattr(callback, 'settings')")
    assert run(other + command_line).splitlines()[-1] == "[3]"


@pytest.mark.slow
@pytest.mark.processes
def test_a_trainer_imports_two_small_files_and_the_package_no_other_package_of_lightning() -> None:
    script = """
import logging, sys
from lightning.pytorch import Trainer
Trainer(logger=False, enable_checkpointing=False)
print(sorted(name for name in sys.modules if name.split(".")[0] == "fold_lightning"))
import fold_lightning
fold_lightning.FoldingMonitor()
print("pytorch_lightning" in sys.modules, logging.getLogger("fold_lightning").handlers)
"""
    small, others = run(script).splitlines()[-2:]
    assert small == "['fold_lightning', 'fold_lightning.callback_factory']" and others == "False []"


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["folding/phi", "folding/chi_mean", "codes/distinct", "faces/mean"])
def test_checkpoints_and_early_stopping_follow_every_tag(tmp_path: Path, tag: str) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor=tag, mode="max", filename="{epoch}")
    stopping = EarlyStopping(tag, min_delta=1e9, patience=1)
    trainer = fit(tmp_path, watch(num_segments=6), checkpoint, stopping, max_epochs=5)
    assert trainer.current_epoch == 2 and checkpoint.best_model_score is not None
    assert checkpoint.best_model_score == max(values[tag] for _, values in trainer.logger.said[1:])


@pytest.mark.slow
def test_all_loggers_get_all_scalars_and_pictures_go_where_they_can(tmp_path: Path) -> None:
    csv, board, recorder = CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tb"), Recorder()
    fit(tmp_path, watch(num_segments=4), logger=[csv, recorder, board])
    rows = (Path(csv.log_dir) / "metrics.csv").read_text().splitlines()
    assert set(rows[0].split(",")) >= TAGS
    assert [set(values) for _, values in recorder.said] == [TAGS] * 3
    assert "folding_monitor" in (Path(csv.log_dir) / "hparams.yaml").read_text()


def environment_trainer(tmp_path: Path, *callbacks: Any, **options: Any) -> Trainer:
    return Trainer(
        max_epochs=1, default_root_dir=tmp_path, callbacks=list(callbacks), **(QUIET | {"logger": Recorder()} | options)
    )


@pytest.mark.parametrize(("value", "count"), [(None, 0), ("", 0), ("0", 0), ("false", 0), ("1", 1), ("true", 1)])
def test_a_variable_of_the_environment_adds_a_monitor_to_every_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, count: int
) -> None:
    monkeypatch.delenv("FOLD_LIGHTNING", raising=False)
    if value is not None:
        monkeypatch.setenv("FOLD_LIGHTNING", value)
    trainer = environment_trainer(tmp_path)
    assert sum(isinstance(callback, FoldingMonitor) for callback in trainer.callbacks) == count
    trainer.fit(Model(), *loaders())
    assert bool(trainer.logger.said) == bool(count)
    if count:
        assert set(trainer.logger.said[-1][1]) == TAGS


class Linear(Model):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 3)


class Broken(Model):
    """Measures like any other, and breaks at the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and self.trainer.global_step > 0 and not torch.is_grad_enabled() and len(x) < 10:
            raise RuntimeError("not now")
        return super().forward(x)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:You are trying to `self.log",
    "ignore:The FoldingMonitor added by FOLD_LIGHTNING=1",
    "ignore:FoldingMonitor could not measure",
)
def test_the_monitor_of_the_environment_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLD_LIGHTNING", "1")
    odd = [(torch.arange(3), torch.zeros(3).long())] * 4
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (Model(), loaders(), {"logger": False}),
        (Model(), loaders(), {"barebones": True, "logger": None, "enable_checkpointing": None}),
        (Model(), loaders(), {"fast_dev_run": True}),
        (Linear(), loaders(), {}),
        (Broken(), loaders(), {}),
    ]
    for model, given, options in cases:
        settings = {key: value for key, value in (QUIET | {"logger": Recorder()} | options).items() if value is not None}
        if "barebones" in options:
            settings = {"barebones": True, "accelerator": "cpu"}
        trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **settings)
        trainer.fit(model, *given)
        assert trainer.state.finished, (model, options)

    class Odd(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(data(4).tensors[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    trainer = environment_trainer(tmp_path)
    with pytest.warns(UserWarning, match="FOLD_LIGHTNING=1 stops measuring: No inputs found"):
        trainer.fit(Odd(), DataLoader(odd, batch_size=None), DataLoader(odd, batch_size=None))
    assert trainer.state.finished


@pytest.mark.slow
def test_a_monitor_of_ones_own_goes_before_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLD_LIGHTNING", "1")
    trainer = environment_trainer(tmp_path, watch(num_segments=3))
    trainer.fit(Model(), *loaders())
    assert len(trainer.logger.said) == 2
    assert sum(isinstance(callback, FoldingMonitor) for callback in trainer.callbacks) == 2


def test_every_hook_of_a_monitor_can_switch_itself_off() -> None:
    from lightning.pytorch import Callback

    hooks = {name for name in vars(FoldingMonitor) if name in vars(Callback) and not name.startswith("_")}
    hooks -= {"state_key", "state_dict", "load_state_dict"}
    assert hooks == set(MONITOR_HOOKS) and issubclass(EnvironmentMonitor, FoldingMonitor)

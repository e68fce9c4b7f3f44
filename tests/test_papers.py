"""The papers' experiments write what they say, go on where they were stopped, and count right."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

PAPERS = Path(__file__).parents[1] / "examples" / "papers"
sys.path[:0] = [str(PAPERS.parent), str(PAPERS)]

from cantor_nets import cantor_net  # noqa: E402
from code_space import CountCodes, adjacency, autoencoder, last_table  # noqa: E402
from discrete_geometry import closed_form, mlp, statistics  # noqa: E402
from experiment import Task  # noqa: E402
from report import differences, spread, verdict  # noqa: E402
from space_folds import ENDS, cantor  # noqa: E402
from space_folds import closed_form as folds_of_a  # noqa: E402

from fold_lightning import activation_codes  # noqa: E402
from helpers.processes import run_here, run_script  # noqa: E402

SCRIPTS = {
    "space_folds": ("cantor", "depth"),
    "space_between": ("activation", "sampling", "architecture", "labels", "regularizer"),
    "code_space": ("codes",),
    "simple_polytopes": ("faces", "simplices"),
    "discrete_geometry": ("regions",),
}


def run(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(PAPERS / f"{script}.py", "--smallest", "--seeds", "1", "--output-dir", str(folder), *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_experiment_leaves_its_files_and_goes_on_with_the_same_result(script: str, tmp_path: Path) -> None:
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"{script}.md").read_text()
    assert "## What the paper reports" in text and (tmp_path / f"{script}.png").stat().st_size > 5000
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    for part in SCRIPTS[script]:
        with (tmp_path / f"{part}.csv").open() as opened:
            rows = list(csv.DictReader(opened))
        assert len(rows) == len(list((tmp_path / "cells").glob(f"{part}-*.json"))) > 0
    cells = sorted((tmp_path / "cells").glob("*.json"))
    kept, lost = {cell: cell.stat().st_mtime_ns for cell in cells[:-1]}, cells[-1]
    lost.unlink()
    done = run(script, tmp_path)
    assert done.returncode == 0 and (tmp_path / f"{script}.md").read_text() == text, done.stderr
    assert lost.exists() and all(cell.stat().st_mtime_ns == time for cell, time in kept.items())
    done = run(script, tmp_path, "--data-dir", str(tmp_path))
    assert done.returncode == 1 and "holds other results (data was None" in done.stderr


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_train_together_and_one_of_them_writes(tmp_path: Path) -> None:
    small = ("--smallest", "--seeds", "1", "--output-dir", str(tmp_path), "--strategy", "ddp", "--devices", "2")
    done = run_script(PAPERS / "space_folds.py", *small, count=2)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(cell.read_text()) for cell in (tmp_path / "cells").glob("depth-*.json")]
    assert len(rows) == 6 and all(0 <= row["chi"] < 1 for row in rows)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("representation", "ABC")
@pytest.mark.parametrize("k", [1, 2, 3])
def test_walks_of_cantor_nets_are_those_of_many_points(representation: str, k: int) -> None:
    """Regions are at least 3^-k / 4 long, and the points, which meet no border, closer together."""
    t = (torch.arange(4001, dtype=torch.float64)[:, None] + 0.5**0.5) / 4002
    bits = activation_codes(cantor_net(representation, k), torch.lerp(*ENDS, t)).bits
    changes = (bits[1:] != bits[:-1]).any(1)
    row = cantor(representation, k)
    assert row["same_set"] and row["regions"] == 1 + int(changes.sum())
    assert row["r2"] == int((bits[1:] != bits[:-1]).sum()) and row["r1"] == int((bits != bits[0]).sum(1).max())


@pytest.mark.parametrize("k", [4, 6])
def test_a_deeper_cantor_net_has_the_integers_of_the_closed_form(k: int) -> None:
    row = cantor("A", k)
    assert {key: row[key] for key in folds_of_a(k)} == folds_of_a(k)


def test_regions_one_unit_apart_need_not_touch() -> None:
    assert adjacency() == {"codes": "010 and 110", "hamming": 1, "faces": 3, "regions": 5}


def test_a_training_that_diverges_ends_and_is_left_out_of_the_table() -> None:
    data = torch.randn(20, 4), torch.arange(20) % 10
    counter = CountCodes(data, 10, False, set())
    module = Task(autoencoder(4, (4, 3, 2)), torch.nn.functional.mse_loss, torch.optim.SGD, {"lr": 0.1})
    trainer = Trainer(logger=False, enable_checkpointing=False)
    counter.on_train_epoch_end(trainer, module)
    assert not counter.diverged and not trainer.should_stop and len(counter.history) == 1
    next(module.parameters()).data[0, 0] = torch.inf
    counter.on_train_epoch_end(trainer, module)
    assert counter.diverged and trainer.should_stop and len(counter.history) == 1
    row = {"network": "autoencoder", "rate": 0.1, "seed": 0, "test": 0.5, "diverged": False, "history": counter.history}
    assert last_table([row, row | {"diverged": True}]).rows[0][2:5] == [
        "1 of 2",
        "0.500",
        spread([counter.history[0]["distinct"]]),
    ]
    assert set(last_table([row | {"diverged": True}]).rows[0][3:]) == {"-"}


@pytest.mark.parametrize(("dimension", "width"), [(2, 4), (2, 8), (3, 5)])
def test_one_layer_has_the_regions_of_planes_in_general_position(dimension: int, width: int) -> None:
    torch.manual_seed(0)
    row = statistics(mlp(dimension, width), torch.zeros(1, dimension), 1000)
    regions, mean = closed_form(dimension, width)
    assert row["regions"] == regions and row["mean"] == pytest.approx(mean)
    assert closed_form(2, 8)[0] == 37 and closed_form(4, 16) == (2517, pytest.approx(7.32, abs=0.005))


def test_statements_are_judged_by_paired_differences() -> None:
    rows = [{"width": w, "seed": s, "chi": 0.1 * w + 0.01 * s * w} for w in (1, 2) for s in range(5)]
    gains = differences(rows, "chi", {"width": 2}, {"width": 1})
    assert gains == pytest.approx([0.1, 0.11, 0.12, 0.13, 0.14])
    assert (verdict(gains), verdict(gains, -1)) == ("agrees", "disagrees")
    assert verdict([0.1, -0.1, 0.2, -0.2, 0.05]) == verdict([0.1]) == verdict([]) == "not decided by these seeds"
    assert (spread([0.1, 0.2]), spread([30.0]), spread([])) == ("0.150 ± 0.071", "30.0", "-")

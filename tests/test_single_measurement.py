"""One measurement of a trained model, against what `trainer.validate` logs and against the functions that it is made of."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fold_lightning import (
    CodeDistances,
    DistinctCodes,
    FoldingMonitor,
    activation_codes,
    class_segments,
    global_folding,
    measure,
    segment_walks,
    space_folding,
)
from helpers.networks import mlp

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(300) % 3


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return (x + 1 if self.trainer_is_training() else 2 * x), y

    def trainer_is_training(self) -> bool:
        return self._trainer is not None and bool(self.trainer.training)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class Data(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        assert stage == "validate"
        self.data = TensorDataset(X, Y)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=64)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] - 0.5, batch[1]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


class Batches:
    """What Lightning takes as a loader too."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(X.split(50), Y.split(50), strict=True)


def of_validation(model: pl.LightningModule, data: Any, path: Path, **arguments: Any) -> dict[str, float]:
    """What `trainer.validate` logs."""
    monitor = FoldingMonitor(**arguments)
    trainer = pl.Trainer(accelerator="cpu", logger=CSVLogger(path), callbacks=[monitor], enable_progress_bar=False)
    (logged,) = trainer.validate(model, data, verbose=False)
    return {tag: value for tag, value in logged.items() if tag not in ("loss", "monitor/seconds")}


@pytest.mark.parametrize(
    "make", [lambda: DataLoader(TensorDataset(X, Y), batch_size=50), Data, lambda: DataLoader(Stream(), 50)]
)
def test_the_values_are_those_that_a_validation_logs(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, arguments = Classifier(), {"segments_per_pair": 4, "num_inputs": 200, "num_regions": 8, "seed": 3}
    values = measure(model, make(), **arguments)
    assert values.pop("monitor/seconds") > 0
    assert values == of_validation(model, make(), tmp_path, **arguments)
    assert {"folding/phi", "codes/distinct_correct", "units/dead", "faces/mean"} <= values.keys()


def test_the_values_are_those_of_the_functions_on_the_same_segments() -> None:
    torch.manual_seed(0)
    model = mlp(6, 16, 16)
    values = measure(model, (X, Y), segments_per_pair=5, seed=2, within="median", across="mean", num_inputs=300)
    start, end = class_segments(Y, per_pair=5, seed=2)
    chi = space_folding(segment_walks(model, X[start], X[end]))
    phi, _ = global_folding(chi, Y[start], Y[end], 3, within="median", across="mean")
    assert values["folding/phi"] == pytest.approx(float(phi), rel=1e-6)
    assert values["folding/chi_mean"] == pytest.approx(float(chi.mean()), rel=1e-6)
    codes, distinct, distances = activation_codes(model, X), DistinctCodes(), CodeDistances(3)
    distinct.update(codes)
    distances.update(codes.bits, Y)
    assert values["codes/distinct"] == int(distinct.compute())
    assert values["codes/between"] == pytest.approx(float(distances.compute()["between"]), rel=1e-6)


@pytest.mark.parametrize(
    ("data", "has_classes"),
    [
        (X, False),
        ((X, Y), True),
        (TensorDataset(X, Y), True),
        (DataLoader(TensorDataset(X), batch_size=8), False),
        (DataLoader(Stream(), 32), True),
        (Batches(), True),
    ],
)
def test_a_plain_module_is_measured_on_data_of_any_kind(data: Any, has_classes: bool) -> None:
    values = measure(mlp(6, 8, 8), data, num_segments=6)
    assert values["folding/exact"] == 1 and ("folding/phi" in values) == has_classes


def test_inputs_that_are_sorted_by_class_are_drawn_from_all_classes() -> None:
    order = Y.argsort(stable=True)
    x, model = X[order] * torch.tensor([0.1, 1.0, 10.0])[Y[order]][:, None], mlp(6, 8, 8)
    whole = measure(model, (x, Y[order]), num_regions=300, folding=False)["regions/distance_mean"]
    some = [measure(model, (x, Y[order]), num_regions=60, folding=False, seed=seed)["regions/distance_mean"] for seed in (0, 1)]
    assert some[0] != some[1] and all(0.5 * whole < mean < 2 * whole for mean in some)
    first = measure(model, (x[:60], Y[order][:60]), num_regions=60, folding=False)["regions/distance_mean"]
    assert not 0.5 * whole < first < 2 * whole  # which the first class alone would give


def test_nothing_of_the_model_or_the_process_changes(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, loader = Classifier(), DataLoader(Stream(), 32, generator=torch.Generator().manual_seed(5))
    model.net[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, states = (
        [m.training for m in model.modules()],
        (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()),
    )
    assert loader.generator is not None
    generator = loader.generator.get_state()
    with caplog.at_level(logging.INFO):
        measure(model, loader, num_segments=6)
    assert "GPU" not in caplog.text + "".join(capfd.readouterr())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()] and model._trainer is None
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate() and torch.equal(generator, loader.generator.get_state())


def test_what_cannot_be_measured_is_refused() -> None:
    model = mlp(6, 8, 8)
    with pytest.raises(TypeError, match="takes its inputs from `data`"):
        measure(model, X, probes=X)
    assert measure(model, X, figures=True, num_segments=4)["folding/exact"] == 1
    with pytest.raises(TypeError, match="unexpected keyword argument 'segments'"):
        measure(model, X, segments=3)
    with pytest.raises(TypeError, match="must be inputs .* map-style dataset, got int"):
        measure(model, 3)
    with pytest.raises(ValueError, match="`num_points` must be"):
        measure(model, X, num_points=1)
    with pytest.raises(ValueError, match="The model takes nothing of"):
        measure(model, X[:, :4])
    with pytest.raises(ValueError, match="no batch to measure"):
        measure(model, DataLoader(Empty(), 4))
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(model, X, folding=False, codes=False, units=False, faces=False)


class Empty(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())

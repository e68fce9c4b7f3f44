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
from lightning.pytorch.utilities import CombinedLoader
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


class Frame:
    """What a data frame is to this project: a table that NumPy reads."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.shape = values.numpy(), values.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)


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
    with pytest.raises(
        TypeError, match="takes the arguments of `FoldingMonitor`, got `num_segment=`: did you mean `num_segments=`"
    ):
        measure(model, X, num_segment=3)
    with pytest.raises(TypeError, match="got `x=`: it takes every_n_epochs, .* regularize.$"):
        measure(model, X, x=3)
    with pytest.raises(TypeError, match="`model` must be an `nn.Module`, got function"):
        measure(lambda x: x, X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`num_points` must be"):
        measure(model, X, num_points=1)
    with pytest.raises(ValueError, match="The model takes no part of"):
        measure(model, X[:, :4])
    with pytest.raises(ValueError, match="must yield at least one batch, got none"):
        measure(model, DataLoader(Empty(), 4))
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(model, X, folding=False, codes=False, units=False, faces=False)


def used_up() -> Iterator[Any]:
    batches = iter(X.split(50))
    assert len(list(batches)) == 6
    return batches


NAN = torch.full_like(X, torch.nan)


@pytest.mark.parametrize(
    ("data", "kind", "match"),
    [
        (3, TypeError, "`data` must be inputs .* or a data module, got int"),
        (None, TypeError, "`data` must be inputs .*, got None"),
        ({X, Y}, TypeError, "`data` must be inputs .*, got set"),
        (frozenset([X]), TypeError, "`data` must be inputs .*, got frozenset"),
        ("folder", TypeError, "`data` must be inputs .*, got str"),
        (TensorDataset, TypeError, "`data` must be inputs .*, got the class TensorDataset"),
        ([], ValueError, "`data` must be inputs .*, got an empty list"),
        (X.tolist(), TypeError, r"got a list of list, list, list, \.\.\.: pass a tensor, such as `torch.tensor"),
        (X[:0], ValueError, r"`data` must hold inputs \(B, \.\.\.\), got none: shape \(0, 6\)"),
        ({"x": X[:0]}, ValueError, "`data` must hold inputs .*, got none"),
        (
            {"x": X, "y": Y[:5]},
            ValueError,
            r"Columns of `data` must be tensors of equal length, one row per input, got a dict of 'x' \(300, 6\), 'y' \(5,\)",
        ),
        ({"x": X, "name": "digits"}, ValueError, "Columns of `data` must be .* 'name' str"),
        (TensorDataset(X[:0]), ValueError, "The data set must hold at least 2 inputs, got 0"),
        (X[:1], ValueError, "Segments need at least 2 inputs, got 1: pass more data"),
        (NAN, ValueError, "at least 2 inputs, got 0, and 300 with NaN or infinite values: clean"),
        (TensorDataset(NAN, Y), ValueError, "got 0, and .* with NaN or infinite values: clean"),
        (iter([NAN]), ValueError, "got 0, and 300 with NaN or infinite values: clean"),
        (used_up(), ValueError, "`data` must yield at least one batch, got none: .* read before"),
        ((X * 9).to(torch.uint8), TypeError, r"must be floating point, got torch.uint8.* images with `.float\(\)`"),
        (X.numpy().astype(str), TypeError, "`data` must hold numbers, got <U"),
        (np.float32(3.0), ValueError, "got a single number"),
        ((X[0], Y[0]), ValueError, r"must be a batch of inputs .*, got shape \(6,\) and one label: stack"),
        ((X, Y[:30]), ValueError, r"Labels of `data` must be integer classes \(B,\) for inputs \(300, 6\), got int64 \(30,\)"),
        ((X, Y.float()), ValueError, r"Labels of `data` .* got float32 \(300,\): pass class indices"),
        (
            (X, [f"{y}" for y in Y]),
            ValueError,
            r"Labels of `data` .* got <U1 \(300,\): number them with `numpy.unique.*, or pass the inputs alone",
        ),
        ([X[0], X[1, :5], X[2]], ValueError, r"Items of `data` must have one shape, got \(6,\), \(5,\)"),
    ],
)
def test_data_that_cannot_be_measured_are_refused_by_name(data: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        measure(mlp(6, 8, 8), data)


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model` has its weights on the meta device.*load them first.*load_state_dict"):
        measure(mlp(6, 8, 8).to("meta"), X)


SMALL = {"num_segments": 12, "num_inputs": 40, "num_regions": 5, "seed": 1}


@pytest.mark.parametrize(
    ("data", "same"),
    [
        (X.numpy(), X),
        (Frame(X), X),
        ((X.numpy(), Y.numpy()), (X, Y)),
        ((X, Y.tolist()), (X, Y)),
        ([X, Y], (X, Y)),
        ((X, None), X),
        ({"x": X, "y": Y}, TensorDataset(X, Y)),
        ({"x": X.numpy(), "y": Y.numpy()}, TensorDataset(X, Y)),
        ((X, Y, X[:, 0]), TensorDataset(X, Y)),
        (list(zip(X.split(50), Y.split(50), strict=True)), TensorDataset(X, Y)),
        (list(X.split(150)), TensorDataset(X)),  # two batches, which might look like inputs and labels
        ([{"x": x, "y": y} for x, y in zip(X.split(70), Y.split(70), strict=True)], TensorDataset(X, Y)),
        ([(x.numpy(), y.numpy()) for x, y in zip(X.split(50), Y.split(50), strict=True)], TensorDataset(X, Y)),
        ([(x, int(y)) for x, y in zip(X, Y, strict=True)], TensorDataset(X, Y)),
        (list(X), X),
        ([X[0], X[1]], X[:2]),
        ([DataLoader(TensorDataset(X, Y), 50)], DataLoader(TensorDataset(X, Y), 50)),
        (CombinedLoader([DataLoader(TensorDataset(X, Y), 50)]), DataLoader(TensorDataset(X, Y), 50)),
        (Stream(), DataLoader(Stream(), 32)),
        ((x.numpy() for x in X.split(50)), iter(X.split(50))),
    ],
)
def test_data_in_other_clothes_are_measured_alike(data: Any, same: Any) -> None:
    model = mlp(6, 8, 8)
    values, expected = measure(model, data, **SMALL), measure(model, same, **SMALL)
    del values["monitor/seconds"], expected["monitor/seconds"]
    assert values == expected


def test_a_list_is_read_as_the_model_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    """The model alone tells images from batches of rows, for both are lists of tables."""
    images = list(torch.randn(30, 2, 6, generator=torch.Generator().manual_seed(0)))
    rows, whole = mlp(6, 8, 8), nn.Sequential(nn.Flatten(), mlp(12, 8, 8))
    with caplog.at_level(logging.INFO):
        measure(rows, images, **SMALL)
    assert "measure reads `data` as a list of 30 batches" in caplog.text
    assert measure(whole, images, **SMALL)["codes/distinct"] == measure(whole, torch.stack(images), **SMALL)["codes/distinct"]


@pytest.mark.parametrize("kind", ["test", "train"])
def test_a_data_module_without_validation_is_measured_on_what_it_has(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def loader(self: Any) -> DataLoader[Any]:
        return DataLoader(TensorDataset(X, Y), batch_size=50)

    stages: list[str] = []
    hooks = {"setup": lambda self, stage: stages.append(stage), f"{kind}_dataloader": loader, "val_dataloader": lambda self: []}
    data = type("Partial", (pl.LightningDataModule,), hooks)()
    model = mlp(6, 8, 8)
    with caplog.at_level(logging.INFO):
        values = measure(model, data, **SMALL)
    assert values["codes/distinct"] == measure(model, loader(None), **SMALL)["codes/distinct"]
    assert stages == ["validate", {"test": "test", "train": "fit"}[kind]]
    assert f"measure takes `{kind}_dataloader`: Partial has no validation loader" in caplog.text
    with pytest.raises(ValueError, match="must have a validation, test or training loader, got LightningDataModule with none"):
        measure(model, pl.LightningDataModule())


def test_inputs_that_are_not_finite_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    x, model = X.clone(), mlp(6, 8, 8)
    x[3, 1], x[9, 0] = torch.nan, torch.inf
    kept = x.isfinite().all(1)
    with caplog.at_level(logging.INFO):
        values = measure(model, (x, Y), **SMALL)
        measure(model, TensorDataset(x, Y), **SMALL | {"num_inputs": 300})
    assert caplog.text.count("leaves out 2 inputs, which hold NaN or infinite values") == 2  # once each
    assert values["folding/chi_mean"] == measure(model, (x[kept], Y[kept]), **SMALL)["folding/chi_mean"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_half_precision_are_measured_by_their_stored_weights(dtype: torch.dtype) -> None:
    half = mlp(6, 8, 8).to(dtype)
    double = mlp(6, 8, 8).double()
    double.load_state_dict(half.state_dict())
    values, expected = measure(half, (X, Y), **SMALL), measure(double, (X, Y), **SMALL)
    assert all(values[tag] == expected[tag] for tag in expected if tag != "monitor/seconds")


class Empty(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Conditional(nn.Module):
    """Network of two tensors, whose class depends on both."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, image: Tensor, condition: Tensor) -> Any:
        return self.net(torch.cat([image, condition], 1))


@pytest.mark.parametrize("varies", [False, True])
def test_correct_inputs_are_counted_unless_they_are_judged_with_the_tensors_of_another(varies: bool) -> None:
    model, image = Conditional(), X[:, :4]
    condition = X[:, 4:] if varies else X[:1, 4:].expand(len(X), -1)
    values = measure(model, {"image": image, "condition": condition, "label": Y}, faces=False, num_inputs=len(X))
    assert ("codes/distinct_correct" in values) is not varies
    if not varies:
        codes = activation_codes(model, torch.cat([image, condition], 1), forward=lambda m, x: m(x[:, :4], x[:, 4:]))
        right = model(image, condition).argmax(1) == Y
        assert values["codes/distinct_correct"] == len(codes.bits[right].unique(dim=0)) < values["codes/distinct"]

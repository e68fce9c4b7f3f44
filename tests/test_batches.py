"""Batches, loaders and data sets of any form: the right inputs and labels are probed, and training does not notice."""

from __future__ import annotations

import itertools
import random
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from fold_lightning import FoldingMonitor, FoldingRegularizer, activation_codes
from helpers.invisible import assert_invisible
from helpers.training import Model, Stream, data, fit, loaders, sample_of, segments_of, watch


def small(**options: Any) -> FoldingMonitor:
    return watch(**({"num_segments": 6, "num_inputs": 40} | options))


def assert_probed(monitor: FoldingMonitor, dataset: TensorDataset, count: int, *, labelled: bool = True) -> None:
    """The probes are so many different items of a data set, with their labels."""
    probes = sample_of(monitor).probes
    inputs, labels = probes.items, probes.labels
    x, y = dataset.tensors
    rows = [int((x == probe).all(1).nonzero()) for probe in inputs]
    assert len(set(rows)) == len(rows) == count
    assert torch.equal(labels, y[rows]) if labelled else labels is None


class Unpacks(Model):
    """Knows how to take a batch apart."""

    def __init__(self, unpack: Callable[[Any], tuple[Tensor, Tensor]] = lambda batch: (batch[0], batch[1])) -> None:
        super().__init__()
        self.unpack = unpack  # type: ignore[method-assign]

    def log(self, *args: Any, **options: Any) -> None:
        super().log(*args, **({"batch_size": 20} | options))  # which Lightning reads off no object of its user's


@dataclass
class Data:
    image: Tensor
    label: Tensor


class Graphs:
    """As a batch of torch_geometric: attributes, and a way to move them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any, **_: Any) -> Graphs:
        return Graphs(self.x.to(device), self.y.to(device))


XY, ImageAfterLabel, Unnamed = (
    namedtuple("XY", "x y"),
    namedtuple("ImageAfterLabel", "label image"),
    namedtuple("Unnamed", "a b"),
)


def by_attributes(batch: Any) -> tuple[Tensor, Tensor]:
    return batch.image, batch.label


# How a batch is made of inputs and labels, how a model takes it apart, and whether the monitor needs to be told that.
FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Any], bool]] = {
    "pair": (lambda x, y: (x, y), lambda batch: (batch[0], batch[1]), False),
    "list": (lambda x, y: [x, y], lambda batch: (batch[0], batch[1]), False),
    "triple": (lambda x, y: (x, y, x[:, 0]), lambda batch: (batch[0], batch[1]), False),
    "dict": (lambda x, y: {"index": y, "image": x, "label": y}, lambda batch: (batch["image"], batch["label"]), False),
    "weights first": (
        lambda x, y: {"weight": x[:, 0], "mask": 0 * x, "x": x, "y": y},
        lambda batch: (batch["x"], batch["y"]),
        False,
    ),
    "unknown name": (
        lambda x, y: {"weight": x[:, 0], "signal": x, "class": y},
        lambda batch: (batch["signal"], batch["class"]),
        False,
    ),
    "capitals": (lambda x, y: {"Mask": 0 * x, "Image": x, "Label": y}, lambda batch: (batch["Image"], batch["Label"]), False),
    "nested": (
        lambda x, y: {"meta": {"weight": 0 * x}, "data": {"image": {"mean": x}}, "target": {"class": y, "box": 0 * x}},
        lambda batch: (batch["data"]["image"]["mean"], batch["target"]["class"]),
        False,
    ),
    "named tuple": (XY, lambda batch: (batch.x, batch.y), False),
    "label before image": (lambda x, y: ImageAfterLabel(y, x), by_attributes, False),
    "other names": (Unnamed, lambda batch: (batch.a, batch.b), False),
    "dataclass": (Data, by_attributes, True),
    "attributes": (lambda x, y: SimpleNamespace(image=x, label=y), by_attributes, True),
    "graphs": (Graphs, lambda batch: (batch.x, batch.y), True),
    "pair in a pair": (lambda x, y: ((0 * x, x), y), lambda batch: (batch[0][1], batch[1]), True),
}


def formed(
    make: Callable[[Tensor, Tensor], Any], train: Any = None, val: Any = None
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    collate = lambda items: make(*default_collate(items))  # noqa: E731
    first = DataLoader(train or data(), batch_size=20, shuffle=True, collate_fn=collate)
    return first, DataLoader(val or data(40, 1), batch_size=20, collate_fn=collate)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_inputs_and_labels_are_found_in_batches_of_any_form_and_training_does_not_notice(tmp_path: Path, form: str) -> None:
    make, unpack, is_told = FORMS[form]
    monitor = small(batch_to_inputs=unpack if is_told else None)
    assert_invisible(tmp_path, monitor=monitor, model=lambda: Unpacks(unpack), given=lambda: formed(make))
    assert_probed(monitor, data(40, 1), 40)


def test_a_batch_may_be_inputs_alone(tmp_path: Path) -> None:
    monitor = small()
    assert_invisible(
        tmp_path,
        monitor=monitor,
        model=lambda: Unpacks(lambda x: (x, (x[:, 0] > 0).long())),
        given=lambda: formed(lambda x, y: x),
    )
    assert_probed(monitor, data(40, 1), 40, labelled=False)


def test_a_function_may_leave_labels_out(tmp_path: Path) -> None:
    monitor = small(batch_to_inputs=lambda batch: batch[0])
    fit(tmp_path, monitor, max_epochs=1)
    assert_probed(monitor, data(40, 1), 40, labelled=False)


class NeverTrains(Model):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        raise AssertionError("training began")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=["images", "token ids"])
@pytest.mark.parametrize("make", [lambda x, y: x, lambda x, y: (x, y), lambda x, y: {"weight": x / 2, "image": x, "label": y}])
def test_integers_are_refused_before_training_with_what_to_do(tmp_path: Path, dtype: torch.dtype, make: Any) -> None:
    validation = TensorDataset((10 * data(40, 1).tensors[0].abs()).to(dtype), data(40, 1).tensors[1])
    with pytest.raises(
        TypeError, match=r"No inputs found.*`batch_to_inputs=`.*batch\[0\].float\(\) / 255.*return their embeddings"
    ):
        fit(tmp_path, small(), model=NeverTrains(), given=formed(make, val=validation), num_sanity_val_steps=0)


@pytest.mark.slow
def test_a_batch_that_begins_with_something_else_is_read_where_the_model_takes_it(tmp_path: Path) -> None:
    monitor = small()
    model = Unpacks(lambda batch: (batch[1], batch[2]))
    fit(tmp_path, monitor, model=model, given=formed(lambda x, y: (torch.randn(len(x), 2), x, y)), num_sanity_val_steps=0)
    assert_probed(monitor, data(40, 1), 40)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_inputs_that_the_model_refuses_are_refused_with_what_to_do(tmp_path: Path, measured: bool, told: bool) -> None:
    given = formed(lambda x, y: (torch.randn(len(x), 2), y))
    monitor = small(batch_to_inputs=(lambda batch: batch[0]) if told else None, measure_at_start=measured)
    with pytest.raises(ValueError, match=r"The model takes no part of .*Tried: .*Pass `batch_to_inputs=`.*`forward=`"):
        fit(tmp_path, monitor, model=NeverTrains(), given=given, num_sanity_val_steps=0)


def bytes_of(size: int, seed: int) -> TensorDataset:
    x, y = data(size, seed).tensors
    return TensorDataset((127 + 40 * x).clamp(0, 255).to(torch.uint8), y)


@pytest.mark.slow
def test_images_of_bytes_are_measured_as_a_function_converts_them(tmp_path: Path) -> None:
    convert = lambda batch: (batch[0].float() / 255, batch[1])  # noqa: E731
    monitor = small(batch_to_inputs=convert)
    given = lambda: (DataLoader(bytes_of(60, 0), 20, shuffle=True), DataLoader(bytes_of(40, 1), 20))  # noqa: E731
    assert_invisible(tmp_path, monitor=monitor, model=lambda: Unpacks(convert), given=given)
    x, y = bytes_of(40, 1).tensors
    assert_probed(monitor, TensorDataset(x / 255, y), 40)


class Tokens(Model):
    """Embeds token ids by what would move if it were run in training mode, or by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.2))
        self.net[0] = nn.Linear(12, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(self.stem(ids))


def sentences(size: int, seed: int) -> TensorDataset:
    ids = torch.randint(9, (size, 3), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(ids, ids.sum(1) % 3)


@pytest.mark.slow
@pytest.mark.parametrize("passes", [False, True])
def test_token_ids_are_measured_behind_an_embedding_that_does_not_notice(tmp_path: Path, passes: bool) -> None:
    made: list[Tokens] = []

    def model() -> Tokens:
        made.append(Tokens())
        return made[-1]

    def given() -> tuple[Any, ...]:
        return (DataLoader(Stream(sentences(60, 0)) if passes else sentences(60, 0), 20),)

    monitor = small(batch_to_inputs=lambda batch: (made[-1].stem(batch[0]), batch[1]), forward="net")
    trainer = assert_invisible(tmp_path, monitor=monitor, model=model, given=given)
    assert sample_of(monitor).probes.items.shape[1:] == (12,) and not sample_of(monitor).probes.items.requires_grad
    assert [step for step, _ in trainer.logger.said] == ([2, 5] if passes else [0, 2, 5])


@pytest.mark.slow
@pytest.mark.parametrize("sanity", [0, 2])
def test_a_stream_of_validation_data_is_probed_as_it_passes(tmp_path: Path, sanity: int) -> None:
    monitor = watch(num_segments=4, num_inputs=32, num_regions=32)
    trainer = fit(tmp_path, monitor, given=loaders(None, Stream(data(40, 1))), num_sanity_val_steps=sanity)
    assert [step for step, _ in trainer.logger.said] == ([0, 2, 5] if sanity else [2, 5])
    validation = data(40, 1).tensors[0]
    assert len(sample_of(monitor).probes.items) == len(sample_of(monitor).probes.items.unique(dim=0)) == 32
    # What the sanity check shows is not enough here; its batches come again, and count once.
    monitor = watch(num_segments=4, num_inputs=50)
    trainer = fit(tmp_path, monitor, given=loaders(None, Stream(data(60, 1))), num_sanity_val_steps=sanity)
    assert [step for step, _ in trainer.logger.said] == [2, 5]
    assert len(sample_of(monitor).probes.items) == len(sample_of(monitor).probes.items.unique(dim=0)) == 60
    validation = data(60, 1).tensors[0]
    assert all((start == validation).all(1).any() for start in segments_of(monitor)[0])


@pytest.mark.slow
def test_a_stream_of_training_data_is_probed_as_it_passes(tmp_path: Path) -> None:
    trainer = fit(tmp_path, watch(num_segments=6), given=(loaders(Stream(data()))[0],))
    assert [step for step, _ in trainer.logger.said] == [2, 5]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_what_passes_is_measured_in_the_precision_of_a_step(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    monitor = small()
    how = lambda: {"precision": precision}  # noqa: E731
    trainer = assert_invisible(tmp_path, monitor=monitor, given=lambda: loaders(val=Stream(data(48, 1))), how=how)
    inputs = sample_of(monitor).probes.items
    assert inputs.dtype == dtype
    codes = activation_codes(trainer.lightning_module, inputs[:40])
    assert trainer.logger.said[-1][1]["codes/distinct"] == len(codes.bits.unique(dim=0))


def test_of_a_stream_of_several_shapes_those_of_the_first_are_probed(tmp_path: Path) -> None:
    odd = [(torch.zeros(20, 7), torch.zeros(20).long())]
    batches = [*DataLoader(data(40, 1), 20), *odd]
    monitor = small(num_inputs=50, batch_to_inputs=lambda batch: (batch[0], batch[1]))
    model = Unpacks(lambda batch: (batch[0][:, :5], batch[1]))
    trainer = fit(tmp_path, monitor, model=model, given=(loaders()[0], DataLoader(Stream(batches), batch_size=None)))
    assert [step for step, _ in trainer.logger.said] == [2, 5]
    assert_probed(monitor, data(40, 1), 40)


class Fails:
    """A function of a batch that fails at some calls, those of its copies among them."""

    numbers = itertools.count(1)

    def __init__(self, *calls: int) -> None:
        self.calls = calls
        Fails.numbers = itertools.count(1)

    def __call__(self, batch: Any) -> Any:
        if next(Fails.numbers) in self.calls:
            raise KeyError("image")
        return batch[0], batch[1]


def fit_with_warnings(tmp_path: Path, *callbacks: Any, **options: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(tmp_path, *callbacks, **options)
    return trainer, [str(w.message) for w in caught if "olding" in str(w.message)]


@pytest.mark.slow
def test_a_function_that_fails_on_batches_that_pass_costs_them_alone(tmp_path: Path) -> None:
    monitor = small(batch_to_inputs=Fails(1, 3))
    trainer, said = fit_with_warnings(tmp_path, monitor, given=(DataLoader(Stream(data(80)), 20),))
    assert trainer.global_step == 8 and [step for step, _ in trainer.logger.said] == [3, 7] and not said
    assert_probed(monitor, data(80), 40)


def test_a_function_that_always_fails_on_batches_that_pass_costs_one_warning(tmp_path: Path) -> None:
    monitor = small(batch_to_inputs=Fails(*range(100)))
    trainer, said = fit_with_warnings(tmp_path, monitor, given=(DataLoader(Stream(data()), 20),), max_epochs=3)
    assert trainer.global_step == 9 and not trainer.logger.said
    assert len(said) == 1 and "could not measure everything at epoch 0: 'image'" in said[0]


def test_a_function_that_fails_in_a_step_costs_its_term(tmp_path: Path) -> None:
    regularizer = FoldingRegularizer(every_n_steps=1)
    options = {"folding": False, "codes": False, "units": False, "faces": False, "batch_to_inputs": Fails(3, 4)}
    trainer, said = fit_with_warnings(tmp_path, FoldingMonitor(regularize=regularizer, **options))
    assert trainer.global_step == 6 and regularizer.num_skipped == 2
    assert len(said) == 1 and "left out of a step. KeyError: 'image'. (Training goes on" in said[0]


def test_a_function_that_fails_on_the_first_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="image"):
        fit(tmp_path, small(batch_to_inputs=Fails(1)), model=NeverTrains(), num_sanity_val_steps=0)
    options = {"folding": False, "codes": False, "units": False, "faces": False, "batch_to_inputs": Fails(1)}
    with pytest.raises(MisconfigurationException, match="can't use the first batch. KeyError: 'image'"):
        fit(tmp_path, FoldingMonitor(regularize=True, **options))


class Careless:
    """A function of a batch that takes it apart, writes into it, and draws random numbers."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, batch: Any) -> Any:
        x = batch["data"].pop("image")
        x.mul_(2).add_(torch.rand(()) + np.random.rand() + random.random() + torch.rand((), generator=self.generator))
        return x, batch.pop("label")


@pytest.mark.slow
@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("passes", [False, True])
def test_whatever_a_function_does_to_a_batch_training_does_not_notice(tmp_path: Path, validates: bool, passes: bool) -> None:
    def given() -> tuple[Any, ...]:
        train, val = formed(lambda x, y: {"data": {"image": x}, "label": y})
        if passes:
            train, val = (DataLoader(Stream(list(loader)), batch_size=None) for loader in (train, val))
        return (train, val) if validates else (train,)

    unpack = lambda batch: (batch["data"]["image"], batch["label"])  # noqa: E731
    monitor = small(batch_to_inputs=Careless())
    assert_invisible(tmp_path, monitor=monitor, model=lambda: Unpacks(unpack), given=given)
    assert "codes/distinct" in monitor._session.values


TOGETHER: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]] = {
    "dict": (lambda a, b: {"a": a, "b": b}, lambda batch: batch["b"]),
    "list": (lambda a, b: [a, b], lambda batch: batch[1]),
    "nested": (lambda a, b: {"a": a, "more": [b, a]}, lambda batch: batch["more"][0]),
    "CombinedLoader": (lambda a, b: CombinedLoader({"a": a, "b": b}, "min_size"), lambda batch: batch["b"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", TOGETHER)
def test_of_several_loaders_a_function_chooses(tmp_path: Path, form: str) -> None:
    join, choose = TOGETHER[form]
    monitor = small(batch_to_inputs=choose)

    def given() -> tuple[Any, ...]:
        return (join(DataLoader(data(80, 7), 10, shuffle=True), DataLoader(data(40, 1), 10, shuffle=True)),)

    trainer = assert_invisible(tmp_path, monitor=monitor, model=lambda: Unpacks(choose), given=given)
    assert trainer.logger.said[0][0] == 0
    assert_probed(monitor, data(40, 1), 40)


def test_where_one_of_several_loaders_is_a_stream_a_function_chooses_of_what_passes(tmp_path: Path) -> None:
    choose = lambda batch: batch["b"]  # noqa: E731
    given = ({"a": DataLoader(data(40, 1), 10), "b": DataLoader(Stream(data(40, 2)), 10)},)
    monitor = small(batch_to_inputs=choose)
    trainer = fit(tmp_path, monitor, model=Unpacks(choose), given=given)
    assert [step for step, _ in trainer.logger.said] == [3, 7]
    assert_probed(monitor, data(40, 2), 40)


@pytest.mark.slow
@pytest.mark.parametrize("form", TOGETHER)
def test_without_a_function_the_first_of_several_loaders_is_probed(tmp_path: Path, form: str) -> None:
    join, choose = TOGETHER[form]
    given = (join(DataLoader(data(40, 1), 10), DataLoader(data(80, 7), 10)),)
    monitor = small()
    fit(tmp_path, monitor, model=Unpacks(choose), given=given)
    assert_probed(monitor, data(40, 1), 40)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "min_size"])
def test_several_validation_loaders(tmp_path: Path, mode: Any) -> None:
    """One after the other their first is probed; together a function chooses, for the batch of one of them fails it."""

    class Validates(Model):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            if mode == "sequential":
                super().validation_step(batch, batch_idx)

    def given() -> tuple[Any, Any]:
        return loaders()[0], CombinedLoader({"a": DataLoader(data(40, 1), 20), "b": DataLoader(data(50, 2), 20)}, mode)

    monitor = small(batch_to_inputs=None if mode == "sequential" else lambda batch: batch["b"])
    trainer = assert_invisible(tmp_path, monitor=monitor, model=Validates, given=given)
    assert trainer.logger.said[0][0] == 0
    assert_probed(monitor, *((data(40, 1), 40) if mode == "sequential" else (data(50, 2), 40)))


class ByKeys(Dataset[Any]):
    """Items have names, and no numbers."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, key: str) -> Any:
        return self.inner[int(key.removeprefix("item "))]


class AtOnce(Dataset[Any]):
    """Items are read by lists of indices only."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitems__(self, indices: list[int]) -> Any:
        return [self.inner[i] for i in indices]


class Lengthless(AtOnce):
    """Does not know its length."""

    def __len__(self) -> int:
        raise NotImplementedError


class EndlessSampler:
    """Goes round and round in its own order."""

    def __init__(self, indices: range) -> None:
        self.indices, self.generator = indices, torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            order = torch.randperm(len(self.indices), generator=self.generator)
            yield [self.indices[i] for i in order[:10].tolist()]


def in_batches(sampler: Any) -> BatchSampler:
    return BatchSampler(sampler, 10, drop_last=True)


EVEN = range(0, 80, 2)
LOADERS: dict[str, tuple[Callable[[TensorDataset], DataLoader[Any]], range]] = {
    "drop_last": (lambda d: DataLoader(d, 30, drop_last=True), range(60)),
    "sampler": (lambda d: DataLoader(d, 10, sampler=SubsetRandomSampler(EVEN)), EVEN),
    "sampler with a generator": (
        lambda d: DataLoader(d, 10, sampler=SubsetRandomSampler(EVEN, torch.Generator().manual_seed(1))),
        EVEN,
    ),
    "batch_sampler": (lambda d: DataLoader(d, batch_sampler=in_batches(SubsetRandomSampler(EVEN))), EVEN),
    "list of batches": (lambda d: DataLoader(d, batch_sampler=[[*EVEN[:20]], [*EVEN[20:]]]), EVEN),
    "endless batch_sampler": (lambda d: DataLoader(d, batch_sampler=EndlessSampler(EVEN)), EVEN),
    "keys": (lambda d: DataLoader(ByKeys(d), batch_size=10, sampler=[f"item {i}" for i in EVEN]), EVEN),
    "__getitems__": (lambda d: DataLoader(AtOnce(d), batch_size=10), range(80)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_probes_are_items_that_the_loader_reads(tmp_path: Path, kind: str) -> None:
    load, read = LOADERS[kind]
    monitor = small(num_inputs=100)
    given = lambda: (load(data(80)), load(data(80, 1)))  # noqa: E731
    limits = {"limit_train_batches": 4} | ({"limit_val_batches": 2} if "endless" in kind else {})
    trainer = assert_invisible(tmp_path, monitor=monitor, given=given, how=lambda: limits)
    assert trainer.logger.said[0][0] == 0
    x, y = (part[list(read)] for part in data(80, 1).tensors)
    if "endless" in kind:
        assert len(sample_of(monitor).probes.items) <= 40 and all(
            (x == probe).all(1).any() for probe in sample_of(monitor).probes.items
        )
    else:
        assert_probed(monitor, TensorDataset(x, y) if "drop_last" not in kind else data(80, 1), len(read))


class InWorkers(Dataset[Any]):
    """Reads in worker processes alone."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        assert get_worker_info() is not None, "this is no worker"
        return data(40, 1)[i]


class Batches(Dataset[Any]):
    """Its items are batches."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Any:
        return data(40, 1)[20 * i : 20 * (i + 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "load",
    [
        lambda: DataLoader(InWorkers(), 20, num_workers=1),
        lambda: DataLoader(Batches(), batch_size=None),
        lambda: DataLoader(Lengthless(data(40, 1)), batch_sampler=[[*range(20)], [*range(20, 40)]]),
    ],
    ids=["in workers", "batches", "without length"],
)
def test_what_cannot_be_read_by_index_is_probed_as_it_passes(tmp_path: Path, load: Callable[[], Any]) -> None:
    monitor = small()
    trainer = assert_invisible(
        tmp_path, monitor=monitor, given=lambda: (loaders()[0], load()), how=lambda: {"num_sanity_val_steps": 0}
    )
    assert [step for step, _ in trainer.logger.said] == [2, 5]
    assert_probed(monitor, data(40, 1), 40)


class Opens(Dataset[Any]):
    """Opens its file when it is first read, as those do whose handle must not get into worker processes."""

    def __init__(self) -> None:
        self.cache: dict[int, Any] = {}
        self.file: Any = None

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        if self.file is None:
            self.file = [data(40, 1)]
        self.cache[i] = self.file[0][i]
        return self.cache[i]


def test_what_reading_leaves_on_a_data_set_is_taken_away_again(tmp_path: Path) -> None:
    dataset, monitor = Opens(), small()
    fit(tmp_path, monitor, given=(DataLoader(dataset, 10),), max_epochs=1, limit_train_batches=1)
    assert_probed(monitor, data(40, 1), 10)  # no more than the batch that training is limited to
    assert len(dataset.cache) == 10 and dataset.file is not None, "what training read stays"


def test_worker_processes_start_from_a_data_set_as_if_it_had_not_been_read(tmp_path: Path) -> None:
    dataset, monitor = Opens(), small()
    fit(tmp_path, monitor, given=(DataLoader(dataset, 20, num_workers=1),), max_epochs=1)
    assert_probed(monitor, data(40, 1), 40)
    assert dataset.file is None and not dataset.cache


class Augmented(Dataset[Any]):
    """Adds noise to its items."""

    shared = np.random.default_rng(0)

    def __init__(self, inner: TensorDataset, noise: Callable[[Augmented], Any]) -> None:
        self.inner, self.count = inner, 0
        self.own = torch.Generator().manual_seed(1)
        self.pipeline = SimpleNamespace(steps=[Noise()])
        self.bound = Noise().__call__
        self.applied = partial(drawn, rng=np.random.RandomState(2))
        self.closed = closure()
        self.slotted = Slotted()
        self.parts = [Noise() for _ in range(200)]
        self.noise = noise

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Any:
        x, y = self.inner[i]
        return x + float(self.noise(self)), y

    def counted(self) -> float:
        self.count += 1
        return 0.1 / self.count


class Noise:
    def __init__(self) -> None:
        self.rng = random.Random(3)

    def __call__(self) -> float:
        return self.rng.random()


class Slotted:
    __slots__ = ("rng",)

    def __init__(self) -> None:
        self.rng = np.random.default_rng(4)


def drawn(rng: np.random.RandomState) -> float:
    return rng.rand()


def closure() -> Callable[[], float]:
    rng = np.random.default_rng(5)
    return lambda: rng.random()


GLOBAL = np.random.default_rng(6)


def from_a_global() -> float:
    return GLOBAL.random()


NOISE: dict[str, Callable[[Augmented], Any]] = {
    "torch": lambda _: torch.rand(()),
    "numpy": lambda _: np.random.rand(),
    "python": lambda _: random.random(),
    "own generator": lambda dataset: torch.rand((), generator=dataset.own),
    "of a transform": lambda dataset: dataset.pipeline.steps[0](),
    "of many parts": lambda dataset: dataset.parts[150](),
    "bound method": lambda dataset: dataset.bound(),
    "partial": lambda dataset: dataset.applied(),
    "closure": lambda dataset: dataset.closed(),
    "slots": lambda dataset: dataset.slotted.rng.random(),
    "of the class": lambda dataset: dataset.shared.random(),
    "global": lambda _: from_a_global(),
    "counter": Augmented.counted,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISE)
def test_a_data_set_that_augments_by_chance_goes_on_as_without_the_monitor(tmp_path: Path, kind: str) -> None:
    def given() -> tuple[Any, Any]:
        Augmented.shared.bit_generator.state = np.random.default_rng(0).bit_generator.state
        GLOBAL.bit_generator.state = np.random.default_rng(6).bit_generator.state
        return loaders(Augmented(data(), NOISE[kind]), Augmented(data(40, 1), NOISE[kind]))

    assert_invisible(tmp_path, monitor=small(), given=given)


@pytest.mark.slow
def test_a_source_of_randomness_that_has_no_state_is_let_alone(tmp_path: Path) -> None:
    dataset = Augmented(data(40, 1), lambda dataset: dataset.system.random())
    dataset.system = random.SystemRandom()
    trainer = fit(tmp_path, small(), given=(loaders()[0], DataLoader(dataset, 20)), max_epochs=1)
    assert trainer.logger.said[0][0] == 0


class Shifts(LightningDataModule):
    """Works on batches before and after they are moved."""

    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, i: int) -> Any:  # a name of the user's own
        return [2 * batch[0], batch[1]]


class ShiftsItself(Model):
    """By chance, too."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.moved = 0

    on_before_batch_transfer = Shifts.on_before_batch_transfer

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.moved += 1
        noise = torch.rand((), generator=self.generator) * torch.rand(()) / self.moved
        return [2 * batch[0] + (noise if self.training else 0), batch[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "given"), [(Model, lambda: (Shifts(),)), (ShiftsItself, loaders)], ids=["data module", "module"]
)
def test_probes_are_what_the_hooks_of_a_transfer_make_of_them(tmp_path: Path, model: Any, given: Any) -> None:
    monitor = small()
    assert_invisible(tmp_path, monitor=monitor, model=model, given=given)
    x, y = data(40, 1).tensors
    assert_probed(monitor, TensorDataset(2 * (x + 1), y), 40)

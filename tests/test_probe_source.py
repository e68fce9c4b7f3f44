"""Probes are read as a validation step would get them, and training does not notice."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from fold_lightning import measure, segment_walks
from fold_lightning.probes import ProbeSet, ProbeSource, source
from fold_lightning.probes.item_collector import ItemCollector
from helpers.processes import run_code

pytestmark = pytest.mark.filterwarnings("ignore:.*`batch_size`", "ignore:.*shuffling enabled")

X, Y = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 3


class Model(LightningModule):
    """Takes pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def split(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = self.split(batch)
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def test_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Reads(Callback):
    """Reads probes when training begins, and collects passing batches where it must."""

    def __init__(self, count: int = 50, **options: Any) -> None:
        self.source = ProbeSource(count, 0, **options)
        self.probes: ProbeSet | None = None
        self.validates = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validates = trainer.enable_validation
        loaders = trainer.val_dataloaders if self.validates else trainer.train_dataloader
        stage = trainer.state.stage
        self.probes = self.source.read(trainer, pl_module, loaders, together=not self.validates)
        assert trainer.state.stage is stage and trainer.training

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.probes is None and not self.validates:
            self.source.collect(trainer, pl_module, batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.probes is None and not trainer.sanity_checking:
            self.source.collect(trainer, pl_module, batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probes is None:
            self.probes = self.source.from_stream(pl_module)


def fit(reads: Callback | None, train: Any, val: Any = None, model: LightningModule | None = None, **options: Any) -> Model:
    torch.manual_seed(1)
    model = Model() if model is None else model
    defaults: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(callbacks=[reads] if reads else [], **(defaults | quiet | options))
    if isinstance(train, LightningDataModule):
        trainer.fit(model, datamodule=train)
    else:
        trainer.fit(model, train, val)
    return model  # type: ignore[return-value]


def loader(x: Tensor = X, y: Tensor = Y, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), **({"batch_size": 20} | options))


def rows_of(probes: ProbeSet | None, x: Tensor = X, y: Tensor = Y) -> list[int]:
    """Which items of a data set the probes are, with the right labels and none of them twice."""
    assert probes is not None and probes.labels is not None
    rows = [int((x == item).all(1).nonzero()) for item in probes.items]
    assert torch.equal(probes.labels, y[rows]) and len(set(rows)) == len(rows)
    return rows


@pytest.mark.parametrize("owner", ["module", "data module"])
def test_probes_pass_the_hooks_of_a_validation_step(owner: str) -> None:
    class Augments(Model):
        calls = 0

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.calls += 1
            assert not self.trainer.training or self.calls < 100
            return (batch[0] + 100, batch[1]) if self.trainer.training else (batch[0] * 2, batch[1])

    class Data(LightningDataModule):
        calls = 0
        train_dataloader = val_dataloader = lambda self: loader()
        if owner == "data module":
            on_after_batch_transfer = Augments.on_after_batch_transfer

    reads, data = Reads(), Data()
    model = fit(reads, data, model=Augments() if owner == "module" else Model())
    rows_of(reads.probes, 2 * X)
    assert (model if owner == "module" else data).calls == 20  # training's and validation's batches, not those of the probes


@pytest.mark.parametrize("limit", [3, 0.3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_no_more_batches_are_read_than_validation_gets(limit: float, shuffle: bool) -> None:
    reads = Reads(1000)
    fit(reads, loader(), loader(shuffle=shuffle), limit_val_batches=limit)
    rows = rows_of(reads.probes)
    assert len(rows) == 60 and (shuffle or max(rows) < 60)


def test_samplers_of_the_users_choose() -> None:
    reads = Reads(30)
    fit(reads, loader(), loader(sampler=SubsetRandomSampler(range(100, 150))))
    assert set(rows_of(reads.probes)) < set(range(100, 150))
    reads = Reads(1000)
    batches = BatchSampler(range(0, 200, 2), 7, drop_last=False)  # type: ignore[arg-type]
    fit(reads, loader(), DataLoader(TensorDataset(X, Y), batch_sampler=batches), limit_val_batches=2)
    assert sorted(rows_of(reads.probes)) == list(range(0, 28, 2))


class Noted(Dataset[Any]):
    """Notes which items are read, in all copies."""

    read: list[int] = []  # noqa: RUF012

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return X[index], int(Y[index])


def test_no_more_items_are_read_than_needed_and_no_larger_batches_made() -> None:
    class Looks(Reads):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().on_train_start(trainer, pl_module)
            self.read = list(Noted.read)

    class Sizes(Model):
        sizes: list[int] = []  # noqa: RUF012

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            if self.trainer.validating:
                self.sizes.append(len(batch[0]))
            return batch

    Noted.read.clear()
    reads = Looks(50)
    fit(reads, loader(), DataLoader(Noted(), batch_size=16), Sizes(), limit_val_batches=0.5)
    assert len(set(reads.read)) == len(reads.read) == 50 and max(reads.read) < 96
    assert Sizes.sizes == [16, 16, 16, 2] + 6 * [16]  # those of the probes, and validation's own


class Random(Dataset[Any]):
    """Draws from every generator."""

    def __init__(self) -> None:
        self.own, self.calls = np.random.default_rng(0), 0

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        self.calls += 1
        noise = random.random() + np.random.rand() + float(torch.rand(())) + self.own.random() + self.calls % 3
        return X[index] + noise, int(Y[index])


@pytest.mark.parametrize("validates", [True, False])
def test_training_does_not_notice(validates: bool) -> None:
    weights = []
    for reads in (None, Reads(), Reads(20)):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        data, gen = Random(), torch.Generator().manual_seed(3)
        train = DataLoader(data, batch_size=20, shuffle=True, generator=gen)
        val = DataLoader(data, batch_size=20) if validates else None
        model = fit(reads, train, val, max_epochs=2)
        weights.append(torch.cat([part.detach().flatten() for part in model.parameters()]))
        assert reads is None or reads.probes is not None
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_probes_repeat_in_another_run() -> None:
    prints = []
    for seed in (0, 1):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        reads = Reads()
        fit(reads, loader(), DataLoader(Random(), batch_size=20))
        assert reads.probes is not None
        prints.append(reads.probes.fingerprint)
    assert prints[0] == prints[1] == pickle.loads(pickle.dumps(reads.probes)).fingerprint


class Texts(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return torch.full((1 + index % 9,), 1 + index % 19), index % 3


def padded(items: list[Any]) -> Any:
    return pad_sequence([ids for ids, _ in items], batch_first=True), torch.tensor([label for _, label in items])


class Embeds(Model):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)

    def forward(self, x: Tensor) -> Any:
        return self.net(self.words(x)).mean(1)


def test_texts_of_all_lengths_are_padded_together() -> None:
    reads = Reads(40)
    texts = DataLoader(Texts(), batch_size=4, collate_fn=padded)
    model = fit(reads, texts, texts, Embeds())
    probes = reads.probes
    assert probes is not None and probes.items.shape == (40, 9) and probes.items.dtype == torch.int64
    assert probes.model_input.describe() == "varies the embedding of `batch[0]` (`words`)"
    inputs = probes.model_input.prepare(model, probes.items)
    assert segment_walks(model, inputs[:20], inputs[20:], forward=probes.model_input.forward).exact.all()


def test_of_images_of_several_sizes_those_like_the_first_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    class Sizes(Dataset[Any]):
        def __len__(self) -> int:
            return 60

        def __getitem__(self, index: int) -> Any:
            return torch.randn(3 + index % 2, 4), index % 3

    class Averages(Model):
        def forward(self, x: Tensor) -> Any:
            return self.net(x.mean(1))

    reads = Reads(60)
    images = DataLoader(Sizes(), batch_size=1)
    with caplog.at_level("INFO"):
        fit(reads, images, images, Averages())
    assert reads.probes is not None and len(reads.probes) == 30 and reads.probes.labels is not None
    shape = tuple(reads.probes.items[0].shape)
    message = f"leaves out 30 inputs, whose shape or dtype is not that of the first input, float32 {shape}."
    assert caplog.text.count(message) == 1


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


@pytest.mark.parametrize("validates", [True, False])
def test_a_stream_gives_its_first_batches(validates: bool) -> None:
    reads = Reads(30)
    stream = DataLoader(Stream(), batch_size=20)
    model = fit(reads, stream, stream if validates else None)
    assert rows_of(reads.probes) == list(range(30)) and reads.source.is_full
    assert reads.probes is not None and reads.probes.is_stream
    reads.source.restart()
    assert not reads.source.is_full and reads.source.from_stream(model) is None


def test_probes_of_a_stream_are_made_again_of_plain_tensors() -> None:
    class Held(Model):
        def forward(self, batch: Any) -> Any:
            return self.net(batch["x"] + batch["shift"])

        def split(self, batch: Any) -> Any:
            return batch, batch["y"]

    model = Held()
    first = {"x": X[:20], "shift": X[20:40], "y": Y[:20]}
    trainer: Any = None
    source = ProbeSource(20, 0)
    source.collect(trainer, model, first)
    probes = source.from_stream(model)
    assert probes is not None
    state = probes.state()
    assert all(isinstance(part, Tensor) for part in (state["items"], state["labels"], *state["held"]))
    again = ProbeSource(20, 0)
    again.restore(state)
    assert again.read(trainer, model, None, together=False) is None and not again.is_full
    again.collect(trainer, model, {"x": X[60:80], "shift": X[80:100], "y": Y[60:80]})
    restored = again.from_stream(model)
    assert again.is_full and restored is not None and restored.is_stream
    assert restored.fingerprint == probes.fingerprint
    walks = [segment_walks(model, X[:3], X[3:6], forward=p.model_input.forward).position for p in (probes, restored)]
    assert torch.equal(*walks)


def test_probes_travel_to_other_processes() -> None:
    class Unpacks(Model):
        def split(self, batch: Any) -> Any:
            return batch["a"], batch["b"]

    def to_inputs(batch: Any) -> Any:
        return batch["a"], batch["b"]

    model = Unpacks()
    sources = [ProbeSource(20, 0, batch_to_inputs=to_inputs, forward=lambda model, x: model.net(x)) for _ in range(2)]
    trainer: Any = None
    sources[0].collect(trainer, model, {"a": X[:20], "b": Y[:20]})
    probes = sources[0].from_stream(model)
    assert probes is not None
    other = sources[1].attach(pickle.loads(pickle.dumps(probes)))
    assert other.fingerprint == probes.fingerprint and callable(other.model_input.forward)
    assert torch.equal(other.model_input.split({"a": X, "b": Y})[0], X)


def test_what_a_stream_holds_is_refused_when_it_is_asked_for() -> None:
    source = ProbeSource(20, 0)
    trainer: Any = None
    source.collect(trainer, Model(), ["text"] * 3)
    with pytest.raises(TypeError, match="No inputs found in a list"):
        source.from_stream(Model())


def test_batches_of_a_stream_without_inputs_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    source, model = ProbeSource(60, 0), Model()
    trainer: Any = None
    for batch in ((X[:20], Y[:20]), {"y": Y}, ["text"], (X[20:60], Y[20:60])):
        source.collect(trainer, model, batch)
    with caplog.at_level("INFO"):
        probes = source.from_stream(model)
    assert rows_of(probes) == list(range(60))
    assert "leaves out 2 batches without inputs. The first: Expected inputs at" in caplog.text


def test_too_few_inputs_of_one_shape_are_refused() -> None:
    batches = [torch.zeros(1, 4), torch.zeros(3, 4, dtype=torch.float64)]
    with pytest.raises(ValueError, match="Segments need at least 2 inputs, got 1, and 3 of another shape or dtype: pad, crop"):
        measure(Model().net, iter(batches))


def without_row(batch: Any) -> Any:
    return batch[0], batch[1][1:]


@pytest.mark.parametrize("form", ["items", "stream", "list"])
@pytest.mark.parametrize(
    "change",
    [lambda batch: (batch[0], batch[1] + 0.5), without_row, lambda batch: (batch[0], None), lambda batch: (batch[0],)],
    ids=["fractions", "one too few", "None", "none"],
)
def test_labels_that_one_batch_lacks_are_missed_aloud(form: str, change: Any, caplog: pytest.LogCaptureFixture) -> None:
    batches = [(X[:20], Y[:20]), change((X[20:30], Y[20:30])), (X[30:40], Y[30:40])]
    with caplog.at_level("INFO"):
        if form == "list":
            values = measure(Model().net, batches, num_segments=4, faces=False)
            assert "folding/phi" not in values
        elif form == "stream":
            source = ProbeSource(60, 0)
            for batch in batches:
                source.collect(None, Model(), batch)  # type: ignore[arg-type]
            probes = source.from_stream(Model())
            assert probes is not None and len(probes) == 40 and probes.labels is None
        else:
            source = ProbeSource(
                60, 0, probes=TensorDataset(X, Y), batch_to_inputs=lambda batch: change(batch) if len(batch[0]) == 28 else batch
            )
            probes = source.read(None, Model(), None, together=False)  # type: ignore[arg-type]
            assert probes is not None and probes.labels is None
    of, lacking = (60, 28) if form == "items" else (40, 10)
    assert (
        caplog.text.count(f"measures without classes: of {of} inputs, {lacking} are in batches whose labels are missing") == 1
    )


@pytest.mark.parametrize(
    "targets",
    [torch.rand(40), torch.zeros(40), torch.cat([torch.zeros(20), torch.rand(20)]), torch.rand(40, 3), None],
    ids=["numbers", "zeros", "zeros in a batch", "several", "none"],
)
def test_without_labels_of_classes_nothing_is_said(targets: Tensor | None, caplog: pytest.LogCaptureFixture) -> None:
    source = ProbeSource(40, 0)
    with caplog.at_level("INFO"):
        for rows in (slice(0, 20), slice(20, 40)):
            source.collect(None, Model(), (X[rows],) if targets is None else (X[rows], targets[rows]))  # type: ignore[arg-type]
        probes = source.from_stream(Model())
    assert probes is not None and len(probes) == 40 and "fold_lightning" not in caplog.text


@pytest.mark.parametrize(
    "probes",
    [(X, Y), TensorDataset(X, Y), [(x, int(y)) for x, y in zip(X, Y, strict=True)]],
    ids=["pair", "data set", "list"],
)
def test_the_users_probes_come_first(probes: Any) -> None:
    reads = Reads(200, probes=probes)
    fit(reads, loader(x=X + 1), loader(x=X + 1))
    assert sorted(rows_of(reads.probes)) == list(range(200))
    assert reads.probes is not None and not reads.probes.is_stream


def test_the_users_tensors_are_not_unpacked_and_their_labels_are_classes() -> None:
    reads = Reads(5, probes=(X, torch.arange(200)), batch_to_inputs=lambda batch: (batch[0] + 1, batch[1]))
    fit(reads, loader())
    assert rows_of(reads.probes, X, torch.arange(200)) == list(range(200))
    reads = Reads(50, probes=TensorDataset(X, Y), batch_to_inputs=lambda batch: (batch[0] + 1, batch[1]))
    fit(reads, loader())
    assert len(rows_of(reads.probes, X + 1)) == 50


def test_a_users_tensor_is_taken_whole_and_without_labels() -> None:
    reads = Reads(5, probes=X)
    fit(reads, loader())
    assert reads.probes is not None and torch.equal(reads.probes.items, X) and reads.probes.labels is None


@pytest.mark.parametrize(
    ("probes", "error", "message"),
    [
        ((X, X[:, 0]), ValueError, "must be integer classes"),
        (3, TypeError, "must be inputs .* got int"),
        (X[:1], ValueError, "at least 2 inputs"),
        (X[:, :3], ValueError, "The model takes no part of"),
    ],
)
def test_the_users_probes_are_checked(probes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(Reads(probes=probes), loader())


def test_inputs_that_are_not_finite_are_left_out() -> None:
    x = X.clone()
    x[::2, 0] = float("nan")
    reads = Reads(200)
    fit(reads, loader(), loader(x=x))
    assert rows_of(reads.probes) and all(row % 2 for row in rows_of(reads.probes))


def test_targets_of_a_regression_are_no_classes() -> None:
    reads = Reads(200)
    fit(reads, loader(), loader(y=torch.randint(10**6, (200,), generator=torch.Generator().manual_seed(0))))
    assert reads.probes is not None and reads.probes.labels is None


def test_loaders_that_come_together_are_unpacked_together() -> None:
    class Two(Model):
        def split(self, batch: Any) -> tuple[Tensor, Tensor]:
            return batch["a"][0] + 0 * batch["b"][0], batch["a"][1]

    model = Two()
    reads = Reads(40, batch_to_inputs=lambda batch: (batch["b"][0], batch["b"][1]))
    fit(reads, CombinedLoader({"a": loader(x=X + 1), "b": loader(shuffle=True)}), None, model)
    assert len(rows_of(reads.probes)) == 40


@pytest.mark.parametrize("kind", ["reads workers", "collates what fails"])
def test_what_cannot_be_read_by_index_is_awaited(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            assert not (torch.is_inference_mode_enabled() is False and torch.is_grad_enabled() is False), "not like this"
            return super().__getitem__(index)

    def collate(items: Any) -> Any:
        if not torch.is_grad_enabled():
            raise RuntimeError("not like this")
        return torch.utils.data.default_collate(items)

    reads = Reads(30)
    train = DataLoader(Fails(X, Y), 20) if kind == "reads workers" else loader(collate_fn=collate)
    with caplog.at_level("INFO"):
        fit(reads, train)
    assert reads.probes is not None and reads.probes.is_stream and rows_of(reads.probes) == list(range(30))
    assert "takes the inputs of the first batches" in caplog.text and "not like this" in caplog.text


def test_a_long_start_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(source, "LONG_START", 0.0)
    with caplog.at_level("INFO"):
        fit(Reads(), loader(), loader())
    assert caplog.text.count("fold_lightning took 0 s to read 50 inputs before the first measurement") == 1


def test_large_items_are_kept_up_to_a_number_of_bytes(caplog: pytest.LogCaptureFixture) -> None:
    sample = ItemCollector(1000, max_bytes=2**20)
    with caplog.at_level("INFO"):
        for _ in range(10):
            sample.add(torch.zeros(4, 2**16), torch.zeros(4).long())
    assert len(sample) == 4 and sample.is_full and len(sample.items.untyped_storage()) == 2**20
    assert caplog.text.count("keeps 4 inputs instead of 1000: each takes 0.25 MiB, and at most 1 MiB are kept.") == 1
    sample = ItemCollector(1000, max_bytes=1)
    sample.add(torch.zeros(4, 10), None)
    assert len(sample) == 2


def test_validation_alone_reads_in_its_own_stage() -> None:
    stages: list[str] = []

    class Stages(Model):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert self.trainer.validating or self.trainer.testing
            return batch

    class Tests(Callback):
        def read(self, trainer: Trainer, pl_module: LightningModule, loaders: Any) -> None:
            probes = ProbeSource(1000, 0).read(trainer, pl_module, loaders, together=False)
            stages.append(f"{trainer.state.stage}: {len(rows_of(probes))}")

        def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.read(trainer, pl_module, trainer.test_dataloaders)

        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.read(trainer, pl_module, trainer.val_dataloaders)

    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer = Trainer(callbacks=[Tests()], enable_progress_bar=False, limit_test_batches=2, **options)
    trainer.test(Stages(), loader(), verbose=False)
    trainer.validate(Stages(), loader(), verbose=False)
    assert stages == ["RunningStage.TESTING: 40", "RunningStage.VALIDATING: 200"]


def test_the_second_loader_is_read_with_its_number() -> None:
    numbers: list[int] = []

    class Numbers(Model):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return (batch[0] + dataloader_idx, batch[1])

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            numbers.append(dataloader_idx)

    reads = Reads(40)
    fit(reads, loader(), [DataLoader(Stream(), batch_size=20), loader()], Numbers(), limit_val_batches=2)
    assert max(rows_of(reads.probes, X + 1)) < 40


OTHER_PACKAGE = """
import torch, warnings
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from fold_lightning import FoldingMonitor

class Data(LightningDataModule):
    def val_dataloader(self): return DataLoader(TensorDataset(torch.arange(60.0).view(20, 3)), 10)
    train_dataloader = val_dataloader

class Doubled(Data):
    def on_after_batch_transfer(self, batch, dataloader_idx): return [2 * batch[0]]

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    def forward(self, x): return self.net(x)
    def validation_step(self, batch, batch_idx): pass
    def training_step(self, batch, batch_idx): return self(batch[0]).mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.0)

for data in (Data(), Doubled()):
    monitor = FoldingMonitor(num_segments=2, figures=False)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(max_epochs=1, callbacks=[monitor], **quiet).fit(Model(), data)
    probes = monitor._session.sample.probes
    print(probes.is_stream, len(probes), probes.items.max().item())
"""


@pytest.mark.slow
@pytest.mark.processes
def test_a_data_module_of_the_other_package_is_read_by_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_code(OTHER_PACKAGE, FOLD_LIGHTNING="")
    assert done.stdout.splitlines() == ["False 20 59.0", "False 20 118.0"], done.stderr[-3000:]

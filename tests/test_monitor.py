"""The monitor under a real Trainer: what it logs, when, and that training does not notice."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fold_lightning import (
    FoldingMonitor,
    SliceMap,
    activation_codes,
    activation_regions,
    boundary_distances,
    face_counts,
    global_folding,
    segment_walks,
    slice_map,
    space_folding,
)
from fold_lightning.callbacks import method
from fold_lightning.callbacks.measures import MEASURES
from fold_lightning.callbacks.measures import distances as distances_measure
from fold_lightning.callbacks.measures import folding as folding_measure
from fold_lightning.callbacks.measures import slice as slice_measure
from fold_lightning.callbacks.measures.sources import SegmentSource
from fold_lightning.figures import plot_message, plot_slice_map
from fold_lightning.slice_maps import TooManyRegions
from helpers.networks import mlp
from helpers.training import (
    FACES,
    FIGURES,
    TAGS,
    Model,
    Recorder,
    data,
    fit,
    loaders,
    sample_of,
    segments_of,
    watch,
)


def test_the_whole_conversation_with_a_logger(tmp_path: Path) -> None:
    trainer = fit(tmp_path, watch(num_segments=8))
    assert [step for step, _ in trainer.logger.said] == [0, 2, 5]
    assert all(set(values) == TAGS for _, values in trainer.logger.said)


def test_the_values_are_those_of_exact_walks_of_the_model(tmp_path: Path) -> None:
    monitor = watch(num_segments=20)
    trainer = fit(tmp_path, monitor, max_epochs=1)
    walks = segment_walks(trainer.lightning_module, *segments_of(monitor))
    logged = trainer.logger.said[-1][1]
    assert logged["folding/chi_mean"] == pytest.approx(space_folding(walks).mean().item(), rel=1e-5)
    assert logged["folding/regions"] == pytest.approx(walks.num_regions().double().mean().item(), rel=1e-5)
    assert logged["folding/exact"] == logged["folding/complete"] == 1
    layer = space_folding(walks.select("net.5")).mean().item()
    assert logged["folding/layer/net.5"] == pytest.approx(layer, rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_real_tensorboard_files_hold_curves_histograms_pictures_and_a_layout(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    fit(tmp_path, watch(num_segments=8), logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"histograms": 0, "images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= TAGS
    assert [event.step for event in events.Scalars("folding/chi_mean")] == [0, 2, 5]
    assert [event.step for event in events.Histograms("folding/chi_histogram")] == [0, 2, 5]
    assert [event.step for event in events.Histograms("faces/histogram")] == [0, 2, 5]
    assert [event.step for event in events.Scalars("faces/mean")] == [0, 2, 5]
    assert (
        "random slices of 2 dimensions through inputs of 5 features" in events.SummaryMetadata("faces/mean").summary_description
    )
    assert sorted(tags["images"]) == sorted(FIGURES)
    settings = yaml.safe_load((Path(logger.log_dir) / "hparams.yaml").read_text())
    assert (
        settings["folding_monitor"] | {"method": "exact", "num_inputs": 40, "num_segments": 12} == settings["folding_monitor"]
        and "hp_metric" not in tags["scalars"]
    )
    projector = (Path(logger.log_dir) / "projector_config.pbtxt").read_text()
    (folder,) = Path(logger.log_dir).glob("*/codes")
    assert f"{folder.parent.name}/codes/tensors.tsv" in projector
    assert len((folder / "tensors.tsv").read_text().splitlines()) == 40
    assert sorted((folder / "metadata.tsv").read_text().split()) == sorted(map(str, data(40, 1).tensors[1].tolist()))
    assert "custom_scalars__config__" in tags["tensors"]


def images(logger: TensorBoardLogger) -> dict[str, list[int]]:
    """Return the tags of figures in a run's files, with their steps."""
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.mark.slow
def test_figures_are_those_of_what_is_measured(tmp_path: Path) -> None:
    for wanted, others in (("folding", ()), ("codes", ()), ("units", ()), ("faces", ("regions",))):
        logger = TensorBoardLogger(tmp_path, name=wanted)
        off = dict.fromkeys({"folding", "codes", "units", "faces"} - {wanted}, False)
        fit(tmp_path, watch(num_segments=4, **off), logger=logger, max_epochs=1)
        assert sorted(images(logger)) == sorted(tag for tag in FIGURES if tag.split("/")[0] in (wanted, *others))


@pytest.mark.slow
def test_a_figure_that_fails_costs_a_warning_and_no_other_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("no font is found")

    monkeypatch.setattr(distances_measure, "plot_code_distances", fail)
    logger = TensorBoardLogger(tmp_path, name="tb")
    with pytest.warns(UserWarning, match="could not measure everything at epoch 0: no font is found") as warned:
        trainer = fit(tmp_path, watch(num_segments=4), logger=[logger, Recorder()])
    assert sum("no font" in str(warning.message) for warning in warned) == 1
    assert images(logger) == {tag: [0, 2, 5] for tag in FIGURES if tag != "codes/distances"}
    assert all(set(values) == TAGS for _, values in trainer.loggers[1].said) and embedded(logger)


@pytest.mark.slow
def test_folding_over_steps_has_every_measurement_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[int, Tensor]] = []
    draw = folding_measure.plot_folding_over_steps
    monkeypatch.setattr(folding_measure, "plot_folding_over_steps", lambda chi: seen.append(dict(chi)) or draw(chi))
    recorder = Recorder()
    fit(tmp_path, watch(num_segments=8), logger=[TensorBoardLogger(tmp_path), recorder], max_epochs=4)
    assert [list(chi) for chi in seen] == [[0], [0, 2], [0, 2, 5, 8], [0, 2, 5, 8, 11]]
    means = {step: values["folding/chi_mean"] for step, values in recorder.said}
    assert {step: chi.mean().item() for step, chi in seen[-1].items()} == pytest.approx(means, rel=1e-5)


def embedded(logger: TensorBoardLogger) -> dict[tuple[int, str], Tensor]:
    """Return the embeddings in a run's files: (step, tag) -> bits."""
    files = {file: file.relative_to(logger.log_dir).parts for file in Path(logger.log_dir).glob("*/*/tensors.tsv")}
    return {
        (int(step), unquote(tag)): torch.tensor([[*map(int, line.split())] for line in file.read_text().splitlines()]).bool()
        for file, (step, tag, _) in files.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("figures", [True, False])
def test_codes_are_embedded_by_layer_when_training_ends_and_at_every_measurement_on_request(
    tmp_path: Path, figures: bool
) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    monitor = watch(num_segments=2, figures=figures, folding=False, faces=False)
    trainer = fit(tmp_path, monitor, logger=logger)
    found = embedded(logger)
    steps = [0, 2, 5] if figures else [6]
    tags = {"codes", "codes/layer/net.2", "codes/layer/net.5"}
    assert set(found) == {(step, tag) for step in steps for tag in tags}
    codes = activation_codes(trainer.lightning_module, sample_of(monitor).probes.items)
    assert torch.equal(found[steps[-1], "codes"], codes.bits)
    for layer, columns in codes.layers.items():
        assert torch.equal(found[steps[-1], f"codes/layer/{layer}"], codes.bits[:, columns])
    assert not figures or not torch.equal(found[0, "codes"], codes.bits)


@pytest.mark.parametrize("inputs", [8, 1000])
def test_an_autoencoder_of_labelled_inputs_has_no_correct_ones(tmp_path: Path, inputs: int) -> None:
    """Its outputs are no logits, however few inputs are measured: classes have distances all the same."""

    class Autoencoder(Model):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[0])

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    x, classes = torch.rand(1000, 64, generator=torch.Generator().manual_seed(0)), torch.arange(1000) % 10
    given = loaders(TensorDataset(x[:40], classes[:40]), TensorDataset(x[:inputs], classes[:inputs]))
    trainer = fit(tmp_path, watch(num_segments=2, faces=False), model=Autoencoder(), given=given, max_epochs=1)
    logged = trainer.logger.said[-1][1]
    assert {"codes/distinct", "codes/distinct_fraction", "codes/between"} <= set(logged)
    assert "codes/distinct_correct" not in logged


@pytest.mark.parametrize(
    ("within", "across"),
    [
        ("max", "median"),
        pytest.param("median", "mean", marks=pytest.mark.slow),
        pytest.param("mean", "max", marks=pytest.mark.slow),
    ],
)
def test_phi_is_the_global_folding_of_the_walked_segments(tmp_path: Path, within: Any, across: Any) -> None:
    monitor = watch(segments_per_pair=3, within=within, across=across)
    trainer = fit(tmp_path, monitor, max_epochs=1)
    walks, segments = segment_walks(trainer.lightning_module, *segments_of(monitor)), sample_of(monitor).segments
    logged = trainer.logger.said[-1][1]
    phi, _ = global_folding(space_folding(walks), segments.start_class, segments.end_class, 3, within=within, across=across)
    assert logged["folding/phi"] == pytest.approx(phi.item(), rel=1e-6)
    assert len(segments) == 6 * 3
    assert segments.describe() == "18 segments, 3 for each of the 6 ordered pairs of 3 classes"
    assert monitor._session is not None
    description = monitor._session.descriptions()["folding/phi"]
    assert f"The {across} over pairs of classes of the {within} of each pair's non-zero chi" in description
    assert segments.describe() in description


@pytest.mark.parametrize(("subspace", "dimension"), [("auto", 2), ("whole", 5), (3, 3)])
def test_faces_are_those_of_the_probed_inputs(tmp_path: Path, subspace: Any, dimension: int) -> None:
    monitor = watch(face_subspace=subspace, num_segments=4, num_regions=30)
    trainer = fit(tmp_path, monitor, max_epochs=1)
    model, logged = trainer.lightning_module, trainer.logger.said[-1][1]
    k = None if subspace == "whole" else dimension
    assert logged["faces/bound"] == 2 * dimension
    regions = activation_regions(model, sample_of(monitor).probes.items[:30], subspace=k)
    counts, distances = face_counts(regions).double(), boundary_distances(regions)
    assert logged["regions/distance_mean"] == pytest.approx(distances.mean().item(), rel=1e-6)
    assert logged["regions/distance_median"] == pytest.approx(distances.quantile(0.5).item(), rel=1e-6)
    assert logged["faces/mean"] == pytest.approx(counts.mean().item(), rel=1e-6)
    assert logged["faces/max"] == counts.max()


@pytest.mark.parametrize(("text", "subspace"), [("auto", "auto"), ("whole", "whole"), ("3", 3)])
def test_the_command_line_chooses_faces(text: str, subspace: Any) -> None:
    arguments = ["--trainer.callbacks+=fold_lightning.FoldingMonitor", f"--trainer.callbacks.face_subspace={text}"]
    cli = LightningCLI(Model, run=False, save_config_callback=None, args=arguments)
    (monitor,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, FoldingMonitor)]
    assert monitor.settings.face_subspace == subspace


def test_inputs_of_few_features_have_whole_regions(tmp_path: Path) -> None:
    class Small(Model):
        def __init__(self) -> None:
            super().__init__()
            self.net[0] = nn.Linear(3, 16)

    few = TensorDataset(torch.randn(60, 3), torch.arange(60) % 3)
    monitor = watch(num_segments=4, folding=False, codes=False, units=False)
    trainer = fit(tmp_path, monitor, model=Small(), given=(DataLoader(few, 20), DataLoader(few, 20)), max_epochs=1)
    values = trainer.logger.said[-1][1]
    assert set(values) == FACES | {"monitor/seconds"} and values["faces/bound"] == 6
    assert sample_of(monitor).faces.subspace is None


@pytest.mark.slow
def test_the_map_of_regions_goes_through_inputs_of_different_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[SliceMap, list[str]]] = []

    def draw(found: SliceMap, *, names: list[str], **options: Any) -> Any:
        made.append((found, names))
        return plot_slice_map(found, names=names, **options)

    monkeypatch.setattr(slice_measure, "plot_slice_map", draw)
    given = data(60, 3)
    monitor = watch(num_segments=4, folding=False, codes=False, units=False, figures=True)
    fit(
        tmp_path,
        monitor,
        logger=TensorBoardLogger(tmp_path),
        given=(DataLoader(given, 20), DataLoader(given, 20)),
        max_epochs=1,
    )
    items, labels = given.tensors
    found, names = made[-1]
    assert made[-2] == made[-1], "one map is drawn by distance and by class"
    assert 24 <= len(found) <= slice_measure.MOST_REGIONS
    marked = found.inputs(found.marks)
    rows = [int((items.double() - mark).norm(dim=1).argmin()) for mark in marked]
    assert torch.allclose(items[rows].double(), marked)
    assert sorted(labels[rows].tolist()) == [0, 1, 2] and [name.split(",")[0] for name in names] == [
        str(int(c)) for c in labels[rows]
    ]


@pytest.mark.slow
def test_large_networks_have_maps_of_fewer_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def count(*args: Any, max_regions: int, **kwargs: Any) -> Any:
        asked.append(max_regions)
        return slice_map(*args, max_regions=max_regions, **kwargs)

    monkeypatch.setattr(slice_measure, "slice_map", count)
    for work, expected in ((2**40, 4000), (1, 24)):
        monkeypatch.setattr(slice_measure, "MAX_WORK", work)
        monitor = watch(num_segments=4, folding=False, codes=False, units=False, figures=True)
        fit(tmp_path, monitor, logger=TensorBoardLogger(tmp_path), max_epochs=1)
        assert set(asked) == {expected}
        asked.clear()


@pytest.mark.slow
def test_inputs_on_a_line_and_too_many_regions_leave_a_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = TensorDataset(torch.linspace(-1, 1, 60)[:, None] * torch.ones(5), torch.arange(60) % 3)
    monitor = watch(num_segments=4, folding=False, codes=False, units=False, figures=True)
    fit(tmp_path, monitor, logger=TensorBoardLogger(tmp_path), given=(DataLoader(line, 20), DataLoader(line, 20)), max_epochs=1)
    said: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise TooManyRegions("There are more.")

    monkeypatch.setattr(slice_measure, "slice_map", refuse)
    monkeypatch.setattr(slice_measure, "plot_message", lambda text: said.append(text) or plot_message(text))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*FoldingMonitor")
        fit(tmp_path, watch(num_segments=4, figures=True), logger=TensorBoardLogger(tmp_path), max_epochs=1)
    assert said and set(said) == {"No map of regions. There are more."}


def test_a_curved_network_has_no_faces_and_trains_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    model.net[2] = nn.GELU()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer = fit(tmp_path, watch(num_segments=4), model=model)
    assert not any(tag.startswith("faces") for _, values in trainer.logger.said for tag in values)
    reason = "leaves out faces/* and regions/*. Regions are polytopes only in piecewise linear networks"
    assert sum(reason in message for message in caplog.messages) == 1


def test_a_slice_of_more_dimensions_than_features_is_refused_at_the_start(tmp_path: Path) -> None:
    for measured in (True, False):
        with pytest.raises(ValueError, match="must be an integer from 1 to the inputs' 5 features, got 6"):
            fit(tmp_path, watch(face_subspace=6, measure_at_start=measured))


@pytest.mark.slow
def test_codes_units_and_distances_are_those_of_the_probed_inputs(tmp_path: Path) -> None:
    monitor = watch(num_inputs=30, num_segments=4)
    trainer = fit(tmp_path, monitor, given=loaders(val=data(90, 1)))
    probes = sample_of(monitor).probes
    inputs, labels = probes.items[:30], probes.labels[:30]
    model = trainer.lightning_module.eval()
    codes = activation_codes(model, inputs)
    right = model.double()(inputs.double()).argmax(1) == labels
    logged = trainer.logger.said[-1][1]
    assert logged["codes/distinct"] == len(codes.bits.unique(dim=0))
    assert logged["codes/distinct_fraction"] == pytest.approx(logged["codes/distinct"] / 30)
    assert logged["codes/distinct_correct"] == len(codes.bits[right].unique(dim=0))
    for layer, columns in {"": slice(None), **{f"/{name}": part for name, part in codes.layers.items()}}.items():
        bits = codes.bits[:, columns]
        assert logged[f"codes/layer{layer}" if layer else "codes/distinct"] == len(bits.unique(dim=0))
        assert logged[f"units/dead{layer}"] == pytest.approx((~bits.any(0)).float().mean().item())
        assert logged[f"units/always_active{layer}"] == pytest.approx(bits.all(0).float().mean().item())
        assert logged[f"units/active{layer}"] == pytest.approx(bits.float().mean().item())
    apart = {"within": [], "between": []}
    for i in range(30):
        for j in range(i):
            distance = (codes.bits[i] != codes.bits[j]).double().mean().item()
            apart["within" if labels[i] == labels[j] else "between"].append(distance)
    for name, distances in apart.items():
        assert logged[f"codes/{name}"] == pytest.approx(sum(distances) / len(distances), rel=1e-6)


class Regression(Model):
    """Three targets of real numbers, or no labels at all."""

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], (batch[0][:, 0] > 0).long()


@pytest.mark.parametrize(
    "targets",
    [
        (),
        pytest.param((torch.rand(40, 3),), marks=pytest.mark.slow),
        pytest.param((torch.rand(40),), marks=pytest.mark.slow),
        (torch.zeros(40).long(),),
    ],
)
def test_without_classes_segments_are_random_and_there_is_no_phi(tmp_path: Path, targets: tuple[Tensor, ...]) -> None:
    validation = TensorDataset(data(40, 1).tensors[0], *targets)
    monitor = watch(num_segments=8)
    trainer = fit(tmp_path, monitor, model=Regression(), given=loaders(val=validation))
    absent = {"folding/phi", "codes/distinct_correct", "codes/within", "codes/between"}
    if targets and targets[0].dtype == torch.int64:  # a single class, of which the model has three
        absent = {"folding/phi", "codes/distinct_correct", "codes/between"}
    assert all(set(values) == TAGS - absent for _, values in trainer.logger.said)
    assert sample_of(monitor).segments.describe() == "8 segments between random inputs, without classes"


@pytest.mark.parametrize(
    ("forward", "is_class"),
    [
        (lambda model, x: model.net(x), True),  # three logits for three classes
        (lambda model, x: model.net[:5](x).relu(), False),  # sixteen features
        (lambda model, x: (model.net(x), x), True),
        (lambda model, x: {"logits": model.net(x)}, True),
        (lambda model, x: model.net(x)[:, :2], False),  # fewer than there are classes
        (lambda model, x: model.net(x)[:, 0], False),
        (lambda model, x: {"hidden": model.net(x)}, False),
        (lambda model, x: model.net(x).repeat(3, 1), False),  # three rows for each input
        (lambda model, x: model.net(x)[:0], False),
        (lambda model, x: (model.net(x)[1:], x), False),
    ],
)
def test_only_logits_of_the_classes_say_which_inputs_are_classified_correctly(
    tmp_path: Path, forward: Any, is_class: bool
) -> None:
    trainer = fit(tmp_path, watch(num_segments=2, forward=forward), max_epochs=1)
    assert ("codes/distinct_correct" in trainer.logger.said[-1][1]) == is_class


@pytest.mark.parametrize(
    ("num_outputs", "is_class"),
    [pytest.param(9, True, marks=pytest.mark.slow), (10, True), pytest.param(32, False, marks=pytest.mark.slow), (8, False)],
)
def test_a_class_that_no_validation_input_has_is_one_all_the_same(tmp_path: Path, num_outputs: int, is_class: bool) -> None:
    class Wide(Model):
        def __init__(self) -> None:
            super().__init__()
            self.net[6] = nn.Linear(16, num_outputs)

        def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
            return batch[0], batch[1] % num_outputs

    nine = TensorDataset(torch.randn(300, 5), torch.arange(300) % 9)
    trainer = fit(tmp_path, watch(num_segments=2), model=Wide(), given=loaders(nine, nine), max_epochs=1)
    assert ("codes/distinct_correct" in trainer.logger.said[-1][1]) == is_class


def test_one_probability_says_a_class_by_a_half(tmp_path: Path) -> None:
    x, y = data(40, 1).tensors
    validation = TensorDataset(x, (y > 0).long())
    monitor = watch(num_segments=2, forward=lambda model, x: model.net(x)[:, :1].sigmoid())
    trainer = fit(tmp_path, monitor, max_epochs=1, given=loaders(val=validation))
    model = trainer.lightning_module.eval().double()
    right = (model(x.double())[:, 0] > 0) == (y > 0)
    assert trainer.logger.said[-1][1]["codes/distinct_correct"] == len(activation_codes(model, x).bits[right].unique(dim=0))


@pytest.mark.slow
def test_a_network_that_grows_while_it_trains_is_measured_on(tmp_path: Path) -> None:
    class Grows(Model):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.net.extend([nn.ReLU(), nn.Linear(3, 3)])

    trainer = fit(tmp_path, watch(num_segments=4), model=Grows())
    assert set(trainer.logger.said[-1][1]) == TAGS | {f"{tag}/net.7" for tag in ("folding/layer", "codes/layer")} | {
        f"units/{what}/net.7" for what in ("dead", "always_active", "active")
    }


def test_labels_may_be_numbered_as_they_like_and_some_may_be_missing(tmp_path: Path) -> None:
    x, y = data(40, 1).tensors
    labels = torch.tensor([3, 7, 100_000])[y]
    labels[::5] = -100
    validation = TensorDataset(x, labels[:, None].int())
    monitor = watch(num_segments=12, segments_per_pair=1)
    trainer = fit(tmp_path, monitor, model=Regression(), max_epochs=1, given=loaders(val=validation))
    said = trainer.logger.said[-1][1]
    segments = sample_of(monitor).segments
    assert len(segments) == 6 and "folding/phi" in said and "codes/distinct_correct" not in said
    assert set(segments.start_class.tolist()) == {3, 7, 100_000}


@pytest.mark.slow
def test_one_logit_says_a_class_by_its_sign(tmp_path: Path) -> None:
    x, y = data(40, 1).tensors
    validation = TensorDataset(x, (y > 0).long())
    monitor = watch(num_segments=2, forward=lambda model, x: model.net(x)[:, :1])
    trainer = fit(tmp_path, monitor, max_epochs=1, given=loaders(val=validation))
    model = trainer.lightning_module.eval().double()
    right = (model(x.double())[:, 0] > 0) == (y > 0)
    assert trainer.logger.said[-1][1]["codes/distinct_correct"] == len(activation_codes(model, x).bits[right].unique(dim=0))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["folding", "codes", "units", "faces"])
def test_either_part_can_be_left_out(tmp_path: Path, part: str) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    recorder = Recorder()
    fit(tmp_path, watch(num_segments=2, **{part: False}), max_epochs=1, logger=[logger, recorder])
    said = set(recorder.said[-1][1]) - {"monitor/seconds"}
    left_out = {part, "regions"} if part == "faces" else {part}
    assert {tag.partition("/")[0] for tag in said} == {"folding", "codes", "units", "faces", "regions"} - left_out
    assert (Path(logger.log_dir) / "projector_config.pbtxt").exists() == (part != "codes")


class Listener(Callback):
    """Finds what callbacks find at the end of each epoch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append(float(trainer.callback_metrics["monitor/seconds"]))


@pytest.mark.slow
@pytest.mark.parametrize("validates", [True, False])
def test_every_n_epochs_measures_then_and_callbacks_find_the_last_value_between(tmp_path: Path, validates: bool) -> None:
    monitor, listener = watch(num_segments=8, every_n_epochs=2, measure_at_start=False), Listener()
    given = loaders() if validates else loaders()[:1]
    logger = fit(tmp_path, monitor, listener, given=given, max_epochs=5).logger
    assert [step for step, _ in logger.said] == [2, 5, 11, 14]  # the first so that there is a value, and the end
    one, two, three, four, five = listener.found
    assert two == three and four == five and one != two != four


def test_before_the_first_validation_callbacks_find_the_value_from_before_training(tmp_path: Path) -> None:
    listener, stopping = Listener(), EarlyStopping("folding/regions", patience=9, check_on_train_epoch_end=True)
    beside = (watch(num_segments=8), listener, stopping)
    trainer = fit(tmp_path, *beside, max_epochs=4, check_val_every_n_epoch=2)
    said = [values["monitor/seconds"] for _, values in trainer.logger.said]
    assert [step for step, _ in trainer.logger.said] == [0, 5, 11]
    assert listener.found == pytest.approx([said[i] for i in (0, 1, 1, 2)], rel=1e-6)


def test_without_validation_it_measures_training_inputs_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    monitor = watch(num_segments=8)
    trainer = fit(tmp_path, monitor, given=(DataLoader(data(), batch_size=20),))
    assert [step for step, _ in trainer.logger.said] == [0, 2, 5]
    train = data().tensors[0]
    assert all((start == train).all(1).any() for start in segments_of(monitor)[0])


def test_segments_go_between_different_classes_of_the_validation_data(tmp_path: Path) -> None:
    monitor = watch(num_segments=12)
    fit(tmp_path, monitor, max_epochs=1)
    inputs, labels = data(40, 1).tensors
    segments, (starts, ends) = sample_of(monitor).segments, segments_of(monitor)
    for point, label in ((starts, segments.start_class), (ends, segments.end_class)):
        for x, c in zip(point, label, strict=True):
            assert c in labels[(inputs == x).all(1)]
    pairs = list(zip(segments.start_class.tolist(), segments.end_class.tolist(), strict=True))
    assert sorted(set(pairs)) == [(a, b) for a in range(3) for b in range(3) if a != b]
    assert all(pairs.count(pair) == 2 for pair in pairs)


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader`")
def test_an_empty_validation_loader_is_no_validation(tmp_path: Path) -> None:
    empty = DataLoader(TensorDataset(torch.empty(0, 5), torch.empty(0).long()), batch_size=4)
    trainer = fit(tmp_path, watch(num_segments=4), given=(loaders()[0], empty))
    assert [step for step, _ in trainer.logger.said] == [0, 2, 5]


def test_inputs_that_are_not_finite_are_no_probes(tmp_path: Path) -> None:
    x, y = data(40, 1).tensors
    x[::2] = torch.nan
    validation = DataLoader(TensorDataset(x, y), batch_size=20)
    monitor = watch(num_segments=8)
    fit(tmp_path, monitor, given=(loaders()[0], validation), max_epochs=1)
    assert segments_of(monitor)[0].isfinite().all()


@pytest.mark.slow
def test_probes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    starts = []
    for seed, shuffled in ((0, 1), (0, 2), (1, 1)):
        seed_everything(shuffled)
        monitor = watch(num_segments=8, seed=seed)
        fit(tmp_path, monitor, max_epochs=1)
        starts.append(segments_of(monitor)[0])
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


@pytest.mark.slow
@pytest.mark.parametrize("validates", [True, False])
def test_training_is_bit_identical_with_and_without_the_monitor(tmp_path: Path, validates: bool) -> None:
    class Noisy(Dataset[Any]):
        """Augments with the global random state, as many data sets do."""

        def __init__(self, inner: TensorDataset) -> None:
            self.inner = inner

        def __len__(self) -> int:
            return len(self.inner)

        def __getitem__(self, i: int) -> Any:
            x, y = self.inner[i]
            return x + 0.1 * torch.randn(5), y

    results = []
    for callbacks in ([], [watch(num_segments=8)]):
        seed_everything(3)
        model, given = Model(), loaders(Noisy(data()), Noisy(data(40, 1)))
        fit(tmp_path, *callbacks, model=model, given=given if validates else given[:1])
        results.append((model.state_dict(), torch.get_rng_state()))
    (without, random_without), (with_it, random_with) = results
    assert all(torch.equal(without[name], with_it[name]) for name in without)
    assert torch.equal(random_without, random_with)


def test_a_trainer_without_logger_is_refused_by_a_monitor_that_measures(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no logger.*TensorBoardLogger"):
        fit(tmp_path, watch(), logger=False)
    nothing = dict.fromkeys(("folding", "codes", "units", "faces"), False)
    trainer = fit(tmp_path, watch(**nothing, regularize=True), logger=False)
    assert "regularizer/term" in trainer.callback_metrics, "only what measures needs a logger"


@pytest.mark.slow
def test_other_loggers_checkpoints_and_early_stopping_use_the_values(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="folding/chi_mean", filename="best")
    stopping = EarlyStopping("folding/regions", min_delta=1e9, patience=2)
    trainer = fit(tmp_path, watch(num_segments=8), checkpoint, stopping, logger=CSVLogger(tmp_path, "csv"), max_epochs=9)
    assert trainer.current_epoch == 3
    assert Path(checkpoint.best_model_path).exists()
    header = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().split("\n")[0]
    assert set(header.split(",")) >= TAGS


@pytest.mark.slow
def test_the_sanity_check_is_not_measured_and_a_fast_run_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, walk = [], SegmentSource.walk

    def counting(self: SegmentSource, model: LightningModule, rows: Tensor) -> Any:
        assert not model.trainer.sanity_checking
        measured.append(len(rows))
        return walk(self, model, rows)

    monkeypatch.setattr(SegmentSource, "walk", counting)
    fit(tmp_path, watch(segments_per_pair=1, figures=False), num_sanity_val_steps=2)
    assert measured == [1, 6, 6, 6]  # the first looks whether it can be done
    fit(tmp_path, watch(num_segments=4), fast_dev_run=True)


def test_a_measurement_that_fails_costs_one_warning_and_nothing_else(tmp_path: Path) -> None:
    class Diverging(Model):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                with torch.no_grad():
                    self.net[0].weight[0] = torch.nan

    stopping = EarlyStopping("folding/chi_mean", patience=9)
    with pytest.warns(UserWarning, match="could not measure everything at epoch 1.*diverged") as warned:
        trainer = fit(tmp_path, watch(num_segments=4), stopping, model=Diverging(), max_epochs=4)
    assert sum("could not measure" in str(w.message) for w in warned) == 1
    assert trainer.current_epoch == 4
    assert [step for step, _ in trainer.logger.said] == [0, 2]


@pytest.mark.slow
def test_what_a_measurement_warns_of_is_said_once_a_run(tmp_path: Path) -> None:
    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin()

    model = Model()
    model.net.insert(1, Sine())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, watch(num_segments=4), model=model, max_epochs=3)
    assert sum("not a registered activation" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("probes", [data(30, 5), data(30, 5).tensors, data(30, 5).tensors[0]])
def test_probes_of_ones_own(tmp_path: Path, probes: Any) -> None:
    monitor = watch(num_segments=6, probes=probes)
    fit(tmp_path, monitor, max_epochs=1)
    own = data(30, 5).tensors[0]
    assert all((start == own).all(1).any() for start in segments_of(monitor)[0])


@pytest.mark.slow
def test_forward_names_the_part_that_takes_inputs(tmp_path: Path) -> None:
    class NoForward(Model):
        forward = LightningModule.forward

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    trainer = fit(tmp_path, watch(num_segments=6, forward="net"), model=NoForward())
    assert len(trainer.logger.said) == 3
    with pytest.raises(ValueError, match="`forward=`"):
        fit(tmp_path, watch(num_segments=6), model=NoForward())


@pytest.mark.parametrize("at_start", [True, False])
def test_what_cannot_be_measured_is_refused_before_training(tmp_path: Path, at_start: bool) -> None:
    class Linear(Model):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(5, 3)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError("training began")

    with pytest.raises(ValueError, match="has no activation"):
        fit(tmp_path, watch(measure_at_start=at_start), model=Linear())
    with pytest.raises(ValueError, match="matches no activation. The model has: net.2, net.5"):
        fit(tmp_path, watch(measure_at_start=at_start, layers="encoder"))


def test_arguments_that_make_no_sense_are_refused() -> None:
    for argument, least in (("every_n_epochs", 1), ("every_n_train_steps", 1), ("num_segments", 1), ("num_inputs", 2)):
        with pytest.raises(ValueError, match=f"`{argument}` must be an integer of at least {least}, got 0"):
            FoldingMonitor(**{argument: 0})
    for argument in ("segments_per_pair", "num_regions", "num_points", "num_inputs", "seed"):
        for value in (True, 2.5, "some"):
            with pytest.raises(TypeError, match=f"`{argument}` must be an integer of at least ., got|and less than"):
                FoldingMonitor(**{argument: value})
    with pytest.raises(ValueError, match="nothing to measure"):
        FoldingMonitor(folding=False, codes=False, units=False, faces=False)
    for argument in ("folding", "codes", "units", "faces", "measure_at_start"):
        with pytest.raises(TypeError, match=f"`{argument}` must be True or False, got 'all'"):
            FoldingMonitor(**{argument: "all"})
    for subspace in (0, "half", True, 1.5):
        with pytest.raises(ValueError, match="`face_subspace` must be 'auto', 'whole' or an integer of at least 1, got"):
            FoldingMonitor(face_subspace=subspace)
    for word in ("exakt", None):
        with pytest.raises(ValueError, match="`method` must be one of 'auto', 'exact', 'uniform'"):
            FoldingMonitor(method=word)
    for share in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="`max_overhead` must be a share"):
            FoldingMonitor(max_overhead=share)
    for share in ("5%", True):
        with pytest.raises(TypeError, match=f"`max_overhead` must be a share .*, got {share!r}: 5% is 0.05"):
            FoldingMonitor(max_overhead=share)
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        FoldingMonitor(seed=-1)
    with pytest.raises(TypeError, match="`batch_to_inputs` must be a function"):
        FoldingMonitor(batch_to_inputs="x")
    for value in ("all", 1):
        with pytest.raises(TypeError, match=f"`figures` must be True, False or None, got {value!r}"):
            FoldingMonitor(figures=value)
    with pytest.raises(TypeError, match=r"`forward` must be a name or a callable of \(model, inputs\), got int"):
        FoldingMonitor(forward=3)
    for layers, named in ((3, 3), (["encoder.*", 3], 3)):
        with pytest.raises(TypeError, match=f"`layers` must be names or glob patterns, got {named}"):
            FoldingMonitor(layers=layers)
    with pytest.raises(ValueError, match=r"`layers` must hold names or glob patterns, got \[\]: name a layer, or pass None"):
        FoldingMonitor(layers=[])
    for probes, kind in ((3, "int"), ("folder", "str"), (TensorDataset, "the class TensorDataset"), ({1, 2}, "set")):
        with pytest.raises(
            TypeError, match=rf"`probes` must be inputs \(B, \.\.\.\), a pair .* or a map-style dataset, got {kind}"
        ):
            FoldingMonitor(probes=probes)


X = torch.randn(6, 5)


@pytest.mark.parametrize(
    ("probes", "error", "message"),
    [
        ((X, torch.rand(6)), ValueError, "Labels of `probes` must be integer classes"),
        ((X, torch.ones(5).long()), ValueError, "Labels of `probes` must be integer classes"),
        (X[:1], ValueError, "at least 2 inputs"),
        ([], ValueError, "data set must hold at least 2 inputs, got 0"),
    ],
)
def test_probes_that_make_no_sense_are_refused_before_training(
    tmp_path: Path, probes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(tmp_path, watch(probes=probes))


def test_figures_without_matplotlib_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning import figures
    from fold_lightning.figures import style

    monkeypatch.setattr(style, "find_spec", lambda name: None)
    assert FoldingMonitor().settings.draws_figures is False
    with pytest.raises(ModuleNotFoundError, match=r"fold-lightning\[figures\]"):
        FoldingMonitor(figures=True)
    with pytest.raises(ModuleNotFoundError, match=r"fold-lightning\[figures\]"):
        figures.plot_walk(segment_walks(mlp(2, 3, 1), torch.ones(1, 2), torch.zeros(1, 2)), 0)
    with pytest.raises(ModuleNotFoundError, match=r"fold-lightning\[figures\]"):
        figures.plot_folding_matrix(torch.zeros(2, 2))
    with pytest.raises(ModuleNotFoundError, match=r"fold-lightning\[figures\]"):
        figures.plot_slice_map(slice_map(mlp(2, 3, 1), torch.zeros(1, 2)))


def test_scalars_are_finite_also_where_nothing_folds(tmp_path: Path) -> None:
    class Narrow(Model):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))

    trainer = fit(tmp_path, watch(num_segments=4), model=Narrow())
    assert all(math.isfinite(value) for _, values in trainer.logger.said for value in values.values())
    assert all(values["folding/chi_median"] == 0 for _, values in trainer.logger.said)


@pytest.mark.slow
def test_by_default_each_pair_of_ten_classes_has_a_segment(tmp_path: Path) -> None:
    ten = TensorDataset(torch.randn(1200, 5), torch.arange(1200) % 10)

    class Ten(Model):
        def __init__(self) -> None:
            super().__init__()
            self.net[6] = nn.Linear(16, 10)

    logger = TensorBoardLogger(tmp_path, name="tb")
    trainer = fit(tmp_path, watch(figures=False), model=Ten(), given=loaders(ten, ten), max_epochs=1, logger=logger)
    chosen = yaml.safe_load((Path(logger.log_dir) / "hparams.yaml").read_text())["folding_monitor"]
    assert (chosen["num_segments"], chosen["num_inputs"], chosen["num_regions"]) == (90, 1000, 64)
    assert chosen["segments"] == "90 segments, 1 for each of the 90 ordered pairs of 10 classes"
    values = trainer.callback_metrics
    assert values["codes/distinct_fraction"] == values["codes/distinct"] / 1000


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_a_network_too_large_for_exact_walks_is_looked_at_at_equidistant_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_for: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if not is_asked_for:
        monkeypatch.setattr(method, "MAX_COST", 10)
    monitor = watch(num_segments=6, num_points=17, figures=False, method="uniform" if is_asked_for else "auto")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer = fit(tmp_path, monitor)
    assert all(set(values) == TAGS - {"folding/regions"} for _, values in trainer.logger.said)
    walks = segment_walks(trainer.lightning_module, *segments_of(monitor), method="uniform", num_points=17)
    logged = trainer.logger.said[-1][1]
    assert logged["folding/chi_mean"] == pytest.approx(space_folding(walks).mean().item(), rel=1e-6)
    assert logged["folding/exact"] == 0 and logged["folding/complete"] == 1
    (said,) = (message for message in caplog.messages if "fold_lightning walks" in message)
    assert "method 'uniform', " + ("as `method=` says" if is_asked_for else "because a walk evaluates more than about") in said


def test_every_measure_describes_its_tags_and_has_a_place_on_the_page() -> None:
    for measure in MEASURES:
        patterns = [pattern for tags in measure.charts.values() for pattern in tags]
        for tag, description in measure.tags.items():
            assert description.endswith(".") and any(re.match(pattern, tag) for pattern in patterns), tag

"""Metrics keep their values through everything that torchmetrics and Lightning do with them."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection
from torchmetrics.aggregation import SumMetric

from fold_lightning import (
    ActivationCodes,
    CodeDistances,
    DistinctCodes,
    FaceStatistics,
    GlobalFolding,
    SpaceFolding,
    UnitActivity,
    Walks,
    global_folding,
    space_folding,
)
from fold_lightning.figures import plot_unit_activity
from fold_lightning.fingerprints import distinct_in_groups
from fold_lightning.folding import summarize_folding
from fold_lightning.metrics import distinct_codes
from helpers.processes import in_processes, process_group

matplotlib.use("Agg")

CLASSES = 4


def some_walks(seed: int) -> tuple[Walks]:
    generator = torch.Generator().manual_seed(seed)
    return (Walks.from_codes(torch.rand(30, 7, 3, generator=generator, dtype=torch.float64) > 0.8),)


def some_segments(seed: int) -> tuple[Walks, Tensor, Tensor]:
    start, end = torch.randint(CLASSES, (2, 30), generator=torch.Generator().manual_seed(100 + seed))
    return *some_walks(seed), start, end


def some_codes(seed: int) -> tuple[ActivationCodes]:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (50 + seed, 9), generator=generator).bool()
    return (ActivationCodes(bits, {"low": slice(0, 3), "high": slice(3, 9)}),)


def some_labelled_codes(seed: int) -> tuple[ActivationCodes, Tensor]:
    (codes,) = some_codes(seed)
    return codes, torch.randint(CLASSES, (len(codes.bits),), generator=torch.Generator().manual_seed(seed))


def some_counts(seed: int) -> tuple[Tensor]:
    return (torch.randint(3, 20, (5 + seed,), generator=torch.Generator().manual_seed(seed)),)


def folding_of(statistic: str, seeds: list[int]) -> Tensor:
    return summarize_folding(torch.cat([space_folding(*some_walks(seed)) for seed in seeds]), statistic)


def phi_of(within: str, across: str, seeds: list[int]) -> Tensor:
    walks, start, end = zip(*map(some_segments, seeds), strict=True)
    chi = torch.cat([space_folding(some) for some in walks])
    return global_folding(chi, torch.cat(start), torch.cat(end), CLASSES, within=within, across=across)[0]


def distinct_of(seeds: list[int]) -> Tensor:
    return torch.tensor(len(torch.cat([some_codes(seed)[0].bits for seed in seeds]).unique(dim=0)))


def activity_of(seeds: list[int]) -> dict[str, Tensor]:
    bits = np.concatenate([some_codes(seed)[0].bits.numpy() for seed in seeds])
    values = {"dead": (~bits).all(0).mean(), "always_active": bits.all(0).mean(), "active": bits.mean()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def distances_of(seeds: list[int]) -> dict[str, Tensor]:
    codes, labels = zip(*map(some_labelled_codes, seeds), strict=True)
    bits, classes = np.concatenate([some.bits.numpy() for some in codes]), torch.cat(labels).numpy()
    differ = (bits[:, None] != bits).mean(2)
    same, pairs = classes[:, None] == classes, ~np.eye(len(bits), dtype=bool)
    values = {"within": differ[same & pairs].mean(), "between": differ[~same].mean()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def nearest_of(seeds: list[int]) -> dict[str, Tensor]:
    codes, labels = zip(*map(some_labelled_codes, seeds), strict=True)
    bits, classes = np.concatenate([some.bits.numpy() for some in codes]), torch.cat(labels).numpy()
    differ = (bits[:, None] != bits).sum(2) + 100 * np.eye(len(bits), dtype=int)
    is_nearest = differ == differ.min(1, keepdims=True)
    agreement = ((classes[:, None] == classes) & is_nearest).sum(1) / is_nearest.sum(1)
    return distances_of(seeds) | {"nearest": torch.tensor(agreement.mean(), dtype=torch.float64)}


def faces_of(seeds: list[int]) -> dict[str, Tensor]:
    counts = torch.cat([some_counts(seed)[0] for seed in seeds]).double().numpy()
    values = {"mean": np.mean(counts), "median": np.median(counts), "max": np.max(counts), "min": np.min(counts)}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


@dataclass(frozen=True)
class Case:
    """A metric, its batches by seed, its value over several batches, and a batch that it refuses."""

    make: Callable[..., Metric]
    batch: Callable[[int], tuple[Any, ...]]
    value: Callable[[list[int]], Any]
    refused: tuple[Any, ...]

    def seen(self, *seeds: int, **kwargs: Any) -> Metric:
        """Return a metric that has seen some batches."""
        metric = self.make(**kwargs)
        for seed in seeds:
            metric.update(*self.batch(seed))
        return metric


CASES = {
    f"folding {statistic}": Case(partial(SpaceFolding, statistic), some_walks, partial(folding_of, statistic), (None,))
    for statistic in ("mean", "median", "max", "fraction")
}
CASES |= {
    f"between {within} {across}": Case(
        partial(GlobalFolding, CLASSES, within, across),
        some_segments,
        partial(phi_of, within, across),
        (*some_walks(0), torch.full((30,), CLASSES), torch.zeros(30, dtype=torch.int64)),
    )
    for within, across in (("max", "median"), ("median", "mean"), ("mean", "max"))
}
CASES["codes"] = Case(DistinctCodes, some_codes, distinct_of, (torch.zeros(3, 9),))
CASES["activity"] = Case(UnitActivity, some_codes, activity_of, (torch.zeros(3, 9),))
CASES["distances"] = Case(
    partial(CodeDistances, CLASSES), some_labelled_codes, distances_of, (*some_codes(0), torch.full((50,), CLASSES))
)
CASES["nearest"] = Case(
    partial(CodeDistances, CLASSES, nearest=True), some_labelled_codes, nearest_of, CASES["distances"].refused
)
CASES["faces"] = Case(FaceStatistics, some_counts, faces_of, (torch.tensor([3.5]),))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="torchmetrics")
        yield


def check(value: Any, expected: Any) -> None:
    """Compare value, type and shape; the last digit of a mean may differ, because it depends on the order of sums."""
    torch.testing.assert_close(value, expected, rtol=2e-14, atol=0, equal_nan=True)


def states(metric: Metric) -> dict[str, Any]:
    return copy.deepcopy(metric.metric_state)


def check_states(metric: Metric, expected: dict[str, Any]) -> None:
    """Compare states: the same lists of equal tensors."""
    torch.testing.assert_close(metric.metric_state, expected, rtol=0, atol=0)


COPIES = {
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
    "deepcopy": copy.deepcopy,
    "clone": lambda metric: metric.clone(),
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_has_the_value_and_goes_on_alone(case: Case, copied: str) -> None:
    fresh = COPIES[copied](case.make())
    fresh.update(*case.batch(1))
    check(fresh.compute(), case.value([1]))
    metric = case.seen(0, 1)
    metric.compute()
    other = COPIES[copied](metric)
    check(other.compute(), case.value([0, 1]))
    other.update(*case.batch(2))
    metric.update(*case.batch(3))
    check(other.compute(), case.value([0, 1, 2]))
    check(metric.compute(), case.value([0, 1, 3]))


def test_a_state_goes_through_a_file_into_a_fresh_metric_and_on(case: Case) -> None:
    metric, stored, other = case.seen(0, 1), io.BytesIO(), case.make()
    assert metric.state_dict() == {}
    torch.save(persistent_state(metric), stored)
    stored.seek(0)
    other.load_state_dict(torch.load(stored, weights_only=True))
    with pytest.warns(UserWarning, match="was called before the ``update``"):  # torchmetrics counts updates alone
        check(other.compute(), case.value([0, 1]))
    other.update(*case.batch(2))
    check(other.compute(), case.value([0, 1, 2]))
    check(metric.compute(), case.value([0, 1]))


def other_layers(seed: int) -> ActivationCodes:
    return ActivationCodes(some_codes(seed)[0].bits, {"low": slice(0, 4), "high": slice(4, 9)})


def persistent_state(metric: Metric) -> dict[str, Any]:
    metric.persistent(True)
    return metric.state_dict()


def test_codes_loaded_refuse_codes_of_other_layers() -> None:
    loaded = DistinctCodes()
    loaded.load_state_dict(persistent_state(CASES["codes"].seen(0, 1)))
    with pytest.raises(ValueError, match=r"got 9 units in \['low \(4\)', 'high \(5\)'\] after 9 units in \['low \(3\)', 'high"):
        loaded.update(other_layers(2))
    check(loaded.compute(), distinct_of([0, 1]))
    assert loaded.per_layer() == {
        "low": 8,
        "high": len(torch.cat([some_codes(s)[0].bits for s in (0, 1)])[:, 3:].unique(dim=0)),
    }


CONVERSIONS: dict[str, Callable[[Metric], Any]] = {
    "half": lambda metric: metric.half(),
    "float": lambda metric: metric.float(),
    "double": lambda metric: metric.double(),
    "bfloat16": lambda metric: metric.bfloat16(),
    "set_dtype float16": lambda metric: metric.set_dtype(torch.float16),
    "set_dtype float64": lambda metric: metric.set_dtype(torch.float64),
    "to float16": lambda metric: metric.to(torch.float16),
    "a module to bfloat16": lambda metric: torch.nn.ModuleList([metric]).to("cpu", torch.bfloat16),
    "a module's half": lambda metric: torch.nn.ModuleList([metric]).half(),
    "cpu": lambda metric: metric.cpu(),
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_no_conversion_takes_digits(case: Case, conversion: str) -> None:
    metric = case.seen(0, 1)
    before = states(metric)
    CONVERSIONS[conversion](metric)
    check_states(metric, before)
    metric.update(*case.batch(2))
    check(metric.compute(), case.value([0, 1, 2]))
    CONVERSIONS[conversion](metric)
    check(metric.compute(), case.value([0, 1, 2]))
    metric.reset()
    metric.update(*case.batch(3))
    check(metric.compute(), case.value([3]))


def test_lists_on_the_cpu_change_no_value(case: Case) -> None:
    metric = case.seen(0, 1, compute_on_cpu=True)
    check(metric(*case.batch(2)), case.value([2]))
    check(metric.compute(), case.value([0, 1, 2]))


def test_reset_forgets_everything(case: Case) -> None:
    metric = case.seen(0, 1)
    metric.compute()
    metric.reset()
    check_states(metric, case.make().metric_state)
    metric.update(*case.batch(2))
    check(metric.compute(), case.value([2]))


def test_inference_mode_may_come_and_go(case: Case) -> None:
    metric = case.seen(0)
    with torch.inference_mode():
        metric.update(*case.batch(1))
        check(metric.compute(), case.value([0, 1]))
    metric.update(*case.batch(2))
    check(metric(*case.batch(3)), case.value([3]))
    check(metric.compute(), case.value([0, 1, 2, 3]))
    with torch.inference_mode():
        metric.reset()
    metric.update(*case.batch(4))
    check(metric.clone().compute(), case.value([4]))


def test_a_value_is_new_after_every_update(case: Case) -> None:
    metric = case.make()
    for seed in range(4):
        metric.update(*case.batch(seed))
        check(metric.compute(), case.value(list(range(seed + 1))))


def test_forward_gives_the_value_of_the_batch_alone_and_adds_it(case: Case) -> None:
    metric = case.make()
    for seed in (0, 2):
        check(metric(*case.batch(seed)), case.value([seed]))
        metric.update(*case.batch(seed + 1))
    check(metric.compute(), case.value([0, 1, 2, 3]))


def test_a_batch_that_is_refused_changes_nothing(case: Case) -> None:
    metric = case.seen(0)
    before = states(metric)
    with pytest.raises((TypeError, ValueError)):
        metric.update(*case.refused)
    check_states(metric, before)
    metric.update(*case.batch(1))
    check(metric.compute(), case.value([0, 1]))


@pytest.mark.parametrize("on_step", [False, True])
def test_forward_refuses_codes_of_other_layers(on_step: bool) -> None:
    metric = DistinctCodes(dist_sync_on_step=on_step)
    metric(*some_codes(0))
    with pytest.raises(
        ValueError, match=r"the same units and layers.*got 9 units in \['low \([34]\)', .* use a metric for each"
    ):
        metric(other_layers(1))
    check(metric(*some_codes(1)), distinct_of([1]))
    with pytest.raises(ValueError, match="the same units and layers"):
        metric.update(other_layers(1))
    check(metric.compute(), distinct_of([0, 1]))


@pytest.mark.parametrize("on_step", [False, True])
def test_forward_keeps_the_state_of_the_size_of_the_distinct_codes(monkeypatch: pytest.MonkeyPatch, on_step: bool) -> None:
    sorted_at_once = []

    def spy(fingerprints: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        sorted_at_once.append(len(fingerprints))
        return distinct_in_groups(fingerprints, groups)

    monkeypatch.setattr(distinct_codes, "MIN_PENDING", 50)
    monkeypatch.setattr(distinct_codes, "distinct_in_groups", spy)
    distinct, largest, bits = DistinctCodes(dist_sync_on_step=on_step), 0, torch.randint(2, (200, 40)).bool()
    for _ in range(100):
        distinct(bits[torch.randint(200, (64,))])
        largest = max(largest, sum(map(len, distinct.fingerprints)))
        assert len(distinct.layouts) == 1
    assert distinct.compute() == 200 and distinct.num_inputs == 6400
    assert largest <= 200 + 200 + 64
    assert sum(number > 64 for number in sorted_at_once) <= 40  # a part of the 100 steps: as many must come as there were


@pytest.mark.parametrize("as_states", [False, True])
def test_merging_is_seeing_the_batches_of_both(case: Case, as_states: bool) -> None:
    metric, other = case.seen(0), case.seen(1, 2)
    metric.compute()
    other.compute()
    metric.merge_state(other.metric_state if as_states else other)
    check(metric.compute(), case.value([0, 1, 2]))
    metric.update(*case.batch(3))
    check(metric.compute(), case.value([0, 1, 2, 3]))
    check(other.compute(), case.value([1, 2]))


def test_merging_with_an_empty_metric_changes_nothing(case: Case) -> None:
    metric = case.make()
    for other in (case.seen(0, 1), case.make()):
        metric.merge_state(other)
        with pytest.warns(UserWarning, match="was called before the ``update``"):  # torchmetrics counts updates alone
            check(metric.compute(), case.value([0, 1]))


def test_metrics_of_codes_merge_with_their_own_kind_alone() -> None:
    metric = CASES["activity"].seen(0)
    for other, message in ((SumMetric(), "instance of .* but got .*SumMetric"), ([1], "dict or an instance of Metric")):
        with pytest.raises(ValueError, match=message):
            metric.merge_state(other)  # type: ignore[arg-type]
    check(metric.compute(), activity_of([0]))


@pytest.mark.parametrize("as_states", [False, True])
def test_codes_of_other_layers_are_not_merged(as_states: bool) -> None:
    metric, other = CASES["codes"].seen(0), DistinctCodes()
    other.update(other_layers(1))
    before = states(metric)
    with pytest.raises(
        ValueError, match=r"counted together must have the same units and layers, got .*\(4\).*: use a metric for"
    ):
        metric.merge_state(other.metric_state if as_states else other)
    check_states(metric, before)
    metric.update(*some_codes(1))
    check(metric.compute(), distinct_of([0, 1]))


def named(case: Case, seeds: list[int], *names: str) -> dict[str, Any]:
    """Return the values of a collection, in which names of a metric with several values begin with its own name."""
    value = case.value(seeds)
    if not isinstance(value, dict):
        return dict.fromkeys(names, value)
    prefix = names[0].split("/")[0] + "/" if "/" in names[0] else ""
    return {f"{prefix}{name.removeprefix(prefix)}_{key}": part for name in names for key, part in value.items()}


def test_a_collection_shares_states_and_keeps_values(case: Case) -> None:
    collection = MetricCollection({"a": case.make(), "b": case.make()}, prefix="val/")
    collection.update(*case.batch(0))
    collection.update(*case.batch(1))
    assert len(collection.compute_groups) == 1
    check(collection.compute(), named(case, [0, 1], "val/a", "val/b"))
    other = collection.clone(prefix="test/")
    check(collection(*case.batch(2)), named(case, [2], "val/a", "val/b"))
    check(collection.compute(), named(case, [0, 1, 2], "val/a", "val/b"))
    other.update(*case.batch(3))
    check(other.compute(), named(case, [0, 1, 3], "test/a", "test/b"))
    collection.reset()
    check(collection(*case.batch(4)), named(case, [4], "val/a", "val/b"))
    collection.update(*case.batch(5))
    check(collection.compute(), named(case, [4, 5], "val/a", "val/b"))
    collection.set_dtype(torch.float16)
    check(pickle.loads(pickle.dumps(collection)).compute(), named(case, [4, 5], "val/a", "val/b"))
    alone = collection["b"]
    alone.update(*case.batch(6))
    check(alone.compute(), case.value([4, 5, 6]))
    check(collection["a"].compute(), case.value([4, 5]))


def test_statistics_of_one_collection_are_of_one_state() -> None:
    statistics = ("mean", "median", "max", "fraction")
    collection = MetricCollection({statistic: SpaceFolding(statistic) for statistic in statistics}, prefix="chi_")
    for seed in range(3):
        batch = collection(*some_walks(seed)) if seed else collection.update(*some_walks(seed))
    check(batch, {f"chi_{statistic}": folding_of(statistic, [2]) for statistic in statistics})
    check(collection.compute(), {f"chi_{statistic}": folding_of(statistic, [0, 1, 2]) for statistic in statistics})


def test_a_member_of_a_group_knows_the_layers_that_the_group_saw() -> None:
    collection = MetricCollection({"a": DistinctCodes(), "b": DistinctCodes()})
    collection.update(*some_codes(0))
    collection.reset()
    collection.update(*some_codes(1))
    with pytest.raises(ValueError, match="same units and layers as those before"):
        collection["b"].update(other_layers(2))


def test_without_inputs_compute_warns_and_gives_nan_or_zero(case: Case) -> None:
    metric = case.make()
    with pytest.warns(UserWarning, match="was called before the ``update``"):
        value = metric.compute()
    if isinstance(metric, DistinctCodes):
        check(value, torch.tensor(0))
    else:
        nothing = torch.tensor(torch.nan, dtype=torch.float64)
        check(value, dict.fromkeys(case.value([0]), nothing) if isinstance(value, dict) else nothing)
    metric.update(*case.batch(0))
    check(metric.compute(), case.value([0]))


@pytest.fixture
def plt() -> Iterator[Any]:
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def drawn(axis: Any) -> Any:
    return [y for line in axis.lines for y in np.asarray(line.get_ydata(), dtype=float).ravel().tolist()]


@pytest.mark.slow
def test_values_are_drawn_one_or_several(case: Case, plt: Any) -> None:
    metric = case.seen(0)
    figure, axis = metric.plot(metric.compute())
    expected = [case.value([0]), case.value([1])]
    parts = [list(value.values()) if isinstance(value, dict) else [value] for value in expected]
    assert figure is axis.figure and axis.get_ylabel() == type(metric).__name__
    assert drawn(axis) == pytest.approx([part.item() for part in parts[0]])
    metric.reset()
    _, own = plt.subplots()
    assert metric.plot([metric(*case.batch(seed)) for seed in range(2)], ax=own) == (None, own)
    assert drawn(own) == pytest.approx([part.item() for part in np.array(parts, dtype=object).T.ravel()])
    if not isinstance(
        metric, (SpaceFolding, GlobalFolding, FaceStatistics, UnitActivity, CodeDistances)
    ):  # which have figures of their own
        metric.reset()
        metric.update(*case.batch(0))
        assert drawn(metric.plot()[1]) == pytest.approx([part.item() for part in parts[0]])
    if isinstance(expected[0], dict):
        assert axis.get_legend_handles_labels()[1] == list(expected[0])


def sizes_of_bars(axis: Any) -> tuple[list[float], list[float]]:
    """The widths and the heights of an axis's bars."""
    boxes = [path.get_extents() for bars in axis.collections for path in bars.get_paths()]
    return [box.width for box in boxes], [box.height for box in boxes]


def test_faces_are_drawn_as_their_distribution(plt: Any) -> None:
    metric = FaceStatistics()
    metric.update(torch.tensor([3, 4, 4]))
    metric.update(torch.tensor([7]))
    figure, axis = metric.plot()
    assert figure is axis.figure and sizes_of_bars(axis)[1] == [1, 2, 0, 0, 1]
    assert axis.get_title() == "4.5 faces on average, over 4 regions"
    with pytest.raises(ValueError, match="must hold at least one region, got none"):
        FaceStatistics().plot()


def test_folding_is_drawn_as_its_distribution(plt: Any) -> None:
    metric = CASES["folding median"].seen(0, 1)
    chi = metric.joined("chi")
    figure, axis = metric.plot()
    assert figure is axis.figure and sum(sizes_of_bars(axis)[1]) == (chi > 0).sum()
    assert axis.get_title().startswith(f"{(chi > 0).double().mean():.0%} of {len(chi)} segments fold")
    with pytest.raises(ValueError, match="must hold at least one segment, got none"):
        SpaceFolding().plot()


def test_distances_of_codes_are_drawn_layer_by_layer(plt: Any) -> None:
    metric = CodeDistances(2)
    bits = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    metric.update(ActivationCodes(bits, {"first": slice(0, 3), "second": slice(3, 4)}), torch.tensor([0, 0, 1]))
    figure, axis = metric.plot()
    assert figure is axis.figure and [label.get_text() for label in axis.get_yticklabels()] == ["all units", "first", "second"]
    within, between = axis.lines
    assert within.get_xdata().tolist() == pytest.approx([1 / 4, 1 / 3, 0])
    assert between.get_xdata().tolist() == pytest.approx([2.5 / 4, 2.5 / 3, 0])


def test_units_are_drawn_layer_by_layer(plt: Any) -> None:
    metric = UnitActivity()
    bits = torch.tensor([[1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0]]).bool()
    metric.update(ActivationCodes(bits, {"first": slice(0, 4), "second": slice(4, 6)}))
    figure, axis = metric.plot()
    assert figure is axis.figure and [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    assert sizes_of_bars(axis)[0] == [0.5, 0.5, 0.25, 0.0, 0.25, 0.5]  # dead, neither, always active
    with pytest.raises(ValueError, match="must hold at least one layer, got none"):
        plot_unit_activity({})


def test_folding_between_classes_is_drawn_as_its_matrix(plt: Any) -> None:
    metric = CASES["between median mean"].seen(0, 1)
    figure, axis = metric.plot()
    assert figure is axis.figure and axis.get_ylabel() == "from class"
    np.testing.assert_array_equal(np.ma.filled(axis.images[0].get_array(), np.nan), metric.matrix().numpy())
    own = plt.subplots()[1]
    assert metric.plot(ax=own) == (None, own)
    assert drawn(own) == [pytest.approx(metric.compute().item())]


class Watched(LightningModule):
    """A module that logs metrics as objects, in training and in validation."""

    NAMES = ("folding median", "between max median", "between mean max", "codes")

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.watched = torch.nn.ModuleDict({name: CASES[name].make() for name in self.NAMES})
        self.trained = CASES["between mean max"].make()
        self.epochs: list[dict[str, Tensor]] = []

    def training_step(self, batch: Tensor, number: int) -> Tensor:
        self.trained(*some_segments(number))
        self.log("trained", self.trained, on_step=True, on_epoch=True)
        return self.layer(batch.to(self.layer.weight.dtype)).sum()

    def validation_step(self, batch: Tensor, number: int) -> None:
        for name, metric in self.watched.items():
            metric.update(*CASES[name].batch(number + self.current_epoch))
            self.log(name, metric)

    def on_validation_epoch_end(self) -> None:
        self.faces = CASES["faces"].seen(0).to(self.device)
        self.log_dict({f"faces/{name}": value for name, value in self.faces.compute().items()})

    def on_train_epoch_start(self) -> None:
        self.epochs.append(dict(self.trainer.callback_metrics))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_a_module_logs_metrics_as_objects(tmp_path: Path, precision: str) -> None:
    model, data = Watched(), DataLoader(torch.ones(3, 1))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", precision=precision, **options)
    trainer.fit(model, data, data)
    assert model.layer.weight.dtype == {"32": torch.float32, "bf": torch.bfloat16, "64": torch.float64}[precision[:2]]
    for name in Watched.NAMES:
        check(trainer.callback_metrics[name].double(), CASES[name].value([1, 2, 3]).double())
    check(trainer.callback_metrics["trained_epoch"], phi_of("mean", "max", [0, 1, 2]))
    check(trainer.callback_metrics["trained_step"], phi_of("mean", "max", [2]))
    assert trainer.callback_metrics["faces/mean"] == pytest.approx(faces_of([0])["mean"].item())


SEEDS: dict[str, tuple[list[int], list[int]]] = {"both": ([0, 2, 4], [1, 3]), "one alone": ([0, 1, 2], [])}


def _process(folder: str) -> None:
    with process_group() as rank:
        values = {(share, name): _gathered(CASES[name], SEEDS[share][rank]) for share in SEEDS for name in CASES}
        torch.save(values | {"layers": _layers_that_differ(rank), "units": _units_that_differ(rank)}, f"{folder}/{rank}.pt")


def _gathered(case: Case, seeds: list[int]) -> dict[str, Any]:
    metric, alone, on_step = case.seen(*seeds), case.seen(*seeds, sync_on_compute=False), case.make(dist_sync_on_step=True)
    before, found = states(metric), {"all": metric.compute(), "alone": alone.compute()}
    check_states(metric, before)
    metric.sync()
    metric.unsync()
    check_states(metric, before)
    rank = torch.distributed.get_rank()
    metric.update(*case.batch(5 + rank))
    found["later"] = metric.compute()
    found["steps"] = [on_step(*case.batch(seed + rank)) for seed in (0, 2)]
    found["after steps"] = on_step.compute()
    metric.reset()
    metric.update(*case.batch(rank))
    found["again"] = metric.compute()
    return found


def _layers_that_differ(rank: int) -> list[str]:
    messages = []
    for make, ask in product((DistinctCodes, UnitActivity, partial(CodeDistances, CLASSES)), ("compute", "per_layer")):
        metric, codes = make(), some_codes(0)[0] if rank else other_layers(0)
        metric.update(codes, *[torch.zeros(50, dtype=torch.int64)] * isinstance(metric, CodeDistances))
        try:
            getattr(metric, ask)()
        except ValueError as error:
            messages.append(str(error))
    return messages


def _units_that_differ(rank: int) -> str:
    metric = UnitActivity()
    metric.update(some_codes(0)[0].bits[:, rank:])
    try:
        return str(metric.compute())
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    done = in_processes(_process, str(folder), count=2)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", SEEDS)
@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_give_the_values_of_one(processes: list[dict[Any, Any]], name: str, share: str) -> None:
    value, everything = CASES[name].value, [*SEEDS[share][0], *SEEDS[share][1]]
    for rank, found in enumerate(process[share, name] for process in processes):
        check(found["all"], value(everything))
        if SEEDS[share][rank]:
            check(found["alone"], value(SEEDS[share][rank]))
        elif name == "codes":
            check(found["alone"], torch.tensor(0))
        else:
            alone = found["alone"].values() if isinstance(found["alone"], dict) else [found["alone"]]
            assert all(part.isnan() for part in alone)
        check(found["later"], value([*everything, 5, 6]))
        check(found["steps"], [value([0, 1]), value([2, 3])])
        check(found["after steps"], value([0, 1, 2, 3]))
        check(found["again"], value([0, 1]))


@pytest.mark.slow
@pytest.mark.processes
def test_processes_with_codes_of_other_layers_or_units_are_refused(processes: list[dict[Any, Any]]) -> None:
    for process in processes:
        assert len(process["layers"]) == 6
        for message in process["layers"]:
            assert "same units and layers" in message and "the same choice in every process" in message
            assert "['low (3)', 'high (6)']" in message and "['low (4)', 'high (5)']" in message
        assert "same units and layers, got 8 units and 9 units: use a metric" in process["units"]

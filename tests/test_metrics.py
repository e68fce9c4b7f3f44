"""Values of the metrics, against plain Python and in two processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from fold_lightning import (
    ActivationCodes,
    CodeDistances,
    DistinctCodes,
    FaceStatistics,
    GlobalFolding,
    SpaceFolding,
    UnitActivity,
    Walks,
    activation_codes,
    fingerprints,
    global_folding,
    space_folding,
)
from fold_lightning.folding import summarize_folding
from fold_lightning.metrics import code_distances, distinct_codes, nearest_codes
from fold_lightning.metrics.code_metric import CodeMetric
from helpers.networks import mlp
from helpers.processes import in_processes, process_group
from helpers.reference import folding_between_classes

CLASSES = 4

STATISTICS = ["mean", "median", "max", "fraction"]


def some_walks(seed: int, segments: int = 5) -> Walks:
    generator = torch.Generator().manual_seed(seed)
    return Walks.from_codes(torch.rand(segments, 6, 3, generator=generator) > 0.8)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_value_is_that_of_all_walks_together(statistic: str) -> None:
    metric, parts = SpaceFolding(statistic), [some_walks(seed) for seed in range(4)]
    for part in parts:
        metric.update(part)
    expected = summarize_folding(torch.cat([space_folding(part) for part in parts]), statistic)
    assert torch.equal(metric.compute(), expected)
    metric.reset()
    metric.update(parts[0])
    assert torch.equal(metric.compute(), summarize_folding(space_folding(parts[0]), statistic))


def test_no_walks_give_nan_and_an_unknown_statistic_is_refused() -> None:
    metric = SpaceFolding()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    with pytest.raises(ValueError, match="'mean', 'median', 'max', 'fraction', got 'mode'"):
        SpaceFolding("mode")


AGGREGATES = ["max", "median", "mean"]
CHOICES = [(within, across) for within in AGGREGATES for across in AGGREGATES]


def some_segments(seed: int, classes: int = 4, segments: int = 40) -> tuple[Walks, Tensor, Tensor]:
    """Walks between classes of which the last has no inputs; some pairs have no segments, some do not fold."""
    generator = torch.Generator().manual_seed(100 + seed)
    start, end = torch.randint(classes - 1, (2, segments), generator=generator)
    start[start == end] = 0
    return some_walks(seed, segments), start, end


@pytest.mark.parametrize(("within", "across"), CHOICES)
@pytest.mark.parametrize("segments", [3, 40])
def test_global_folding_is_that_of_loops_over_pairs(within: str, across: str, segments: int) -> None:
    metric, chis, starts, ends = GlobalFolding(4, within, across), [], [], []
    for seed in range(5):
        walks, start, end = some_segments(seed, segments=segments)
        metric.update(walks, start, end)
        chis.append(space_folding(walks))
        starts.append(start)
        ends.append(end)
    chi, start, end = torch.cat(chis), torch.cat(starts), torch.cat(ends)
    phi, matrix = global_folding(chi, start, end, 4, within=within, across=across)
    expected, rows = folding_between_classes(chi.tolist(), start.tolist(), end.tolist(), 4, within, across)
    rounding = 0 if within != "mean" else 1e-14  # of sums
    assert torch.allclose(matrix, torch.tensor(rows, dtype=torch.float64), rtol=rounding, atol=0, equal_nan=True)
    assert matrix[3].isnan().all() and matrix[:, 3].isnan().all()
    assert phi.item() == pytest.approx(expected, rel=1e-14 if "mean" in (within, across) else 0, abs=0)
    assert torch.allclose(metric.matrix(), matrix, rtol=1e-14, equal_nan=True)
    assert torch.allclose(metric.compute(), phi, rtol=1e-14)
    if within != "mean":
        assert metric.compute() == phi


def test_single_classes_and_no_segments_have_no_folding_between_classes() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    for num_classes in (1, 3):
        phi, matrix = global_folding(torch.empty(0), nothing, nothing, num_classes)
        assert phi.isnan() and matrix.shape == (num_classes, num_classes) and matrix.isnan().all()
    inside = torch.zeros(5, dtype=torch.int64)
    phi, matrix = global_folding(torch.full((5,), 0.25), inside, inside, 1)
    assert phi.isnan() and matrix == 0.25
    metric = GlobalFolding(2, within="median")
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    assert metric.matrix().isnan().all()


def test_a_pair_that_does_not_fold_counts_as_zero_and_one_without_segments_not_at_all() -> None:
    chi, start, end = torch.tensor([0.0, 0.5]), torch.tensor([0, 1]), torch.tensor([1, 2])
    assert global_folding(chi, start, end, 3)[0] == 0.25
    assert global_folding(chi, start, end, 3, across="max")[0] == 0.5
    assert global_folding(torch.tensor([0.0]), start[:1], end[:1], 3)[0] == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"within": "sum"}, ValueError, "`within` must be one of 'max', 'median', 'mean', got 'sum'"),
        ({"across": "sum"}, ValueError, "`across` must be one of"),
        ({"start_class": torch.tensor([0.0, 1.0])}, TypeError, "integer classes"),
        ({"start_class": torch.tensor([0, 2])}, ValueError, "`start_class` must lie in 0 to 1 for `num_classes=2`, got 0 to 2"),
        ({"end_class": torch.tensor([-1, 1])}, ValueError, "got -1 to 1"),
        (
            {"start_class": torch.tensor([1])},
            ValueError,
            r"`start_class` must have shape \(2,\), one class for each value of `chi`, got \(1,\)",
        ),
        (
            {"end_class": torch.tensor([1])},
            ValueError,
            r"`end_class` must have shape \(2,\), one class for each value of `chi`, got \(1,\)",
        ),
        ({"start_class": [0, 1]}, TypeError, r"`start_class` must be a tensor of integer classes \(2,\), got list"),
        ({"end_class": [0, 1]}, TypeError, r"`end_class` must be a tensor of integer classes \(2,\), got list"),
        ({"chi": some_walks(0)}, TypeError, r"got Walks: take chi from `space_folding\(walks\)`"),
        ({"chi": [0.5, 0.5]}, TypeError, r"`chi` must be a tensor \(S,\).*got list: convert it"),
        ({"chi": torch.tensor([0.5, torch.nan])}, ValueError, "must lie in"),
        ({"chi": torch.tensor([0.5, 1.0])}, ValueError, "must lie in"),
        ({"chi": torch.full((2, 1), 0.5)}, ValueError, r"got \(2, 1\)"),
        ({"num_classes": -1}, ValueError, "`num_classes` must be an integer of at least 1, got -1"),
        ({"num_classes": 2.0}, TypeError, "`num_classes` must be an integer of at least 1, got 2.0"),
    ],
)
def test_invalid_folding_between_classes_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"chi": torch.tensor([0.5, 0.5]), "start_class": torch.tensor([0, 1]), "end_class": torch.tensor([1, 0])}
    with pytest.raises(error, match=message):
        global_folding(**({"num_classes": 2} | given | change))


@pytest.mark.parametrize(
    ("walks", "start", "error", "message"),
    [
        (3, 2, ValueError, r"`start_class` must have shape \(3,\), one class for each walk, got \(2,\)"),
        (3, 0, ValueError, r"`start_class` must have shape \(3,\), one class for each walk, got \(0,\)"),
        (None, 3, TypeError, "Expected `Walks`, got Tensor: make them with `segment_walks`"),
    ],
)
def test_walks_and_classes_that_do_not_fit_are_refused(
    walks: int | None, start: int, error: type[Exception], message: str
) -> None:
    metric = GlobalFolding(2)
    given: Any = torch.zeros(3) if walks is None else some_walks(0, walks)
    with pytest.raises(error, match=message):
        metric.update(given, torch.zeros(start, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert metric.segments.sum() == 0


def test_a_metric_of_no_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 1, got 0"):
        GlobalFolding(0)


def layered(seed: int, inputs: int = 300) -> ActivationCodes:
    generator = torch.Generator().manual_seed(seed)
    return ActivationCodes(torch.randint(2, (inputs, 9), generator=generator).bool(), {"low": slice(0, 3), "high": slice(3, 9)})


def test_distinct_codes_are_counted_layer_by_layer() -> None:
    model, x = mlp(3, 6, 5, 2), torch.randn(4000, 3)
    codes, distinct = activation_codes(model, x), DistinctCodes()
    for some in codes.bits.split(999):
        distinct.update(ActivationCodes(some, codes.layers))
    assert distinct.compute() == len(codes.bits.unique(dim=0))
    assert distinct.per_layer() == {name: len(codes.bits[:, columns].unique(dim=0)) for name, columns in codes.layers.items()}


def labelled_and_judged(seed: int, inputs: int = 300) -> tuple[ActivationCodes, dict[str, Tensor]]:
    """Codes, and arguments by name: some inputs do not count, and one of them has no class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES - 1, (inputs,), generator=generator)  # the last class has no inputs
    mask, correct = (torch.rand(2, inputs, generator=generator) > 0.4).unbind()
    mask[0], labels[0] = False, -1
    return layered(seed, inputs), {"mask": mask, "labels": labels, "correct": correct}


def distinct_by_loops(seeds: list[int], *, inputs: int = 300) -> dict[str, Any]:
    """Sets of codes as tuples, for each layer, class, and all or correct inputs."""
    codes: dict[Any, set[tuple[bool, ...]]] = {}
    for seed in seeds:
        some, given = labelled_and_judged(seed, inputs)
        for code, *row in zip(
            some.bits.tolist(), *(given[name].tolist() for name in ("mask", "labels", "correct")), strict=True
        ):
            counts, label, is_correct = row
            for layer, columns in {"": slice(None), **some.layers}.items() if counts else ():
                for correct, of in itertools.product({False, is_correct}, (label, "all")):
                    codes.setdefault((layer, correct, of), set()).add(tuple(code[columns]))

    def number(layer: str, correct: bool, of: int | str) -> int:
        return len(codes.get((layer, correct, of), ()))

    return {
        "all": [number("", correct, "all") for correct in (False, True)],
        "layers": {name: [number(name, correct, "all") for correct in (False, True)] for name in some.layers},
        "classes": [[number("", correct, label) for label in range(CLASSES)] for correct in (False, True)],
        "both": {name: [[number(name, c, label) for label in range(CLASSES)] for c in (False, True)] for name in some.layers},
    }


def all_counts(distinct: DistinctCodes) -> dict[str, Any]:
    layers, layers_correct = distinct.per_layer(), distinct.per_layer(correct=True)
    both, both_correct = distinct.per_layer_and_class(), distinct.per_layer_and_class(correct=True)
    return {
        "all": [distinct.compute().item(), distinct.correct().item()],
        "layers": {name: [layers[name].item(), layers_correct[name].item()] for name in layers},
        "classes": [distinct.per_class().tolist(), distinct.per_class(correct=True).tolist()],
        "both": {name: [both[name].tolist(), both_correct[name].tolist()] for name in both},
    }


@pytest.mark.slow
@pytest.mark.parametrize("min_pending", [0, 2**18])
@pytest.mark.parametrize("sorted_at_once", [50, 2**21])
def test_distinct_codes_by_layer_and_class_are_those_of_sets(
    min_pending: int, sorted_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distinct_codes, "MIN_PENDING", min_pending)
    monkeypatch.setattr(fingerprints, "SORTED_AT_ONCE", sorted_at_once)
    distinct = DistinctCodes(CLASSES)
    for seed in range(4):
        together(distinct, labelled_and_judged(seed))
        assert all_counts(distinct) == distinct_by_loops(list(range(seed + 1)))
    counted = sum(int(labelled_and_judged(seed)[1]["mask"].sum()) for seed in range(4))
    assert distinct.all_inputs() == counted
    loaded = DistinctCodes(CLASSES)
    loaded.merge_state(distinct)
    together(loaded, labelled_and_judged(9))
    assert all_counts(loaded) == distinct_by_loops([0, 1, 2, 3, 9])
    distinct.reset()
    together(distinct, labelled_and_judged(3, 2))
    assert all_counts(distinct) == distinct_by_loops([3], inputs=2)


def test_the_state_by_class_is_sixteen_bytes_a_different_code() -> None:
    distinct, (codes, given) = DistinctCodes(CLASSES), labelled_and_judged(0, 5000)
    labels = given["labels"].clamp(min=0)
    for _ in range(3):
        distinct.update(codes, labels=labels)
    distinct.compute()
    number = distinct.per_class().sum() + sum(count.sum() for count in distinct.per_layer_and_class().values())
    assert sum(map(len, distinct.fingerprints)) == number and distinct.fingerprints[0].element_size() * 2 == 16
    assert sum(map(len, distinct.groups)) <= 3 * CLASSES * 2


def test_without_classes_correct_codes_are_counted_and_labels_are_not_looked_at() -> None:
    distinct = DistinctCodes()
    bits, correct = torch.eye(4).bool().repeat(2, 1), torch.arange(8) < 3
    distinct.update(bits)
    assert distinct.correct() == 0
    distinct.update(bits, correct=correct, labels=torch.full((8,), -5))
    distinct.update(bits, mask=torch.arange(8) == 2, correct=correct)
    assert (distinct.compute(), distinct.correct()) == (4, 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, TypeError, r"`labels` must be a tensor of integer classes \(3,\), got NoneType"),
        (
            {"labels": torch.zeros(2).long()},
            ValueError,
            r"`labels` must have shape \(3,\), one class for each input, got \(2,\)",
        ),
        ({"labels": torch.tensor([0, 1, 4])}, ValueError, "`labels` must lie in 0 to 3 for `num_classes=4`, got 0 to 4"),
        (
            {"labels": torch.tensor([0, -1, -1]), "mask": torch.tensor([True, True, False])},
            ValueError,
            "`labels` must lie in 0 to 3 for `num_classes=4`, got -1 to 0: leave inputs without a class out with `mask=labels >= 0`",
        ),
        (
            {"labels": torch.zeros(3).long(), "correct": torch.ones(2).bool()},
            ValueError,
            "`correct` must have an entry for each of 3",
        ),
        (
            {"labels": torch.zeros(3).long(), "correct": torch.ones(3)},
            TypeError,
            "`correct` must be a bool tensor, got torch.float32",
        ),
    ],
)
def test_labels_of_distinct_codes_that_do_not_fit_are_refused(
    given: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    distinct = DistinctCodes(CLASSES)
    with pytest.raises(error, match=message):
        distinct.update(torch.eye(3).bool(), **given)
    assert distinct.all_inputs() == 0 and distinct.fingerprints == []


def test_classes_that_a_metric_of_distinct_codes_lacks_are_refused() -> None:
    for name in ("per_class", "per_layer_and_class"):
        with pytest.raises(ValueError, match=rf"`{name}` needs `num_classes`: make the metric as `DistinctCodes\(num_classes="):
            getattr(DistinctCodes(), name)()
    with pytest.raises(ValueError, match="must have the same `num_classes`, got None and 4"):
        DistinctCodes().merge_state(DistinctCodes(4))
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 1, got 0"):
        DistinctCodes(0)


def activity_by_loops(bits: list[list[bool]]) -> dict[str, float]:
    number = [sum(unit) for unit in zip(*bits, strict=True)]
    shares = {"dead": number.count(0), "always_active": number.count(len(bits)), "active": sum(n / len(bits) for n in number)}
    return {name: value / len(number) for name, value in shares.items()}


@pytest.mark.parametrize("inputs", [1, 2, 3, 500])
def test_activity_of_units_is_that_of_loops_over_them(inputs: int) -> None:
    model, activity = mlp(3, 6, 5, 2), UnitActivity()
    codes = activation_codes(model, torch.randn(inputs, 3))
    for some in codes.bits.split(199):
        activity.update(ActivationCodes(some, codes.layers))
    assert as_numbers(activity.compute()) == pytest.approx(activity_by_loops(codes.bits.tolist()), rel=1e-14)
    layers = activity.per_layer()
    assert list(layers) == list(codes.layers)
    for name, columns in codes.layers.items():
        assert as_numbers(layers[name]) == pytest.approx(activity_by_loops(codes.bits[:, columns].tolist()), rel=1e-14)


def test_dead_and_always_active_units_are_told_from_those_that_switch() -> None:
    activity = UnitActivity()
    activity.update(torch.tensor([[True, False, True], [True, False, False]]))
    assert as_numbers(activity.compute()) == {"dead": 1 / 3, "always_active": 1 / 3, "active": 0.5}
    activity.update(torch.tensor([[False, True, True]]))
    assert as_numbers(activity.compute()) == {"dead": 0, "always_active": 0, "active": 5 / 9}
    assert activity.per_layer() == {}
    activity.reset()
    activity.update(torch.ones(4, 7).bool())
    assert as_numbers(activity.compute()) == {"dead": 0, "always_active": 1, "active": 1}


def test_metrics_of_codes_in_one_collection_take_what_they_need() -> None:
    collection = MetricCollection(UnitActivity(), CodeDistances(CLASSES), DistinctCodes())
    codes, labels = labelled(0)
    for _ in range(2):
        values = collection(codes=codes, labels=labels)
    expected = activity_by_loops(codes.bits.tolist()) | distances_by_loops(codes.bits, labels)
    assert values.pop("DistinctCodes") == len(codes.bits.unique(dim=0))
    assert as_numbers(values) == pytest.approx(expected, rel=1e-14)
    assert len(collection.compute_groups) == 3


def test_a_threshold_of_relu6_is_a_unit_of_its_own() -> None:
    model, activity = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU6()), UnitActivity()
    torch.nn.init.ones_(model[0].weight), torch.nn.init.zeros_(model[0].bias)
    activity.update(activation_codes(model, torch.tensor([[1.0], [5.0]])))  # above the first kink, below the second
    assert as_numbers(activity.compute()) == {"dead": 0.5, "always_active": 0.5, "active": 0.5}


def as_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    assert all(value.dtype == torch.float64 and value.shape == () for value in values.values())
    return {name: value.item() for name, value in values.items()}


def distances_by_loops(bits: Tensor, labels: Tensor) -> dict[str, float]:
    distances: dict[bool, list[int]] = {True: [], False: []}
    for (a, label), (b, other) in itertools.combinations(zip(bits.tolist(), labels.tolist(), strict=True), 2):
        distances[label == other].append(sum(x != y for x, y in zip(a, b, strict=True)))
    mean = {same: Fraction(sum(some), len(some) * bits.shape[1]) if some else math.nan for same, some in distances.items()}
    return {"within": float(mean[True]), "between": float(mean[False])}


@pytest.mark.parametrize("classes", [1, 2, 5, 40])
def test_distances_of_codes_are_those_of_loops_over_pairs(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_distances, "CHUNK_ELEMENTS", 35)  # a few columns at a time
    codes, distances = layered(1, 90), CodeDistances(classes + 1)  # the last class has no inputs
    labels = torch.randint(classes, (90,), generator=torch.Generator().manual_seed(classes))
    for some, its_labels in zip(codes.bits.split(37), labels.split(37), strict=True):
        distances.update(ActivationCodes(some, codes.layers), its_labels)
    torch.testing.assert_close(
        as_numbers(distances.compute()), distances_by_loops(codes.bits, labels), rtol=0, atol=0, equal_nan=True
    )
    layers = {name: as_numbers(values) for name, values in distances.per_layer().items()}
    expected = {name: distances_by_loops(codes.bits[:, columns], labels) for name, columns in codes.layers.items()}
    torch.testing.assert_close(layers, expected, rtol=0, atol=0, equal_nan=True)


def nearest_by_loops(bits: Tensor, labels: Tensor) -> float:
    """The share of inputs whose nearest other has their class; equally near ones count by their share."""
    rows, found = bits.tolist(), []
    for i, row in enumerate(rows):
        distances = {j: sum(x != y for x, y in zip(row, other, strict=True)) for j, other in enumerate(rows) if j != i}
        nearest = [j for j, distance in distances.items() if distance == min(distances.values())]
        found.append(Fraction(sum(int(labels[j]) == int(labels[i]) for j in nearest), len(nearest)))
    return float(sum(found) / len(found))


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 7, 64, 2**11])
def test_agreement_with_the_nearest_is_that_of_loops_over_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_codes, "INPUTS_AT_ONCE", block)
    inputs = 120 if block > 1 else 20
    codes, labels = layered(2, inputs), torch.randint(CLASSES, (inputs,), generator=torch.Generator().manual_seed(5))
    wide = ActivationCodes(codes.bits.repeat(1, 3), {"first": slice(0, 11), "second": slice(11, 27)})  # of no whole octets
    for some in (codes, wide):
        distances = CodeDistances(CLASSES, nearest=True)
        for bits, its_labels in zip(some.bits.split(50), labels.split(50), strict=True):
            distances.update(ActivationCodes(bits, some.layers), its_labels)
        assert distances.compute()["nearest"].item() == pytest.approx(nearest_by_loops(some.bits, labels), rel=1e-14)
        for name, values in distances.per_layer().items():
            expected = nearest_by_loops(some.bits[:, some.layers[name]], labels)
            assert values["nearest"].item() == pytest.approx(expected, rel=1e-14)


def test_agreement_with_the_nearest_is_known_for_clusters_twins_and_corners() -> None:
    generator = torch.Generator().manual_seed(0)
    far = torch.eye(CLASSES).bool().repeat_interleave(8, dim=1)  # classes 16 apart, inputs of one at most 4
    labels = torch.arange(CLASSES).repeat(20)
    noise = torch.zeros(80, 32).bool().scatter_(1, torch.randint(32, (80, 2), generator=generator), True)
    for its_labels, expected in ((labels, 1.0), (torch.arange(80), 0.0)):
        distances = CodeDistances(80, nearest=True)
        distances.update(far[labels] ^ noise, its_labels)
        assert distances.compute()["nearest"] == expected
    twins = CodeDistances(2, nearest=True)
    twins.update(torch.zeros(4, 5).bool(), torch.tensor([0, 0, 0, 1]))  # each has three others at distance 0
    assert twins.compute()["nearest"].item() == pytest.approx((2 / 3 * 3 + 0) / 4)
    for shape in ((0, 3), (1, 3), (4, 0)):
        alone = CodeDistances(2, nearest=True)
        alone.update(torch.zeros(shape).bool(), torch.zeros(shape[0]).long())
        assert alone.compute()["nearest"].isnan()


@pytest.mark.parametrize("columns", [slice(0, 21, 1), slice(3, 5, 1), slice(8, 16, 1), slice(5, 19, 3), slice(7, 7, 1)])
def test_packed_bits_are_unpacked(columns: slice) -> None:
    bits = torch.rand(13, 21) > 0.5
    packed = nearest_codes.pack_bits(bits)
    assert packed.shape == (13, 3) and torch.equal(nearest_codes.unpack_bits(packed, columns), bits[:, columns])


def test_metrics_of_other_arguments_are_not_merged() -> None:
    with pytest.raises(ValueError, match="must have the same `nearest`, got True and False"):
        CodeDistances(2, nearest=True).merge_state(CodeDistances(2))
    with pytest.raises(ValueError, match="must have the same `num_classes`, got 2 and 3"):
        CodeDistances(2).merge_state(CodeDistances(3))
    with pytest.raises(TypeError, match="`nearest` must be True or False, got 5"):
        CodeDistances(2, 5)


def test_distances_of_classes_with_a_code_each_are_known() -> None:
    corners, distances = torch.eye(4).bool(), CodeDistances(4)
    distances.update(corners.repeat_interleave(3, dim=0), torch.arange(4).repeat_interleave(3))
    assert as_numbers(distances.compute()) == {"within": 0, "between": 0.5}
    distances.reset()
    distances.update(corners, torch.zeros(4, dtype=torch.int32))
    assert distances.compute()["within"] == 0.5 and distances.compute()["between"].isnan()
    distances.update(~corners, torch.ones(4, dtype=torch.uint8))
    assert as_numbers(distances.compute()) == {"within": 0.5, "between": 10 / 16}
    assert distances.per_layer() == {}


def test_sums_over_pairs_beyond_int64_are_exact() -> None:
    distances = CodeDistances(2)
    distances.update(torch.tensor([[True], [False]]).repeat(1, 64), torch.tensor([0, 1]))
    half = 2**29  # of each class; 64 units tell 2**58 pairs apart each, in each class
    distances.num_inputs = torch.full((2,), 2 * half)
    distances.num_active = torch.full((2, 64), half, dtype=torch.int32)
    pairs = half * (2 * half - 1) * 2
    assert as_numbers(distances.compute()) == {"within": float(Fraction(2 * half**2, pairs)), "between": 0.5}
    with pytest.raises(ValueError, match="must be at most 2,147,483,647, got 2,147,483,649: reset the metric"):
        distances.update(torch.zeros(1, 64).bool(), torch.tensor([0]))


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (torch.zeros(2, 3), TypeError, "bool tensor, got torch.float32"),
        (torch.zeros(2).bool(), ValueError, r"shape \(inputs, units\), got \(2,\)"),
        (torch.zeros(2, 4).bool(), ValueError, r"as those before, got 4 units in \[\] after 3 units"),
        (ActivationCodes(torch.zeros(2, 3).bool(), {"a": slice(0, 3)}), ValueError, r"\['a \(3\)'\] after 3 units in \[\]"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes: Any, error: type[Exception], message: str) -> None:
    activity, distances = UnitActivity(), CodeDistances(3)
    activity.update(torch.zeros(1, 3).bool())
    distances.update(torch.zeros(1, 3).bool(), torch.tensor([0]))
    with pytest.raises(error, match=message):
        activity.update(codes)
    with pytest.raises(error, match=message):
        distances.update(codes, torch.zeros(2).long())
    assert activity.num_inputs == 1 and distances.num_inputs.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.zeros(2), TypeError, r"`labels` must be a tensor of integer classes \(2,\), got torch.float32"),
        ([0, 1], TypeError, r"integer classes \(2,\), got list"),
        (torch.zeros(3).long(), ValueError, r"must have shape \(2,\), one class for each input, got \(3,\)"),
        (torch.tensor([0, 3]), ValueError, "`labels` must lie in 0 to 2 for `num_classes=3`, got 0 to 3"),
        (torch.tensor([-1, 0]), ValueError, r"got -1 to 0: leave inputs .* such as with `inputs\[labels >= 0\]`"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, error: type[Exception], message: str) -> None:
    distances = CodeDistances(3)
    with pytest.raises(error, match=message):
        distances.update(torch.zeros(2, 3).bool(), labels)
    assert distances.num_inputs.tolist() == [0, 0, 0]


def test_distances_between_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 1, got 0"):
        CodeDistances(0)


def test_codes_without_inputs_or_units_have_no_activity_and_no_distances() -> None:
    for shape in ((0, 3), (4, 0)):
        activity, distances = UnitActivity(), CodeDistances(2)
        activity.update(torch.zeros(shape).bool())
        distances.update(torch.zeros(shape).bool(), torch.zeros(shape[0]).long())
        assert all(value.isnan() for value in (activity.compute() | distances.compute()).values())


def some_counts(seed: int) -> Tensor:
    return torch.randint(3, 20, (5 + seed,), generator=torch.Generator().manual_seed(seed))


def test_face_statistics_are_those_of_all_regions_together() -> None:
    metric = FaceStatistics()
    with pytest.warns(UserWarning, match="called before the"):
        assert all(value.isnan() for value in metric.compute().values())
    metric.reset()
    for seed in range(4):
        metric.update(some_counts(seed).int())
    counts = torch.cat([some_counts(seed) for seed in range(4)]).numpy()
    expected = {"mean": counts.mean(), "median": np.median(counts), "max": counts.max(), "min": counts.min()}
    assert {name: value.item() for name, value in metric.compute().items()} == expected


def test_invalid_face_counts_are_refused() -> None:
    metric = FaceStatistics()
    for counts in (torch.ones(3), torch.ones(3).bool(), [3]):
        with pytest.raises(TypeError, match="`face_counts` must be integers"):
            metric.update(counts)  # type: ignore[arg-type]
    for counts in (torch.ones(2, 2, dtype=torch.int64), torch.tensor([3, -1])):
        with pytest.raises(ValueError, match="must be \\(B,\\) and at least 0, got shape"):
            metric.update(counts)


def labelled(seed: int) -> tuple[ActivationCodes, Tensor]:
    return layered(seed), torch.randint(CLASSES, (300,), generator=torch.Generator().manual_seed(seed))


def together(metric: Metric, *batches: tuple[Any, ...]) -> Any:
    for *arguments, last in batches:
        metric.update(*arguments, **last) if isinstance(last, dict) else metric.update(*arguments, last)
    return metric


SEEDS: dict[str, tuple[list[int], list[int]]] = {"both": ([0, 2, 4], [1, 3]), "one alone": ([0, 1, 2, 3, 4], [])}


def some_metrics() -> dict[str, tuple[Metric, Callable[[int], tuple[Any, ...]]]]:
    """Return metrics that have values besides `compute`, and their batches by seed."""
    return {
        "codes": (DistinctCodes(), lambda seed: (layered(seed, 100 * seed + 50),)),
        "codes by class": (DistinctCodes(CLASSES), labelled_and_judged),
        "activity": (UnitActivity(), lambda seed: (layered(seed),)),
        "distances": (CodeDistances(CLASSES), labelled),
        "nearest": (CodeDistances(CLASSES, nearest=True), labelled),
        **{within: (GlobalFolding(CLASSES, within), some_segments) for within in AGGREGATES},
    }


def _process(folder: str) -> None:
    with process_group() as rank:
        found = {}
        for share, seeds in SEEDS.items():
            for name, (metric, batch) in some_metrics().items():
                together(metric, *map(batch, seeds[rank]))
                found[share, name] = further_values(metric)
                assert metric.update_count == len(seeds[rank])
                if isinstance(metric, CodeMetric):
                    assert (metric.num_inputs.sum() == 0) == (not seeds[rank])  # gathered states were given back
        torch.save(found, f"{folder}/{rank}.pt")


def further_values(metric: Any) -> Any:
    if isinstance(metric, DistinctCodes) and metric.num_classes:
        return all_counts(metric)
    return metric.matrix() if isinstance(metric, GlobalFolding) else metric.per_layer()


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_give_the_layers_and_matrices_of_one(tmp_path: Path) -> None:
    done = in_processes(_process, str(tmp_path), count=2)
    assert done.returncode == 0, done.stderr
    expected = {
        name: further_values(together(metric, *map(batch, range(5)))) for name, (metric, batch) in some_metrics().items()
    }
    for rank, share in itertools.product(range(2), SEEDS):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in expected.items():
            torch.testing.assert_close(found[share, name], value, rtol=1e-14, atol=0, equal_nan=True)

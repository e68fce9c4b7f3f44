"""The metrics behave as torchmetrics' own do, and give in two processes what they give in one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from networks import mlp
from reference import folding_between_classes
from torch import Tensor
from torchmetrics import MetricCollection

from fold_lightning import (
    ActivationCodes,
    DistinctCodes,
    FaceStatistics,
    GlobalFolding,
    SpaceFolding,
    Walks,
    activation_codes,
    global_folding,
    space_folding,
)
from fold_lightning.folding import summarize_folding

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


def test_forward_gives_the_value_of_the_batch_and_goes_on() -> None:
    metric = SpaceFolding("mean")
    for seed in range(3):
        walks = some_walks(seed)
        assert torch.equal(metric(walks), space_folding(walks).mean())
    assert metric.compute() == torch.cat([space_folding(some_walks(seed)) for seed in range(3)]).mean()


def test_a_collection_shares_one_state_and_keeps_four_values() -> None:
    collection = MetricCollection({statistic: SpaceFolding(statistic) for statistic in STATISTICS})
    collection.update(some_walks(0))
    collection.update(some_walks(1))
    chi = torch.cat([space_folding(some_walks(seed)) for seed in range(2)])
    for statistic, value in collection.compute().items():
        assert torch.equal(value, summarize_folding(chi, statistic))


def test_metrics_merge_and_survive_pickling() -> None:
    one, two = SpaceFolding("median"), SpaceFolding("median")
    one.update(some_walks(0))
    two.update(some_walks(1))
    pickle.loads(pickle.dumps(one))
    one.merge_state(two)
    chi = torch.cat([space_folding(some_walks(seed)) for seed in range(2)])
    assert torch.equal(one.compute(), summarize_folding(chi, "median"))


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
    assert torch.equal(matrix.nan_to_num(-1), torch.tensor(rows, dtype=torch.float64).nan_to_num(-1))
    assert matrix[3].isnan().all() and matrix[:, 3].isnan().all()
    assert phi == expected
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
        ({"end_class": torch.tensor([1])}, ValueError, r"must have shape \(S,\)"),
        ({"chi": torch.tensor([0.5])}, ValueError, r"a value for each of 2 pairs of classes, got \(1,\)"),
        ({"chi": torch.tensor([0.5, torch.nan])}, ValueError, "must lie in"),
        ({"chi": torch.tensor([0.5, 1.0])}, ValueError, "must lie in"),
        ({"chi": torch.full((2, 1), 0.5)}, ValueError, r"got \(2, 1\)"),
        ({"num_classes": -1}, ValueError, "`num_classes` must be a whole number of at least 1, got -1"),
        ({"num_classes": 2.0}, ValueError, "`num_classes` must be a whole number of at least 1, got 2.0"),
    ],
)
def test_what_is_no_folding_between_classes_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"chi": torch.tensor([0.5, 0.5]), "start_class": torch.tensor([0, 1]), "end_class": torch.tensor([1, 0])}
    with pytest.raises(error, match=message):
        global_folding(**({"num_classes": 2} | given | change))


def test_a_metric_of_no_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be a whole number of at least 1, got 0"):
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
    copy = pickle.loads(pickle.dumps(distinct)).clone()
    copy.merge_state(distinct)
    assert copy.compute() == distinct.compute() and copy.per_layer() == distinct.per_layer()
    forward = DistinctCodes()
    assert forward(layered(0)) == len(layered(0).bits.unique(dim=0))
    assert forward(layered(1)) == len(layered(1).bits.unique(dim=0))
    assert forward.compute() == len(torch.cat([layered(0).bits, layered(1).bits]).unique(dim=0))


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
    copy = pickle.loads(pickle.dumps(metric)).clone()
    copy.merge_state(metric)
    assert copy.compute()["mean"] == pytest.approx(counts.mean()) and len(copy.face_counts) == 8
    assert metric(some_counts(9))["max"] == some_counts(9).max() and metric.compute()["max"] >= counts.max()


def test_what_is_no_number_of_faces_is_refused() -> None:
    metric = FaceStatistics()
    for counts in (torch.ones(3), torch.ones(3).bool(), [3]):
        with pytest.raises(TypeError, match="`face_counts` must be whole numbers"):
            metric.update(counts)  # type: ignore[arg-type]
    for counts in (torch.ones(2, 2, dtype=torch.int64), torch.tensor([3, -1])):
        with pytest.raises(ValueError, match="must be \\(B,\\) and at least 0, got shape"):
            metric.update(counts)


SEEDS = {"both": ([0, 2, 4], [1, 3]), "one alone": ([0, 1, 2, 3, 4], [])}


def _process(rank: int, folder: str, seeds: tuple[list[int], list[int]]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    folding, codes, faces = SpaceFolding("median"), DistinctCodes(), FaceStatistics()
    between = [GlobalFolding(4, *choice) for choice in CHOICES]
    for seed in seeds[rank]:
        folding.update(some_walks(seed))
        faces.update(some_counts(seed))
        codes.update(layered(seed, 100 * seed + 50))
        for metric in between:
            metric.update(*some_segments(seed))
    values = {
        "folding": folding.compute(),
        "codes": codes.compute(),
        "faces": faces.compute(),
        "layers": codes.per_layer(),
        "phi": torch.stack([metric.compute() for metric in between]),
        "matrix": torch.stack([metric.matrix() for metric in between]),
    }
    assert seeds[rank] or codes.num_inputs == 0  # what was gathered is given back
    torch.save(values, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("share", SEEDS)
def test_two_processes_give_the_values_of_one(tmp_path: Path, share: str) -> None:
    mp.spawn(_process, (str(tmp_path), SEEDS[share]), nprocs=2)
    chi = torch.cat([space_folding(some_walks(seed)) for seed in range(5)])
    bits = torch.cat([layered(seed, 100 * seed + 50).bits for seed in range(5)])
    segments = [some_segments(seed) for seed in range(5)]
    chis = torch.cat([space_folding(walks) for walks, _, _ in segments])
    start, end = (torch.cat([classes[i] for classes in segments]) for i in (1, 2))
    between = [global_folding(chis, start, end, 4, within=within, across=across) for within, across in CHOICES]
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(values["folding"], summarize_folding(chi, "median"))
        assert values["codes"] == len(bits.unique(dim=0))
        assert values["faces"]["median"] == torch.cat([some_counts(seed) for seed in range(5)]).double().quantile(0.5)
        assert values["layers"] == {"low": len(bits[:, :3].unique(dim=0)), "high": len(bits[:, 3:].unique(dim=0))}
        assert torch.allclose(values["phi"], torch.stack([phi for phi, _ in between]), rtol=0, atol=1e-12)
        expected = torch.stack([matrix for _, matrix in between])
        assert torch.allclose(values["matrix"], expected, rtol=0, atol=1e-12, equal_nan=True)

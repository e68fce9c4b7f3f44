"""SpaceFolding behaves as torchmetrics' own metrics do."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from fold_lightning import SpaceFolding, Walks, space_folding
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


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = SpaceFolding("median")
    for seed in range(rank, 5, 2):
        metric.update(some_walks(seed))
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_value_of_one(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    alone = summarize_folding(torch.cat([space_folding(some_walks(seed)) for seed in range(5)]), "median")
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), alone)

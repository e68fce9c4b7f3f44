"""A short run of the fuzz, and that it finds what it looks for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fuzz_monitor
from fold_lightning import FoldingMonitor
from fuzz_monitor import Fuzz, compare_model, quiet, table
from helpers.blackbox import Twin, walk
from helpers.integers import Integers
from helpers.networks import CantorNet, mlp
from helpers.random_models import Bend
from helpers.reference import layers_of, range_and_length, walk_by_regions

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = range(1000, 1005)


@pytest.mark.slow
def test_random_trainings_do_not_notice_the_monitor_and_its_integers_are_right() -> None:
    fuzz = Fuzz()
    with quiet():
        for seed in SEEDS:
            fuzz.run(seed)
    assert not fuzz.failures, table(fuzz.counts)
    assert fuzz.counts["measured"] >= len(SEEDS) / 2 and fuzz.counts["segments"] > 0


@pytest.mark.slow
def test_integers_of_random_networks_are_those_of_their_twins() -> None:
    counts: Counter[str] = Counter()
    for seed in (0, 1, 2, 3, 4, 7, 8, 9, 13, 15):  # those between take long
        assert not compare_model(seed, counts)
    assert counts["segments"] > 10 and counts["face counts"] > 4


@pytest.mark.slow
def test_a_monitor_that_draws_a_random_number_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(FoldingMonitor):
        def on_train_epoch_end(self, *given: Any) -> None:
            super().on_train_epoch_end(*given)
            torch.rand(())

    monkeypatch.setattr(fuzz_monitor, "FoldingMonitor", Careless)
    fuzz = Fuzz()
    with quiet():
        fuzz.run(SEEDS[0])
    assert fuzz.counts["differences: random states of torch"] == 1 and SEEDS[0] in fuzz.failures


def test_a_walk_that_loses_a_switch_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import integers

    monkeypatch.setattr(integers, "walk_length", lambda walks: torch.bincount(walks.segment) - 1)
    assert "r1, r2, regions" in Integers(mlp(4, 9, 9, 2)).compare(torch.randn(8, 4)).wrong[0]


@pytest.mark.slow
def test_the_twin_walks_as_region_by_region() -> None:
    model = mlp(5, 12, 12, 12, 2)
    layers, _ = layers_of(model, (5,))
    for start, end in zip(2 * torch.randn(20, 5), 2 * torch.randn(20, 5), strict=True):
        expected, _ = walk_by_regions(layers, start.double().numpy(), end.double().numpy())
        found = walk(Twin(model), start, end)
        assert found.is_told and found.range_and_length == range_and_length(expected)
        assert [units for _, units in found.steps] == [units for _, units in expected]


def test_the_twin_knows_cantornet() -> None:
    steps = walk(Twin(CantorNet(5)), torch.tensor([0.0, 0.75]), torch.tensor([1.0, 0.75]))
    assert steps.range_and_length == (11, 5 * 2**5 - 4) and len(steps.steps) + 1 == 3 * 2**5 - 1


def test_the_twin_sees_what_bends_without_a_bit() -> None:
    class Ramp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.25).clamp(max=0.0).abs() - x.clamp(min=0.75) + 0.6

    net = nn.Sequential(Ramp(), Bend("F.relu"))  # from .1 down through 0 at 1/10, and never up again
    assert [units for _, units in walk(Twin(net), torch.tensor([0.0]), torch.tensor([1.0])).steps] == [(0,)]

"""chi, r1 and r2: properties that the theory proves, and a plain Python twin."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fold_lightning import (
    Walks,
    folding_profile,
    hamming_distance,
    segment_walks,
    space_folding,
    walk_length,
    walk_range,
)
from fold_lightning.folding import summarize_folding
from fold_lightning.folding.along_walks import distance_profile
from helpers.networks import mlp

codes = st.integers(1, 3).flatmap(
    lambda segments: st.integers(2, 7).flatmap(
        lambda points: st.integers(0, 5).flatmap(
            lambda units: st.lists(st.booleans(), min_size=segments * points * units, max_size=segments * points * units).map(
                lambda bits: torch.tensor(bits, dtype=torch.bool).view(segments, points, units)
            )
        )
    )
)


def by_definition(path: list[list[bool]]) -> tuple[int, int, float]:
    def distance(a: list[bool], b: list[bool]) -> int:
        return sum(x != y for x, y in zip(a, b, strict=True))

    reached = max(distance(path[0], code) for code in path)
    walked = sum(distance(a, b) for a, b in itertools.pairwise(path))
    return reached, walked, 1 - reached / walked if walked else 0.0


@pytest.mark.slow
@given(codes)
@settings(max_examples=300, deadline=None)
def test_walks_from_codes_have_range_length_and_folding_of_the_definition(bits: Tensor) -> None:
    walks = Walks.from_codes(bits)
    expected = [by_definition(path) for path in bits.tolist()]
    assert walk_range(walks).tolist() == [e[0] for e in expected]
    assert walk_length(walks).tolist() == [e[1] for e in expected]
    assert space_folding(walks).tolist() == [e[2] for e in expected]
    for i, path in enumerate(bits.tolist()):
        met = [path[0]] + [b for a, b in itertools.pairwise(path) if a != b]
        assert walks.codes(i).tolist() == met
        assert folding_profile(walks, i).tolist() == [by_definition(met[: n + 1])[2] for n in range(len(met))]


@pytest.mark.slow
@given(codes)
@settings(max_examples=200, deadline=None)
def test_folding_lies_in_zero_one_and_is_zero_iff_no_unit_switches_twice(bits: Tensor) -> None:
    chi = space_folding(Walks.from_codes(bits))
    assert ((chi >= 0) & (chi < 1)).all()
    most = (bits[:, 1:] != bits[:, :-1]).sum(1).amax(1) if bits.shape[2] else torch.zeros(len(bits))
    assert torch.equal(chi == 0, most <= 1)


@pytest.mark.slow
@given(codes, st.data())
@settings(max_examples=200, deadline=None)
def test_repeating_points_changes_nothing(bits: Tensor, data: st.DataObject) -> None:
    again = data.draw(st.lists(st.integers(1, 3), min_size=bits.shape[1], max_size=bits.shape[1]))
    walks, repeated = (Walks.from_codes(b) for b in (bits, bits.repeat_interleave(torch.tensor(again), dim=1)))
    for measure in (walk_range, walk_length, space_folding):
        assert torch.equal(measure(walks), measure(repeated))


@pytest.mark.slow
@given(codes)
@settings(max_examples=200, deadline=None)
def test_flatness_does_not_depend_on_direction(bits: Tensor) -> None:
    there, back = (space_folding(Walks.from_codes(b)) for b in (bits, bits.flip(1)))
    assert torch.equal(there == 0, back == 0)


def test_folding_itself_does_depend_on_direction() -> None:
    bits = torch.tensor([[[0, 0], [1, 0], [0, 0], [0, 1]]]).bool()
    assert space_folding(Walks.from_codes(bits)).item() != space_folding(Walks.from_codes(bits[:, [1, 0, 1, 3]])).item()


@pytest.mark.parametrize("width", [1, 4, 64])
def test_one_hidden_layer_never_folds(width: int) -> None:
    walks = segment_walks(mlp(6, width, 3), 3 * torch.randn(100, 6), 3 * torch.randn(100, 6))
    assert space_folding(walks).max() == 0 and walks.exact.all()


def test_layers_seen_apart_are_the_columns_seen_apart() -> None:
    bits = torch.rand(5, 20, 7) > 0.5
    walks = Walks.from_codes(bits, layers={"a": slice(0, 3), "b": slice(3, 4), "c": slice(4, 7)})
    for names, columns in {("a",): [0, 1, 2], ("c", "a"): [0, 1, 2, 4, 5, 6], ("b",): [3]}.items():
        some, alone = walks.select(names), Walks.from_codes(bits[..., columns])
        assert some.num_units == len(columns)
        assert torch.equal(some.unit, alone.unit) and torch.equal(some.position, alone.position)
        assert torch.equal(walk_range(some), walk_range(alone))
    with pytest.raises(ValueError, match="has: a, b, c"):
        walks.select("d")


def test_walks_side_by_side_keep_their_measures() -> None:
    parts = [Walks.from_codes(torch.rand(s, 9, 4) > 0.5) for s in (1, 3, 2)]
    together = Walks.concatenate(parts)
    assert torch.equal(space_folding(together), torch.cat([space_folding(part) for part in parts]))
    assert torch.equal(together.codes(3), parts[1].codes(2))


def test_hamming_distance_counts_units_and_truncates() -> None:
    a, b = torch.rand(4, 1, 9) > 0.5, torch.rand(1, 5, 9) > 0.5
    full = torch.tensor([[sum(x != y for x, y in zip(p[0], q, strict=True)) for q in b[0].tolist()] for p in a.tolist()])
    assert torch.equal(hamming_distance(a, b), full)
    assert torch.equal(hamming_distance(a, b, threshold=2), full.clamp(max=2))
    with pytest.raises(ValueError, match="same number of units"):
        hamming_distance(a, b[..., :3])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        hamming_distance(a, b, threshold=0)


def test_summaries_of_chi() -> None:
    chi = torch.tensor([0.0, 0.5, 0.1, 0.3, 0.0, 0.2])
    assert summarize_folding(chi, "median").item() == pytest.approx(0.25)
    assert summarize_folding(chi, "mean").item() == pytest.approx(1.1 / 6)
    assert summarize_folding(chi, "max").item() == pytest.approx(0.5)
    assert summarize_folding(chi, "fraction").item() == pytest.approx(4 / 6)
    assert summarize_folding(torch.zeros(3), "median").item() == 0
    assert summarize_folding(chi[:0], "mean").isnan()
    with pytest.raises(ValueError, match="`statistic` must be one of"):
        summarize_folding(chi, "mode")
    with pytest.raises(TypeError, match=r"got Walks: take chi from `space_folding\(walks\)`"):
        summarize_folding(Walks.from_codes(torch.zeros(1, 2, 1).bool()))  # type: ignore[arg-type]


def test_chi_in_place_of_walks_is_refused() -> None:
    measures: list[Any] = [walk_range, walk_length, space_folding, lambda chi: folding_profile(chi, 0)]
    for measure in [*measures, lambda chi: distance_profile(chi, 0)]:
        with pytest.raises(
            TypeError, match="Expected `Walks`, got Tensor: make them with `segment_walks` or `Walks.from_codes`"
        ):
            measure(torch.zeros(3))

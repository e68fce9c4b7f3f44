"""Walks turned round and walks as tables, against walks made anew and against the functions of their own."""

from __future__ import annotations

import io
import re
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fold_lightning import (
    Walks,
    activation_regions,
    class_segments,
    face_counts,
    segment_walks,
    space_folding,
    stream_walks,
    walk_length,
    walk_range,
)
from fold_lightning.faces import supporting
from helpers.networks import CantorNet, Tent, mlp


def assert_same(one: Walks, other: Walks) -> None:
    for name in ("segment", "unit", "first_codes", "exact", "complete"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.allclose(one.position, other.position, atol=1e-9, rtol=0)
    assert torch.equal(one.step_ends(), other.step_ends())


@pytest.mark.parametrize("seed", range(8))
def test_a_reversed_walk_is_the_walk_of_the_reversed_segment(seed: int) -> None:
    torch.manual_seed(seed)
    model = mlp(3, *[8] * (2 + seed), bias=seed % 2 == 0) if seed < 6 else CantorNet(seed - 3) if seed == 7 else Tent()
    inputs = 1 if seed == 6 else 2 if seed == 7 else 3
    start, end = 2 * torch.randn(2, 12, inputs, dtype=torch.float64)
    walks, back = segment_walks(model, start, end), segment_walks(model, end, start)
    assert_same(walks.reversed(), back)
    assert_same(walks.reversed().reversed(), walks)
    assert any(not torch.equal(walks.codes(i), back.codes(i)) for i in range(12))
    assert all(torch.equal(walks.reversed().codes(i), walks.codes(i).flip(0)) for i in range(12))


def test_reversed_codes_are_those_of_the_points_in_reverse() -> None:
    bits = torch.rand(40, 9, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    back, expected = Walks.from_codes(bits).reversed(), Walks.from_codes(bits.flip(1))
    assert_same(back, expected)
    assert torch.equal(back.position, expected.position)


def test_steps_that_the_way_back_cannot_tell_apart_stay_steps() -> None:
    """Of 1 - t floating point keeps no more than 1e-16."""
    walks = Walks.from_codes(torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]]).bool())
    near = Walks(**{**vars(walks), "position": torch.tensor([1e-19, 2e-19, 3e-19]).double(), "engine": torch.zeros(1).long()})
    back = near.reversed()
    assert back.unit.tolist() == [2, 1, 0] and int(back.num_regions()) == 4
    assert (back.position[1:] > back.position[:-1]).all() and back.position.max() < 1


@pytest.mark.parametrize("kind", [list, np.array, lambda labels: np.array(labels, dtype=np.uint8), torch.tensor])
def test_labels_of_segments_may_be_a_list_or_an_array(kind: Any) -> None:
    labels = [0, 1, 2] * 5
    expected = class_segments(torch.tensor(labels), per_pair=3)
    assert all(map(torch.equal, class_segments(kind(labels), per_pair=3), expected))


def test_chi_depends_on_the_direction() -> None:
    """Remark 4.3 of "The Space Between"; whether it is 0 does not (Corollary 4.4)."""
    torch.manual_seed(0)
    walks = segment_walks(mlp(4, 16, 16, 16), *3 * torch.randn(2, 64, 4, dtype=torch.float64))
    chi, back = space_folding(walks), space_folding(walks.reversed())
    assert not torch.equal(chi, back) and torch.equal(chi > 0, back > 0)
    assert torch.equal(walk_length(walks), walk_length(walks.reversed()))


def test_walks_without_events_or_segments_turn_round() -> None:
    flat = segment_walks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(2, 2), torch.ones(2, 2))
    assert_same(flat.reversed(), flat)
    assert Walks.from_codes(torch.zeros(0, 2, 3).bool()).reversed().num_segments == 0


def test_a_table_has_a_row_for_each_segment() -> None:
    torch.manual_seed(0)
    model, x, labels = mlp(4, 8, 8, 8), torch.randn(30, 4), torch.arange(30) % 3
    start, end = class_segments(labels, per_pair=3)
    walks = segment_walks(model, x[start], x[end])
    table = walks.table(start=start, end=end, labels=labels)
    expected = {"start": start, "end": end, "start_class": labels[start], "end_class": labels[end], "segment": torch.arange(18)}
    expected |= {"r1": walk_range(walks), "r2": walk_length(walks), "chi": space_folding(walks), "regions": walks.num_regions()}
    expected |= {name: getattr(walks, name) for name in ("exact", "complete", "resolution")}
    assert table.keys() == expected.keys() | {"engine"}
    assert all((table[name] == column.numpy()).all() for name, column in expected.items())
    assert set(table["engine"]) == {"growing batch"}
    assert list(walks.table()) == ["segment", "r1", "r2", "chi", "regions", "exact", "complete", "resolution", "engine"]
    uniform = segment_walks(model, x[start], x[end], method="uniform", num_points=9)
    assert set(uniform.table()["engine"]) == {"uniform"}


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog", "eel"],
        np.array(["cat", "dog", "eel"], dtype=object),
        (0.5, 2.0, -1.0),
        torch.tensor([0.5, 2.0, -1.0], dtype=torch.bfloat16, requires_grad=True),
        torch.tensor([True, False, True]),
        torch.tensor([7, 8, 9], dtype=torch.int8),
    ],
)
def test_labels_may_be_names_or_numbers_of_any_kind(labels: Any) -> None:
    walks = Walks.from_codes(torch.zeros(4, 2, 3).bool())
    start, end = [0, 1, 2, 0], [2, 2, 1, 1]
    table = walks.table(start=start, end=np.array(end, dtype=np.int32), labels=labels)
    each = labels.tolist() if isinstance(labels, torch.Tensor) else list(labels)
    assert table["start_class"].tolist() == [each[i] for i in start] and table["end_class"].tolist() == [each[i] for i in end]
    assert table["start"].tolist() == start and table["end"].dtype == np.int64
    empty = Walks.from_codes(torch.zeros(0, 2, 3).bool()).table(start=[], end=[], labels=labels)
    assert {len(column) for column in empty.values()} == {0}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"labels": torch.zeros(3).long()}, "need the indices .*: pass `start=` and `end=`"),
        (
            {"start": torch.zeros(3).long()},
            r"`start` must be the index of an input for each of 2 segments.* got int64 \(3,\)",
        ),
        ({"end": torch.zeros(2)}, r"`end` must be .* got float32 \(2,\)"),
        ({"end": torch.tensor([True, False])}, r"`end` must be .* got bool \(2,\)"),
        ({"end": ["0", "1"]}, r"`end` must be .* got <U1 \(2,\)"),
        ({"start": [0, 1], "end": [1, -1], "labels": ["cat", "dog"]}, r"got \(2,\) for indices from -1 to 1"),
        ({"start": [0, 1], "end": [1, 0], "labels": [["cat", "dog"]]}, r"got \(1, 2\) for indices"),
        (
            {"start": torch.tensor([0, 1]), "end": torch.tensor([2, 5]), "labels": torch.zeros(3).long()},
            r"`labels` must have a class for each input.* got \(3,\) for indices from 0 to 5",
        ),
    ],
)
def test_a_table_refuses_what_does_not_fit(arguments: dict[str, Tensor], match: str) -> None:
    walks = Walks.from_codes(torch.zeros(2, 2, 3).bool())
    with pytest.raises(ValueError, match=match):
        walks.table(**arguments)


@pytest.mark.parametrize("options", [{}, {"method": "uniform", "num_points": 17}, {"layers": "1"}])
def test_streamed_walks_are_those_of_one_call(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = mlp(4, 8, 8, 8)
    start, end = torch.randn(2, 23, 4, dtype=torch.float64)
    parts = list(stream_walks(model, start, end, batch_size=5, **options))
    assert [walks.num_segments for walks in parts] == [5, 5, 5, 5, 3]
    assert_same(Walks.concatenate(parts), segment_walks(model, start, end, **options))


def test_a_stream_checks_its_arguments_at_once_and_keeps_no_walks() -> None:
    model = mlp(4, 8, 8)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        stream_walks(model, torch.zeros(2, 4), torch.ones(2, 4), batch_size=0)
    with pytest.raises(ValueError, match="must have the same shape"):
        stream_walks(model, torch.zeros(2, 4), torch.ones(3, 4))
    for options, kind, match in (
        ({"method": "unform"}, ValueError, "`method` must be one of"),
        ({"layer": "1"}, TypeError, "unexpected keyword argument 'layer'"),
        ({"layers": "7"}, ValueError, "'7'"),
    ):
        with pytest.raises(kind, match=match):
            stream_walks(model, torch.zeros(2, 4), torch.ones(2, 4), **options)
    first = next(stream := stream_walks(model, torch.zeros(2, 4), torch.ones(2, 4), batch_size=1))
    reference = weakref.ref(first)
    del first
    next(stream)
    assert reference() is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"method": "uniform", "num_points": 9}, {"max_bytes": 2**14}])
def test_progress_counts_segments_on_a_terminal(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = torch.randn(2, 40, 4)
    for walk in (segment_walks, lambda *args, **more: list(stream_walks(*args, batch_size=7, **more))):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        walk(mlp(4, 16, 16), start, end, progress=True, **options)
        assert "| 40/40 [" in terminal.getvalue() and "41/40" not in terminal.getvalue()
        shown = terminal.getvalue()
        walk(mlp(4, 16, 16), start, end, **options)
        assert terminal.getvalue() == shown


def test_progress_counts_regions_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = activation_regions(mlp(3, 8, 8), torch.randn(30, 3))
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(supporting, "PRODUCT_BYTES", 2**16)
    assert torch.equal(face_counts(regions, progress=True), face_counts(regions))
    counted = [int(number) for number in re.findall(r"\| (\d+)/30 \[", terminal.getvalue())]  # how often, time decides
    assert counted == sorted(counted) and (counted[0], counted[-1]) == (0, 30)

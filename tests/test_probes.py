"""Class labels, segments between them, and the regions whose faces are counted."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fold_lightning.probes import (
    FaceProbes,
    check_face_subspace,
    class_segments,
    draw_segments,
    num_classes_of,
    predicted_classes,
    split_batch,
)
from fold_lightning.probes.classes import without_targets

X, Y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
Named = namedtuple("Named", "x y")


@dataclass(frozen=True)
class Item:
    image: Tensor
    label: Tensor


@pytest.mark.parametrize(
    ("batch", "has_labels"),
    [
        (X, False),
        ((X, Y), True),
        ([X, Y], True),
        ((X, Y, "extra"), True),
        ((X, "extra", Y), True),
        ((X, X, Y), True),  # a second table is no label
        (([X, X], Y, "name"), True),
        (({"x": X}, (Y, X[:, 0])), True),
        (({"x": X}, {"target": Y}), True),
        (({"mask": 0 * X, "x": X}, (X[:, 0], Y)), False),  # a regression with weights
        (Named(X, Y), True),
        (Item(X, Y), True),
        (SimpleNamespace(x=X, y=Y), True),
        ({"x": X, "y": Y}, True),
        ({"x": X}, False),
        ((X,), False),
        ((X, X), False),  # regression
        ((X, Y[:, None]), True),
        ((X, Y.bool()), True),
        ((X, Y[:, None].float()), True),  # as a binary cross-entropy wants it
        ((X, torch.nn.functional.one_hot(Y)), True),
        ((X, 1.0 * torch.tensor([[1, 1], [0, 1], [0, 1], [1, 0]])), False),  # several classes each
        ((X, X[:, 0]), False),
        ((X, Y + 0.5), False),
        ((X, Y[:2]), False),
    ],
)
def test_batches_of_any_usual_form(batch: object, has_labels: bool) -> None:
    inputs, labels = split_batch(batch)
    assert torch.equal(inputs, X)
    assert (labels is not None) == has_labels
    assert labels is None or torch.equal(labels, Y)


@pytest.mark.parametrize("batch", [Y, (Y, X), {"a": Y}, "text", 3, (), {}])
def test_a_batch_without_inputs_says_what_to_do(batch: object) -> None:
    with pytest.raises(TypeError, match="No inputs found.*batch_to_inputs"):
        split_batch(batch)
    assert split_batch(batch, lambda _: (X, Y))[1] is Y


@pytest.mark.parametrize(("classes", "count"), [(2, 64), (3, 66), (9, 72), (10, 90), (11, 110)])
def test_the_default_count_is_raised_so_that_each_pair_has_equally_many(classes: int, count: int) -> None:
    labels = torch.arange(40 * classes) % classes
    segments = draw_segments(labels, len(labels), count=64)
    pairs = Counter(zip(segments.start_class.tolist(), segments.end_class.tolist(), strict=True))
    assert len(segments) == count and len(pairs) == classes * (classes - 1) and len(set(pairs.values())) == 1
    assert torch.equal(labels[segments.start], segments.start_class)
    assert torch.equal(labels[segments.end], segments.end_class)


def test_many_pairs_share_the_segments() -> None:
    segments = draw_segments(torch.arange(1000) % 12, 1000, count=64)
    assert segments.describe() == "64 segments, 1 for each of 64 of 132 ordered pairs of 12 classes"
    segments = draw_segments(torch.arange(1000) % 12, 1000, count=200)
    assert segments.describe() == "200 segments, 1 to 2 for each of the 132 ordered pairs of 12 classes"


def test_each_pair_gets_as_many_as_are_asked_for() -> None:
    labels = torch.tensor([5] * 50 + [2] * 5 + [9])
    segments = draw_segments(labels, 56, count=64, per_pair=10)
    pairs = Counter(zip(segments.start_class.tolist(), segments.end_class.tolist(), strict=True))
    assert len(pairs) == 6 and set(pairs.values()) == {10}
    assert len(draw_segments(torch.arange(1000) % 100, 1000, count=64, per_pair=3)) == 29_700
    with pytest.raises(ValueError, match=r"2 segments for each of 999000 .* leave `segments_per_pair` out"):
        draw_segments(torch.arange(1000), 1000, count=64, per_pair=2)


def test_a_million_classes_cost_nothing() -> None:
    labels = torch.arange(1_000_000)
    draw_segments(labels[:100], 100, count=64)
    tracemalloc.start()
    begin = time.perf_counter()
    segments = draw_segments(labels, len(labels), count=64)
    between = segments.between_classes()
    text = segments.describe()
    assert time.perf_counter() - begin < 3
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert text == "64 segments, 1 for each of 64 of 999999000000 ordered pairs of 1000000 classes"
    assert between is not None and (between.start != between.end).all()


def test_draws_repeat_with_their_seed_alone() -> None:
    labels = torch.arange(300) % 20
    one, same, other = (draw_segments(labels, 300, count=64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.start, same.start) and torch.equal(one.end, same.end)
    assert not torch.equal(one.start, other.start)


def test_segments_between_classes_are_those_of_the_monitor() -> None:
    labels = torch.tensor([5] * 50 + [2] * 5 + [9] + [-1] * 10)
    start, end = class_segments(labels, per_pair=10, seed=4)
    segments = draw_segments(labels, len(labels), count=64, per_pair=10, seed=4)
    assert torch.equal(start, segments.start) and torch.equal(end, segments.end)
    pairs = Counter(zip(labels[start].tolist(), labels[end].tolist(), strict=True))
    assert pairs == dict.fromkeys([(a, b) for a in (2, 5, 9) for b in (2, 5, 9) if a != b], 10)


@pytest.mark.parametrize(
    ("labels", "per_pair", "error", "match"),
    [
        (torch.zeros(4).long(), 2, ValueError, "at least 2 classes"),
        (torch.tensor([0, 1, 2]).view(3, 1), 2, ValueError, r"labels \(B,\) of at least 2 classes, got \(3, 1\)"),
        (torch.tensor([0.0, 1.0]), 2, TypeError, "integer classes .* got torch.float32"),
        (["cat", "dog"], 2, TypeError, r"integer classes .* got <U3 \(2,\): number them, such as with .*unique"),
        (torch.tensor([0, 1]), 0, ValueError, "`per_pair` must be an integer of at least 1"),
        (torch.arange(2000), 1, ValueError, "more than 1000000"),
    ],
)
def test_segments_between_classes_need_classes(labels: Tensor, per_pair: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        class_segments(labels, per_pair=per_pair)


@pytest.mark.parametrize("labels", [None, torch.zeros(7).long(), torch.tensor([3, -100, -100, -100, 3, 3, -1])])
def test_without_two_classes_segments_go_between_any_two_different_inputs(labels: Tensor | None) -> None:
    segments = draw_segments(labels, 7, count=200)
    assert len(segments) == 200 and (segments.start != segments.end).all()
    assert segments.start_class is None and segments.between_classes() is None
    assert set(segments.start.tolist()) == set(range(7))
    assert segments.describe() == "200 segments between random inputs, without classes"


def test_inputs_with_a_negative_label_have_no_class() -> None:
    labels = torch.tensor([-100, 0, 1, -100, 1, 0, -1])
    segments = draw_segments(labels, 7, count=64)
    assert set(segments.start.tolist()) | set(segments.end.tolist()) == {1, 2, 4, 5}
    assert segments.classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "num_outputs"),
    [
        (torch.randint(-300, 300, (400,), generator=torch.Generator().manual_seed(0)), None),
        (torch.randint(18, 90, (1000,), generator=torch.Generator().manual_seed(0)), 1),
        (torch.arange(1000) * 3, 10),
    ],
)
def test_integers_that_are_targets_are_no_classes(labels: torch.Tensor, num_outputs: int | None) -> None:
    assert without_targets(labels, num_outputs) is None


@pytest.mark.parametrize(("missing", "num_outputs"), [(-1, 3), (-100, None), (-100, 1)])
def test_one_negative_label_says_that_there_is_none(missing: int, num_outputs: int | None) -> None:
    labels = torch.arange(60) % 2
    labels[::5] = missing
    assert without_targets(labels, num_outputs) is labels


def test_one_input_makes_no_segment() -> None:
    with pytest.raises(ValueError, match="at least 2 inputs"):
        draw_segments(None, 1, count=4)


def drawn(count: int, classes: int) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("labels", "num_outputs", "are_classes"),
    [
        (drawn(1000, 10), None, True),
        (drawn(1000, 1000), None, True),  # ImageNet
        (drawn(1000, 21_000), None, False),
        (drawn(1000, 21_000), 21_841, True),  # each is an output of the model
        (drawn(1000, 10**9), 1, False),  # prices
        (torch.arange(500), None, False),  # numbers of the inputs
        (torch.arange(20), None, True),  # too few to tell
        (torch.where(torch.arange(1000) % 2 == 0, -100, drawn(1000, 10)), None, True),
        (torch.full((1000,), -100), None, True),
    ],
)
def test_integers_that_hardly_repeat_are_no_classes(labels: Tensor, num_outputs: int | None, are_classes: bool) -> None:
    assert (without_targets(labels, num_outputs) is not None) == are_classes


@pytest.mark.parametrize(
    ("labels", "num_outputs", "expected"),
    [
        (torch.arange(1000) % 10, 784, 10),  # an autoencoder of images
        (torch.arange(8), 784, 8),  # of which a few were taken, all different
        (torch.arange(10), 784, 10),
        (torch.tensor([3]), 784, 4),
        (drawn(1000, 1000), 1000, 1000),  # ImageNet
        (torch.tensor([412, 973, 30, 801, 655]), 1000, 1000),
        (torch.arange(300) % 9, 10, 10),  # a class is missing
        (torch.tensor([0, 1]), 10, 10),
        (torch.tensor([0]), 3, 3),
        (torch.arange(300) % 2, 32, 2),
        (torch.arange(12), 10, 12),
        (torch.arange(12), None, 12),
    ],
)
def test_outputs_are_classes_where_the_sample_may_be_one_of_as_many(
    labels: Tensor, num_outputs: int | None, expected: int
) -> None:
    assert num_classes_of(labels, num_outputs) == expected


@pytest.mark.parametrize(
    ("output", "num_classes", "expected"),
    [
        (torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]]), 3, [1, 0]),
        (torch.zeros(2, 32), 4, None),  # an embedding
        (torch.zeros(2, 3), 4, None),
        (torch.tensor([[0.5], [-0.5]]), 2, [1, 0]),
        (torch.tensor([0.5, -0.5]), 2, [1, 0]),
        (torch.tensor([0.5, -0.5]), 3, None),
        (torch.zeros(2, 1), 1, None),
        ((torch.tensor([[0.0, 1.0]]), "hidden"), 2, [1]),
        ({"logits": torch.tensor([[0.0, 1.0]]), "loss": 0}, 2, [1]),
        (SimpleNamespace(logits=torch.tensor([[0.0, 1.0]])), 2, [1]),
        (torch.zeros(2, 3, 8, 8), 3, None),
        (torch.zeros(2, 3).long(), 3, None),
        (None, 3, None),
    ],
)
def test_only_one_number_per_class_says_classes(output: Any, num_classes: int, expected: list[int] | None) -> None:
    found = predicted_classes(output, num_classes)
    assert (None if found is None else found.tolist()) == expected


@pytest.mark.parametrize(
    ("features", "subspace", "dimension"), [(3, "auto", 3), (20, "auto", 2), (20, "whole", 20), (20, 5, 5)]
)
def test_regions_of_few_features_are_whole(features: int, subspace: Any, dimension: int) -> None:
    faces = FaceProbes.around(torch.zeros(10, features), 64, subspace)
    directions, bound = faces.directions(10), "2d" if dimension == features else "2k"
    assert faces.num_regions == 10 and faces.dimension == dimension and f"{bound} = {2 * dimension};" in faces.describe()
    assert directions is None if dimension == features else directions.shape == (10, dimension, features)


@pytest.mark.parametrize("subspace", ["half", 0, True, 1.5, None])
def test_a_subspace_is_a_word_or_an_integer(subspace: object) -> None:
    with pytest.raises(ValueError, match="'auto', 'whole' or an integer of at least 1"):
        check_face_subspace(subspace)


def test_nested_dicts_are_searched_by_their_names() -> None:
    inputs, labels = split_batch({"data": {"mask": 0 * X, "image": X, "target": Y}, "meta": {"weight": X}})
    assert torch.equal(inputs, X) and labels is not None and torch.equal(labels, Y)

"""Which inputs a monitor looks at."""

from __future__ import annotations

from collections import Counter, namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fold_lightning.probes import draw_segments, first_map_style, gather_inputs, split_batch

X, Y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
Named = namedtuple("Named", "x y")


@pytest.mark.parametrize(
    ("batch", "has_labels"),
    [
        (X, False),
        ((X, Y), True),
        ([X, Y], True),
        ((X, Y, "extra"), True),
        (Named(X, Y), True),
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


def test_segments_are_spread_evenly_over_ordered_pairs_of_classes() -> None:
    labels = torch.tensor([5] * 50 + [2] * 5 + [9])
    segments = draw_segments(torch.arange(56.0)[:, None], labels, 60, seed=0)
    pairs = Counter(zip(segments.start_class.tolist(), segments.end_class.tolist(), strict=True))
    assert len(pairs) == 6 and set(pairs.values()) == {10}
    assert torch.equal(labels[segments.start.long().squeeze(1)], segments.start_class)
    assert torch.equal(labels[segments.end.long().squeeze(1)], segments.end_class)


def test_what_is_said_of_segments_counts_all_classes_there_are() -> None:
    labels = torch.arange(1000) % 100
    segments = draw_segments(torch.randn(1000, 2), labels, 64, seed=0)
    assert segments.describe() == "64 segments, 1 for each of 64 of 9900 ordered pairs of 100 classes"
    assert len(draw_segments(torch.randn(1000, 2), labels, 64, seed=0, per_pair=3)) == 29_700


@pytest.mark.parametrize("labels", [None, torch.zeros(7).long()])
def test_without_two_classes_segments_go_between_any_two_different_inputs(labels: torch.Tensor | None) -> None:
    segments = draw_segments(torch.arange(7.0)[:, None], labels, 200, seed=0)
    assert (segments.start != segments.end).all()
    assert segments.start_class is None
    assert set(segments.start.flatten().tolist()) == set(range(7))


def test_one_input_makes_no_segment() -> None:
    with pytest.raises(ValueError, match="at least 2 inputs"):
        draw_segments(X[:1], None, 4, seed=0)


def test_the_first_loader_that_can_be_read_by_index_is_found() -> None:
    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> object:
            return iter(X)

    good = DataLoader(TensorDataset(X, Y), batch_size=2)
    assert first_map_style(good) is good
    assert first_map_style([DataLoader(Stream()), {"a": good}]) is good
    assert first_map_style(DataLoader(Stream())) is None
    assert first_map_style(DataLoader(TensorDataset(X), batch_size=None)) is None
    assert first_map_style([X, X]) is None


def test_items_are_chosen_by_seed_and_without_repetition() -> None:
    dataset = TensorDataset(torch.arange(100))
    (ten,), (again,), (every,) = (gather_inputs(dataset, n, seed=1) for n in (10, 10, 1000))
    assert torch.equal(ten, again) and len(ten.unique()) == 10
    assert torch.equal(every.sort().values, torch.arange(100))

"""Walks of convolutional networks by kinks: against the growing batch, rational arithmetic and plain passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fold_lightning import Walks, activation_codes, segment_walks
from fold_lightning.walks import scheduler
from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Signal, Units
from fold_lightning.walks.kinks.convolution import Convolution
from fold_lightning.walks.kinks.superposition import by_events, superposed
from fold_lightning.walks.walks import GROWING_BATCH, KINKS
from fuzz_walks import compare_convolutional
from helpers.convolutional_models import RandomConvolutional, integer_convolutional
from helpers.reference import layers_of, rational_codes


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(first, first + 8) for first in range(0, 40, 8)])
def test_random_convolutional_networks_are_walked_as_by_the_growing_batch(seeds: range) -> None:
    found = [compare_convolutional(seed) for seed in seeds]
    assert [wrong for wrong, _ in found] == [[]] * len(seeds)
    assert sum(int((walks.engine == KINKS).sum()) for _, walks in found) > len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_ties_are_as_in_exact_rational_arithmetic(seed: int) -> None:
    model, start, end = integer_convolutional(seed)
    layers, _ = layers_of(copy.deepcopy(model), tuple(start.shape[1:]))
    walks = segment_walks(model, start, end)
    assert walks.exact.all()
    for i in range(len(start)):
        positions, codes = rational_codes(layers, *(x[i].flatten().int().tolist() for x in (start, end)))
        assert walks.codes(i).tolist() == [list(code) for code in codes]
        assert torch.allclose(
            walks.position[walks.segment == i].unique_consecutive(), Tensor([float(p) for p in positions]).double()
        )


def convolutional(*, channels: int = 4, side: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(channels * (side // 4) ** 2, 8), nn.ReLU(), nn.Linear(8, 2)),
    ).eval()


def segments(count: int, side: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(count, 1, side, side, generator=generator) for _ in range(2))
    return start, end


def test_codes_at_the_middles_of_intervals_are_those_of_plain_passes() -> None:
    model, (start, end) = convolutional(), segments(2)
    walks = segment_walks(model, start, end)
    assert (walks.engine == KINKS).all()
    for i in range(2):
        breaks = torch.cat([torch.zeros(1), walks.position[walks.segment == i].unique_consecutive(), torch.ones(1)]).double()
        middles = ((breaks[1:] + breaks[:-1]) / 2).view(-1, 1, 1, 1)
        points = torch.lerp(start[i].double(), end[i].double(), middles)
        assert torch.equal(activation_codes(model.double(), points).bits, walks.codes(i))


def test_the_memory_cuts_segments_into_pieces_and_changes_nothing() -> None:
    model, (start, end) = convolutional(), segments(4)
    whole, cut = (segment_walks(model, start, end, max_bytes=size) for size in (2**27, 2**18))
    assert (cut.engine == KINKS).all()
    assert torch.equal(whole.unit, cut.unit) and torch.allclose(whole.position, cut.position, rtol=0, atol=1e-12)


def test_a_fully_connected_network_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "KinksPass", _never)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    assert (segment_walks(model, torch.randn(3, 5), torch.randn(3, 5)).engine == GROWING_BATCH).all()


def _never(*_: object) -> None:
    raise AssertionError("a network without planes was tried")


class Sorted(nn.Module):
    """Sorts the channels, for which kinks have no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1).values


def test_what_has_no_rule_is_walked_by_the_growing_batch_and_explained() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), Sorted(), nn.Conv2d(3, 2, 3), nn.ReLU())
    walks = segment_walks(model, *segments(2))
    assert walks.exact.all() and (walks.engine == GROWING_BATCH).all()
    assert "does not support walking by kinks: sort has no rule" in walks.explain()


@pytest.mark.slow
def test_narrow_planes_that_switches_cover_are_walked_by_the_growing_batch_and_explained() -> None:
    torch.manual_seed(0)
    layers = [layer for inputs in (1, *[2] * 15) for layer in (nn.Conv2d(inputs, 2, 3, padding=1), nn.ReLU())]
    for layer in layers[::2]:
        layer.weight.data.mul_(2.0)
    model = nn.Sequential(*layers)
    start, end = segments(3, side=12)
    walks, by_kinks = segment_walks(model, start, end), segment_walks(model, start, end, engine="kinks")
    assert (walks.engine == GROWING_BATCH).all() and (by_kinks.engine == KINKS).all()
    assert "evaluating whole layers at each breakpoint costs less" in walks.explain()
    assert torch.equal(walks.unit, by_kinks.unit) and torch.allclose(walks.position, by_kinks.position, rtol=0, atol=1e-9)


class LongSkips(nn.Module):
    """Layers with small boxes beside those whose boxes cover the plane, added and set side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.ModuleList([nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)])
        self.large = nn.ModuleList([nn.Conv2d(3, 3, 5, padding=2), nn.Conv2d(3, 3, 5, padding=2)])
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.small:
            x = layer(x).relu()
        y = x
        for layer in self.large:
            y = layer(y).relu()
        return self.last(torch.cat([x, x + y], 1)).relu().flatten(1)


def test_groups_that_are_joined_in_one_branch_alone_are_added_by_their_events() -> None:
    torch.manual_seed(0)
    model = LongSkips()
    start, end = segments(4, side=7)
    walks, other = (segment_walks(model, start, end, engine=engine) for engine in ("kinks", "growing batch"))
    assert (walks.engine == KINKS).all()
    assert torch.equal(walks.unit, other.unit) and torch.allclose(walks.position, other.position, rtol=0, atol=1e-9)


def test_groups_with_common_events_are_found_whatever_they_were_joined_with() -> None:
    def group(first: int, last: int) -> Boxes:
        event = torch.arange(first, last)
        return Boxes(event, event, event, torch.ones(len(event), 1, 1, 1).double())

    plane = FeatureMapShape(1, 9, 9)
    apart = Signal(plane, {0: group(0, 3), 1: group(3, 5), 4: group(8, 9)})
    joined = Signal(plane, {0: group(0, 5), 2: group(5, 6)})
    found = {
        origin: sorted((number, len(boxes)) for number, boxes in groups)
        for origin, groups in by_events([apart, joined]).items()
    }
    assert found == {0: [(0, 2), (0, 3), (1, 5)], 2: [(1, 1)], 4: [(0, 1)]}


def test_a_pass_that_went_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (start, end) = convolutional(), segments(3)
    right = segment_walks(model, start, end)
    monkeypatch.setattr(
        Convolution, "__call__", lambda convolution, group, out: Convolution._of_boxes(convolution, group.boxes(4), out)[:0]
    )
    walks = segment_walks(model, start, end)
    assert walks.exact.all() and (walks.engine == GROWING_BATCH).all()
    assert torch.equal(walks.unit, right.unit)


@pytest.mark.parametrize("seed", range(20))
def test_kinks_are_convolved_as_whole_planes(seed: int) -> None:
    random = RandomConvolutional(seed, dims=2)
    layer = next(module for module in random.network.modules() if isinstance(module, nn.Conv2d))
    plane, weight = FeatureMapShape(*random.shape), layer.weight.detach().double()
    whole = nn.functional.conv2d(
        torch.zeros(1, *plane), layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    convolution = Convolution(
        plane, FeatureMapShape(*whole.shape[1:]), weight, layer.stride, layer.padding, layer.dilation, layer.groups
    )  # fmt: skip
    event, (y, x), channel = (
        torch.arange(6),
        (torch.randint(0, side, (6,)) for side in plane[1:]),
        torch.randint(0, plane.channels, (6,)),
    )
    units = Units(event, y, x, channel, torch.randn(6).double())
    boxes = Boxes(event, y - 1, x - 2, torch.randn(6, 3, 4, plane.channels).double(), is_clipped=False)
    for group in (units, boxes):
        rows = group.clipped(plane).rows(plane) if isinstance(group, Boxes) else group.rows(plane)
        expected = nn.functional.conv2d(rows, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        found = convolution(group, torch.empty(convolution.shape(group)).double())
        assert torch.allclose(found.rows(FeatureMapShape(*whole.shape[1:])), expected, rtol=0, atol=1e-12)


def test_a_small_segment_beside_a_large_one_keeps_its_switches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU())
    start, end = (x.double() for x in segments(2))
    large = segment_walks(model, start, end)
    scale = torch.tensor([1.0, 1e-14]).double().view(-1, 1, 1, 1)
    walks = segment_walks(model, scale * start, scale * end)
    assert walks.exact.all() and joined(walks) == joined(large)


def joined(walks: Walks) -> list[tuple[int, int]]:
    return list(zip(walks.segment.tolist(), walks.unit.tolist(), strict=True))


def test_segments_together_are_walked_as_one_by_one() -> None:
    model, (start, end) = convolutional(), segments(5)
    together = segment_walks(model, start, end)
    alone = Walks.concatenate([segment_walks(model, start[i : i + 1], end[i : i + 1]) for i in range(5)])
    assert joined(together) == joined(alone)


def test_a_pooling_before_any_switch_is_passed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU())
    walks = segment_walks(model, *segments(2))
    other = segment_walks(model, *segments(2), engine="growing batch")
    assert (walks.engine == KINKS).all() and joined(walks) == joined(other)


@pytest.mark.parametrize("seed", range(6))
def test_kinks_are_added_wherever_their_boxes_lie(seed: int) -> None:
    plane, generator = FeatureMapShape(2, 6, 5), torch.Generator().manual_seed(seed)

    def boxes(height: int, width: int) -> Boxes:
        event = torch.randperm(9, generator=generator)[:6].sort().values
        y, x = (torch.randint(-2, 5, (6,), generator=generator) * (seed % 3) for _ in range(2))
        return Boxes(event, y, x, torch.randn(6, height, width, 2, generator=generator).double(), is_clipped=False)

    parts = [boxes(3, 2), boxes(2, 4)]
    found = superposed({7: [(each, 0) for each in parts]}, plane, torch.empty(0).double()).groups[7]
    rows = torch.zeros(9, *plane).double()
    for each in parts:
        rows[each.event] += each.clipped(plane).rows(plane)
    assert torch.allclose(found.rows(plane), rows[found.event], rtol=0, atol=1e-15)

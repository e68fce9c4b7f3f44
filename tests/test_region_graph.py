"""The graph of all regions has the numbers that theory and grids give."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import comb

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fold_lightning import (
    RegionGraph,
    activation_codes,
    activation_regions,
    face_counts,
    hamming_distance,
    region_graph,
    region_shapes,
)
from fold_lightning.region_graphs import search
from fuzz_regions import check, random_widths
from helpers.networks import CantorNet, Tent, mlp


def arrangement(d: int, n: int, seed: int = 0) -> nn.Sequential:
    """One hidden layer in general position."""
    model = mlp(d, n, 1, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(model[0].weight)
        nn.init.normal_(model[0].bias)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "n"), [(1, 9), (2, 1), (2, 4), (2, 8), (2, 16), (3, 3), (3, 8), (3, 12), (4, 4), (4, 9), (5, 4), (5, 8), (6, 7)]
)
def test_an_arrangement_has_the_regions_and_faces_that_buck_counts(d: int, n: int) -> None:
    graph = region_graph(arrangement(d, n), torch.randn(1, d, generator=torch.Generator().manual_seed(1)))
    regions = sum(comb(n, i) for i in range(d + 1))
    faces = 2 * sum(i * comb(n, i) for i in range(1, d + 1))
    assert graph.complete and graph.num_regions == regions and len(graph.codes.unique(dim=0)) == regions
    assert int(graph.face_counts.sum()) == faces == 2 * len(graph.edges) and graph.mean_faces <= 2 * d
    low, high = graph.diameter_bounds
    assert low <= n <= high  # opposite regions are n faces apart


def codes_on_grids(model: nn.Module, radii: tuple[float, ...], points: int = 400, middle: float = 0.0) -> Tensor:
    """The different codes on grids of the plane of several sizes."""
    line = torch.linspace(-1, 1, points, dtype=torch.float64) + 1e-4
    grid = torch.cartesian_prod(line, line)
    bits = torch.cat([activation_codes(model, middle + radius * grid).bits for radius in radii])
    numbers = (bits.long() << torch.arange(bits.shape[1])).sum(1).unique()
    return (numbers[:, None] >> torch.arange(bits.shape[1]) & 1).bool()


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(2, 4, 4, 1), (2, 5, 3, 3, 1), (2, 6, 6, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_deep_networks_have_the_regions_that_grids_find(widths: tuple[int, ...], seed: int) -> None:
    model = mlp(*widths, seed=seed)
    graph = region_graph(model, torch.zeros(1, 2) + 0.1)
    grid = codes_on_grids(model, (0.5, 1.0, 2.0, 5.0, 20.0, 100.0, 1000.0))
    assert (graph.find(grid) >= 0).all() and graph.complete and graph.mean_faces <= 4
    assert torch.equal(activation_codes(model, graph.points).bits, graph.codes)  # those too small for the grids are there too
    assert len(grid) > 0.7 * graph.num_regions
    assert torch.equal(face_counts(activation_regions(model, graph.points)), graph.face_counts)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(3, 6, 6, 1), (2, 8, 8, 8, 1), (4, 5, 5, 1)])
def test_faces_join_codes_that_differ_in_their_unit_alone(widths: tuple[int, ...]) -> None:
    graph = region_graph(mlp(*widths), torch.zeros(1, widths[0]) + 0.1)
    a, b = graph.codes[graph.edges].unbind(1)
    assert (hamming_distance(a, b) == 1).all() and 2 * len(graph.edges) == graph.face_counts.sum()
    assert graph.complete and graph.mean_faces <= 2 * widths[0]


@pytest.mark.slow
def test_distances_are_those_of_a_plain_search_and_at_least_hammings() -> None:
    graph = region_graph(mlp(2, 6, 6, 1), torch.zeros(1, 2) + 0.1)
    neighbours: dict[int, list[int]] = {i: [] for i in range(graph.num_regions)}
    for a, b in graph.edges.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    table = []
    for source in neighbours:
        distance, queue = {source: 0}, deque([source])
        while queue:
            here = queue.popleft()
            for there in neighbours[here]:
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
        table.append([distance[i] for i in range(graph.num_regions)])
    expected = torch.tensor(table)
    found = torch.tensor([[graph.distance(a, b) for b in range(graph.num_regions)] for a in range(0, graph.num_regions, 7)])
    assert torch.equal(found, expected[::7])
    assert (expected >= hamming_distance(graph.codes[:, None], graph.codes[None])).all()
    low, high = graph.diameter_bounds
    assert low <= expected.max() <= high <= 2 * low


@pytest.mark.slow
def test_a_limit_stops_the_search_and_says_so() -> None:
    model, start = arrangement(2, 8), torch.zeros(1, 2) + 0.1
    with pytest.warns(UserWarning, match="Stopped at `max_regions=10`, but the network has more regions: raise it"):
        part = region_graph(model, start, max_regions=10)
    whole = region_graph(model, start)
    assert part.num_regions == 10 and not part.complete
    assert torch.equal(part.codes, whole.codes[:10]) and torch.equal(part.face_counts, whole.face_counts[:10])
    assert (part.edges < 10).all() and part.distance(0, 9) >= whole.distance(0, 9)
    exact = region_graph(model, start, max_regions=37)
    assert exact.complete and exact.num_regions == 37


def test_a_search_may_start_on_planes() -> None:
    model = arrangement(2, 6)
    model[0].bias.data[:2] = 0.0
    assert region_graph(model, torch.zeros(1, 2)).num_regions == region_graph(model, torch.ones(1, 2)).num_regions == 22


def test_regions_that_a_limit_leaves_apart_have_no_distance() -> None:
    with pytest.warns(UserWarning, match="Stopped"):
        graph = region_graph(mlp(2, 8, 8, 1), torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), max_regions=2)
    with pytest.raises(ValueError, match="Regions 0 and 1 are not connected by the regions found.*raise `max_regions`"):
        graph.distance(0, 1)
    with (
        pytest.warns(UserWarning, match="The graph is incomplete, with 2 regions"),
        pytest.raises(ValueError, match="The regions found are not all connected.*raise `max_regions`"),
    ):
        _ = graph.diameter_bounds


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU6, lambda: nn.Hardtanh(-0.2, 0.3)])
def test_activations_of_two_thresholds_have_complete_graphs(activation: Callable[[], nn.Module]) -> None:
    for seed in range(2):
        model = mlp(2, 6, 6, 1, seed=seed)
        model[1], model[3] = activation(), activation()
        graph = region_graph(model, torch.zeros(1, 2) + 0.1)
        assert graph.complete and graph.mean_faces <= 4
        shapes = region_shapes(activation_regions(model, graph.points), box=(-2, 2), cut="all")
        assert sum(shape.volume for shape in shapes) == pytest.approx(16)


def test_units_of_one_plane_switch_together() -> None:
    model = arrangement(2, 5)
    for parameter in (model[0].weight, model[0].bias):
        parameter.data[3], parameter.data[4] = parameter.data[0], -2 * parameter.data[1]
    graph = region_graph(model, torch.zeros(1, 2) + 0.1)
    a, b = graph.codes[graph.edges].unbind(1)
    assert graph.complete and graph.num_regions == 7 and sorted(hamming_distance(a, b).unique().tolist()) == [1, 2]
    assert int(graph.face_counts.sum()) == 2 * len(graph.edges) == 2 * (1 * 3 + 2 * 3)


@pytest.mark.slow
def test_networks_without_biases_have_all_their_cones() -> None:
    model = mlp(2, 5, 4, 1, bias=False)
    graph = region_graph(model, torch.tensor([[1.0, 0.3]]))
    angle = torch.linspace(0, 2 * torch.pi, 200_001, dtype=torch.float64)
    around = activation_codes(model, torch.stack([angle.cos(), angle.sin()], 1)).bits.unique(dim=0)
    assert graph.complete and torch.equal(graph.codes[graph.find(around)], around) and graph.num_regions == len(around)


@pytest.mark.slow
def test_networks_known_on_paper() -> None:
    tent = region_graph(Tent(), torch.full((1, 1), -2.0))
    assert tent.num_regions == 4 and tent.complete and tent.distance(0, 3) == 3
    for k in (1, 2):
        graph = region_graph(CantorNet(k), torch.tensor([[0.05, 0.71]]))
        grid = codes_on_grids(CantorNet(k), (2.0,), middle=0.3)
        assert graph.complete and (graph.find(grid) >= 0).all()


def test_inputs_of_any_shape_and_forward(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    graph = region_graph(model, torch.randn(1, 1, 2, 2))
    assert graph.num_regions == 8 and graph.points.shape == (8, 4) and capsys.readouterr().err == ""
    whole = nn.ModuleDict({"net": mlp(2, 4, 1)})
    assert region_graph(whole, torch.randn(1, 2), forward="net").num_regions == 11
    assert list(graph.layers) == ["1"] and graph.find(~graph.codes[:1]).shape == (1,)


def test_impossible_requests_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model, start = arrangement(2, 4), torch.zeros(1, 2) + 0.1
    for limit, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="`max_regions` must be an integer of at least 1, got"):
            region_graph(model, start, max_regions=limit)
    pooled = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2), nn.ReLU())
    with pytest.raises(ValueError, match="Not affine there: max_pool2d"):
        region_graph(pooled, torch.randn(1, 1, 2, 2))
    curved = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(ValueError, match="Not affine there: gelu"):
        region_graph(curved, start)
    with pytest.raises(ValueError, match="The region of input 0 of `start` has no interior"):
        flat = mlp(2, 2, 1, bias=False)
        flat[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        region_graph(flat, torch.zeros(1, 2))
    graph = region_graph(model, start)
    with pytest.raises(IndexError, match="Regions are numbered from 0 to 10, got 11"):
        graph.distance(0, 11)
    monkeypatch.setattr(search, "LAST_STEP", 1.0)
    monkeypatch.setattr(search, "_reach", lambda regions, way: torch.zeros(len(way)).double())
    monkeypatch.setattr(search, "_deepest", lambda normals, slacks: None)
    with pytest.warns(UserWarning, match="No region was found beyond .* faces.*: regions may be missing"):
        lost = region_graph(model, start)
    assert not lost.complete and isinstance(lost, RegionGraph)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "seed"), [((3, 8, 8, 8, 1), 0), ((3, 8, 8, 8, 1), 7), ((2, 8, 8, 8, 8, 8, 1), 3), ((3, 6, 6, 6, 6, 1), 7)]
)
def test_unbounded_regions_behind_faces_that_look_thin_are_found(widths: tuple[int, ...], seed: int) -> None:
    """Linear programs on flipped codes find no region that the graph lacks."""
    assert check(widths, seed, 15, np.random.default_rng(0)) == ""


@pytest.mark.slow
def test_regions_far_from_the_start_are_not_measured_from_a_corner() -> None:
    """Planes 1e10 times as far as those of a corner are too small for linear programs."""
    assert check((4, 5, 6, 2, 6, 4, 4, 1), 628252, 40, np.random.default_rng(0)) == ""


@pytest.mark.slow
def test_points_that_rounding_puts_on_planes_are_moved_inside() -> None:
    """A strip 300,000 away is so thin that the point found in it lies on a plane, from which no dual points come."""
    assert check((2, 4, 4, 7, 7, 3, 5, 1), 520, 15, np.random.default_rng(0)) == ""


@pytest.mark.slow
def test_random_networks_have_no_region_that_linear_programs_find_beside_those_of_the_graph() -> None:
    random = np.random.default_rng(5)
    assert [check(random_widths(random), int(random.integers(1000)), 10, random) for _ in range(4)] == [""] * 4

"""Maps of regions: against grids of points, linear programs and the graph of regions, and where lines meet, coincide or vanish."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import SliceMap, activation_codes, region_graph, slice_map
from fold_lightning.slice_maps import bends, maps
from helpers.networks import CantorNet, mlp

pytestmark = pytest.mark.filterwarnings("ignore:.*nonlinear in each element")


class Residual(nn.Module):
    """Two hidden layers on 6 features with a skip, functional activations and one written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        z = h + self.second(h)
        z.relu_()
        return self.last(z + h)


class Clamped(nn.Module):
    """A clamp that bends without a bit, and the smaller of two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.relu(self.first(x)).clamp(0.2, 0.9))
        return self.last(F.relu(torch.minimum(*h.chunk(2, dim=1))))


class Sorted(nn.Module):
    """The two largest of five units, and then a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.second(self.first(x).topk(2, dim=1).values))


def convolutional(pool: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), pool),
        *(nn.Conv2d(3, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 3)),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ReLU": (lambda: mlp(6, 10, 10, 10, 3), (6,)),
    "leaky, absolute": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 3)),
        (6,),
    ),
    "two thresholds": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(-0.3, 0.2), nn.Linear(8, 3)),
        (6,),
    ),
    "residual": (Residual, (6,)),
    "average pooling": (lambda: convolutional(nn.AvgPool2d(2)), (1, 6, 6)),
    "max pooling": (lambda: convolutional(nn.MaxPool2d(2)), (1, 6, 6)),
    "max pooling that overlaps": (lambda: convolutional(nn.MaxPool2d(3, 2, padding=1)), (1, 6, 6)),
    "adaptive max pooling": (lambda: convolutional(nn.AdaptiveMaxPool2d(3)), (1, 6, 6)),
    "clamp and minimum": (Clamped, (6,)),
    "topk": (Sorted, (6,)),
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network, and three inputs of it."""
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = build()
    inputs = torch.randn(3, *shape)
    if name not in ("ReLU",):
        for _ in range(3):  # statistics of batch norm
            model(torch.randn(20, *shape))
    return model.double().eval(), inputs.double()


def contains(polygon: Tensor, points: Tensor, margin: float) -> Tensor:
    """Which points (P, 2) lie inside a convex polygon, farther than a margin from its sides."""
    along = polygon.roll(-1, 0) - polygon
    normals = torch.stack([-along[:, 1], along[:, 0]], dim=1) / along.norm(dim=1, keepdim=True)
    return ((points[:, None] - polygon) * normals).sum(2).gt(margin).all(1)


def area_of(found: SliceMap) -> float:
    x0, x1, y0, y1 = found.window
    return (x1 - x0) * (y1 - y0)


def check(found: SliceMap, model: nn.Module) -> None:
    """What holds of every map."""
    areas, centers = found.areas, found.centers
    assert (areas > 0).all() and abs(float(areas.sum()) / area_of(found) - 1) < 1e-9
    assert torch.equal(activation_codes(model, found.inputs(centers)).bits, found.codes)
    for polygon, center in zip(found.polygons, centers, strict=True):
        turn = polygon.roll(-1, 0) - polygon
        following = turn.roll(-1, 0)
        sine = (turn[:, 0] * following[:, 1] - turn[:, 1] * following[:, 0]) / (turn.norm(dim=1) * following.norm(dim=1))
        assert sine.min() > -1e-6, "a polygon is not convex"
        assert contains(polygon, center[None], 0.0).all()
    one, other = found.codes[found.edges].unbind(1)
    differs = one ^ other
    switches = found.edge_units >= 0
    assert torch.equal(differs.any(1), switches)
    assert differs[switches, found.edge_units[switches]].all()
    assert (found.edges[:, 0] < found.edges[:, 1]).all()
    assert len(found.edges.unique(dim=0)) == len(found.edges), "two regions share one edge at most"
    own = [set(part.tolist()) for part in found.corners.split(found.starts.diff().tolist())]
    for (a, b), ends in zip(found.edges.tolist(), found.edge_ends.tolist(), strict=True):
        assert set(ends) <= own[a] and set(ends) <= own[b]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_grid_of_points_has_the_codes_of_the_map(name: str, seed: int) -> None:
    model, inputs = made(name, seed)
    found = slice_map(model, inputs, max_regions=600)
    check(found, model)
    x0, x1, y0, y1 = found.window
    xs, ys = torch.linspace(x0, x1, 53).double()[1:-1], torch.linspace(y0, y1, 47).double()[1:-1]
    points = torch.cartesian_prod(xs, ys)
    codes = activation_codes(model, found.inputs(points)).bits
    where = torch.full((len(points),), -1)
    for region, polygon in enumerate(found.polygons):
        where[contains(polygon, points, 1e-9)] = region
    assert (where >= 0).double().mean() > 0.99
    assert torch.equal(found.codes[where[where >= 0]], codes[where >= 0])
    assert len(codes.unique(dim=0)) <= len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_affine_on_each_polygon_and_bends_at_each_edge(name: str) -> None:
    model, inputs = made(name, 7)
    found = slice_map(model, inputs, max_regions=600)
    part = model[:-2] if "pooling" in name else model  # behind its last activation, a Tanh, the network curves

    def values(points: Tensor) -> Tensor:
        with torch.no_grad():
            return part(found.inputs(points))

    generator = torch.Generator().manual_seed(0)
    for polygon in found.polygons:
        weights = torch.rand(4, len(polygon), generator=generator, dtype=torch.float64)
        weights /= weights.sum(1, keepdim=True)
        corners = values(polygon)
        assert torch.allclose(values(weights @ polygon), weights @ corners, rtol=1e-9, atol=1e-9)
    ends = found.vertices[found.edge_ends]
    middle, along = ends.mean(1), ends[:, 1] - ends[:, 0]
    across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    neighbours = found.centers[found.edges]
    assert ((neighbours - middle[:, None]) * across[:, None]).sum(2).prod(1).lt(0).all(), "an edge lies between its regions"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "bias"), [((2, 8, 3), True), ((2, 8, 8, 3), True), ((2, 6, 6, 6, 2), True), ((2, 16, 16, 2), True)]
)
def test_all_regions_of_a_network_of_two_features_are_those_of_the_graph(widths: tuple[int, ...], bias: bool) -> None:
    for seed in range(3):
        model = mlp(*widths, seed=seed, bias=bias)
        graph = region_graph(model, torch.full((1, 2), 0.1), progress=False)
        assert graph.complete
        found = slice_map(model, torch.zeros(1, 2), window=4e6)
        check(found, model)
        ours, theirs = ({row.tobytes() for row in codes.numpy()} for codes in (found.codes, graph.codes))
        assert ours == theirs and len(found) == graph.num_regions
        number = graph.find(found.codes)
        pairs = number[found.edges].sort(1).values.unique(dim=0)
        assert {tuple(pair) for pair in pairs.tolist()} == {tuple(pair) for pair in graph.edges.tolist()}


@pytest.mark.parametrize("inputs", [[[0.0, 0], [1, 1], [2, 2]], [[0.5, 0.5]] * 3])
def test_three_inputs_of_two_features_may_lie_on_a_line(inputs: list[list[float]]) -> None:
    model = mlp(2, 8, 8, 2, seed=3)
    found = slice_map(model, torch.tensor(inputs))
    check(found, model)
    assert len(found) > 1 and torch.equal(found.marks, torch.tensor(inputs).double())


@pytest.mark.slow
def test_a_window_has_the_regions_of_the_graph_that_reach_into_it() -> None:
    model = mlp(2, 12, 12, 2, seed=5)
    graph = region_graph(model, torch.full((1, 2), 0.1), progress=False)
    window = (-0.7, 0.4, -0.2, 1.1)
    found = slice_map(model, torch.zeros(1, 2), window=window)
    assert (graph.find(found.codes) >= 0).all() and len(found) < graph.num_regions
    low, high = torch.tensor(window).double().view(2, 2).unbind(1)
    inside = ((graph.points > low) & (graph.points < high)).all(1)
    ours = {row.tobytes() for row in found.codes.numpy()}
    assert inside.any() and {row.tobytes() for row in graph.codes[inside].numpy()} <= ours


def widest(model: nn.Sequential, found: SliceMap, code: np.ndarray) -> float:
    """Return the radius of the largest circle in the window in which a network has a code, by linear programming: 0 if none."""
    matrix, offset = found.basis.flatten(1).T.numpy(), found.origin.flatten().numpy()
    rows, right, first = [], [], 0
    for layer in model:
        if not isinstance(layer, nn.Linear):
            continue
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        matrix, offset = weight @ matrix, weight @ offset + bias
        bits = code[first : first + len(bias)]
        if len(bits) == 0:
            break
        sign = np.where(bits, 1.0, -1.0)[:, None]
        rows.append(-sign * matrix)
        right.append(sign[:, 0] * offset)
        matrix, offset, first = bits[:, None] * matrix, bits * offset, first + len(bias)
    normals, limits = np.concatenate(rows), np.concatenate(right)
    constant = (normals == 0).all(1)
    if (limits[constant] < 0).any():
        return 0.0
    x0, x1, y0, y1 = found.window
    normals = np.concatenate([normals[~constant], np.eye(2), -np.eye(2)])
    limits = np.concatenate([limits[~constant], [x1, y1, -x0, -y0]])
    table = np.column_stack([normals, np.linalg.norm(normals, axis=1)])
    result = linprog([0, 0, -1], table, limits, bounds=[(None, None), (None, None), (0, None)], method="highs")
    return float(result.x[2]) if result.status == 0 else 0.0


@pytest.mark.slow
def test_linear_programs_find_the_same_regions() -> None:
    model = mlp(5, 6, 6, 2, seed=1)
    found = slice_map(model, torch.randn(3, 5, generator=torch.Generator().manual_seed(3)))
    codes = found.codes.numpy()
    known = {code.tobytes() for code in codes}
    assert len(known) == len(found) > 20
    for code, polygon, center in zip(codes, found.polygons, found.centers, strict=True):
        radius = widest(model, found, code)
        assert radius > 0
        along = polygon.roll(-1, 0) - polygon
        normals = torch.stack([-along[:, 1], along[:, 0]], dim=1) / along.norm(dim=1, keepdim=True)
        assert ((center - polygon) * normals).sum(1).min() <= radius * (1 + 1e-9)
    for code in codes:  # nothing lies behind an edge that the map does not know
        for unit in range(len(code)):
            other = code.copy()
            other[unit] ^= True
            assert (widest(model, found, other) > 1e-9) == (other.tobytes() in known)


def layer(rows: list[list[float]], *more: nn.Module) -> nn.Sequential:
    """Lines normal . x + offset in a plane, of rows (normal, offset)."""
    table = torch.tensor(rows, dtype=torch.float64)
    first = nn.Linear(2, len(rows)).double()
    first.weight.data, first.bias.data = table[:, :2], table[:, 2]
    return nn.Sequential(first, nn.ReLU(), *more)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.7)])
def test_lines_through_one_point_make_a_star(shift: tuple[float, float]) -> None:
    turns = [math.pi * i / 7 + 0.1 for i in range(7)]
    rows = [[math.cos(t), math.sin(t), -math.cos(t) * shift[0] - math.sin(t) * shift[1]] for t in turns]
    model = layer(rows)
    found = slice_map(model, torch.zeros(1, 2), window=1.5)
    check(found, model)
    assert len(found) == 14 and len(found.edges) == 14
    assert len(found.vertices) == 4 + 1 + 14


def test_twin_and_negated_units_switch_together() -> None:
    model = layer([[1.0, 0.2, 0.1], [1.0, 0.2, 0.1], [-2.0, -0.4, -0.2], [0.0, 1.0, 0.0]])
    found = slice_map(model, torch.zeros(1, 2), window=1.0)
    check(found, model)
    differs = found.codes[found.edges[:, 0]] ^ found.codes[found.edges[:, 1]]
    assert len(found) == 4 and sorted(differs.sum(1).tolist()) == [1, 1, 3, 3]
    assert sorted(found.edge_units.tolist()) == [0, 0, 3, 3]


def test_lines_on_the_frame_and_through_its_corners_cut_nothing_off() -> None:
    model = layer([[1.0, 0.0, -1.0], [1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
    found = slice_map(model, torch.zeros(1, 2), window=1.0)
    check(found, model)
    assert len(found) == 2 and found.edge_units.tolist() == [4]


def test_dead_layers_and_constant_units_bend_nothing() -> None:
    dead = layer([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], nn.Linear(2, 3).double(), nn.ReLU(), nn.Linear(3, 2).double(), nn.ReLU())
    dead[2].weight.data.zero_()
    dead[2].bias.data = torch.tensor([-1.0, 0.0, 2.0]).double()
    found = slice_map(dead, torch.zeros(1, 2), window=1.0)
    check(found, dead)
    assert len(found) == 4
    flat = layer([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert len(slice_map(flat, torch.zeros(1, 2))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_networks_without_biases_are_cut_into_cones(seed: int) -> None:
    model = mlp(2, 9, 9, 9, 2, seed=seed, bias=False)
    found = slice_map(model, torch.zeros(1, 2), window=3.0)
    check(found, model)
    assert len(found) == len(found.edges)  # all edges lead to the point in the middle
    smaller = slice_map(model, torch.zeros(1, 2), window=1e-3)
    assert {row.tobytes() for row in smaller.codes.numpy()} == {row.tobytes() for row in found.codes.numpy()}
    assert len(slice_map(model, torch.zeros(1, 2))) == len(found)


def test_identically_zero_units_give_no_lines() -> None:
    class Cancels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(torch.cat([x + 1, x / 3, x], dim=1))
            return torch.relu(h[:, :2] - 1 - 3 * h[:, 2:4] + 0 * h[:, 4:])

    model = Cancels()  # relu(x + 1) - 1 - 3 relu(x / 3) is 0 for x > 0
    found = slice_map(model, torch.zeros(1, 2, dtype=torch.float64), window=3.0)
    check(found, model)
    assert len(found) == 9


@pytest.mark.slow
def test_nearly_equal_lines_leave_slivers_and_no_gaps() -> None:
    for gap in (1e-3, 1e-6, 1e-9, 1e-11, 1e-13, 0.0):
        model = layer([[1.0, 0.3, 0.1], [1.0, 0.3, 0.1 + gap], [1.0, 0.3 + gap, 0.1], [0.4, 1.0, 0.0]])
        found = slice_map(model, torch.zeros(1, 2), window=1.0)
        assert abs(float(found.areas.sum()) / 4 - 1) < 1e-9 and (found.areas > 0).all()
        codes = activation_codes(model, found.inputs(found.centers)).bits
        assert torch.equal(codes, found.codes)
        assert (found.edge_units >= 0).all()


@pytest.mark.slow
def test_a_deep_zoom_keeps_its_digits() -> None:
    model = mlp(2, 16, 16, 2, seed=3)
    whole = slice_map(model, torch.zeros(1, 2))
    corner = whole.vertices[whole.edge_ends[0, 1]]
    for scale in (1e-3, 1e-6, 1e-9):
        x, y = corner.tolist()
        found = slice_map(model, torch.zeros(1, 2), window=(x - scale, x + scale, y - 2 * scale, y + scale))
        assert 2 <= len(found) < 20 and abs(float(found.areas.sum()) / area_of(found) - 1) < 1e-9
        assert torch.equal(activation_codes(model, found.inputs(found.centers)).bits, found.codes)


@pytest.mark.slow
def test_cantor_net_folds_the_plane() -> None:
    model = CantorNet(4)
    found = slice_map(model, torch.full((1, 2), 0.5), window=0.5)
    check(found, model)
    graph = region_graph(model, torch.tensor([[0.41, 0.77]]), progress=False)
    assert (graph.find(found.codes) >= 0).all()


def test_max_pooling_cuts_where_its_winner_changes() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten(), nn.ReLU())
    found = slice_map(model, torch.zeros(1, 2), window=1.0)  # max(x, y): two pieces above 0, two below
    check(found, model)
    assert len(found) == 4 and sorted(found.edge_units.tolist()) == [-1, -1, 0, 0]
    assert sorted(found.areas.tolist()) == pytest.approx([0.5, 0.5, 1.5, 1.5])
    corners = sorted(len(polygon) for polygon in found.polygons)
    assert corners == [3, 3, 4, 4]


@pytest.mark.slow
def test_pieces_of_max_pooling_are_told_apart_by_code_and_winner() -> None:
    model, inputs = made("max pooling", 4)
    found = slice_map(model, inputs)
    bends_only = found.edge_units < 0
    assert bends_only.any() and len(found.codes.unique(dim=0)) < len(found)

    def winners(points: Tensor) -> Tensor:
        with torch.no_grad():
            values = model[:3](found.inputs(points))
            largest, index = F.max_pool2d(values, 2, return_indices=True)
            return torch.where(largest > 0, index, -1).flatten(1)  # of dead windows none wins

    keys = torch.cat([found.codes.long(), winners(found.centers)], dim=1)
    assert (keys[found.edges[bends_only, 0]] != keys[found.edges[bends_only, 1]]).any(1).all()
    assert len(keys.unique(dim=0)) == len(found)


@pytest.mark.parametrize("name", ["ReLU", "two thresholds", "residual", "clamp and minimum"])
def test_borders_between_classes_are_exact(name: str) -> None:
    model, inputs = made(name, 2)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= model(inputs).mean(0)  # so that no class wins everywhere
    found = slice_map(model, inputs, max_regions=600)
    pieces = found.by_class()
    with torch.no_grad():
        centers = torch.stack([polygon.mean(0) for polygon in pieces.polygons])
        scores = model(found.inputs(centers))
        assert torch.equal(scores.argmax(1), pieces.predictions)
        assert torch.allclose(scores.softmax(1).amax(1), pieces.confidences)
        assert torch.equal(model(found.inputs(found.centers)).argmax(1), found.predictions)
        first, second = model(found.inputs(pieces.borders.mean(1))).topk(2, dim=1).values.unbind(1)
    assert len(pieces.borders) and torch.allclose(first, second, atol=1e-9)
    for polygon, region in zip(pieces.polygons, pieces.regions.tolist(), strict=True):
        assert contains(found.polygons[region], polygon.mean(0)[None], 0.0).all()
    total = sum(float(area(polygon)) for polygon in pieces.polygons)
    assert abs(total / area_of(found) - 1) < 1e-9
    assert len(pieces.polygons) < len(found) + len(pieces.borders) + 1


def area(polygon: Tensor) -> Tensor:
    a, b = polygon - polygon[0], polygon.roll(-1, 0) - polygon[0]
    return 0.5 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()


def test_a_class_that_wins_at_no_corner_is_found() -> None:
    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            planes = torch.stack([x[:, 0], -x[:, 0], x[:, 1], -x[:, 1], torch.full_like(x[:, 0], 0.4)], dim=1)
            return planes + 0 * torch.relu(x[:, :1] + 9)

    pieces = slice_map(Bowl(), torch.zeros(1, 2, dtype=torch.float64), window=1.0).by_class()
    areas = dict.fromkeys(range(5), 0.0)
    for polygon, label in zip(pieces.polygons, pieces.predictions.tolist(), strict=True):
        areas[label] += float(area(polygon))
    assert areas == pytest.approx({0: 0.84, 1: 0.84, 2: 0.84, 3: 0.84, 4: 0.64})


@pytest.mark.parametrize("last", [nn.Identity, lambda: nn.LogSoftmax(1), lambda: nn.Softmax(1)])
def test_probabilities_have_the_borders_of_their_logits(last: Callable[[], nn.Module]) -> None:
    logits = mlp(4, 8, 8, 3, seed=2)
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected, found = (slice_map(model, inputs) for model in (logits, nn.Sequential(logits, last())))
    assert expected.scores is not None and found.scores is not None
    assert torch.allclose(expected.scores, found.scores)


@pytest.mark.parametrize(
    "last", [lambda: nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), lambda: nn.Linear(3, 1), lambda: nn.Flatten(0)]
)
def test_without_logits_there_are_no_classes(last: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(mlp(4, 8, 3), last()).double()
    found = slice_map(model, torch.randn(3, 4))
    assert found.scores is None
    for ask in (found.by_class, lambda: found.predictions):
        with pytest.raises(ValueError, match="no scores of classes: the model's output is not a matrix"):
            ask()


def test_three_inputs_span_the_window_where_it_is_legible_and_one_is_zoomed_on_where_not() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 6, generator=generator)
    found = slice_map(mlp(6, 8, 8, 3), inputs)
    x0, x1, y0, y1 = found.window
    marks = found.marks
    span = (marks.amax(0) - marks.amin(0)).max()
    assert x1 - x0 == pytest.approx(float(1.5 * span)) and y1 - y0 == pytest.approx(x1 - x0)
    assert torch.allclose(found.inputs(marks), inputs.double())
    wide = mlp(6, 128, 128, 3)
    zoomed = slice_map(wide, inputs, max_regions=400)
    assert 50 <= len(zoomed) <= 400
    x0, x1, y0, y1 = zoomed.window
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx(tuple(zoomed.marks[0].tolist()))
    with pytest.raises(ValueError, match=r"holds more than 400 regions: take a smaller one, raise `max_regions=`, or leave"):
        slice_map(wide, inputs, max_regions=400, window=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("most", [30, 300, 3000])
def test_a_zoomed_window_holds_a_share_of_the_regions_that_are_allowed(most: int) -> None:
    for seed, width in itertools.product(range(3), (48, 200)):
        torch.manual_seed(seed)
        found = slice_map(mlp(10, width, width, 3, seed=seed), torch.randn(1, 10), max_regions=most)
        assert most / 8 <= len(found) <= most


@pytest.mark.slow
def test_a_small_network_is_seen_whole() -> None:
    for seed in range(5):
        assert 20 <= len(slice_map(mlp(2, 6, 2, seed=seed), torch.zeros(1, 2))) <= 22  # 6 lines; some cross far away
    linear = layer([[1.0, 0.0, -5.0]])
    assert len(slice_map(linear, torch.zeros(1, 2))) == 2


def test_two_features_are_the_coordinates_of_the_plane() -> None:
    model = mlp(2, 8, 2)
    found = slice_map(model, torch.tensor([[0.25, -0.5]]), window=1.0)
    assert found.window == (-0.75, 1.25, -1.5, 0.5) and found.marks.tolist() == [[0.25, -0.5]]
    points = torch.rand(3, 2).double()
    assert torch.equal(found.inputs(points), points)


@pytest.mark.slow
def test_directions_are_made_orthonormal() -> None:
    model, x = mlp(4, 8, 2), torch.randn(1, 4)
    directions = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, 0.0, 2.0, 0.0]])
    found = slice_map(model, x, directions=directions)
    assert torch.equal(found.basis, torch.eye(4).double()[[0, 2]])
    assert torch.equal(found.inputs(torch.zeros(1, 2)), x.double())
    same, other = (slice_map(model, x, seed=seed).basis for seed in (0, 1))
    assert torch.equal(same, slice_map(model, x).basis) and not torch.equal(same, other)


@pytest.mark.slow
def test_points_are_found_in_their_regions() -> None:
    model, inputs = made("max pooling", 3)
    found = slice_map(model, inputs)
    assert torch.equal(found.find(found.centers), torch.arange(len(found)))
    x0, x1, y0, y1 = found.window
    outside = torch.tensor([[x0 - 1, y0], [x1, y1 + 0.1], [x1 + 1e-6, y0]])
    assert found.find(outside).tolist() == [-1, -1, -1]
    points = torch.rand(500, 2, dtype=torch.float64) * torch.tensor([x1 - x0, y1 - y0]) + torch.tensor([x0, y0])
    assert torch.equal(found.codes[found.find(points)], activation_codes(model, found.inputs(points)).bits)


def test_a_forward_of_ones_own_is_mapped() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 8, 3)

        def encode(self, x: Tensor) -> Tensor:
            return self.net(x)

    model, inputs = Encoder(), torch.randn(3, 4)
    expected = slice_map(model.net, inputs)
    for forward in ("encode", "net", lambda model, x: model.net(x)):
        assert torch.equal(slice_map(model, inputs, forward=forward).codes, expected.codes)


def test_a_map_is_saved_and_read_again(tmp_path: Path) -> None:
    found = slice_map(mlp(2, 8, 2), torch.zeros(1, 2), window=(-1.0, 2.0, -1.0, 1.5))
    torch.save(found, tmp_path / "map.pt")
    again = torch.load(tmp_path / "map.pt", weights_only=True)
    assert torch.equal(again.codes, found.codes) and again.layers == found.layers and again.window == found.window
    assert (
        repr(again)
        == repr(found)
        == f"SliceMap({len(found)} regions, {len(found.edges)} edges, 8 units, window=(-1, 2, -1, 1.5))"
    )


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    slice_map(model, torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_layers_larger_than_memory_are_mapped_in_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = made("max pooling", 1)
    expected = slice_map(model, inputs, max_regions=100)
    monkeypatch.setattr(bends, "HELD_BYTES", 0)
    monkeypatch.setattr(bends, "CODES_MAX_BYTES", 2**18)
    found = slice_map(model, inputs, max_regions=100)
    assert torch.equal(found.codes, expected.codes) and torch.allclose(found.vertices, expected.vertices, atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "arguments", "error", "match"),
    [
        (torch.randn(2, 4), {}, ValueError, r"must be three inputs \(3, ...\), or one input \(1, ...\), .*got 2"),
        (torch.arange(12.0).view(3, 4), {}, ValueError, "must define a plane, but lie on one line"),
        (torch.ones(3, 4), {}, ValueError, "must define a plane, but lie on one line"),
        (torch.tensor([[0.1] * 4, [0.3] * 4, [0.7] * 4]) * 3, {}, ValueError, "must define a plane, but lie on one line"),
        (torch.randn(3, 4), {"directions": torch.eye(4)[:2]}, ValueError, "`directions` go with one input, got three inputs"),
        (
            torch.randn(1, 4),
            {"directions": torch.eye(4)},
            ValueError,
            r"two directions \(2, 4\) in the inputs' shape, got \(4, 4\)",
        ),
        (torch.randn(1, 4), {"directions": torch.ones(2, 4)}, ValueError, "must be finite and linearly independent"),
        (torch.randn(1, 4), {"directions": torch.zeros(2, 4)}, ValueError, "must be finite and linearly independent"),
        (torch.randn(1, 4), {"directions": 3}, ValueError, "in the inputs' shape, got int"),
        (torch.randn(1, 4), {"window": -1.0}, ValueError, "`window` must be a finite half-width above 0, got -1.0"),
        (torch.randn(1, 4), {"window": 1e10}, ValueError, "must reach at most .* got 1e.10: .*float64 does not resolve"),
        (torch.randn(1, 4), {"window": (0, 1)}, ValueError, r"`window` must be a half-width around .*, or finite bounds"),
        (torch.randn(1, 4), {"window": (0, 1, 1, 1)}, ValueError, "with x0 < x1 and y0 < y1"),
        (torch.randn(1, 4), {"max_regions": 0}, ValueError, "`max_regions` must be an integer of at least 1, got 0"),
        (torch.randn(1, 4), {"max_regions": True}, TypeError, "`max_regions` must be an integer"),
        (torch.full((1, 4), torch.nan), {}, ValueError, "`inputs` must be finite"),
        ([1.0], {}, TypeError, "`inputs` must be a tensor"),
    ],
)
def test_what_makes_no_map_is_refused(inputs: Any, arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        slice_map(mlp(4, 8, 2), inputs, **arguments)


def test_networks_that_make_no_polygons_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Regions are polygons only in piecewise linear networks\. Not known to be piecewise linear: gelu"
    ):
        slice_map(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.ReLU()), torch.randn(1, 4))
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        slice_map(mlp(1, 4, 2), torch.randn(1, 1))


@pytest.mark.slow
def test_more_lines_through_the_input_than_regions_are_refused() -> None:
    turns = torch.linspace(0.1, 3, 60)
    model = layer([[math.cos(t), math.sin(t), 0.0] for t in turns.tolist()])
    with pytest.raises(ValueError, match="holds more than 50 regions however small it is, because many lines meet there"):
        slice_map(model, torch.zeros(1, 2), max_regions=50)
    assert len(slice_map(model, torch.zeros(1, 2))) == 120


def test_too_much_memory_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp(4, 32, 32, 2)
    monkeypatch.setattr(bends, "HEIGHT_BYTES", 2**12)
    with pytest.raises(MemoryError, match=r"The units that bend in this window take .* GiB at its vertices"):
        slice_map(model, torch.randn(1, 4), window=5.0)
    monkeypatch.undo()
    monkeypatch.setattr(maps, "HEIGHT_BYTES", 2**12)
    with pytest.raises(MemoryError, match=r"The codes of .* regions of 64 units take .* GiB"):
        slice_map(model, torch.randn(1, 4), window=5.0)


def test_it_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slice_map(mlp(4, 8, 8, 2), torch.randn(1, 4))

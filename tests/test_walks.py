"""Exact walks, against plain Python and against answers known on paper."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import Walks, activation_codes, segment_walks, space_folding, walk_length, walk_range
from fold_lightning.walks import estimate, scheduler
from fold_lightning.walks.walks import ENGINES
from helpers.networks import CantorNet, Tent, mlp
from helpers.reference import Abs, Residual, layers_of, range_and_length, rational_codes, walk_by_regions


def steps_of(walks: Walks, i: int) -> list[tuple[float, tuple[int, ...]]]:
    steps: list[tuple[float, tuple[int, ...]]] = []
    events = walks.segment == i
    for position, unit in zip(walks.position[events].tolist(), walks.unit[events].tolist(), strict=True):
        if steps and steps[-1][0] == position:
            steps[-1] = (position, (*steps[-1][1], unit))
        else:
            steps.append((position, (unit,)))
    return steps


def assert_equals_reference(model: nn.Sequential, start: Tensor, end: Tensor, walks: Walks) -> None:
    layers, _ = layers_of(copy.deepcopy(model).double().eval(), tuple(start.shape[1:]))
    reached, walked = walk_range(walks), walk_length(walks)
    assert_calls_itself_exact(model, walks)
    for i in range(len(start)):
        expected, bits = walk_by_regions(layers, start[i].double().flatten().numpy(), end[i].double().flatten().numpy())
        found = steps_of(walks, i)
        assert bits == walks.num_units
        assert [units for _, units in found] == [units for _, units in expected]
        assert all(math.isclose(p, q, abs_tol=1e-8) for (p, _), (q, _) in zip(found, expected, strict=True))
        assert (reached[i], walked[i]) == range_and_length(expected)


def assert_calls_itself_exact(model: nn.Module, walks: Walks) -> None:
    """Refinement looks once into an interval, where max pooling may bend twice: there it finds all, but does not swear to it."""
    pools = any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    assert walks.exact.all() if not pools or scheduler.GrowingBatch is not _fails else not walks.exact.any()


@pytest.fixture(params=["one pass", "refinement"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs on kinks or the growing batch, and on the plain passes that stand in where these fail."""
    if request.param == "refinement":
        monkeypatch.setattr(scheduler, "KinksPass", _fails)
        monkeypatch.setattr(scheduler, "GrowingBatch", _fails)
    return str(request.param)


def _fails(*_: object) -> None:
    raise RuntimeError("a model that no growing batch survives")


@pytest.mark.slow
@pytest.mark.parametrize("depth", range(1, 9))
def test_mlps_of_one_to_eight_layers_switch_as_region_by_region(depth: int, engine: str) -> None:
    model = mlp(5, *[14] * depth, 2, seed=depth)
    start, end = 3 * torch.randn(40, 5), 3 * torch.randn(40, 5)
    assert_equals_reference(model, start, end, segment_walks(model, start, end))


def trained(model: nn.Sequential, shape: tuple[int, ...]) -> nn.Sequential:
    inputs = torch.randn(256, *shape)
    targets = (inputs.flatten(1)[:, :3].sin().sum(1) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_a_trained_network_switches_as_region_by_region(engine: str) -> None:
    model = trained(mlp(6, 24, 24, 24, 2).float(), (6,))
    start, end = 2 * torch.randn(60, 6), 2 * torch.randn(60, 6)
    assert_equals_reference(model, start, end, segment_walks(model, start, end))


CONVOLUTIONAL = {
    "max pooling": lambda: nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)),
    ),
    "max pooling of signed values, overlapping nothing, threefold": lambda: nn.Sequential(
        *(nn.Conv2d(1, 2, 2), nn.MaxPool2d(3), nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 6), nn.ReLU()),
        nn.Linear(6, 2),
    ),
    "batch norm, residual, every activation": lambda: nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.LeakyReLU(0.1)),
        Residual(nn.Conv2d(3, 3, 3, padding=1), nn.PReLU(), nn.Conv2d(3, 3, 3, padding=1)),
        *(nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(12, 8), nn.ReLU6()),
        *(nn.Linear(8, 8), nn.Hardtanh(-0.5, 0.7), nn.Linear(8, 8), Abs(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.filterwarnings("ignore:.*walks are not exact")
def test_convolutional_networks_switch_as_region_by_region(name: str, is_trained: bool, engine: str) -> None:
    model = CONVOLUTIONAL[name]()
    model = trained(model, (1, 8, 8)) if is_trained else model
    start, end = 2 * torch.randn(6, 1, 8, 8), 2 * torch.randn(6, 1, 8, 8)
    assert_equals_reference(model, start, end, segment_walks(model, start, end))


@pytest.mark.parametrize("k", range(1, 9))
def test_cantornet_has_its_closed_forms_in_both_bit_counts(k: int, engine: str) -> None:
    model = CantorNet(k)
    walks = segment_walks(model, torch.tensor([[0.0, 0.75]]), torch.tensor([[1.0, 0.75]]))
    assert walks.num_units == 5 * k + 1
    assert (int(walks.num_regions()), int(walk_range(walks)), int(walk_length(walks))) == (
        3 * 2**k - 1,
        2 * k + 1,
        5 * 2**k - 4,
    )
    inner = walks.select(model.inner_layers)
    assert (int(inner.num_regions()), int(walk_range(inner)), int(walk_length(inner))) == (
        2 ** (k + 1) - 1,
        2 * k,
        2 * (2**k - 1),
    )
    assert walks.exact.all()


@pytest.mark.parametrize(("k", "chi"), [(1, 0.5), (2, 0.6875), (3, 0.75), (4, 0.8125), (5, 0.825)])
def test_cantornet_at_eleven_points_is_known_too(k: int, chi: float) -> None:
    walks = segment_walks(
        CantorNet(k), torch.tensor([[0.0, 0.75]]), torch.tensor([[1.0, 0.75]]), method="uniform", num_points=11
    )
    assert space_folding(walks).item() == pytest.approx(chi, abs=1e-12)
    assert not walks.exact.any()
    assert walks.resolution.item() == pytest.approx(0.1)


def test_the_tent_folds_by_a_quarter(engine: str) -> None:
    walks = segment_walks(Tent(), torch.tensor([[-2.0]]), torch.tensor([[2.0]]))
    assert (int(walk_range(walks)), int(walk_length(walks)), float(space_folding(walks))) == (3, 4, 0.25)
    assert steps_of(walks, 0) == [(0.25, (2,)), (0.5, (0, 1)), (0.75, (2,))]


def integer_network(kind: str, seed: int) -> nn.Sequential:
    """A small network with weights in quarters, whose walks have ties, touches and cancellations in plenty."""
    generator = torch.Generator().manual_seed(seed)

    def quarters(*shape: int, scale: int = 6) -> Tensor:
        return torch.randint(-scale, scale + 1, shape, generator=generator).double() / 4

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs).double()
        layer.weight.data, layer.bias.data = quarters(outputs, inputs), quarters(outputs, scale=4)
        if kind == "no biases":
            layer.bias.data.zero_()
        if kind == "duplicates":
            layer.weight.data[1], layer.bias.data[1] = layer.weight.data[0], layer.bias.data[0]
            layer.weight.data[2], layer.bias.data[2] = -layer.weight.data[0], -layer.bias.data[0]
        return layer

    if kind == "max pooling":
        convolution = nn.Conv2d(1, 2, 2).double()
        convolution.weight.data, convolution.bias.data = quarters(2, 1, 2, 2), quarters(2)
        return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear(8, 4), nn.ReLU())
    layers: list[nn.Module] = []
    for depth in range(1 + seed % 4):
        layers += [linear(4 if depth else 3, 4), nn.ReLU6() if kind == "two thresholds" else nn.ReLU()]
        if kind == "residual":
            layers.append(Residual(linear(4, 4), Abs()))
    return nn.Sequential(*layers)


KINDS = ["quarters", "no biases", "duplicates", "two thresholds", "residual", "max pooling"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*walks are not exact")
def test_degenerate_walks_equal_exact_rational_arithmetic(kind: str, engine: str) -> None:
    for seed in range(3 if kind == "max pooling" else 8):
        model = integer_network(kind, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        shape = (2, 1, 5, 5) if kind == "max pooling" else (4, 3)
        start, end = (torch.randint(-3, 4, shape, generator=generator).double() for _ in range(2))
        if kind == "no biases":
            end = torch.stack([0 * start[0], -start[1], -2 * start[2], start[3]])  # through the origin; of length 0
        layers, _ = layers_of(copy.deepcopy(model), shape[1:])
        walks = segment_walks(model, start, end)
        assert_calls_itself_exact(model, walks)
        for i in range(len(start)):
            positions, codes = rational_codes(layers, *(x[i].flatten().int().tolist() for x in (start, end)))
            assert walks.codes(i).tolist() == [list(code) for code in codes]
            found = walks.position[walks.segment == i].unique_consecutive()
            assert torch.allclose(found, torch.tensor([float(p) for p in positions]).double(), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # -0.7 x misses the origin by 1e-8, or by 1e-17
@pytest.mark.parametrize("factor", [0.0, -1.0, -0.7])
def test_without_biases_a_walk_through_the_origin_meets_the_codes_at_the_middles_of_its_intervals(
    factor: float, dtype: torch.dtype, engine: str
) -> None:
    start = torch.randn(20, 8, dtype=dtype)
    end = factor * start
    assert space_folding(segment_walks(mlp(8, 32, 1, bias=False), start, end)).max() == 0
    deep = mlp(8, 32, 32, 32, 1, bias=False)
    walks = segment_walks(deep, start, end)
    assert walks.exact.all()
    for i in range(len(start)):
        edges = torch.tensor([0.0, *walks.position[walks.segment == i].unique_consecutive(), 1.0]).double()
        middles = (edges[1:] + edges[:-1])[:, None] / 2
        points = torch.lerp(start[i].double(), end[i].double(), middles)
        assert torch.equal(walks.codes(i), activation_codes(deep, points).bits)


def test_duplicated_and_negated_units_switch_in_one_step(engine: str) -> None:
    model = mlp(4, 6, 6, 1)
    model[0].weight.data[3:] = -model[0].weight.data[:3]
    model[0].bias.data[3:] = -model[0].bias.data[:3]
    walks = segment_walks(model, torch.randn(20, 4), torch.randn(20, 4))
    first = walks.select("1")
    for i in range(20):
        for _, units in steps_of(first, i):
            assert len(units) == 2 and units[1] == units[0] + 3


def test_a_dead_unit_never_switches_and_a_unit_that_touches_zero_does_not(engine: str) -> None:
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU()).double()
    model[0].weight.data = torch.tensor([[1.0], [-1.0], [0.0]]).double()
    model[0].bias.data = torch.tensor([0.0, 0.0, -1.0]).double()
    model[2].weight.data = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]).double()  # |x| and -|x|, both 0 at 0
    model[2].bias.data.zero_()
    walks = segment_walks(model, torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    assert steps_of(walks, 0) == [(0.5, (0, 1))]
    assert walks.codes(0).tolist() == [[False, True, False, True, False], [True, False, False, True, False]]


def test_a_segment_of_length_zero_has_the_code_of_its_point(engine: str) -> None:
    model, point = mlp(5, 9, 9, 1), torch.randn(3, 5)
    walks = segment_walks(model, point, point)
    assert len(walks.segment) == 0
    assert torch.equal(torch.stack([walks.codes(i)[0] for i in range(3)]), activation_codes(model, point).bits)
    assert walks.num_regions().tolist() == [1, 1, 1]


def test_a_start_exactly_on_a_hyperplane_begins_with_the_first_open_interval(engine: str) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    model[0].weight.data.fill_(1.0), model[0].bias.data.zero_()
    up = segment_walks(model, torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    down = segment_walks(model, torch.tensor([[0.0]]), torch.tensor([[-1.0]]))
    assert up.codes(0).tolist() == [[True]] and down.codes(0).tolist() == [[False]]
    assert activation_codes(model, torch.tensor([[0.0]])).bits.tolist() == [[False]]


def test_regions_are_convex_so_no_code_comes_twice_on_a_generic_segment() -> None:
    walks = segment_walks(mlp(10, 40, 40, 40, 2), torch.randn(50, 10), torch.randn(50, 10))
    for i in range(50):
        codes = walks.codes(i)
        assert len(codes.unique(dim=0)) == len(codes) == walks.num_regions()[i]


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [1, 20_000, 200_000])
def test_memory_bounds_change_nothing_but_the_time(max_bytes: int) -> None:
    model = mlp(10, 30, 30, 30, 2)
    start, end = torch.randn(20, 10), torch.randn(20, 10)
    whole, pieces = segment_walks(model, start, end), segment_walks(model, start, end, max_bytes=max_bytes)
    assert torch.equal(whole.segment, pieces.segment) and torch.equal(whole.unit, pieces.unit)
    assert torch.allclose(whole.position, pieces.position, atol=1e-12)
    assert torch.equal(whole.first_codes, pieces.first_codes)
    assert pieces.exact.all()


def test_a_walk_backwards_is_the_same_walk_reversed() -> None:
    model, start, end = mlp(8, 24, 24, 24, 1), torch.randn(30, 8), torch.randn(30, 8)
    there, back = segment_walks(model, start, end), segment_walks(model, end, start)
    for i in range(30):
        assert torch.equal(there.codes(i), back.codes(i).flip(0))
    assert torch.equal(space_folding(there) > 0, space_folding(back) > 0)


def test_layers_that_do_not_count_bend_the_walk_all_the_same() -> None:
    model, start, end = mlp(8, 24, 24, 24, 1), torch.randn(30, 8), torch.randn(30, 8)
    alone = segment_walks(model, start, end, layers=["3"])
    selected = segment_walks(model, start, end).select("3")
    for name in ("segment", "position", "unit", "first_codes"):
        assert torch.equal(getattr(alone, name), getattr(selected, name))


class Functional(nn.Module):
    """All that makes a growing batch hard: a shared layer, skips, concatenation, in-place calls, sizes read early."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(22, 4)
        self.skip = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        early = self.skip(x)
        h = self.a(x)
        h = F.relu(h, inplace=True)
        g = self.b(h).view(batch, 2, 4)
        g = torch.relu(g).reshape(batch, -1)
        h = h + self.b(g).relu_()
        h += F.leaky_relu(self.b(h), 0.2)
        together = torch.cat([early, h, g], dim=1)
        return (self.c(together).clamp(min=-0.5, max=0.5) @ torch.ones(4, 3)).relu()


class Plain(nn.Module):
    """The same function as `Functional`, with nothing in place and no size read."""

    def __init__(self, twin: Functional) -> None:
        super().__init__()
        self.twin = twin

    def forward(self, x: Tensor) -> Tensor:
        t = self.twin
        h = torch.relu(t.a(x))
        g = torch.relu(t.b(h))
        h = h + torch.relu(t.b(g))
        h = h + F.leaky_relu(t.b(h), 0.2)
        low = torch.cat([t.skip(x), h, g], dim=1)
        return torch.relu(t.c(low).clamp(min=-0.5, max=0.5).sum(1, keepdim=True).expand(-1, 3))


@pytest.mark.filterwarnings("ignore:.*walks are not exact")
@pytest.mark.filterwarnings("ignore:.*nonlinear in each element")
def test_functional_code_walks_as_its_plain_twin_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Functional()
    start, end = 2 * torch.randn(40, 6), 2 * torch.randn(40, 6)
    grown = segment_walks(model, start, end)
    plain = segment_walks(Plain(model), start, end)
    monkeypatch.setattr(scheduler, "GrowingBatch", _fails)
    refined = segment_walks(Plain(model), start, end)
    assert grown.exact.all() and plain.exact.all() and not refined.exact.any()
    for other in (plain, refined):
        assert torch.equal(grown.segment, other.segment) and torch.equal(grown.unit, other.unit)
        assert torch.allclose(grown.position, other.position, atol=1e-9)


def encoding() -> Tensor:
    table, t = torch.zeros(6), torch.arange(6.0)
    table[0::2], table[1::2] = t[0::2].sin(), t[1::2].cos()
    return table


def scratch(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), x.shape[1])
    out += x.relu()
    return (out + x - 1).relu()


def masked(x: Tensor) -> Tensor:
    mask = torch.zeros(6, 6)
    mask.masked_fill_(torch.ones(6, 6).triu(1).bool(), -3.0)
    return torch.relu(x[:, None] + mask).flatten(1)


def experts(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 6, device=x.device)
    out[:, :3] = x[:, :3].relu() - x[:, 3:]
    out[:, 3:].copy_(x[:, 3:].relu())
    return (out - 0.1).relu()


def accumulated(x: Tensor) -> Tensor:
    out = torch.full((6, 6), -0.3).triu_(1)
    return torch.relu(x @ torch.mul(out, 2.0, out=torch.empty(6, 6)))


def view_relu(x: Tensor) -> Tensor:
    h = torch.cat([x, -x], 1)
    h[:, :6].relu_()
    return (h[:, :6] + 0.05 - x.sum(1, keepdim=True)).relu()


def view_of_all(x: Tensor) -> Tensor:
    h = x.clone()
    v = h.view(-1, 2, 3)
    h.relu_()
    v[:, 0].clamp_(max=0.3)
    return torch.relu(v.flatten(1) + x - 0.1)


def halves(x: Tensor) -> Tensor:
    h = 2 * x
    a, b = h.chunk(2, 1)
    a.relu_()
    b += a
    return torch.relu(h - 0.2 * x)


def bounded(x: Tensor) -> Tensor:
    alpha = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    return torch.relu(x.clamp(-alpha, 2 * alpha) - x.clamp(min=torch.zeros(())) + 0.05)


def shaped(x: Tensor) -> Tensor:
    p = torch.arange(6).type_as(x)
    p = p.sin() + torch.linspace(0, 1, 6).expand_as(x).cos() + torch.ones_like(x).cumsum(1)
    return torch.relu(x - torch.where(torch.arange(6) > 2, p, torch.zeros_like(x)))


def bump(x: Tensor) -> Tensor:
    """A narrow triangle, which the few points of a walk's self-check mostly miss."""
    return (1 - 20 * (x[:, :1] - 0.1).abs()).relu()


def nested_view(x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 6).unsqueeze(1)
    out[:, 0].add_(x)
    h = torch.relu(out[:, 0])
    return torch.relu(h[:, 3:] - h[:, :3] + 0.3)


def written_through_another_view(x: Tensor) -> Tensor:
    buffer = x.new_zeros(len(x), 6)
    a = buffer[:, :3]
    buffer.copy_(x)
    return torch.relu(torch.cat([torch.relu(a), buffer[:, 3:]], 1) - 0.1)


def written_through_data(x: Tensor) -> Tensor:
    h, m = torch.zeros(len(x), 6), x.new_empty(len(x), 6)
    h.data[:] = x
    m.data = h.detach() + 0.1
    m.detach().add_(10 * bump(x))
    return torch.relu(h + m)


def scratch_of_views(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 6).view(len(x), 2, 3)
    out[:, 0].add_(x[:, :3])
    return torch.relu(out.flatten(1) + x.abs() - 0.2)


def view_of_the_input(x: Tensor) -> Tensor:
    v, r = x[:, 1:4], bump(x)
    v.add_(10 * r)
    return torch.relu(x - 0.05)


def view_after_a_write(x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 6)
    buffer[:, :3] = x[:, :3]
    v, r = buffer[:, 3:], bump(x)
    v.add_(10 * r - 0.3)
    return torch.relu(buffer)


def view_of_fewer_rows(x: Tensor) -> Tensor:
    h = 2 * x
    r = (10 * bump(x)).expand(-1, 6)
    v = h.view_as(r)
    v.add_(r)
    g = h[:, :3]
    g.data = g.data + 10 * bump(-x)
    return torch.relu(torch.cat([h[:, 3:], g], 1))


def cast_copies(x: Tensor) -> Tensor:
    f = x.to(torch.float64, copy=True)
    f -= f.mean(1, keepdim=True)
    return torch.relu(x + f)


def clamps(x: Tensor) -> Tensor:
    low = torch.tensor([-0.1, 0.1, -0.2, 0.2, 0.0, 0.3])
    a = torch.clamp(input=x, min=low)
    b = torch.clamp(x, max=x.new_full((len(x), 6), 0.3), min=-0.2 * torch.ones(len(x), 6))
    return torch.relu(a - b + torch.clamp(x[:, :1], min=low) - 0.1)


WRITERS = [nested_view, written_through_another_view, written_through_data, scratch_of_views, view_of_the_input]
WRITERS += [view_after_a_write, view_of_fewer_rows, cast_copies, clamps, scratch, lambda x: (x + encoding() - 0.05).relu()]
WRITERS += [masked, experts, accumulated, view_relu, view_of_all, halves, bounded, shaped]


@pytest.mark.parametrize("function", WRITERS)
@pytest.mark.filterwarnings("error")
def test_writing_in_place_and_shared_memory_change_nothing(function: Callable[[Tensor], Tensor]) -> None:
    net = mlp(4, 6, 6, seed=3).float() if function is cast_copies else mlp(4, 6, 6, seed=3)
    start, end = torch.randn(60, 4), torch.randn(60, 4)
    walks = segment_walks(net, start, end, forward=lambda m, x: function(m(x)))
    assert walks.exact.all()
    net = net.double()
    # Dense points through the plain model in float64, which no interception has seen.
    with torch.no_grad():
        t = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        torch.set_default_dtype(torch.float64)
        try:
            for i in range(len(start)):
                codes = last_signs(function, net((1 - t) * start[i].double() + t * end[i].double()))
                inside = walks.select(list(walks.layers)[-1])
                switches = (codes[1:] != codes[:-1]).sum(0)
                events = torch.bincount(inside.unit[inside.segment == i], minlength=codes.shape[1])
                assert (events >= switches).all() and ((events - switches) % 2 == 0).all()
                assert (events - switches).sum() <= 2  # a bump between two points
        finally:
            torch.set_default_dtype(torch.float32)


def last_signs(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Where the output of the last ReLU is positive."""
    return function(x) > 0


def test_casts_of_a_half_precision_model_are_copies() -> None:
    model, start, end = mlp(4, 6, 6).bfloat16(), torch.randn(20, 4), torch.randn(20, 4)

    def centred(model: nn.Module, x: Tensor) -> Tensor:
        h = model(x)
        f = h.float()
        f -= f.mean(1, keepdim=True)
        return torch.relu(h + f.to(h.dtype))

    def plain(model: nn.Module, x: Tensor) -> Tensor:
        h = model(x)
        return torch.relu(h + (h - h.mean(1, keepdim=True)))

    walks, twin = (segment_walks(model, start, end, forward=forward) for forward in (centred, plain))
    assert torch.equal(walks.unit, twin.unit) and torch.allclose(walks.position, twin.position, atol=1e-9)


def test_closed_chains_of_segments_are_looked_at_from_two_different_points() -> None:
    model, points = mlp(4, 6, 6), torch.randn(4, 4)

    def mixes(model: nn.Module, x: Tensor) -> Tensor:
        h = model(x)
        return torch.relu(h - h.mean(0, keepdim=True) + 0.1)

    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        segment_walks(model, points, points.roll(-1, 0), forward=mixes)
    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        segment_walks(model, points[:1], points[:1], forward=mixes)


class Tokens(nn.Module):
    """Merges batch and tokens, which no growing batch survives."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.end = mlp(3, 8, 8, 5).float(), nn.Linear(10, 6).float()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.net(x.reshape(-1, 3).to(torch.float32))
        return torch.relu(self.end(tokens.reshape(len(x), -1)))


def test_tokens_merged_into_the_batch_are_walked_by_plain_passes() -> None:
    model, start, end = Tokens(), torch.randn(10, 2, 3), torch.randn(10, 2, 3)
    walks = segment_walks(model, start, end)
    assert walks.exact.all() and walks.num_units == 2 * 16 + 6
    fine = segment_walks(model, start, end, method="uniform", num_points=4001)
    assert torch.equal(walk_length(walks), walk_length(fine)) and torch.equal(walk_range(walks), walk_range(fine))


def test_a_pass_that_went_wrong_is_found_out_and_walked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, start, end = mlp(6, 20, 20, 20, 1), torch.randn(10, 6), torch.randn(10, 6)
    right = segment_walks(model, start, end)
    lift = scheduler.Breakpoints.lift
    monkeypatch.setattr(scheduler.Breakpoints, "lift", lambda grid, z, rows=None: lift(grid, z, rows) * 1.001)
    refined: list[int] = []
    refine = scheduler.refine
    monkeypatch.setattr(scheduler, "refine", lambda pieces, *rest: refined.append(len(pieces)) or refine(pieces, *rest))
    again = segment_walks(model, start, end)
    assert sum(refined) > 0
    assert torch.equal(right.segment, again.segment) and torch.equal(right.unit, again.unit)
    assert again.exact.all()


def test_a_walk_that_cannot_be_finished_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.walks import refinement

    monkeypatch.setattr(scheduler, "GrowingBatch", _fails)
    monkeypatch.setattr(refinement, "MOST_POINTS", 3)
    with pytest.warns(UserWarning, match="5 of 5 walks were given up"):
        walks = segment_walks(mlp(6, 20, 20, 20, 1), torch.randn(5, 6), torch.randn(5, 6))
    assert not walks.exact.any() and not walks.complete.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_stored_weights_are_measured_in_float64_whatever_their_dtype(dtype: torch.dtype) -> None:
    model = mlp(6, 16, 16, 2).to(dtype)
    start, end = torch.randn(20, 6), torch.randn(20, 6)
    walks, double = segment_walks(model, start, end), segment_walks(copy.deepcopy(model).double(), start, end)
    assert all(p.dtype == dtype for p in model.parameters())
    assert torch.equal(walks.unit, double.unit) and torch.equal(walks.position, double.position)


def test_uniform_walks_are_the_codes_at_equidistant_points() -> None:
    model, start, end = mlp(6, 16, 16, 2), torch.randn(4, 6), torch.randn(4, 6)
    walks = segment_walks(model, start, end, method="uniform", num_points=9, max_bytes=4000)
    weight = torch.linspace(0, 1, 9).double()[:, None]
    for i in range(4):
        bits = activation_codes(model, (1 - weight) * start[i].double() + weight * end[i].double()).bits
        changed = (bits[1:] != bits[:-1]).nonzero()
        assert torch.equal(walks.unit[walks.segment == i], changed[:, 1])
        assert torch.equal(walks.position[walks.segment == i], (changed[:, 0] + 1).double() / 8)


def test_refining_uniform_samples_of_generic_segments_never_lowers_range_or_length() -> None:
    model, start, end = mlp(8, 30, 30, 30, 2), 2 * torch.randn(40, 8), 2 * torch.randn(40, 8)
    finer = [segment_walks(model, start, end, method="uniform", num_points=2**k + 1) for k in range(2, 10)]
    walks = [*finer, segment_walks(model, start, end)]
    for coarse, fine in itertools.pairwise(walks):
        assert (walk_range(coarse) <= walk_range(fine)).all()
        assert (walk_length(coarse) <= walk_length(fine)).all()


def test_only_operations_before_the_last_unit_that_counts_make_a_walk_curved() -> None:
    model, x = nn.Sequential(*mlp(4, 6, 6), nn.ReLU(), nn.LayerNorm(6).double(), nn.ReLU(), nn.LogSoftmax(1)), torch.randn(3, 4)
    assert segment_walks(model[:4], x, -x).exact.all()
    assert segment_walks(model, x, -x, layers=["1", "3"]).exact.all()
    assert not segment_walks(model, x, -x).exact.any()


@pytest.mark.slow
def test_where_few_units_count_a_long_walk_follows_these_alone_if_that_costs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, start, end = mlp(6, 60, 60, 60, 8, 1), 3 * torch.randn(10, 6), 3 * torch.randn(10, 6)
    whole = segment_walks(model, start, end, layers="7")
    monkeypatch.setattr(estimate, "ALWAYS_EXACT_COST", 1000)
    assert segment_walks(model, start, end).exact.all()  # all units count, so nothing would be saved
    monkeypatch.setattr(estimate, "CURVED_POINTS", 40)
    with pytest.warns(UserWarning, match="estimated to cost less than an exact walk"):
        some = segment_walks(model, start, end, layers="7")
        alone = [segment_walks(model, a[None], b[None], layers="7") for a, b in zip(start, end, strict=True)]
    assert not some.exact.all() and some.complete.all()
    assert torch.equal(some.exact, torch.cat([walks.exact for walks in alone]))  # whichever other segments come along
    assert (walk_length(whole) - walk_length(some)).abs().max() <= 2  # refinement may miss what its criterion misses


@pytest.mark.parametrize("engine", ["growing batch", "refinement"])
def test_an_engine_can_be_asked_for(engine: str) -> None:
    model, start, end = mlp(6, 20, 20, 1), torch.randn(10, 6), torch.randn(10, 6)
    walks = segment_walks(model, start, end, engine=engine)
    assert (walks.engine == list(ENGINES).index(engine)).all()
    assert torch.equal(walk_length(walks), walk_length(segment_walks(model, start, end)))


class TestMistakes:
    model = mlp(4, 6, 2)
    x = torch.randn(3, 4)

    def test_other_shapes(self) -> None:
        with pytest.raises(ValueError, match="same shape"):
            segment_walks(self.model, self.x, self.x[:2])
        with pytest.raises(ValueError, match="refused a batch of shape"):
            segment_walks(self.model, torch.randn(3, 5), torch.randn(3, 5))
        with pytest.raises(ValueError, match="at least one input"):
            segment_walks(self.model, self.x[:0], self.x[:0])

    def test_other_types(self) -> None:
        with pytest.raises(TypeError, match="floating point.*embed"):
            segment_walks(self.model, torch.ones(3, 4).long(), torch.ones(3, 4).long())
        with pytest.raises(TypeError, match="must be a tensor"):
            segment_walks(self.model, self.x.numpy(), self.x)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_values_that_are_not_finite(self, bad: float) -> None:
        with pytest.raises(ValueError, match="`end` must be finite"):
            segment_walks(self.model, self.x, torch.full_like(self.x, bad))

    def test_weights_that_have_diverged(self) -> None:
        model = mlp(4, 6, 2)
        model[0].weight.data[0] = math.nan
        with pytest.raises(ValueError, match="diverged"):
            segment_walks(model, self.x, self.x)

    def test_another_device(self) -> None:
        with pytest.raises(ValueError, match="weights on the meta device, which holds no values: load them first"):
            segment_walks(mlp(4, 6, 2).to("meta"), self.x, self.x)

    def test_an_unknown_method_or_layer(self) -> None:
        with pytest.raises(ValueError, match="'exact', 'uniform', got 'dense'"):
            segment_walks(self.model, self.x, self.x, method="dense")
        with pytest.raises(ValueError, match="matches no activation. The model has: 1"):
            segment_walks(self.model, self.x, self.x, layers="encoder.*")
        with pytest.raises(ValueError, match="`layers` is empty"):
            segment_walks(self.model, self.x, self.x, layers=[])

    def test_too_few_points_and_points_of_an_exact_walk(self) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            segment_walks(self.model, self.x, self.x, method="uniform", num_points=1)
        with pytest.raises(ValueError, match="at least 2"):
            segment_walks(self.model, self.x, self.x, method="uniform")
        with pytest.raises(ValueError, match="meets every region"):
            segment_walks(self.model, self.x, self.x, num_points=100)
        with pytest.raises(ValueError, match="`max_bytes` must be an integer of at least 1"):
            segment_walks(self.model, self.x, self.x, max_bytes=0)
        with pytest.raises(ValueError, match="`engine` must be one of 'kinks', 'growing batch', .*got 'fast'"):
            segment_walks(self.model, self.x, self.x, engine="fast")

    def test_no_activation(self) -> None:
        with pytest.raises(ValueError, match="has no activation"):
            segment_walks(nn.Linear(4, 2), self.x, self.x)

    def test_what_no_interception_sees_is_refused_by_name(self) -> None:
        for recurrent in (nn.LSTM, nn.GRU, nn.RNN):
            network = nn.Sequential(nn.Linear(4, 4), recurrent(4, 3))
            with pytest.raises(ValueError, match=rf"^{recurrent.__name__} \('1'\) is a fused recurrent layer: its activations"):
                segment_walks(network, self.x[:, None], self.x[:, None])
        cell = nn.GRUCell(4, 4)
        with pytest.raises(ValueError, match=r"^GRUCell is a fused recurrent layer"):
            segment_walks(cell, self.x, self.x)
        weights = [weight.double() for weight in cell.parameters()]
        with pytest.raises(ValueError, match=r"^The gru_cell of forward is a fused recurrent layer"):
            segment_walks(nn.Linear(4, 4), self.x, self.x, forward=lambda _, x: torch.gru_cell(x, x, *weights))
        with pytest.raises(ValueError, match=r"\('1'\) is a ScriptModule"):
            segment_walks(nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.ReLU())), self.x, self.x)

    def test_what_are_no_walks(self) -> None:
        with pytest.raises(TypeError, match="Expected `Walks`, got Tensor"):
            space_folding(self.x)

    def test_codes_of_another_form(self) -> None:
        with pytest.raises(ValueError, match="must be adjacent slices that cover all 3 columns"):
            Walks.from_codes(torch.zeros(2, 2, 3).bool(), layers={"a": slice(0, 2)})
        with pytest.raises(ValueError, match="at least 2 points"):
            Walks.from_codes(torch.zeros(2, 1, 3).bool())
        with pytest.raises(TypeError, match="must be bool"):
            Walks.from_codes(torch.zeros(2, 2, 3))
        with pytest.raises(IndexError, match="There are 1 segments"):
            Walks.from_codes(torch.zeros(1, 2, 3).bool()).codes(1)

"""Chebyshev interpolation of smooth networks: polynomials whose roots are known, and walks beside refinement and brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fold_lightning import segment_walks, walk_length, walk_range
from fold_lightning.walks import chebyshev
from fold_lightning.walks.polynomials import DEGREE, chebyshev_basis, interpolation, nodes, sign_changes
from fold_lightning.walks.refinement import Samples
from fold_lightning.walks.walks import CHEBYSHEV, CURVED_REFINEMENT
from fuzz_curved import compare, random_network, refined, switches

pytestmark = pytest.mark.filterwarnings("ignore:.*nonlinear in each element, but not a registered activation")


@pytest.mark.slow
def test_a_unit_that_is_small_beside_its_layer_elsewhere_keeps_its_switches() -> None:
    # A layer is 100 at one end, and a unit of it crosses among values of 1e-12 at the other.
    model, start, end, _ = random_network(7127)
    walks, other = segment_walks(model, start, end), refined(model, start, end)
    assert torch.equal(switches(walks), switches(other)) and switches(walks)[2, 12] == 1
    assert walks.engine.tolist() == [CHEBYSHEV, CHEBYSHEV, CURVED_REFINEMENT]


def changes_of(function: Callable[[Tensor], Tensor], margin: float = 1e-12) -> tuple[list[float], bool, bool, float]:
    """Sign changes of the polynomial that interpolates a function, whether it begins and ends positive, and what is undecided."""
    coefficients = (interpolation() @ function(nodes()))[None]
    found = sign_changes(coefficients, torch.tensor([margin]).double(), torch.tensor([1e-9]).double())
    return found.position.tolist(), bool(found.begins), bool(found.ends), float(found.undecided)


def test_interpolation_reproduces_polynomials_up_to_its_degree() -> None:
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    values = chebyshev_basis(x) @ (interpolation() @ (nodes() - 0.3) ** DEGREE)
    assert torch.allclose(values, (x - 0.3) ** DEGREE, atol=1e-12 * 1.3**DEGREE)


@pytest.mark.parametrize("number", range(8))
def test_polynomials_with_known_roots(number: int) -> None:
    random = np.random.default_rng(number)
    roots = torch.from_numpy(random.uniform(-1.2, 1.2, (200, number)))
    values = (nodes()[:, None] - roots[:, None]).prod(2)
    margin = 1e-13 * values.abs().amax(1)
    found = sign_changes(values @ interpolation().T, margin, torch.full_like(margin, 1e-9))
    for i, own in enumerate(roots.tolist()):
        inside = sorted(root for root in own if -1 < root < 1)
        gaps = np.diff(sorted([*own, -1.0, 1.0]))
        if number == 0 or gaps.min() > 1e-2:
            assert np.allclose(found.position[found.polynomial == i], inside, rtol=0, atol=1e-8)
            assert found.undecided[i] == 0 and found.begins[i] == (values[i, 0] > 0) and found.ends[i] == (values[i, -1] > 0)


@pytest.mark.parametrize("place", [0.0, 0.5, -0.3, 1.0, -1.0, 0.1234567])
def test_a_double_root_is_no_change_and_is_undecided_within_the_margin(place: float) -> None:
    for sign in (1, -1):
        positions, begins, ends, undecided = changes_of(lambda x, sign=sign: sign * (x - place) ** 2)
        assert positions == [] and begins == ends == (sign > 0) and 0 < undecided < 1e-5


@pytest.mark.parametrize("depth", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("place", [0.0, 0.51, -0.3])
def test_a_dip_below_zero_is_two_changes_and_one_above_none(depth: float, place: float) -> None:
    positions, begins, ends, undecided = changes_of(lambda x: (x - place) ** 2 - depth, 1e-13)
    assert np.allclose(positions, [place - depth**0.5, place + depth**0.5], atol=1e-7 * depth**0.5 + 1e-9)
    assert begins and ends and undecided == 0
    assert changes_of(lambda x: (x - place) ** 2 + depth, 1e-13) == ([], True, True, 0.0)


def test_a_flat_crossing_is_one_change_with_an_undecided_part() -> None:
    positions, begins, ends, undecided = changes_of(lambda x: (x - 0.2) ** 5)
    assert len(positions) == 1 and abs(positions[0] - 0.2) <= undecided < 0.05 and not begins and ends


def test_a_polynomial_within_its_margin_has_no_change_and_all_is_undecided() -> None:
    assert changes_of(lambda x: 1e-14 * torch.cos(9 * x)) == ([], False, False, 2.0)


class Function(nn.Module):
    """One unit, a function of t on the segment from 0 to 1, beside another that is 1."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.act = function, nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(torch.cat([self.function(x), torch.ones_like(x)], dim=1))


def walk_of(function: Callable[[Tensor], Tensor], **arguments: Any) -> tuple[list[float], list[bool], float, int]:
    """Positions of the switches of a unit that is a function of t, its first code with the other's, resolution and engine."""
    walks = segment_walks(Function(function), torch.zeros(1, 1), torch.ones(1, 1), **arguments)
    assert not walks.exact.any() and (walks.unit == 0).all()
    return walks.position.tolist(), walks.first_codes[0].tolist(), float(walks.resolution), int(walks.engine)


@pytest.mark.parametrize("place", [0.5, 0.25, 0.3, 0.123456])
def test_a_unit_that_touches_its_threshold_does_not_switch(place: float) -> None:
    for sign in (1, -1):
        positions, first, resolution, engine = walk_of(lambda x, sign=sign: sign * (torch.cosh(x - place) - 1))
        assert positions == [] and first == [sign > 0, True] and engine == CHEBYSHEV and 1e-10 < resolution < 1e-4


@pytest.mark.parametrize("place", [0.5, 0.3, 0.123456])
def test_a_unit_that_dips_by_a_millionth_switches_twice(place: float) -> None:
    positions, first, resolution, _ = walk_of(lambda x: torch.cosh(x - place) - 1 - 1e-6)
    width = float(np.arccosh(1 + 1e-6))
    assert np.allclose(positions, [place - width, place + width], rtol=0, atol=1e-9) and first[0] and resolution == 1e-10
    assert walk_of(lambda x: torch.cosh(x - place) - 1 + 1e-6) == ([], [True, True], 1e-10, CHEBYSHEV)


@pytest.mark.parametrize("frequency", [50.5, 400.5, 3000.5])
def test_a_unit_that_wiggles_more_often_than_nodes_see_is_followed(frequency: float) -> None:
    positions, _, resolution, engine = walk_of(lambda x: torch.sin(frequency * x + 1))
    roots = (np.arange(1, (frequency + 1) / np.pi) * np.pi - 1) / frequency
    assert len(positions) == len(roots) and np.allclose(positions, roots, rtol=0, atol=1e-9) and resolution <= 1e-9
    assert engine == CHEBYSHEV


def test_a_unit_that_is_its_threshold_all_along_keeps_bit_0_without_a_doubt() -> None:
    assert walk_of(lambda x: x.sin() - x.sin()) == ([], [False, True], 1e-10, CHEBYSHEV)


@pytest.mark.parametrize("engine", ["chebyshev", "curved refinement"])
def test_a_unit_keeps_its_switches_where_its_layer_grows_elsewhere(engine: str) -> None:
    function = lambda x: torch.cat([6e-6 * torch.sin(20 * x + 1), torch.exp(16 * x)], dim=1)  # noqa: E731
    walks = segment_walks(Function(function), torch.zeros(1, 1), torch.ones(1, 1), engine=engine)
    found = walks.position[walks.position < 0.75]
    assert (walks.unit == 0).all() and walks.first_codes[0].all()
    assert np.allclose(found, (np.arange(1, 6) * np.pi - 1) / 20, rtol=0, atol=2e-3)


def test_a_unit_below_the_tolerance_of_its_layer_is_undecided() -> None:
    faint = lambda x: torch.cat([1e-13 * torch.sin(20 * x), torch.ones_like(x)], dim=1)  # noqa: E731
    assert walk_of(faint) == ([], [False, True, True], 1.0, CURVED_REFINEMENT)


def test_a_kink_in_a_smooth_network_leaves_its_part_to_refinement() -> None:
    function = lambda x: torch.sin(20 * x + 1) + torch.maximum(torch.exp(x), 2 - x) / 2 - 1  # noqa: E731
    positions, first, _, engine = walk_of(function, engine="chebyshev")
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    bits = torch.sin(20 * t + 1) + torch.maximum(torch.exp(t), 2 - t) / 2 - 1 > 0
    seen = t[1:][bits[1:] != bits[:-1]]
    assert engine == CURVED_REFINEMENT and len(positions) == len(seen) and first[0] == bool(bits[0])
    assert np.allclose(positions, seen, atol=1e-4)


def smooth_mlp(activation: Callable[[], nn.Module], gain: float) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (6, 24, 24):
        layers += [nn.Linear(inputs, 24), activation()]
    model = nn.Sequential(*layers, nn.Linear(24, 2)).double()
    for parameter in model.parameters():
        parameter.data *= gain
    return model


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid])
def test_steep_networks_are_walked_as_refinement_walks_them(activation: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, start, end = smooth_mlp(activation, 8.0), torch.randn(4, 6), torch.randn(4, 6)
    walks = segment_walks(model, start, end)
    assert torch.equal(switches(walks), switches(refined(model, start, end)))
    assert (walks.engine == CHEBYSHEV).all()


@pytest.mark.parametrize("engine", ["chebyshev", "curved refinement"])
@pytest.mark.parametrize("seed", [264, 269])
def test_a_network_without_biases_switches_all_its_units_at_once_at_the_origin(seed: int, engine: str) -> None:
    torch.manual_seed(seed)
    layers = [nn.Linear(1, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 2)]
    walks = segment_walks(nn.Sequential(*layers), torch.tensor([[-0.2]]), torch.tensor([[0.37]]), engine=engine)
    assert walks.unit.tolist() == list(range(16)) and walks.num_regions() == 2  # odd functions keep to one side of the origin
    assert torch.allclose(walks.position, torch.tensor(0.2 / 0.57).double(), atol=1e-6)
    assert torch.equal(walk_range(walks), walk_length(walks))


@pytest.mark.slow
def test_walks_depend_neither_on_memory_nor_on_company() -> None:
    torch.manual_seed(0)
    model, start, end = smooth_mlp(nn.GELU, 3.0), torch.randn(5, 6), torch.randn(5, 6)
    start[1] *= 1e3
    together = segment_walks(model, start, end)
    for max_bytes in (1, 2**20):
        small = segment_walks(model, start, end, max_bytes=max_bytes)
        assert torch.equal(small.unit, together.unit) and torch.equal(small.first_codes, together.first_codes)
        assert torch.allclose(small.position, together.position, rtol=0, atol=1e-12)
    for i in range(5):
        alone = segment_walks(model, start[i : i + 1], end[i : i + 1])
        assert torch.equal(alone.unit, together.only(i).unit)
        assert torch.allclose(alone.position, together.only(i).position, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 24, 4))
def test_random_networks_are_walked_as_refinement_walks_them(seed: int) -> None:
    counts = sum((compare(s) for s in range(seed, seed + 4)), start=compare(seed) - compare(seed))
    assert counts["interpolation is wrong"] == 0 and counts["networks"] == 4


class WithLayer(nn.Module):
    """A smooth layer of 8 units, and another of the same inputs."""

    def __init__(self, layer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gelu, self.layer = nn.Linear(3, 8), nn.GELU(), layer

    def forward(self, x: Tensor) -> Tensor:
        h = self.gelu(self.first(x))
        return h.sum(1) + self.layer(x, h).sum(1)


@pytest.fixture
def num_points(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of points at which a network is interpolated, pass by pass."""
    counted: list[int] = []
    sample = Samples.__call__

    def counting(samples: Samples, piece: Tensor, position: Tensor, **options: bool) -> Tensor:
        counted.append(len(piece) if options.get("as_computed") else 0)
        return sample(samples, piece, position, **options)

    monkeypatch.setattr(Samples, "__call__", counting)
    return counted


@pytest.mark.parametrize(
    "layer",
    [
        lambda x, h: torch.tanh(3 * h - h - h - h),
        lambda x, h: torch.tanh(1e6 * (3 * h - h - h - h)),
        lambda x, h: torch.tanh(nn.functional.layer_norm(h, (8,)).sum(1, keepdim=True)),
        lambda x, h: nn.functional.silu((h.softmax(1).sum(1, keepdim=True) - 1) * h),
        lambda x, h: nn.functional.hardtanh(nn.functional.layer_norm((x - 100).relu(), (3,))),
    ],
)
def test_a_layer_that_is_rounding_alone_has_no_switches_and_costs_little(
    layer: Callable[[Tensor, Tensor], Tensor], num_points: list[int]
) -> None:
    walks = segment_walks(WithLayer(layer), torch.zeros(2, 3), torch.ones(2, 3))
    assert len(walks.select("gelu").unit) == len(walks.unit) > 0
    assert walks.complete.all() and sum(num_points) < 1000


def test_more_intervals_than_the_limit_are_left_to_refinement(num_points: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = WithLayer(lambda x, h: torch.tanh((400 * x[:, :1] + 0.1).sin()))
    ends = torch.zeros(1, 3), torch.ones(1, 3)
    walks = segment_walks(model, *ends, layers="*tanh*")
    taken = sum(num_points)
    monkeypatch.setattr(chebyshev, "MAX_INTERVALS", 8)
    refined = segment_walks(model, *ends, layers="*tanh*")
    assert (walks.engine == CHEBYSHEV).all() and (refined.engine == CURVED_REFINEMENT).all()
    assert sum(num_points) - taken < taken / 2
    assert torch.allclose(walks.position, refined.position, atol=1e-9) and len(walks.position) > 100


@pytest.mark.parametrize(
    ("layers", "engine"),
    [
        ([nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4), nn.ReLU()], CHEBYSHEV),
        ([nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()], CURVED_REFINEMENT),
        ([nn.GELU(), nn.MaxPool1d(3, 1, 1), nn.Linear(6, 4), nn.GELU()], CURVED_REFINEMENT),
    ],
)
def test_a_network_with_kinks_before_its_last_units_is_not_interpolated(layers: list[nn.Module], engine: int) -> None:
    torch.manual_seed(0)
    walks = segment_walks(nn.Sequential(nn.Linear(6, 6), *layers), torch.randn(3, 6), torch.randn(3, 6))
    assert (walks.engine == engine).all()

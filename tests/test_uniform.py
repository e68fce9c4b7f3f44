"""Walks through equidistant points, against the signs that hooks on the model see, and counts of switches."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import Walks, segment_walks, space_folding
from fold_lightning.folding import PerSegment
from fold_lightning.walks import MAX_COST, count_switches, exact_costs, sampled_distances, walk_chunks
from fold_lightning.walks.estimate import CURVED_COST_FACTOR
from fold_lightning.walks.sparse import count_bits
from helpers.networks import Tent, mlp

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from models import build, lenet, resnet

T = 17


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 9), nn.Hardtanh())


def normalized() -> nn.Sequential:
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)),
        *(nn.Dropout(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 10), nn.LayerNorm(10), nn.LeakyReLU(), nn.Linear(10, 2)),
    )
    with torch.no_grad():
        for _ in range(5):
            model(2 * torch.randn(50, 16) + 1)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Sequential], int]] = {"dense": (dense, 6), "batch norm and dropout": (normalized, 16)}


def signs(model: nn.Sequential, inputs: Tensor) -> Tensor:
    """Bits of inputs (B, ...) from what hooks see before each activation of a copy of the model: bool (B, N)."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor]) -> None:
        bounds = (module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else (0.0,)
        found.extend((args[0] > bound).flatten(1) for bound in bounds)

    model = copy.deepcopy(model).eval()
    with ExitStack() as stack, torch.no_grad():
        for module in model:
            if isinstance(module, (nn.ReLU, nn.GELU, nn.LeakyReLU, nn.Hardtanh)):
                stack.callback(module.register_forward_pre_hook(keep).remove)
        model(inputs)
    return torch.cat(found, 1)


def points_between(start: Tensor, end: Tensor, num_points: int) -> Tensor:
    return torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, num_points, dtype=start.dtype)[:, None])


def assert_same(walks: Walks, other: Walks) -> None:
    for name in ("segment", "position", "unit", "exact", "complete", "resolution", "first_codes", "engine"):
        assert torch.equal(getattr(walks, name), getattr(other, name)), name
    assert (walks.num_segments, walks.num_units) == (other.num_segments, other.num_units)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bits_are_signs_of_the_models_own_pre_activations_in_its_own_dtype(name: str, dtype: torch.dtype) -> None:
    build, width = MODELS[name]
    model = build().to(dtype)
    start, end = 2 * torch.randn(7, width), 2 * torch.randn(7, width)
    if dtype == torch.float64:
        start, end = start.double(), end.double()
    bits = signs(model, points_between(start, end, T).flatten(0, 1).to(dtype)).view(7, T, -1)
    walks = segment_walks(model, start, end, method="uniform", num_points=T)
    assert walks.unit.numel() > 50
    assert_same(walks, Walks.from_codes(bits, layers=walks.layers))


def test_inputs_of_a_model_without_weights_keep_their_dtype() -> None:
    start, end = torch.tensor([[-1e-9], [1e-9]]).double(), torch.tensor([[1e-9], [1e-9]]).double()
    walks = segment_walks(nn.Identity(), start, end, forward=lambda x: (x + 1 - 1).relu(), method="uniform", num_points=4)
    assert walks.segment == 0 and walks.position == 2 / 3  # in float32 all of it is 0


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [1, 2_000, 30_000, 200_000, 2**27])
@pytest.mark.parametrize("name", MODELS)
def test_memory_changes_no_walk_and_no_distance(name: str, max_bytes: int) -> None:
    build, width = MODELS[name]
    model = build().double()
    start, end = 2 * torch.randn(5, width).double(), 2 * torch.randn(5, width).double()
    whole = segment_walks(model, start, end, method="uniform", num_points=T)
    assert_same(segment_walks(model, start, end, method="uniform", num_points=T, max_bytes=max_bytes), whole)
    distances = sampled_distances(model, start, end, num_points=T, max_bytes=max_bytes)
    assert torch.equal(PerSegment.of(distances).rows, PerSegment.of(whole).rows)


@pytest.mark.parametrize("num_points", [2, 3, 129])
def test_measures_from_distances_and_from_chunks_equal_those_of_whole_walks(num_points: int) -> None:
    model, start, end = dense(), 3 * torch.randn(20, 6), 3 * torch.randn(20, 6)
    whole = PerSegment.of(segment_walks(model, start, end, method="uniform", num_points=num_points))
    found = PerSegment.of(sampled_distances(model, start, end, num_points=num_points))
    assert torch.equal(found.rows, whole.rows) and list(found.by_layer) == list(whole.by_layer) == ["1", "3", "5"]
    assert num_points == 2 or whole.chi.max() > 0
    chunks = [*walk_chunks(model, start, end, num_points=num_points, max_bytes=2**18)]
    assert len(chunks) > 1 or num_points < 129
    assert torch.equal(torch.cat([PerSegment.of(chunk).rows for chunk in chunks]), whole.rows)


def test_only_layers_that_count_are_measured() -> None:
    model, start, end = dense(), 3 * torch.randn(6, 6), 3 * torch.randn(6, 6)
    selected = PerSegment.of(segment_walks(model, start, end, method="uniform", num_points=T).select("3"))
    found = PerSegment.of(sampled_distances(model, start, end, layers="3", num_points=T))
    assert torch.equal(found.rows, selected.rows)


def test_uniform_walks_leave_the_model_gradients_and_random_states_as_they_were() -> None:
    model = normalized().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = {name: value.data_ptr() for name, value in model.state_dict().items()}
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient.clone()
    x, seen = torch.randn(4, 16), []
    model[3].register_forward_hook(lambda *_: seen.append(1))
    state = torch.get_rng_state()
    for _ in walk_chunks(model, x, -x, num_points=T, max_bytes=1):
        assert torch.is_grad_enabled()  # the code that takes the walks runs outside the passes' context
    sampled_distances(model, x, -x, num_points=T)
    assert torch.equal(state, torch.get_rng_state()) and not seen and model.training and model[4].training
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == addresses


class MaskedLinear(nn.Linear):
    """Masks its weights when it is called, as autoregressive networks do."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= torch.ones_like(self.weight).tril()
        return super().forward(x)


def test_weights_that_a_pass_writes_are_those_of_a_copy() -> None:
    model = nn.Sequential(MaskedLinear(5, 5), nn.ReLU())
    weight, pointer = model[0].weight.detach().clone(), model[0].weight.data_ptr()
    x = torch.randn(3, 5)
    walks = segment_walks(model, x, -x, method="uniform", num_points=T)
    assert torch.equal(model[0].weight, weight) and model[0].weight.data_ptr() == pointer
    assert torch.equal(walks.first_codes, F.linear(x, weight.tril(), model[0].bias) > 0)


def test_autocast_does_not_reach_the_passes() -> None:
    model, x = dense(), 2 * torch.randn(30, 6)
    expected = segment_walks(model, x, -x, method="uniform", num_points=129)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(segment_walks(model, x, -x, method="uniform", num_points=129), expected)


@pytest.mark.filterwarnings("ignore:.*nonlinear in each element, but not a registered activation")
def test_rows_that_choose_their_way_are_passed_one_by_one() -> None:
    model = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)]).double()

    def forward(model: nn.ModuleList, x: Tensor) -> Tensor:
        h = model[0](x).relu()
        is_large = h.sum(1) > 1
        routed = torch.zeros_like(h)
        routed[is_large], routed[~is_large] = model[1](h[is_large]), model[2](h[~is_large])
        return routed.relu()

    start, end = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    walks = segment_walks(model, start, end, forward=forward, method="uniform", num_points=T)
    bits = []
    for point in points_between(start, end, T).flatten(0, 1):
        h = model[0](point).relu()
        bits.append(torch.cat([h, (model[1](h) if h.sum() > 1 else model[2](h)).relu()]) > 0)
    assert_same(walks, Walks.from_codes(torch.stack(bits).view(4, T, -1), layers=walks.layers))


def test_a_batch_that_mixes_its_inputs_is_refused() -> None:
    x = torch.randn(3, 6)
    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        sampled_distances(dense(), x, -x, num_points=T, forward=lambda model, x: model(x - x.mean(0)))


@pytest.mark.parametrize("num_points", [None, 1, 2.0, True])
def test_too_few_points_are_refused(num_points: object) -> None:
    x = torch.randn(3, 6)
    with pytest.raises(ValueError, match="needs an integer `num_points` of at least 2, got"):
        sampled_distances(dense(), x, -x, num_points=num_points)
    with pytest.raises(ValueError, match="same shape"):
        sampled_distances(dense(), x, -x[:2], num_points=T)


def test_a_segment_of_length_0_has_one_code() -> None:
    x = torch.randn(3, 6)
    found = PerSegment.of(sampled_distances(dense(), x, x, num_points=T))
    assert (found.regions == 1).all() and (found.chi == 0).all()


@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 7), (2, 8), (1, 2040), (2, 2041), (2, 5, 4099)])
def test_set_bits_are_counted_along_the_last_dimension(shape: tuple[int, ...]) -> None:
    for mask in (torch.rand(shape) < 0.5, torch.ones(shape).bool(), torch.zeros(shape).bool()):
        assert torch.equal(count_bits(mask), mask.sum(-1))


@pytest.mark.slow
def test_counted_switches_are_a_lower_bound_of_the_breakpoints_of_all_layers_before() -> None:
    model, start, end = mlp(6, 20, 20, 20, 2), 2 * torch.randn(20, 6), 2 * torch.randn(20, 6)
    breakpoints = segment_walks(model, start, end).num_regions() - 1
    last = list(segment_walks(model, start, end).layers)[-1]
    counts = count_switches(model, start, end)
    assert counts.dtype == torch.int64 and (counts <= breakpoints).all() and counts.sum() > 0.5 * breakpoints.sum()
    assert torch.equal(count_switches(model, start, end, layers=last), counts)
    assert (count_switches(model, start, end, num_points=2) <= counts).all()
    finest = count_switches(model, start, end, num_points=20_001)
    assert (finest - breakpoints).abs().max() <= 2


def test_costs_of_exact_walks_are_switches_times_units_and_more_where_the_network_curves() -> None:
    model, start, end = dense(), 2 * torch.randn(5, 6), 2 * torch.randn(5, 6)
    assert torch.equal(exact_costs(model, start, end, layers="1"), 24 * count_switches(model, start, end, layers="1"))
    assert torch.equal(exact_costs(model, start, end), 66 * CURVED_COST_FACTOR * count_switches(model, start, end))


@pytest.mark.parametrize(
    ("build_network", "side", "is_walked"),
    [
        (lambda side: build("mlp", "relu", side, 3, 512), 28, True),
        (lambda side: build("mlp", "gelu", side, 3, 128), 28, True),
        (lenet, 28, False),
        (lambda side: resnet(side, 1), 32, False),
        (lambda side: build("vit", "gelu", side, 2, 64), 28, False),
    ],
)
def test_walks_that_take_little_are_the_default(build_network: Callable[[int], nn.Module], side: int, is_walked: bool) -> None:
    images = torch.rand(8, side * side)
    costs = exact_costs(build_network(side).eval(), images[:4], images[4:])
    assert bool(costs.double().mean() <= MAX_COST) == is_walked


def test_units_that_are_zero_up_to_rounding_do_not_switch() -> None:
    def forward(x: Tensor) -> Tensor:
        return ((x + 1).relu() - x.relu() - 1).relu()

    start, end = torch.rand(20, 9) + 0.1, torch.rand(20, 9) + 0.1
    assert (count_switches(nn.Identity(), start, end, forward=forward, num_points=33) == 0).all()


def test_the_tent_has_its_known_folding_at_equidistant_points() -> None:
    found = PerSegment.of(sampled_distances(Tent(), torch.tensor([[-2.0]]), torch.tensor([[2.0]]), num_points=129))
    exact = space_folding(segment_walks(Tent(), torch.tensor([[-2.0]]), torch.tensor([[2.0]])))
    assert found.chi == exact == 0.25 and found.exact == 0 and found.complete == 1 and found.resolution == 1 / 128

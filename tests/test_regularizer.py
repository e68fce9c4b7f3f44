"""The regularizer: soft folding, its limit, its gradients, and what it leaves alone."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fold_lightning import FoldingRegularizer, Walks, activation_codes, register_activation, segment_walks, space_folding
from fold_lightning.activations.inspection import inspect
from fold_lightning.regularizer import soft_bits, soft_folding
from fold_lightning.regularizer import term as term_module
from fold_lightning.regularizer.pairs import draw_input_pairs
from fold_lightning.regularizer.schedules import strength
from helpers.networks import CantorNet, mlp
from helpers.regularization import Watchful, batch


def points_of(regularizer: FoldingRegularizer, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """The points that the next call will take, (S, T, ...)."""
    twin = copy.deepcopy(regularizer)
    return twin._points(inputs, labels).unflatten(0, (twin.num_segments, twin.num_points))


class Functional(nn.Module):
    """A network whose activations are functions, methods and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)]).double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers[0](x), inplace=True)
        x = self.layers[1](x).relu_()
        return self.layers[3](torch.tanh(self.layers[2](x)))


@pytest.mark.parametrize("seed", range(3))
def test_as_the_temperature_falls_soft_chi_tends_to_chi_of_the_same_sampled_walk(seed: int) -> None:
    model, (inputs, labels) = mlp(5, 24, 24, 24, 24, 3, seed=seed), batch(seed=seed)
    for layer in model[2::2]:
        layer.weight.data *= 3  # so that it folds
    errors = []
    for temperature in (1e-1, 1e-3, 1e-5, 1e-7):
        regularizer = FoldingRegularizer(1.0, schedule="constant", num_points=40, temperature=temperature, seed=seed)
        points = points_of(regularizer, inputs, labels)
        bits = activation_codes(model, points.flatten(0, 1)).bits.unflatten(0, points.shape[:2])
        exact = space_folding(Walks.from_codes(bits)).mean()
        term = regularizer(model, inputs, labels)
        errors.append(abs((1 - term).item() - exact.item()))
    assert exact > 0.05
    assert errors[0] > 1e-2 and errors[-1] < 1e-4, errors


def test_the_limit_holds_for_two_thresholds_and_for_chosen_layers() -> None:
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU6(), nn.Linear(9, 9), nn.Hardtanh(), nn.Linear(9, 9), nn.ReLU()).double()
    for layer in model[::2]:
        layer.weight.data *= 6
    inputs, _ = batch()
    for layers in (None, ["1", "3"], "5"):
        regularizer = FoldingRegularizer(1.0, num_points=30, temperature=1e-8, layers=layers)
        points = points_of(regularizer, inputs, None)
        codes = activation_codes(model, points.flatten(0, 1), layers=layers).bits
        exact = space_folding(Walks.from_codes(codes.unflatten(0, points.shape[:2])))
        assert exact.mean() > 0
        assert regularizer(model, inputs).item() == pytest.approx(1 - exact.mean().item(), abs=1e-4)


def test_of_hard_bits_soft_folding_is_chi_for_every_walk() -> None:
    bits = torch.rand(50, 9, 13, generator=torch.Generator().manual_seed(0)) > 0.7
    assert torch.allclose(soft_folding(bits.double(), 1e-12), space_folding(Walks.from_codes(bits)), atol=1e-9)


def test_soft_folding_lies_below_one_and_is_none_for_a_walk_that_stays() -> None:
    bits = torch.rand(20, 7, 5)
    for temperature in (1e-3, 0.1, 10.0):
        for damping in (0.0, 8.0):
            chi = soft_folding(bits, temperature, damping)
            assert bool(((chi >= 0) & (chi < 1)).all())
    for damping in (0.0, 8.0):
        assert torch.equal(soft_folding(bits[:, :1].expand(-1, 7, -1), 0.1, damping), torch.zeros(20))


def test_soft_bits_do_not_see_the_scale_of_a_layer() -> None:
    z = torch.randn(9, 4, dtype=torch.float64)
    assert torch.allclose(soft_bits([((0.0,), z)], 0.3), soft_bits([((0.0,), 1000 * z)], 0.3))


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Hardswish])
def test_gradients_are_those_of_finite_differences(activation: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 4), activation(), nn.Linear(4, 2)).double()
    inputs, labels = batch(6, 3)
    regularizer = FoldingRegularizer(0.7, num_segments=3, num_points=5).eval()  # the same segments at each call
    weights = [parameter.detach().clone().requires_grad_() for parameter in list(model.parameters())[:4]]

    def term(*values: Tensor) -> Tensor:
        names = [name for name, _ in model.named_parameters()][:4]
        forward = lambda x: torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))  # noqa: E731
        return regularizer(model, inputs, labels, forward=forward)

    assert torch.autograd.gradcheck(term, weights)
    assert any(bool((g != 0).any()) for g in torch.autograd.grad(term(*weights), weights))


def test_gradients_are_right_through_functions_methods_and_in_place() -> None:
    inputs, labels = batch()
    regularizer = FoldingRegularizer(1.0).eval()
    model = Functional()
    plain = nn.Sequential(*(m for layer in model.layers for m in (layer, nn.ReLU())))
    plain[5] = nn.Tanh()
    gradients = []
    for network in (model, plain[:7]):
        model.zero_grad()
        term = regularizer(network, inputs, labels)
        term.backward()
        gradients.append([term.detach(), *(layer.weight.grad.clone() for layer in model.layers[:3])])
    assert all(torch.equal(a, b) and bool((a != 0).any()) for a, b in zip(*gradients, strict=True))


class Snake(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.sin() ** 2


ACTIVATIONS = [
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.Softshrink, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softplus, nn.Sigmoid, nn.LogSigmoid),
    *(nn.Hardswish, nn.Hardshrink, lambda: nn.Threshold(0.1, 0.0), Snake),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_of_the_table_gets_a_gradient(activation: Callable[[], nn.Module]) -> None:
    register_activation(Snake)
    model = nn.Sequential(nn.Linear(5, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))
    for layer in model[::2]:
        layer.weight.data *= 6  # so that thresholds away from 0 are reached
    inputs, labels = batch(dtype=torch.float32)
    term = FoldingRegularizer(1.0)(model, inputs, labels)
    term.backward()
    gradients = [model[0].weight.grad, model[2].weight.grad]
    assert 0 < term.item() < 1 and all(bool(g.isfinite().all()) and bool((g != 0).any()) for g in gradients)


def test_gated_units_have_the_gates_bits() -> None:
    model = nn.Sequential(nn.Linear(5, 16), nn.GLU(), nn.Linear(8, 3))
    inputs, labels = batch(dtype=torch.float32)
    FoldingRegularizer(1.0)(model, inputs, labels).backward()
    gradient = model[0].weight.grad
    assert bool((gradient[8:] != 0).any()) and not bool((gradient[:8] != 0).any())


def test_convolutions_and_inputs_of_any_shape() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU())
    term = FoldingRegularizer(1.0)(model, torch.randn(6, 1, 8, 8), torch.arange(6))
    term.backward()
    assert bool((model[0].weight.grad != 0).any())


def corner(name: str) -> tuple[nn.Module, Tensor, Tensor | None]:
    model, (inputs, labels) = mlp(5, 8, 8, 3).float(), batch(dtype=torch.float32)
    if name == "dead layer":
        model[2].weight.data.zero_()
        model[2].bias.data.fill_(-3.0)
    elif name == "all zero":
        for parameter in model.parameters():
            parameter.data.zero_()
    elif name == "constant batch":
        inputs = torch.ones_like(inputs)
    elif name == "zero batch":
        inputs = torch.zeros_like(inputs)
    elif name == "one input":
        inputs, labels = inputs[:1], labels[:1]
    elif name == "two equal inputs":
        inputs, labels = inputs[:1].repeat(2, 1), labels[:2]
    elif name == "one class":
        labels = torch.zeros_like(labels)
    elif name == "no class":
        labels = torch.full_like(labels, -100)
    elif name == "large inputs":
        inputs = inputs * 1e8
    elif name == "small inputs":
        inputs = inputs * 1e-8
    elif name == "one unit":
        model = mlp(5, 1, 1, 3).float()
    return model, inputs, labels


STILL = ["constant batch", "zero batch", "one input", "two equal inputs"]
MOVING = ["dead layer", "all zero", "one class", "no class", "large inputs", "small inputs", "one unit"]


@pytest.mark.parametrize("name", STILL + MOVING)
@pytest.mark.parametrize(
    "options", [{}, {"between": "same"}, {"between": "any"}, {"damping": 0.0}, {"temperature": 1e-4}], ids=str
)
def test_corners_give_a_finite_term_and_finite_gradients(name: str, options: Any) -> None:
    model, inputs, labels = corner(name)
    term = FoldingRegularizer(0.5, **options)(model, inputs, labels)
    term.backward()
    assert bool(term.isfinite()) and 0 <= term.item() <= 0.5
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    if name in [*STILL, "all zero"] and options.get("damping") != 0:  # undamped, what rounding leaves of equal rows may fold
        assert term.item() == pytest.approx(0.5, abs=1e-4), "a walk that stays does not fold"


def test_a_layer_that_is_all_but_zero_gets_no_exploding_gradient() -> None:
    """Whatever the scale of a layer, its gradient is at most that of one a hundredth as wide as the widest."""
    _, inputs, labels = corner("dead layer")
    sizes = {}
    for scale in (1e-2, 1e-4, 1e-8):
        model = mlp(5, 8, 8, 3).float()
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        for parameter in model[2].parameters():
            parameter.data.mul_(scale)
        FoldingRegularizer()(model, inputs, labels).backward()
        sizes[scale] = model[2].weight.grad.norm().item()
    assert 0 < sizes[1e-8] < 10 * sizes[1e-2] and sizes[1e-4] < 10 * sizes[1e-2]


def test_two_models_by_turns_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(term_module, "inspect", lambda *args: looks.append(args[0]) or inspect(*args))
    _, inputs, labels = corner("dead layer")
    models = [mlp(5, 8, 8, 3).float() for _ in range(2)]
    regularizer = FoldingRegularizer()
    for model in [*models, *models]:
        regularizer(model, inputs, labels)
    assert len(looks) == 2


def test_what_a_forward_pass_writes_into_lists_and_dicts_is_taken_away_again() -> None:
    class Remembers(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(x)
            self.calls["n"] = self.calls.get("n", 0) + 1
            return super().forward(x)

    _, inputs, labels = corner("dead layer")
    model = Remembers(*mlp(5, 8, 3).float())
    model.seen, model.calls = [], {}
    FoldingRegularizer()(model, inputs, labels).backward()
    assert model.seen == [] and model.calls == {} and model[0].weight.grad is not None


@pytest.mark.parametrize("schedule", [lambda progress: None, lambda progress: "all", lambda progress: float("nan")])
def test_a_schedule_that_returns_no_number_is_refused_at_the_start(schedule: Any) -> None:
    model, inputs, labels = corner("one unit")
    with pytest.raises(ValueError, match="`schedule` must return a finite number"):
        FoldingRegularizer(schedule=schedule).check(model, inputs, labels)


def test_half_precision_and_autocast_give_what_full_precision_gives() -> None:
    model, (inputs, labels) = mlp(5, 32, 32, 32, 3).float(), batch(dtype=torch.float32)
    regularizer = FoldingRegularizer(1.0).eval()
    full = regularizer(model, inputs, labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = regularizer(model, inputs, labels)
    mixed.backward()
    assert mixed.dtype == torch.float32 and bool((model[0].weight.grad != 0).any())
    low = regularizer(model.bfloat16(), inputs.bfloat16(), labels)
    low.backward()
    assert 0 < abs(mixed.item() - full.item()) < 0.02 and 0 < abs(low.item() - full.item()) < 0.02


def test_modes_buffers_attributes_and_random_states_are_as_before() -> None:
    model, (inputs, labels) = Watchful(), batch(dtype=torch.float32)
    model(inputs)
    regularizer = FoldingRegularizer(1.0)
    regularizer.check(model, inputs, labels)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes, buffers = [m.training for m in model.modules()], list(model.buffers())
    term = regularizer(model, inputs, labels)
    term.backward()
    assert bool((model.net[0].weight.grad != 0).any())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(now is then for now, then in zip(model.buffers(), buffers, strict=True))
    assert (model.number, model.last is inputs) == (1, True)
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), random)


def test_all_is_given_back_when_the_forward_pass_fails() -> None:
    class Fails(Watchful):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 10 and not self.training:
                raise RuntimeError("refused")
            return super().forward(x)

    model, (inputs, labels) = Fails(), batch(dtype=torch.float32)
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="refused"):
        FoldingRegularizer(1.0)(model, inputs, labels)
    assert [m.training for m in model.modules()] == modes and model.calls == 0 and model.number == 0


def train(weight: float | None, steps: int = 12) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Watchful()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    regularizer = None if weight is None else FoldingRegularizer(weight)
    for step in range(steps):
        inputs, labels = batch(seed=step, dtype=torch.float32)
        loss = F.cross_entropy(model(inputs), labels)
        if regularizer is not None:
            loss = loss + regularizer(model, inputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, torch.get_rng_state()


def test_weight_0_trains_as_no_regularizer_does_bit_for_bit() -> None:
    (plain, random), (zero, same_random), (some, _) = train(None), train(0.0), train(0.1)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), zero.state_dict().values(), strict=True))
    assert torch.equal(random, same_random)
    assert not torch.equal(plain.net[0].weight, some.net[0].weight), "and this test would see a difference"


SIZES: list[int] = []


class Sized(nn.Module):
    """Notes the size of each batch in a global list, which is not copied with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(5, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SIZES.append(len(x))
        return self.net(x)


def test_weight_0_makes_no_forward_pass() -> None:
    model, (inputs, labels) = Sized(), batch()
    SIZES.clear()
    assert FoldingRegularizer(0.0)(model, inputs, labels) == 0 and not SIZES
    assert FoldingRegularizer(1.0)(model, inputs, labels) != 0 and SIZES


def test_one_forward_pass_takes_all_points() -> None:
    model, (inputs, labels) = Sized(), batch()
    regularizer = FoldingRegularizer(1.0, num_segments=3, num_points=4)
    regularizer(model, inputs, labels)
    SIZES.clear()
    regularizer(model, inputs, labels)
    assert SIZES == [12]


@pytest.mark.slow
def test_gradient_steps_raise_the_exact_folding_and_with_a_minus_weight_lower_it() -> None:
    inputs, labels = batch(64, dtype=torch.float32)
    start, end = inputs[:30], inputs[30:60]

    def folded(weight: float) -> float:
        model = mlp(5, 32, 32, 32, 3).float()
        regularizer = FoldingRegularizer(weight, schedule="constant")
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60 if weight else 0):
            optimizer.zero_grad()
            regularizer(model, inputs, labels).backward()
            optimizer.step()
        return space_folding(segment_walks(model, start, end)).mean().item()

    before = folded(0.0)
    assert folded(1.0) > 3 * before > 3 * folded(-1.0) and before > 0.02


@pytest.mark.parametrize("k", [1, 2, 3])
def test_what_folds_on_paper_folds_softly(k: int) -> None:
    inputs, model = torch.tensor([[1e-3, 0.75], [1 - 1e-3, 0.75]]), CantorNet(k)  # the ends lie on hyperplanes
    regularizer = FoldingRegularizer(1.0, temperature=1e-7, num_points=999, num_segments=1, layers=model.inner_layers)
    regularizer(model, inputs, torch.tensor([0, 1]))
    assert regularizer.soft_chi.item() == pytest.approx(1 - k / (2**k - 1), abs=1e-3)


@pytest.mark.parametrize("between", ["classes", "same", "any"])
def test_segments_go_between_the_inputs_that_are_asked_for(between: Any) -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, -1, 7])
    start, end = draw_input_pairs(7, labels, 500, between, torch.Generator().manual_seed(0))
    pairs = set(zip(start.tolist(), end.tolist(), strict=True))
    every = {(i, j) for i in range(7) for j in range(7) if i != j}
    has = {0, 1, 2, 3, 4, 6}
    classes = {(i, j) for i, j in every if labels[i] != labels[j] and {i, j} <= has}
    same = {(i, j) for i, j in every if labels[i] == labels[j]}
    assert pairs == {"classes": classes, "same": same, "any": every}[between]


def test_without_the_segments_that_are_asked_for_any_are_taken() -> None:
    generator = torch.Generator().manual_seed(0)
    for labels, between in (
        (torch.zeros(3), "classes"),
        (torch.arange(3), "same"),
        (torch.full((3,), -1), "classes"),
        (None, "same"),
    ):
        start, end = draw_input_pairs(3, labels, 100, between, generator)  # type: ignore[arg-type]
        assert len(set(zip(start.tolist(), end.tolist(), strict=True))) == 6


def test_each_call_draws_other_segments_but_in_evaluation_mode() -> None:
    model, (inputs, labels) = mlp(5, 24, 24, 3), batch()
    regularizer = FoldingRegularizer(1.0)
    first, second = (regularizer(model, inputs, labels).item() for _ in range(2))
    again = FoldingRegularizer(1.0)(model, inputs, labels).item()
    other = FoldingRegularizer(1.0, seed=1)(model, inputs, labels).item()
    regularizer.eval()
    third, fourth = (regularizer(model, inputs, labels).item() for _ in range(2))
    assert first == again and third == fourth and len({first, second, third, other}) == 4, (first, second, third, other)


def test_its_state_dict_goes_on_where_it_was() -> None:
    model, (inputs, labels) = mlp(5, 8, 8, 3), batch()
    regularizer = FoldingRegularizer(1.0)
    regularizer.progress = 0.5
    regularizer(model, inputs, labels)
    resumed = FoldingRegularizer(1.0)
    resumed.load_state_dict(pickle.loads(pickle.dumps(regularizer.state_dict())))
    copied = pickle.loads(pickle.dumps(regularizer))
    expected = regularizer(model, inputs, labels).item()
    assert resumed(model, inputs, labels).item() == copied(model, inputs, labels).item() == expected
    assert FoldingRegularizer(0.5)(model, inputs, labels).item() != expected


def test_schedules_run_from_the_whole_weight_to_none() -> None:
    for schedule, expected in (("constant", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0])):
        assert [strength(schedule, p, 1.0) for p in (0.0, 0.5, 1.0)] == pytest.approx(expected)
    assert [strength("constant", p, 0.4) for p in (0.0, 0.39, 0.4, 1.0)] == [1, 1, 0, 0]
    assert [strength("linear", p, 0.4) for p in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([1, 0.5, 0, 0])
    assert strength("cosine", 0.25, 1.0) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_the_term_is_weight_times_schedule_times_what_does_not_fold() -> None:
    model, (inputs, labels) = mlp(5, 8, 8, 3), batch()
    regularizer = FoldingRegularizer(-3.0, schedule=lambda progress: 1 + progress)
    regularizer.progress = 0.5
    term = regularizer(model, inputs, labels)
    assert regularizer.current_weight == -4.5
    assert term.item() == pytest.approx(-4.5 * (1 - regularizer.soft_chi.item())) and not regularizer.soft_chi.requires_grad


def test_another_model_is_looked_at_anew() -> None:
    inputs, labels = batch()
    regularizer = FoldingRegularizer(1.0).eval()
    for model in (mlp(5, 8, 3), mlp(5, 6, 7, 3), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4)).double()):
        assert regularizer(model, inputs, labels).item() == FoldingRegularizer(1.0)(model, inputs, labels).item()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Identity()])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradient_checkpointing_changes_neither_the_term_nor_its_gradients(norm: nn.Module, use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.is_checkpointed = body, True

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=use_reentrant) if self.is_checkpointed else self.body(x)

    body = nn.Sequential(nn.Linear(5, 8), copy.deepcopy(norm), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    model, x = Checkpointed(body), torch.randn(16, 5)
    found = []
    for model.is_checkpointed in (True, False):
        model.zero_grad()
        state = copy.deepcopy(body.state_dict())
        term = FoldingRegularizer(1.0, seed=0)(model, x)
        loss = term + model(x.clone().requires_grad_()).sum() * 0
        loss.backward()
        body.load_state_dict(state)
        found.append([term.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert any(bool(grad.any()) for grad in found[0][1:])


def test_a_part_of_a_model_is_called_by_its_name() -> None:
    model, (inputs, labels) = Watchful(), batch(dtype=torch.float32)
    regularizer = FoldingRegularizer(1.0).eval()
    assert regularizer(model, inputs, labels, forward="net") == regularizer(model.net, inputs, labels)


def test_a_compiled_model_is_the_model_that_was_compiled() -> None:
    model, (inputs, labels) = mlp(5, 8, 8, 3), batch()
    regularizer = FoldingRegularizer(1.0).eval()
    assert regularizer(torch.compile(model, backend="eager"), inputs, labels) == regularizer(model, inputs, labels)


def test_models_and_batches_that_cannot_be_walked_are_refused() -> None:
    regularizer, (inputs, labels) = FoldingRegularizer(1.0), batch()
    with pytest.raises(ValueError, match="has no activation with a threshold"):
        regularizer(nn.Linear(5, 3).double(), inputs, labels)
    with pytest.raises(ValueError, match="pattern 'encoder' matches no activation. The model has: 1"):
        FoldingRegularizer(1.0, layers="encoder")(mlp(5, 8, 3), inputs, labels)
    with pytest.raises(TypeError, match="`inputs` must be floating point, got torch.int64"):
        regularizer(mlp(5, 8, 3), labels)
    with pytest.raises(TypeError, match="`inputs` must be a tensor .* got list"):
        regularizer(mlp(5, 8, 3), [1.0])
    with pytest.raises(ValueError, match="`inputs` must hold at least one input"):
        regularizer(mlp(5, 8, 3), inputs[:0])
    with pytest.raises(TypeError, match="`labels` must be a tensor of integer classes .* got torch.float64"):
        regularizer(mlp(5, 8, 3), inputs, inputs[:, 0])
    with pytest.raises(TypeError, match="`labels` must be a tensor of integer classes .* got list"):
        regularizer(mlp(5, 8, 3), inputs, [0, 1])
    with pytest.raises(ValueError, match="one class for each of 12 inputs, got \\(11,\\)"):
        regularizer(mlp(5, 8, 3), inputs, labels[:-1])
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        regularizer(mlp(5, 8, 3), inputs * torch.inf, labels)


def test_arguments_that_make_no_sense_are_refused() -> None:
    for weight in (math.nan, math.inf):
        with pytest.raises(ValueError, match="`weight` must be a finite number"):
            FoldingRegularizer(weight)
    for temperature in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`temperature` must be a finite number above 0"):
            FoldingRegularizer(temperature=temperature)
    for damping in (-0.1, math.inf):
        with pytest.raises(ValueError, match="`damping` must be a finite number of at least 0"):
            FoldingRegularizer(damping=damping)
    for until in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="`until` must be a share of the training in \\(0, 1\\]"):
            FoldingRegularizer(until=until)
    for name in ("weight", "share", "temperature", "damping", "until"):
        for value in ("x", True, [1.0]):
            with pytest.raises(TypeError, match=f"`{name}` must be a .*, got {re.escape(repr(value))}"):
                FoldingRegularizer(**{name: value})
    with pytest.raises(ValueError, match="`until=0.5` and `until_epoch=3` both say"):
        FoldingRegularizer(until=0.5, until_epoch=3)
    for name, least in (
        *(("num_points", 3), ("num_segments", 1), ("every_n_steps", 1), ("warm_steps", 0), ("until_epoch", 1), ("seed", 0)),
    ):
        for value, error in ((least - 1, ValueError), (4.0, TypeError), (True, TypeError)):
            with pytest.raises(error, match=f"`{name}` must be an integer of at least {least}, got {value}"):
                FoldingRegularizer(**{name: value})
    with pytest.raises(ValueError, match="`between` must be one of 'classes', 'same', 'any', got 'all'"):
        FoldingRegularizer(between="all")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`layers` must be names or glob patterns, got 3"):
        FoldingRegularizer(layers=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`layers` must hold names or glob patterns, got \[\]: name a layer"):
        FoldingRegularizer(layers=[])
    with pytest.raises(
        ValueError, match="`schedule` must be one of 'constant', 'linear', 'cosine', or a function .* got 'step'"
    ):
        FoldingRegularizer(schedule="step")
    for progress in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="`progress` must lie in \\[0, 1\\]"):
            FoldingRegularizer().progress = progress
    with pytest.raises(ValueError, match="`schedule` must return a finite number, got inf at progress 0"):
        FoldingRegularizer(schedule=lambda progress: math.inf)(mlp(5, 8, 3), batch()[0])

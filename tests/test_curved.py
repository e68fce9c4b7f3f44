"""Walks of networks that curve, against dense sampling; and the conditions under which models are met in training."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import Walks, activation_codes, register_activation, segment_walks, space_folding, walk_length
from helpers.networks import mlp

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from models import build

DENSE = 20_001


def assert_finds_what_dense_sampling_brackets(walks: Walks, dense: Walks) -> None:
    """Each switch that neighbouring samples bracket is there, in place, order and number; nothing else is."""
    assert not walks.exact.any() and walks.complete.all()
    assert (walks.resolution <= 1e-6).all()
    for i in range(walks.num_segments):
        found = {}
        events = walks.segment == i
        for t, unit in zip(walks.position[events].tolist(), walks.unit[events].tolist(), strict=True):
            found.setdefault(unit, []).append(t)
        bracketed = {}
        events = dense.segment == i
        for t, unit in zip(dense.position[events].tolist(), dense.unit[events].tolist(), strict=True):
            bracketed.setdefault(unit, []).append(t)
        assert {unit: len(ts) for unit, ts in found.items()} == {unit: len(ts) for unit, ts in bracketed.items()}
        for unit, ts in found.items():
            assert all(b - 1 / (DENSE - 1) - 1e-9 <= t <= b + 1e-9 for t, b in zip(ts, bracketed[unit], strict=True))
    assert torch.allclose(space_folding(walks), space_folding(dense), atol=0.02)  # dense sampling merges steps


def compare(model: nn.Module, start: Tensor, end: Tensor) -> None:
    model = copy.deepcopy(model).double()
    dense = segment_walks(model, start, end, method="uniform", num_points=DENSE)
    assert_finds_what_dense_sampling_brackets(segment_walks(model, start, end), dense)


SMOOTH = [
    *(nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Mish, nn.Tanh, nn.Sigmoid),
    *(nn.Softsign, nn.Hardswish, nn.LogSigmoid, nn.GLU, nn.Tanhshrink),
]


def smooth_mlp(activation: object) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (8, 32, 32):
        act = activation()
        layers += [nn.Linear(inputs, 64 if isinstance(act, nn.GLU) else 32), act]
    return nn.Sequential(*layers, nn.Linear(32, 2)).double()


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("gain", [pytest.param(1.0, marks=pytest.mark.slow), 2.5])
def test_every_switch_of_a_smooth_network_is_found(activation: object, gain: float) -> None:
    model = smooth_mlp(activation)
    for parameter in model.parameters():
        parameter.data *= gain
    compare(model, 2 * torch.randn(4, 8), 2 * torch.randn(4, 8))


@pytest.mark.slow
def test_every_switch_of_a_trained_gelu_network_is_found() -> None:
    model = smooth_mlp(nn.GELU)
    x = torch.randn(512, 8).double()
    y = (x[:, 0] * x[:, 1] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    compare(model, x[:8], x[8:16])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "activation"), [("vit", "gelu"), ("vit", "swiglu"), ("resnet", "silu"), ("vit", "relu")])
def test_every_switch_of_transformers_and_convolutions_is_found(kind: str, activation: str) -> None:
    model = build(kind, activation, side=8, depth=2, width=16).eval()
    compare(model, torch.randn(2, 64), torch.randn(2, 64))


class Bent(nn.Module):
    """Bends that no interception knows: where, maximum, amax, sorting."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = torch.where(h > 0, h, 0.1 * h)
        h = torch.maximum(h, self.b(h))
        h = h - h.amax(1, keepdim=True) / 2
        return torch.relu(self.b(h.sort(dim=1).values))


@pytest.mark.filterwarnings("ignore:.*nonlinear in each element, but not a registered activation")
def test_bends_that_are_no_activations_are_met_by_the_same_check() -> None:
    compare(Bent().double(), 2 * torch.randn(6, 6), 2 * torch.randn(6, 6))


def test_odd_functions_do_not_pass_for_straight_ones() -> None:
    model = nn.Sequential(
        *(
            nn.Linear(4, 8, bias=False),
            nn.Tanh(),
            nn.Linear(8, 8, bias=False),
            nn.Tanh(),
            nn.Linear(8, 8, bias=False),
            nn.Tanh(),
        )
    ).double()
    model[0].weight.data *= 4
    model[2].weight.data *= 4
    x = 3 * torch.randn(10, 4)
    walks = segment_walks(model, x, -x)
    dense = segment_walks(model, x, -x, method="uniform", num_points=DENSE + 1)  # the middle is no point of it
    assert torch.equal(walk_length(walks), walk_length(dense))
    assert walk_length(walks).max() > 24  # more than once for some unit


def test_a_smooth_network_with_one_hidden_layer_is_straight_to_its_units() -> None:
    walks = segment_walks(nn.Sequential(nn.Linear(6, 20), nn.GELU(), nn.Linear(20, 2)), torch.randn(9, 6), torch.randn(9, 6))
    assert walks.exact.all() and space_folding(walks).max() == 0


def test_layers_alone_are_the_same_as_layers_selected() -> None:
    model, start, end = smooth_mlp(nn.GELU), torch.randn(5, 8), torch.randn(5, 8)
    alone, selected = segment_walks(model, start, end, layers="5"), segment_walks(model, start, end).select("5")
    assert torch.equal(alone.unit, selected.unit) and torch.allclose(alone.position, selected.position, atol=1e-9)


def test_gates_are_units_by_their_pre_activation() -> None:
    x = torch.randn(20, 6)
    assert torch.equal(activation_codes(nn.Sequential(nn.GLU()), x).bits, x[:, 3:] > 0)
    swiglu = activation_codes(nn.Identity(), x, forward=lambda x: F.silu(x[:, :3]) * x[:, 3:])
    assert torch.equal(swiglu.bits, x[:, :3] > 0)
    assert torch.equal(activation_codes(nn.Identity(), x, forward=lambda x: F.softplus(x)).bits, x > 0)


class Snake(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(x) ** 2


def test_activations_of_ones_own_are_registered_by_class_or_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.activations import registry

    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(registry, "_BY_MODULE", {})
    x = torch.randn(9, 4)
    model = nn.Sequential(nn.Linear(4, 4), Snake(), nn.Linear(4, 4), Snake()).double()
    assert list(activation_codes(model, x).layers) == ["1.tanh", "3.tanh"]
    register_activation(Snake, (0.5, 1.0))
    codes = activation_codes(model, x)
    assert list(codes.layers) == ["1", "3"] and codes.bits.shape == (9, 16)
    first = model[0](x.double())
    assert torch.equal(codes.bits[:, :8], torch.cat([first > 0.5, first > 1.0], dim=1))
    compare(model, 2 * x[:4], 2 * x[4:8])
    register_activation(torch.sin)
    assert torch.equal(activation_codes(nn.Identity(), x, forward=lambda x: x.sin()).bits, x > 0)
    with pytest.raises(TypeError, match="function of torch or the class of a module"):
        register_activation(lambda x: x)
    for thresholds in ((1.0, 0.0), (0.0, float("nan")), (), 0.5, (0.0, 0.0)):
        with pytest.raises(ValueError, match="must be finite, ascending numbers"):
            register_activation(Snake, thresholds)


def test_an_activation_that_the_table_lacks_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.activations import registry

    monkeypatch.setattr(registry, "_TABLE", {k: v for k, v in registry._TABLE.items() if k != "mish"})
    model = nn.Sequential(nn.Linear(4, 4), nn.Mish(), nn.Linear(4, 4), nn.ReLU())
    with pytest.warns(
        UserWarning, match=r"Mish \('1'\): nonlinear in each element, but not a registered activation.*register_activation"
    ) as warned:
        walks = segment_walks(model, torch.randn(3, 4), torch.randn(3, 4))
    assert len(warned) == 1 and walks.num_units == 4
    assert activation_codes(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Softmax(1)), torch.randn(3, 4)).bits.shape == (3, 4)


class Bend(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x / (1 + torch.exp(-x)), "Bend"),
        (lambda x: torch.where(x > 0, x, 0.1 * x), "Bend"),
        (lambda x: x.mul_(x), "Bend"),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), "Bend"),
        (lambda x: torch.sin(x).flip(1), "sin in Bend"),
    ],
)
def test_an_elementwise_module_of_ones_own_is_named(function: Callable[[Tensor], Tensor], name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Bend(function), nn.Linear(4, 4), nn.ReLU()).double()
    with pytest.warns(UserWarning, match=rf"^{name} \('1'\): nonlinear in each element, but not a registered activation"):
        walks = segment_walks(model, torch.randn(3, 4), torch.randn(3, 4))
    assert not walks.exact.any() and walks.num_units == 4
    with pytest.raises(ValueError, match=rf"has no activation.*; {name} \('1'\) may be one, but is not registered"):
        activation_codes(model[:2], torch.randn(3, 4))


@pytest.mark.parametrize(
    "module", [nn.LayerNorm(4), nn.Softmax(1), nn.Dropout(), nn.BatchNorm1d(4), Bend(lambda x: x / x.norm())]
)
@pytest.mark.filterwarnings("error")
def test_what_normalises_or_rescales_is_no_activation(module: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module, nn.Linear(4, 4), nn.ReLU()).double()
    if not isinstance(module, Bend):
        assert activation_codes(model, torch.randn(3, 4)).bits.shape == (3, 4)
    else:
        with pytest.raises(ValueError, match="mixes the inputs of a batch"):
            activation_codes(model, torch.randn(3, 4))


def test_token_ids_are_walked_in_the_embedding_space() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.net = nn.Embedding(10, 4), mlp(4, 8, 8, 2).float()

        def forward(self, ids: Tensor) -> Tensor:
            return self.net(self.embed(ids))

    model, ids = Language(), torch.randint(10, (2, 3, 5))
    with pytest.raises(TypeError, match="embed them first and pass `forward=`"):
        segment_walks(model, *ids)
    start, end = model.embed(ids)
    walks = segment_walks(model, start, end, forward="net")
    assert walks.exact.all() and walks.num_units == 5 * 16


def test_several_inputs_go_through_forward() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(2, 8)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.relu(self.a(batch["x"]) + self.b(batch["y"])).sum(1)

    model, start, end = Two(), torch.randn(4, 5), torch.randn(4, 5)
    walks = segment_walks(model, start, end, forward=lambda m, z: m({"x": z[:, :3], "y": z[:, 3:]}))
    assert walks.exact.all() and walks.num_units == 8


CONDITIONS = {
    "autocast": lambda m: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": lambda m: torch.inference_mode(),
    "no grad": lambda m: torch.no_grad(),
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_the_context_of_the_call_changes_nothing(condition: str, activation: object) -> None:
    model = nn.Sequential(nn.Linear(5, 12), activation(), nn.Linear(12, 12), activation())
    start, end = torch.randn(6, 5), torch.randn(6, 5)
    plain = segment_walks(model, start, end)
    with CONDITIONS[condition](model):
        inside = segment_walks(model, start.clone(), end.clone())
        codes = activation_codes(model, start.clone())
    assert torch.equal(plain.unit, inside.unit) and torch.equal(plain.position, inside.position)
    assert torch.equal(codes.bits, activation_codes(model, start).bits)


@pytest.mark.parametrize(
    "parametrise", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm]
)
def test_parametrised_weights_are_measured_as_they_stand(parametrise: object) -> None:
    model = nn.Sequential(parametrise(nn.Linear(5, 12)), nn.ReLU(), nn.Linear(12, 6), nn.ReLU()).train()
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(7, 5)
    codes = activation_codes(model, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    expected = copy.deepcopy(model).eval()
    assert torch.equal(codes.bits[:, :12], expected[0](x) > 0)
    assert segment_walks(model, x[:3], x[3:6]).exact.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_are_measured_in_float64(dtype: torch.dtype) -> None:
    model = build("vit", "gelu", side=8, depth=1, width=16).to(dtype).train()
    x = torch.randn(4, 64)
    walks = segment_walks(model, x[:2], x[2:])
    double = segment_walks(copy.deepcopy(model).double(), x[:2], x[2:])
    assert torch.equal(walks.unit, double.unit) and torch.allclose(walks.position, double.position, atol=1e-9)
    assert all(parameter.dtype == dtype for parameter in model.parameters())


L, M = nn.Linear(6, 8), nn.Linear(8, 8)


def accumulate(x: Tensor) -> Tensor:
    acc = torch.zeros(len(x), 6, dtype=x.dtype)
    acc[:, :3].copy_(x[:, :3])
    return torch.relu(L(acc * x))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.relu(M(L(x) * nn.Parameter(L(x)))),
        lambda m, x: torch.relu(M(L(x) * L(x).as_subclass(Tensor))),
        lambda m, x: accumulate(x),
        lambda m, x: torch.relu(torch.div(L(x), 0.7, rounding_mode="trunc") - 0.5),
        lambda m, x: torch.relu(M(L(x).clamp(min=L(x).flip(1)))),
    ],
)
@pytest.mark.filterwarnings("ignore:Values that depend on the input were computed outside torch")
def test_what_is_hidden_or_jumps_is_never_called_exact(forward: Callable[..., Tensor]) -> None:
    start, end = torch.randn(2, 2, 6)
    assert not segment_walks(nn.Identity(), start, end, forward=forward).exact.any()


def test_a_clamp_that_only_plain_passes_can_walk_is_not_called_exact() -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        x = x.T
        bump = x.clamp(min=0.6) - 2 * x.clamp(min=0.65) + x.clamp(min=0.7)
        return torch.relu(bump.T - 0.01)

    with pytest.warns(UserWarning, match="1 of 1 walks are not exact"):
        walks = segment_walks(nn.Identity(), torch.zeros(1, 1), torch.ones(1, 1), forward=forward)
    assert not walks.exact.any()


def test_a_registered_module_must_be_called_with_its_pre_activation_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.activations import registry

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.snake = Snake()

        def forward(self, x: Tensor) -> Tensor:
            return self.snake(x=x)

    monkeypatch.setattr(registry, "_BY_MODULE", {})
    register_activation(Snake)
    with pytest.raises(ValueError, match=r"Snake \('snake'\) is registered.*first positional argument"):
        activation_codes(Named(), torch.randn(3, 4))

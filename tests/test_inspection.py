"""What a model computes is seen right, input by input, or refused: idioms, second inputs, varying layers, mixed batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import activation_codes, register_activation, segment_walks, walk_length, walk_range
from fold_lightning.activations import registry

Forward = Callable[[Any, Tensor], Tensor]


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(registry, "_BY_MODULE", {})
    yield


def layers(*widths: int) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))


def inputs(count: int = 12, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def assert_alone(model: nn.Module, forward: Forward | None, x: Tensor, bits: Tensor) -> None:
    """Each input has the bits that it has alone."""
    alone = [activation_codes(model, row[None], forward=forward).bits for row in x]
    assert torch.equal(bits, torch.cat(alone))


def assert_walks(model: nn.Module, forward: Forward | None, x: Tensor, *, exact: bool = True) -> None:
    """Walks find what 20,001 equidistant points find."""
    half = len(x) // 2
    walks = segment_walks(model, x[:half], x[half:], forward=forward)
    fine = segment_walks(model, x[:half], x[half:], forward=forward, method="uniform", num_points=20_001)
    assert torch.equal(walk_length(walks), walk_length(fine)) and torch.equal(walk_range(walks), walk_range(fine))
    assert walks.num_units == fine.num_units and bool(walks.exact.all()) == exact


class Clips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Zeroes(Clips):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        y[y < 0] = 0
        return y


def written(h: Tensor) -> Tensor:
    h[h <= 0] = 0.0
    return h


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda h: h.clamp(min=0),
    "clamp_min": lambda h: h.clamp_min(0.0),
    "clamp_min_": lambda h: h.clamp_min_(0),
    "clip": lambda h: torch.clip(h, 0, None),
    "maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
    "maximum of a scalar": lambda h: torch.maximum(torch.tensor(0.0), h),
    "max": lambda h: torch.max(h, h.new_zeros(1)),
    "fmax": lambda h: torch.fmax(h, torch.zeros(())),
    "where": lambda h: torch.where(h > 0, h, 0.0),
    "where below": lambda h: torch.where(h < 0, torch.zeros_like(h), h),
    "x.where": lambda h: h.where(h > 0, torch.zeros(())),
    "mul": lambda h: h * (h > 0),
    "mul of floats": lambda h: (h > 0).float() * h,
    "mul of a cast": lambda h: h * h.ge(0).type_as(h),
    "mul of integers": lambda h: h * (h > 0).int(),
    "clamp_min of zeros": lambda h: torch.clamp_min(h, torch.zeros(6)),
    "masked_scatter": lambda h: h.masked_scatter(h < 0, torch.zeros_like(h)),
    "mul of a negation": lambda h: h * ~(h <= 0),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0),
    "setitem": written,
    "threshold": lambda h: F.threshold(h, 0.0, 0.0),
    "an autograd function": Clips.apply,
    "an autograd function that writes": Zeroes.apply,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RELUS)
def test_a_relu_by_any_name_is_one(name: str) -> None:
    model, x = layers(4, 6, 6), inputs()
    plain = activation_codes(model, x, forward=lambda m, x: F.relu(m[1](F.relu(m[0](x)))))

    def forward(m: Any, x: Tensor) -> Tensor:
        return F.relu(m[1](RELUS[name](m[0](x))))

    codes = activation_codes(model, x, forward=forward)
    assert len(codes.layers) == 2 and torch.equal(codes.bits, plain.bits)
    assert_alone(model, forward, x, codes.bits)
    assert_walks(model, forward, x)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "negative", [lambda h: h.clamp(max=0), lambda h: torch.minimum(h, torch.zeros(6)), lambda h: h.clamp_max_(0.0)]
)
def test_a_negative_part_bends_where_a_relu_does(negative: Callable[[Tensor], Tensor]) -> None:
    model, x = layers(4, 6, 6), inputs()

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m[0](x)
        return F.relu(m[1](h - negative(h.clone())))

    codes = activation_codes(model, x, forward=forward)
    assert torch.equal(codes.bits, activation_codes(model, x, forward=lambda m, x: F.relu(m[1](F.relu(m[0](x))))).bits)
    assert_walks(model, forward, x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda h: torch.einsum("bi,bi->bi", h, (h > 0).to(h.dtype)), "einsum in forward"),
        (lambda h: torch.addcmul(torch.zeros(6), h, (h > 0).float()), "addcmul in forward"),
        (lambda h: torch.where(h > 0, h, 0.1 * h), "where in forward"),
        (lambda h: h * torch.sign(h), "sign in forward"),
        (lambda h: h * torch.heaviside(h, torch.zeros(1)), "heaviside in forward"),
        (lambda h: h * (h > 0.5), "mul in forward"),
        (lambda h: torch.where(h > 0, torch.sin(h), h), "sin in forward"),
        (lambda h: torch.log1p(torch.exp(h)), "log1p in forward"),
        (lambda h: h + F.l1_loss(h, torch.zeros_like(h), reduction="none"), "l1_loss in forward"),
        (lambda h: (h > 0).to(h.dtype), "the comparison before linear in Linear"),
        (lambda h: torch.where(h > 0, torch.ones(6), -torch.ones(6)), "the comparison before where in forward"),
        (lambda h: 2.0 * (h > 0), "the comparison before mul in forward"),
    ],
)
def test_an_unknown_bend_is_named_once_and_walked_as_a_curve(function: Callable[[Tensor], Tensor], name: str) -> None:
    model, x = layers(4, 6, 6), inputs()

    def forward(m: Any, x: Tensor) -> Tensor:
        return F.relu(m[1](function(m[0](x))))

    with pytest.warns(UserWarning, match=rf"{name}.*nonlinear in each element.*register_activation") as warned:
        codes = activation_codes(model, x, forward=forward)
    assert len(warned) == 1 and codes.bits.shape == (12, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walks = segment_walks(model, x[:6], x[6:], forward=forward)
    assert not walks.exact.any() and (("of a comparison" in walks.explain()) == name.startswith("the comparison before linear"))


class LeakyByMax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.max(x, 0.1 * x)


class Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6


class SoftThreshold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x - 0.2, torch.minimum(x + 0.2, torch.tensor(0.1)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda h: h.clamp(0, 6), "clamp"),
        (lambda h: torch.clip(h, min=-1, max=1), "clip"),
        (lambda h: F.leaky_relu(h) * (h + 3).clip(0, 6), "clip"),
        (lambda h: torch.maximum(h, 0.1 * h), "maximum"),
        (lambda h: torch.min(h, torch.linspace(1.1, 2, 6) * h), "min"),
        (lambda h: -torch.max(-h, -3 * h), "max"),
    ],
)
def test_bounds_between_layers_are_named_and_those_of_inputs_outputs_and_norms_are_not(
    function: Callable[[Tensor], Tensor], name: str
) -> None:
    model, x = layers(4, 6, 6), inputs()

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m[0](x.clamp(-3, 3))
        h = h / h.norm(dim=1, keepdim=True).clamp(min=1e-6) + torch.maximum(h, h.flip(1))
        return F.relu(m[1](bend(h))).clamp(0, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bend: Callable[[Tensor], Tensor] = torch.neg
        activation_codes(model, x, forward=forward)
    bend = function
    with pytest.warns(UserWarning, match=rf"^{name} in forward: nonlinear in each element.*register_activation"):
        activation_codes(model, x, forward=forward)


@pytest.mark.parametrize("module", [LeakyByMax, Bounded, SoftThreshold])
def test_a_module_that_bends_each_element_by_bounds_is_named_and_walked_exactly(module: type[nn.Module]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), module(), nn.Linear(6, 5), nn.ReLU()), inputs()
    with pytest.warns(UserWarning, match=rf"^{module.__name__} \('1'\): nonlinear in each element.*register_activation"):
        codes = activation_codes(model, x)
    assert list(codes.layers) == ["3"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_alone(model, None, x, codes.bits)
        assert_walks(model, None, x)


class Snake(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.sin() ** 2


class Leaky(nn.Module):
    """A leaky ReLU out of comparisons, which no table knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.25 * x)


class Ramp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() - (x - 1).abs()) / 2


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("depth", [1, 2])
def test_a_registered_module_may_be_the_last_layer_that_counts(depth: int) -> None:
    register_activation(Snake)
    model = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(4, 4), Snake())])
    x = inputs()
    codes = activation_codes(model, x)
    assert list(codes.layers) == ["1", "3"][:depth]
    hidden = model.double()[:-1](x.double())
    assert torch.equal(codes.bits[:, -4:], hidden > 0)
    assert_walks(model, None, x.double(), exact=depth == 1)  # nothing curves before the first


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(("module", "thresholds"), [(Leaky, (0.0,)), (Ramp, (0.0, 1.0)), (nn.Hardshrink, (-0.5, 0.5))])
def test_a_registered_activation_that_is_piecewise_linear_keeps_walks_exact(
    module: type[nn.Module], thresholds: tuple[float, ...]
) -> None:
    register_activation(module, thresholds, piecewise_linear=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), module(), nn.Linear(6, 5), nn.ReLU()).double()
    x = 2 * inputs().double()
    codes = activation_codes(model, x)
    first = model[0](x)
    assert torch.equal(codes.bits[:, : 6 * len(thresholds)], torch.cat([first > t for t in thresholds], 1))
    is_linear = module is not nn.Hardshrink  # which jumps: a claim that is not true is found out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not is_linear else "error")
        walks = segment_walks(model, x[:6], x[6:])
    assert bool(walks.exact.all()) == is_linear
    if is_linear:
        assert_walks(model, None, x)


class Curved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + 1e-4 * x * x


@pytest.mark.slow
@pytest.mark.usefixtures("own_registry")
@pytest.mark.filterwarnings("ignore:.*not exact")
@pytest.mark.parametrize(("module", "thresholds"), [(Curved, (0.0,)), (nn.Hardswish, (-3.0, 3.0))])
def test_a_curved_activation_that_claims_to_be_piecewise_linear_is_found_out(
    module: type[nn.Module], thresholds: tuple[float, ...]
) -> None:
    register_activation(module, thresholds, piecewise_linear=True)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), module(), nn.Linear(6, 5), nn.ReLU()).double(), inputs(4).double()
    assert not segment_walks(model, x[:2], x[2:]).exact.any()


class Gate(nn.Module):
    """Keeps what it computed of the input for another module to read."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor | None = None
        self.net = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.scale = F.relu(self.net(x))
        return x


class Film(nn.Module):
    """Modulates by what a gate kept, elementwise."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        object.__setattr__(self, "gate", gate)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu(self.gate.scale) + torch.exp(-(x**2))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.lin, self.out = Gate(), nn.Linear(4, 6), nn.Linear(6, 5)
        self.film = Film(self.gate)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.out(self.film(self.lin(self.gate(x)))))


@pytest.mark.filterwarnings("ignore:.*nonlinear in each element")
def test_an_attribute_that_was_set_from_the_input_is_no_new_layer() -> None:
    model, x = Gated(), inputs()
    codes = activation_codes(model, x)
    assert list(codes.layers) == ["gate.relu", "film.relu", "relu"]
    assert codes.bits.shape == (12, 6 + 6 + 5) and list(codes.layers.values())[-1].stop == 17
    assert_alone(model, None, x, codes.bits)
    assert_walks(model, None, x, exact=False)


def centred(statistic: Callable[[Tensor], Any]) -> Forward:
    return lambda m, x: F.relu(m[1](F.relu(m[0](x)) - statistic(F.relu(m[0](x)))))


MIXES: dict[str, Forward] = {
    "sum": centred(lambda h: h.sum(0)),
    "mean of all": centred(lambda h: h.mean()),
    "max": centred(lambda h: h.max()),
    "amax": centred(lambda h: h.amax(0)),
    "min": centred(lambda h: h.min(0).values),
    "median": centred(lambda h: h.median(0).values),
    "quantile": centred(lambda h: torch.quantile(h, 0.8)),
    "kthvalue": centred(lambda h: h.kthvalue(2, 0).values),
    "standard deviation": centred(lambda h: h.std()),
    "first": centred(lambda h: h[:1]),
    "last": centred(lambda h: h[-1:]),
    "roll": centred(lambda h: h.roll(1, 0)),
    "best row": centred(lambda h: h[h.sum(1).argmax()]),
    "size": centred(lambda h: len(h)),
    "min-max": lambda m, x: F.relu(m[1]((h := F.relu(m[0](x))) - h.min()) / (h.max() - h.min() + 1e-3)),
    "absmax": lambda m, x: F.relu(m[1]((h := m[0](x)) / h.abs().max())),
    "norm": lambda m, x: F.relu(m[1]((h := m[0](x)) / h.norm())),
    "sort": lambda m, x: F.relu(m[1](m[0](x).sort(0).values)),
    "cummax": lambda m, x: F.relu(m[1](m[0](x).cummax(0).values)),
    "softmax": lambda m, x: F.relu(m[1](m[0](x).softmax(0)) - 0.1),
    "batch norm in training": lambda m, x: F.relu(F.batch_norm(m[0](x), None, None, training=True)),
    "a bound": lambda m, x: F.relu(m[1]((h := m[0](x)).clamp(max=0.9 * h.amax(0)))),
    "a number": lambda m, x: F.relu(m[1]((h := m[0](x)) * (2.0 if float(h.max()) > 2 else 1.0))),
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("call", ["codes", "walks"])
def test_a_mixed_batch_is_refused_whichever_function_mixes_it(name: str, call: str) -> None:
    model, x = layers(4, 6, 6), inputs()
    with pytest.raises(ValueError, match=r"Layer 'relu(/\d)?' .* depend on the other inputs of the batch.*mixes the inputs"):
        if call == "codes":
            activation_codes(model, x, forward=MIXES[name])
        else:
            segment_walks(model, x[:6], x[6:], forward=MIXES[name])


def test_batch_norm_without_running_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU()).eval()
    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        activation_codes(model, inputs())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "normalize",
    [
        lambda h: F.layer_norm(h, (6,)),
        lambda h: h / h.norm(dim=1, keepdim=True),
        lambda h: h - h.amax(1, keepdim=True),
        lambda h: h.softmax(1),
        lambda h: F.group_norm(h, 2),
        lambda h: h.sort(1).values,
    ],
)
def test_statistics_of_one_input_mix_nothing(normalize: Callable[[Tensor], Tensor]) -> None:
    model, x = layers(4, 6, 6), inputs()

    def forward(m: Any, x: Tensor) -> Tensor:
        return F.relu(m[1](normalize(m[0](x))))

    assert_alone(model, forward, x, activation_codes(model, x, forward=forward).bits)


def test_a_model_that_refuses_extreme_values_is_measured() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if x.square().max() > 25:
            raise ValueError("values out of range")
        return F.relu(m[0](x))

    model, x = layers(4, 6), inputs().clamp(-3, 3)
    codes = activation_codes(model, x, forward=forward)
    assert torch.equal(codes.bits, model.double()[0](x.double()) > 0)


def early_exit(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m[0](x))
    return h if h.mean() > 0.4 else F.relu(m[1](h))


def depth_by_value(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m[0](x))
    for _ in range(1 + int(2 * h[0].sum()) % 3):
        h = F.relu(m[1](h))
    return h


def routed_by_mask(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m[0](x))
    out, chosen = torch.zeros_like(h), h.sum(1) > 1
    out[chosen] = F.relu(m[1](h[chosen]))
    return F.relu(out - 0.1)


def routed_by_index(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m[0](x))
    route, out = h[:, :2].argmax(1), torch.zeros_like(h)
    for expert in (0, 1):
        rows = (route == expert).nonzero().squeeze(1)
        out.index_add_(0, rows, F.relu(m[1 + expert](h.index_select(0, rows))))
    return out


def sorted_rows(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m[0](x))
    order = h.sum(1).argsort()
    return F.relu(m[1](h[order]))[order.argsort()]


def once_per_row(m: Any, x: Tensor) -> Tensor:
    return torch.stack([F.relu(m[0](row)) for row in x])


VARYING = [early_exit, depth_by_value, routed_by_mask, routed_by_index, sorted_rows, once_per_row]


@pytest.mark.parametrize("forward", VARYING)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore:.*nonlinear in each element, but not a registered activation")
def test_layers_that_vary_are_refused_by_name_or_each_input_gets_its_own(forward: Forward, seed: int) -> None:
    model = layers(4, 6, 6, 6)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
    try:
        codes = activation_codes(model, x, forward=forward)
    except ValueError as error:
        assert "layer 'relu" in str(error).lower()
        assert "vary" in str(error) or "mixes the inputs" in str(error) or "must have a batch dimension" in str(error)
        return
    assert sum(columns.stop - columns.start for columns in codes.layers.values()) == codes.bits.shape[1]
    assert_alone(model, forward, x, codes.bits)


def exits_early(h: Tensor) -> Any:
    return bool(h.mean() > 0.4)


def depth_of(h: Tensor) -> Any:
    return int(2 * h.sum()) % 3


def is_chosen(h: Tensor) -> Any:
    return bool(h.sum() > 1)


@pytest.mark.parametrize(
    ("forward", "kind"), [(early_exit, exits_early), (depth_by_value, depth_of), (routed_by_mask, is_chosen)]
)
@pytest.mark.filterwarnings("ignore:.*nonlinear in each element, but not a registered activation")
def test_a_later_input_that_meets_other_layers_is_refused(forward: Forward, kind: Callable[[Tensor], Any]) -> None:
    model, x = layers(4, 6, 6, 6), inputs(60)
    kinds = [kind(F.relu(model[0](row))) for row in x]
    for first in set(kinds):
        same = [row for row, k in zip(x, kinds, strict=True) if k == first]
        other = next(row for row, k in zip(x, kinds, strict=True) if k != first)
        with pytest.raises(ValueError, match="[Ll]ayer 'relu"):  # the first two are inspected, the last is met later
            activation_codes(model, torch.stack([same[0], same[-1], other, same[0]]), forward=forward)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_rows_that_are_gathered_within_their_own_input_are_measured() -> None:
    def neighbours(m: Any, x: Tensor) -> Tensor:
        h = m[0](x).view(len(x), 3, 2)
        nearest = torch.cdist(h, h).topk(2, -1, largest=False).indices
        base = 3 * torch.arange(len(x))[:, None, None]
        return F.relu(h.reshape(-1, 2)[(nearest + base).view(-1)].view(len(x), -1) - 0.1)

    def experts(m: Any, x: Tensor) -> Tensor:  # all of them for every input
        h = F.relu(m[0](x))
        weight = h[:, :2].softmax(1)
        return F.relu(weight[:, :1] * F.relu(m[1](h)) + weight[:, 1:] * F.relu(m[2](h)) - 0.1)

    model, x = layers(4, 6, 6, 6), inputs()
    for forward in (neighbours, experts):
        assert_alone(model, forward, x, activation_codes(model, x, forward=forward).bits)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 8)
        self.register_buffer("constant", torch.full((1, 1), 0.7))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(torch.cat([x, c.to(x.dtype)], 1)))))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "second",
    [
        lambda m, x: torch.zeros(len(x), 1),
        lambda m, x: torch.full((x.size(0), 1), 0.3),
        lambda m, x: 2 * torch.ones(x.shape[0], 1, dtype=x.dtype) + 1,
        lambda m, x: m.constant.expand(len(x), 1),
        lambda m, x: m.constant.repeat(len(x), 1),
        lambda m, x: torch.ones(len(x), 1, dtype=torch.int64),
        lambda m, x: torch.arange(3.0)[None].expand(len(x), 3)[:, 1:2],
        lambda m, x: F.relu(m.constant.expand(len(x), 1)),  # an activation, but none of an input
        lambda m, x: F.gelu(m.constant.repeat(len(x), 1)),
    ],
)
def test_a_second_input_of_equal_rows_keeps_the_walk_in_one_pass(second: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = Two(), inputs()

    def forward(m: Any, x: Tensor) -> Tensor:
        return m(x, second(m, x))

    walks = segment_walks(model, x[:6], x[6:], forward=forward)
    assert walks.exact.all() and walks.explain() == "6 of 6 segments by one pass over a growing batch: exact."
    assert_walks(model, forward, x)


def test_a_walk_says_which_engine_took_it_and_why() -> None:
    x = inputs()
    smooth = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU())
    said = segment_walks(smooth, x[:6], x[6:]).explain()
    assert said.startswith("6 of 6 segments by Chebyshev interpolation: not exact.")
    assert "gelu in GELU ('1')" in said and "layer_norm in LayerNorm ('2')" in said

    def shuffled(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m[0](x))
        return F.relu(m[1](h.T.reshape(6, -1).T))

    walks = segment_walks(layers(4, 6, 6), x[:6], x[6:], forward=shuffled)
    assert "6 of 6 segments by refinement by plain passes: exact." in walks.explain()
    assert "does not support a growing batch: " in walks.explain()
    few = segment_walks(layers(4, 6, 6), x[:6], x[6:], forward=shuffled, method="uniform", num_points=5)
    assert few.explain() == "6 of 6 segments by equidistant points: not exact."


class Image(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 1), norm

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class LayerNorm2d(nn.Module):
    """Over channels, as ConvNeXt has it."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class ChannelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + x.square().sum(1, keepdim=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("norm", [LayerNorm2d, ChannelNorm, lambda: nn.Softmax(1), nn.Softmax2d])
def test_a_norm_over_channels_is_no_activation_on_images_of_any_width(norm: Callable[[], nn.Module], width: int) -> None:
    codes = activation_codes(Image(norm()), torch.randn(5, 1, 3, width))
    assert list(codes.layers) == ["relu"]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, *, pixel_values: Tensor) -> Tensor:
        return self.lin(pixel_values).relu()


class OnlyFloats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.numpy().dtype != "float32":
            raise TypeError("expected float32")
        return self.lin(x).relu()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Please use quant_min")
def test_errors_say_the_cause_and_what_to_do() -> None:
    x, model = inputs(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(TypeError, match=r"must be real, got torch.complex64.*view_as_complex"):
        activation_codes(model, x.to(torch.complex64))
    with pytest.raises(TypeError, match=r"dense tensor, got layout torch.sparse_coo: pass `inputs.to_dense\(\)`"):
        activation_codes(model, x.to_sparse())
    with pytest.raises(ValueError, match=r"refused a batch of shape \(2, 3\).*mat1 and mat2.*pass `forward=`\)"):
        activation_codes(model, x[:, :3])
    with pytest.raises(ValueError, match=r"forward=lambda model, x: model\(pixel_values=x\)"):
        activation_codes(Keywords(), x)
    with pytest.raises(ValueError, match=r"takes a batch of shape \(2, 4\), but.*float64.*expected float32"):
        activation_codes(OnlyFloats(), x)
    prepared = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).train()
    prepared.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    with pytest.raises(ValueError, match="FakeQuantize.*before it is prepared for quantization"):
        activation_codes(torch.ao.quantization.prepare_qat(prepared), x)


def test_the_modulus_of_complex_numbers_is_no_unit() -> None:
    def spectrum(m: Any, x: Tensor) -> Tensor:
        return F.relu(m[0](torch.fft.fft(x).abs()))

    model, x = layers(4, 6), inputs()
    codes = activation_codes(model, x, forward=spectrum)
    assert list(codes.layers) == ["relu"] and codes.bits.shape == (12, 6)
    assert_walks(model, spectrum, x, exact=False)

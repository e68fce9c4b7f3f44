"""Activations are found wherever a forward pass meets them, and the model does not notice."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import activation_codes, segment_walks
from fold_lightning.activations import inspection
from fold_lightning.activations.evaluation import Replica, shared_replica
from fold_lightning.activations.inspection import record_pass
from helpers.networks import mlp


class Everything(nn.Module):
    """Each way to call an activation, nested, residual, shared and functional."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
        self.shared = nn.ReLU()
        self.block = nn.ModuleDict({"conv": nn.Conv2d(2, 2, 3, padding=1), "act": nn.PReLU()})
        self.drop, self.head = nn.Dropout(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block["act"](self.block["conv"](x))
        x = self.shared(x - 0.1)
        x = self.shared(self.drop(x) - 0.2)
        x = F.relu(x - 0.3, inplace=True)
        x = torch.relu(x - 0.1)
        x = (x - 0.05).relu_()
        x = abs(x - 0.02)
        return self.head(x.flatten(1)).relu()


NAMES = ["stem.2", "block.act", "shared", "shared/2", "relu", "relu/2", "relu/3", "abs", "relu/4"]


def test_every_activation_is_met_once_for_each_call_and_in_execution_order() -> None:
    codes = activation_codes(Everything(), torch.randn(7, 1, 4, 4))
    assert list(codes.layers) == NAMES
    assert codes.layers["stem.2"] == slice(0, 32)
    assert codes.layers["relu/4"] == slice(256, 261)
    assert codes.bits.shape == (7, 261) and codes.bits.dtype == torch.bool


def test_bits_are_signs_of_pre_activations_channel_by_channel() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4), nn.LeakyReLU())
    x = torch.randn(9, 2, 3, 3)
    first = model[0](x)
    last = model[3](first.relu().flatten(1))
    codes = activation_codes(model, x)
    assert torch.equal(codes.bits[:, codes.layers["1"]], first.flatten(1) > 0)
    assert torch.equal(codes.bits[:, codes.layers["4"]], last > 0)


@pytest.mark.parametrize(
    ("activation", "thresholds"),
    [
        (nn.ReLU6(), (0, 6)),
        (nn.Hardtanh(-0.5, 0.25), (-0.5, 0.25)),
        (lambda x: F.hardtanh(x, max_val=2.0), (-1, 2)),
        (F.relu6, (0, 6)),
        (nn.Hardsigmoid(), (-3, 3)),
        (nn.Softshrink(0.7), (-0.7, 0.7)),
    ],
)
def test_two_thresholds_give_all_low_bits_and_then_all_high_ones(
    activation: nn.Module, thresholds: tuple[float, float]
) -> None:
    x = 4 * torch.randn(50, 3)
    bits = activation_codes(nn.Identity(), x, forward=lambda x: activation(x)).bits
    assert torch.equal(bits, torch.cat([x > thresholds[0], x > thresholds[1]], dim=1))


def test_layers_are_chosen_by_name_or_glob() -> None:
    model, x = Everything(), torch.randn(3, 1, 4, 4)
    every = activation_codes(model, x)
    for layers, names in {
        "stem.2": ["stem.2"],
        "shared*": ["shared", "shared/2"],
        ("relu/3", "block.*"): ["block.act", "relu/3"],
    }.items():
        some = activation_codes(model, x, layers=layers)
        assert list(some.layers) == names
        assert torch.equal(some.bits, torch.cat([every.bits[:, every.layers[name]] for name in names], dim=1))
    with pytest.raises(ValueError, match=r"'decoder' matches no activation. The model has: stem.2, block.act"):
        activation_codes(model, x, layers=["stem.2", "decoder"])


def test_an_activation_of_a_weight_is_no_unit() -> None:
    class Positive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.linear(x, F.relu(self.weight)) - 0.5)

    assert list(activation_codes(Positive(), torch.randn(4, 3)).layers) == ["relu"]
    assert activation_codes(Positive(), torch.randn(4, 3)).bits.shape == (4, 4)


@pytest.mark.slow
def test_a_lightning_module_and_a_compiled_one_are_measured_as_they_are() -> None:
    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 6, 6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model, x = Module(), torch.randn(5, 4)
    codes = activation_codes(model, x)
    assert list(codes.layers) == ["net.1", "net.3"]
    compiled = torch.compile(model)
    assert torch.equal(activation_codes(compiled, x).bits, codes.bits)
    model.net = torch.compile(model.net)
    inner = activation_codes(model, x)
    assert list(inner.layers) == ["net.1", "net.3"] and torch.equal(inner.bits, codes.bits)


@pytest.mark.parametrize("forward", ["net", lambda model, x: model.net(x), "run"])
def test_forward_says_how_the_model_is_called(forward: object) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 6, 2)

        def run(self, x: Tensor) -> Tensor:
            return self.net(x)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            raise AssertionError("not to be called")

    model, x = Model(), torch.randn(3, 4)
    assert list(activation_codes(model, x, forward=forward).layers) == ["net.1"]
    assert list(activation_codes(model, x, forward=model.run).layers) == ["net.1"]
    with pytest.raises(ValueError, match="must be the name of a method or a submodule of"):
        activation_codes(model, x, forward="encode")
    with pytest.raises(TypeError, match="must be a name or a callable"):
        activation_codes(model, x, forward=3)


class Restless(Everything):
    """Changes all it can while it runs: buffers, attributes, random states; and may break in the middle."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("exact", torch.zeros((), dtype=torch.float64))
        self.register_buffer("rebound", torch.zeros(2))
        self.count, self.breaks = 0, breaks

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.exact.add_(1)
        self.rebound = self.rebound + 1
        self.count += 1
        self.seen = x
        torch.rand(3), np.random.rand(3), random.random()
        if self.breaks and self.count:
            torch.relu(x)
            raise RuntimeError("broken in the middle")
        return super().forward(x)


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("measure", [activation_codes, lambda m, x: segment_walks(m, x[:3], x[3:])])
def test_nothing_of_the_model_changes_not_even_after_an_exception(breaks: bool, measure: object) -> None:
    model = Restless(breaks).train()
    model.stem.eval()
    model(torch.randn(4, 1, 4, 4)).sum().backward() if not breaks else None
    model.count = 0
    hook = model.head.register_forward_hook(lambda *_: None)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    identities, attributes = [id(t) for t in [*model.parameters(), *model.buffers()]], set(vars(model))
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    x = torch.randn(6, 1, 4, 4, requires_grad=True)
    before = x.detach().clone()
    states = (torch.get_rng_state(), *states[1:])
    if breaks:
        with pytest.raises(ValueError, match="broken in the middle"):
            measure(model, x)
    else:
        measure(model, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [id(t) for t in [*model.parameters(), *model.buffers()]] == identities
    assert set(vars(model)) == attributes and model.count == 0
    assert list(model.head._forward_hooks) == [hook.id]
    assert torch.equal(x, before) and x.grad is None
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.requires_grad and (grad is None) == (parameter.grad is None)
        assert grad is None or torch.equal(grad, parameter.grad)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    assert torch.is_grad_enabled() and not torch.nn.modules.module._global_forward_hooks


def test_a_model_that_mixes_the_inputs_of_a_batch_is_refused() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x - x.mean(0))

    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        activation_codes(Centred(), torch.randn(5, 3))


def test_sequences_before_the_batch_are_told_apart() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3, 4, 2).float()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.transpose(0, 1))

    model, x = TimeFirst(), torch.randn(6, 5, 3)
    expected = (model.net[0](x) > 0).flatten(1)
    assert torch.equal(activation_codes(model, x).bits, expected)


def test_a_layer_without_a_batch_is_refused() -> None:
    class Lonely(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.sum())

    with pytest.raises(ValueError, match="must have a batch dimension"):
        activation_codes(Lonely(), torch.randn(5, 3))


def test_large_data_is_coded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.activations import codes

    model, x = mlp(4, 6, 2), torch.randn(100, 4)
    whole = activation_codes(model, x)
    monkeypatch.setattr(codes, "CODES_MAX_BYTES", 8 * 6 * 6 * 7)
    assert torch.equal(whole.bits, activation_codes(model, x).bits)


def test_identically_zero_pre_activations_are_zero_in_spite_of_rounding() -> None:
    class Cancelling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.cat([torch.relu(x + 1) - torch.relu(x) - 1, x], dim=1))

    x = torch.rand(1000, 1).double()
    assert not activation_codes(Cancelling(), x, layers="relu/3").bits[:, 0].any()


def test_what_a_model_keeps_in_lists_dicts_and_generators_is_given_back() -> None:
    class Collecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen, self.deep = mlp(4, 6, 2), [], {"a": {"n": 0}, "b": [[1]]}
            self.generator, self.python = torch.Generator().manual_seed(3), random.Random(1)

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x)
            self.deep["a"]["n"] += 1
            self.deep["b"][0].append(x)
            self.deep["new"] = x
            torch.rand(1, generator=self.generator), self.python.random()
            return self.net(x)

    model, x = Collecting(), torch.randn(6, 4)
    state, python = model.generator.get_state(), model.python.getstate()
    segment_walks(model, x[:3], x[3:])
    assert model.seen == [] and model.deep == {"a": {"n": 0}, "b": [[1]]}
    assert torch.equal(model.generator.get_state(), state) and model.python.getstate() == python


def test_a_model_that_looks_at_the_first_input_of_a_batch_is_refused() -> None:
    model = mlp(4, 6, 6)
    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        activation_codes(model, torch.randn(3, 4), forward=lambda m, x: torch.relu(m(x) - m(x)[:1]))


def test_what_is_no_model_is_refused() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(TypeError, match="must be an `nn.Module`, got function"):
        activation_codes(lambda x: x.relu(), x)
    with pytest.raises(ValueError, match="ScriptModule"):
        activation_codes(torch.jit.trace(mlp(4, 6, 2).float(), x), x)
    with pytest.raises(ValueError, match="meta device"):
        activation_codes(mlp(4, 6, 2), x.to("meta"))
    with pytest.raises(TypeError, match="names or glob patterns, got 3"):
        activation_codes(mlp(4, 6, 2), x, layers=3)


def test_what_leaves_torch_on_its_way_from_the_input_is_refused() -> None:
    model, x = mlp(4, 6, 6), torch.randn(3, 4)
    with pytest.raises(ValueError, match="was computed outside torch"):
        activation_codes(model, x, forward=lambda m, x: torch.relu(torch.from_numpy(m(x).numpy() - 0.5)))
    with pytest.raises(ValueError, match="was computed outside torch"):
        segment_walks(model, x, -x, forward=lambda m, x: torch.relu(torch.tensor(m(x).tolist()) - 0.5))


@torch.jit.script
def scripted_relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.vmap(torch.relu), "relu of forward runs inside a function transform"),
        (torch.func.grad(lambda x: torch.relu(x).sum()), "inside a function transform"),
    ],
)
def test_activations_out_of_sight_are_refused_even_if_none_follows(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_codes(mlp(4, 6, 6), torch.randn(3, 4), forward=lambda m, x: function(m(x)))


def test_a_scripted_function_of_the_weights_is_none_of_ours() -> None:
    model = mlp(4, 6, 6)
    weights = model[0].weight
    codes = activation_codes(model, torch.randn(3, 4), forward=lambda m, x: torch.relu(x @ scripted_relu(weights.double()).T))
    assert codes.bits.shape == (3, 6)


@pytest.mark.parametrize("function", [scripted_relu, lambda h: torch.from_numpy(np.tanh(h.numpy()))])
def test_an_output_that_left_torch_is_warned_about(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.warns(UserWarning, match="depend on the input were computed outside torch"):
        activation_codes(mlp(4, 6, 6), torch.randn(3, 4), forward=lambda m, x: function(m(x)))


@pytest.mark.filterwarnings("error")
def test_what_left_torch_and_bends_nothing_is_nobodys_loss() -> None:
    model = mlp(4, 6, 6)

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        h = model(x)
        model.statistic = torch.from_numpy(h.numpy().copy()).mean(0)
        return h

    assert activation_codes(model, torch.randn(3, 4), forward=forward).bits.shape == (3, 6)
    assert not hasattr(model, "statistic")


@pytest.mark.filterwarnings("error")
def test_outputs_that_do_not_depend_on_the_input_are_nobodys_loss() -> None:
    def forward(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return model(x), torch.zeros(len(x), 2), torch.arange(len(x)).double(), torch.ones(3)

    assert activation_codes(mlp(4, 6, 6), torch.randn(3, 4), forward=forward).bits.shape == (3, 6)


@pytest.mark.slow
def test_a_compiled_function_in_a_forward_pass_is_seen() -> None:
    compiled = torch.compile(lambda x: torch.relu(x) - 0.1)
    codes = activation_codes(mlp(4, 6, 6), torch.randn(3, 4), forward=lambda m, x: torch.relu(compiled(m(x))))
    assert codes.bits.shape[1] % 6 == 0 and len(codes.layers) >= 2


@pytest.mark.slow
def test_an_exported_model_is_measured_by_its_operators() -> None:
    model, x = mlp(4, 6, 6, 2).float(), torch.randn(5, 4)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    assert torch.equal(activation_codes(exported, x).bits, activation_codes(model, x).bits)


class Writing(nn.Module):
    """Writes into what it owns: a plain tensor, one in a list, and its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6, dtype=torch.float64)
        self.count, self.means = torch.zeros(1, dtype=torch.long), [torch.zeros(6, dtype=torch.float64)]
        self.pair, self.array = ({"seen": torch.zeros(1)}, torch.zeros(1, dtype=torch.float64)), np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.pair[1].data.add_(1)
        self.array[0] += 1
        self.linear.weight.data.clamp_(-0.1, 0.1)
        z = self.linear(x)
        self.means[0].mul_(0.9).add_(z.detach().mean(0))
        return torch.relu(z)


def test_what_a_forward_pass_writes_in_place_is_taken_back() -> None:
    model, x = Writing(), torch.randn(9, 4)
    weight = model.linear.weight.clone()
    expected = (x.double() @ weight.clamp(-0.1, 0.1).T + model.linear.bias) > 0
    assert torch.equal(activation_codes(model, x).bits, expected)
    segment_walks(model, x[:4], x[4:8])
    assert torch.equal(model.linear.weight, weight) and not model.count.any() and not model.means[0].any()
    assert not model.pair[1].any() and not model.array.any()


def test_complex_weights_are_measured() -> None:
    weight, x = torch.randn(3, 3, dtype=torch.complex64), torch.randn(5, 4)
    codes = activation_codes(nn.Identity(), x, forward=lambda m, x: torch.relu(torch.view_as_real(torch.fft.rfft(x) @ weight)))
    spectrum = torch.fft.rfft(x.double()) @ weight.to(torch.complex128)
    assert torch.equal(codes.bits, (torch.view_as_real(spectrum) > 0).flatten(1))


def test_a_gradient_inside_a_forward_pass_follows_the_input() -> None:
    model = nn.Linear(4, 6)

    def force(model: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(torch.tanh(model(y)).sum(), y)
        return torch.relu(gradient - 0.1)

    codes = activation_codes(model, torch.randn(5, 4), forward=force)
    assert list(codes.layers) == ["tanh", "relu"]


def test_an_activation_by_another_name_is_the_same() -> None:
    codes = activation_codes(mlp(4, 6, 6), torch.randn(3, 4), forward=lambda m, x: torch.special.expit(m(x)))
    assert list(codes.layers) == ["1", "sigmoid"]


def test_objects_that_a_forward_pass_steps_are_as_before() -> None:
    class Schedule:
        def __init__(self) -> None:
            self.steps, self.seen = 0, [0.0]

    class Stepping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.schedule, self.space = Schedule(), SimpleNamespace(inner=Schedule())

        def forward(self, x: Tensor) -> Tensor:
            for schedule in (self.schedule, self.space.inner):
                schedule.steps += 1
                schedule.seen.append(x.sum().item())
            return x.relu()

    model = Stepping()
    activation_codes(model, torch.randn(3, 2))
    for schedule in (model.schedule, model.space.inner):
        assert schedule.steps == 0 and schedule.seen == [0.0]


class Remembers(nn.Module):
    """Keeps from one pass to the next what it saw, in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(3, 8, 8, 2)
        self.shift: float | None = None
        self.calls, self.seen = 0, []
        self.register_buffer("total", torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            self.shift = float(self.total.sum())
        self.calls += 1
        self.seen.append(self.calls)
        self.total += x.detach().sum(0)
        return self.net(x - self.shift - len(self.seen) - self.calls)


def test_each_pass_finds_the_model_as_the_first_did() -> None:
    model, (x, y) = Remembers(), torch.randn(2, 6, 3).double()

    def found() -> list[Tensor]:
        walks = segment_walks(model, x, y)
        return [activation_codes(model, y).bits, walks.position, walks.first_codes, activation_codes(model, x[2:]).bits]

    apart = found()
    with shared_replica(model, x):
        together = found()
    assert all(torch.equal(one, two) for one, two in zip(apart, together, strict=True))
    bits = (model.net[0](y - 2) > 0, model.net[2](model.net[:2](y - 2)) > 0)
    assert torch.equal(together[0], torch.cat(bits, 1))
    assert model.shift is None and model.calls == 0 and not model.seen and not model.total.any()


def test_what_a_pass_writes_into_a_weight_is_gone_before_the_next() -> None:
    class Stepping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((2,), -3.5))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.add_(1)
            return torch.relu(x * self.weight)

    model = Stepping()
    for _ in range(3):  # the looks are passes too
        assert not activation_codes(model, torch.ones(5, 2)).bits.any()
    assert (model.weight == -3.5).all()


def test_a_shared_replica_is_made_and_inspected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other, (x, y) = mlp(3, 8, 8, 2), mlp(3, 5, 2), torch.randn(2, 6, 3).double()
    looked: list[Replica] = []
    monkeypatch.setattr(inspection, "record_pass", lambda *given: looked.append(given[0]) or record_pass(*given))

    def bits() -> list[Tensor]:
        walks = segment_walks(model, x, y)
        return [activation_codes(model, x).bits, walks.position, activation_codes(model, y, layers="1").bits]

    apart = bits()
    assert len(looked) == 3 * 5 and len(set(looked)) == 3
    looked.clear()
    model.train()
    with shared_replica(model, x):
        together = bits()
        assert len(looked) == 2 * 5 and len(set(looked)) == 1  # other layers are another look
        assert torch.equal(activation_codes(other, x).bits, other[0](x) > 0)
        called = activation_codes(model, x, forward=lambda model, x: model[:2](x))
        assert called.bits.shape == (6, 8) and len(set(looked)) == 3
    assert all(torch.equal(one, two) for one, two in zip(apart, together, strict=True)) and model.training
    with pytest.raises(KeyError), shared_replica(model, x):
        raise KeyError
    with torch.no_grad():
        model[0].weight.mul_(-1)
        model[0].bias.mul_(-1)
    assert torch.equal(activation_codes(model, x, layers="1").bits, ~apart[0][:, :8])

"""Codes in float32: the signs of a plain pass, whatever the dtype of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import activation_codes


class Mixed(nn.Module):
    """Casts by its weights' dtype, makes tensors of its own, works on complex numbers, and bends by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 8)
        self.register_buffer("scale", torch.rand(16, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.to(self.first.weight.dtype)))
        x = torch.fft.fft(x * self.scale.to(x.dtype)).real + torch.linspace(-1, 1, 16, dtype=torch.float64).to(x)
        return F.relu6(self.second(x.to(self.second.weight.dtype)))


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(36, 12), nn.Hardtanh(), nn.Dropout(), nn.Linear(12, 5), nn.GELU())


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 20), nn.LeakyReLU()), (6,)),
    "convolutional": (convolutional, (1, 8, 8)),
    "mixed": (Mixed, (6,)),
}


@pytest.fixture(params=MODELS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    make, shape = MODELS[request.param]
    return make(), torch.randn(300, *shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_they_are_those_in_float64_but_for_signs_near_zero(network: tuple[nn.Module, Tensor], dtype: torch.dtype) -> None:
    model, x = network
    model.to(dtype)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    exact, found = activation_codes(model, x), activation_codes(model, x, dtype=torch.float32)
    assert found.layers == exact.layers and found.bits.shape == exact.bits.shape
    assert (found.bits != exact.bits).double().mean() < 1e-4
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(value, before[name]) and value.dtype == before[name].dtype for name, value in model.state_dict().items()
    )


def test_they_are_the_signs_of_a_plain_pass() -> None:
    torch.manual_seed(2)
    model, seen = convolutional().eval(), []
    x = torch.randn(50, 1, 8, 8)
    for module, thresholds in ((model[2], (0.0,)), (model[6], (-1.0, 1.0)), (model[9], (0.0,))):
        module.register_forward_pre_hook(
            lambda _, given, thresholds=thresholds: seen.extend(given[0].flatten(1) > threshold for threshold in thresholds)
        )
    with torch.no_grad():
        model(x)
    with torch.autocast("cpu", torch.bfloat16):  # which would round more
        codes = activation_codes(model, x, dtype=torch.float32)
    assert torch.equal(codes.bits, torch.cat(seen, 1))
    some = activation_codes(model, x, dtype=torch.float32, layers="9")
    assert list(some.layers) == ["9"] and torch.equal(some.bits, seen[-1])


def test_passes_run_in_float32_in_chunks_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.activations import codes as module

    model, x, passes = nn.Sequential(nn.Linear(6, 30), nn.ReLU()).double(), torch.randn(90, 6, dtype=torch.float64), []

    def spy(replica: Any, structure: Any, inputs: Tensor) -> dict[str, Tensor]:
        passes.append((len(inputs), inputs.dtype, {weight.dtype for weight in replica.module.parameters()}))
        return signs_of(replica, structure, inputs)

    signs_of = module.signs_of
    monkeypatch.setattr(module, "signs_of", spy)
    monkeypatch.setattr(module, "_rows", lambda structure, *_, itemsize: 2**7 // itemsize)
    codes = activation_codes(model, x, dtype=torch.float32)
    assert passes == [(rows, torch.float32, {torch.float32}) for rows in (32, 32, 26)]
    assert torch.equal(codes.bits, F.linear(x.float(), model[0].weight.float(), model[0].bias.float()) > 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": torch.float16}, "`dtype` must be one of torch.float64, torch.float32, got torch.float16"),
        ({"dtype": "float32"}, "`dtype` must be one of torch.float64, torch.float32, got 'float32'"),
        ({"inputs": torch.full((2, 6), 1e300, dtype=torch.float64)}, r"`inputs.float\(\)` must be finite"),
    ],
)
def test_other_dtypes_and_inputs_beyond_float32_are_refused(given: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(6, 3, bias=False), nn.ReLU())
    with pytest.raises(ValueError, match=message):
        activation_codes(model, **{"inputs": torch.randn(2, 6), "dtype": torch.float32} | given)

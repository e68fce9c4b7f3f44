"""The half-spaces around an input are those in which the network stays affine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import ActivationRegions, activation_codes, activation_regions
from helpers.networks import mlp
from helpers.reference import Residual


class Functional(nn.Module):
    """In place, reflected, shared, absolute values, and clamps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu_(self.a(x), 0.2)
        g = torch.cat([1 - h[:, :4].abs(), h[:, 4:]], 1)
        return self.c(F.hardtanh(self.b(g) + h)).relu().clamp(max=0.5)


NETWORKS = {
    "mlp": (lambda: mlp(6, 9, 9, 9, 3), (6,)),
    "no biases": (lambda: mlp(6, 9, 9, 3, bias=False), (6,)),
    "two thresholds": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(-0.2, 0.3)), (6,)),
    "functional": (Functional, (6,)),
    "prelu and batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.PReLU(8), nn.Linear(8, 8), nn.ReLU(), nn.Dropout()),
        (6,),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)),
            Residual(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)),
            *(nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 7), nn.ReLU()),
        ),
        (1, 4, 4),
    ),
    "max pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 7),
            nn.ReLU(),
            nn.Linear(7, 2),
        ),
        (1, 4, 4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"max pooling"}))  # where another element may win before the plane
@pytest.mark.parametrize("subspace", [None, 2])
def test_points_inside_have_the_code_of_the_input_and_points_beyond_one_plane_have_not(name: str, subspace: int | None) -> None:
    build, shape = NETWORKS[name]
    model = build().double().eval()
    inputs = 2 * torch.randn(5, *shape, dtype=torch.float64)
    regions = activation_regions(model, inputs, subspace=subspace, seed=3)
    bits = activation_codes(model, inputs).bits
    d = subspace or inputs[0].numel()
    assert regions.normals.shape == (5, bits.shape[1], d) and regions.dimension == d
    assert (regions.slacks >= -1e-12).all() and list(regions.layers) == list(activation_codes(model, inputs).layers)
    lines, crossed = [], []  # points on both sides of a plane; the input, the unit that switches, None where more may
    for _ in range(40):
        direction = F.normalize(torch.randn(5, d, dtype=torch.float64), dim=1)
        rate = torch.einsum("bnd,bd->bn", regions.normals, direction)
        distance = torch.where(rate < -1e-12, -regions.slacks / rate, torch.inf)
        nearest, unit = distance.min(1)
        assert (nearest > 0).all()
        for b in torch.isfinite(nearest).nonzero().flatten().tolist():
            step = direction[b] if subspace is None else direction[b] @ regions.basis[b]
            lines.append((inputs[b].flatten() + torch.tensor([[0.999], [1.001]]) * nearest[b] * step).view(2, *shape))
            is_alone = distance[b].sort().values[1] > 1.002 * nearest[b]
            crossed.append((b, int(unit[b]) if is_alone else None))
    checked = 0
    for (b, unit_crossed), (inside, beyond) in zip(
        crossed, activation_codes(model, torch.cat(lines)).bits.view(-1, 2, bits.shape[1]), strict=True
    ):
        assert torch.equal(inside, bits[b])
        if unit_crossed is not None:
            assert (beyond != bits[b]).nonzero().flatten().tolist() == [unit_crossed]
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("name", ["mlp", "max pooling"])
def test_normals_are_gradients(name: str) -> None:
    build, shape = NETWORKS[name]
    model = build().double().eval()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    regions = activation_regions(model, inputs)
    found: list[Tensor] = []
    hooks = [
        m.register_forward_pre_hook(lambda _, args: found.append(args[0])) for m in model.modules() if isinstance(m, nn.ReLU)
    ]
    for b in range(4):
        x = inputs[b : b + 1].clone().requires_grad_()
        found.clear()
        model(x)
        z = torch.cat([layer.flatten() for layer in found])
        gradients = torch.stack([torch.autograd.grad(value, x, retain_graph=True)[0].flatten() for value in z])
        sign = torch.where(z > 0, 1.0, -1.0)[:, None]
        assert torch.allclose(regions.normals[b], sign * gradients, atol=1e-11)
        assert torch.allclose(regions.slacks[b], z.abs(), atol=1e-11)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8, 1e16])
@pytest.mark.parametrize("subspace", [None, 2])
def test_normals_keep_their_digits_however_large_inputs_are(scale: float, subspace: int | None) -> None:
    model, x = mlp(3, 16, 1), scale * torch.randn(2, 3, dtype=torch.float64)
    regions = activation_regions(model, x, subspace=subspace)
    weight = model[0].weight if subspace is None else model[0].weight @ regions.basis.mT
    assert torch.allclose(regions.normals.abs(), weight.abs().expand_as(regions.normals), atol=1e-14)


def test_layers_that_do_not_count_are_frozen_all_the_same() -> None:
    model, inputs = mlp(6, 9, 9, 9, 3), torch.randn(4, 6)
    whole, last = activation_regions(model, inputs), activation_regions(model, inputs, layers="5")
    assert torch.equal(whole.normals[:, 18:], last.normals) and last.layers == {"5": slice(0, 9)}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.regions import around_inputs as module

    model, inputs = mlp(6, 9, 9, 3), torch.randn(7, 6)
    whole = [activation_regions(model, inputs, subspace=k) for k in (None, 3)]
    monkeypatch.setattr(module, "PASS_BYTES", 1)
    for k, expected in zip((None, 3), whole, strict=True):
        found = activation_regions(model, inputs, subspace=k)
        assert torch.allclose(found.normals, expected.normals, atol=1e-12)
        assert torch.allclose(found.offsets, expected.offsets, atol=1e-12)


def test_a_slice_has_orthonormal_directions_of_its_seed_and_the_whole_regions_planes() -> None:
    model, inputs = mlp(6, 9, 9, 3), torch.randn(4, 6)
    whole, cut = activation_regions(model, inputs), activation_regions(model, inputs, subspace=3, seed=5)
    assert torch.allclose(cut.basis @ cut.basis.mT, torch.eye(3).double().expand(4, 3, 3), atol=1e-12)
    assert torch.allclose(cut.normals, whole.normals @ cut.basis.mT, atol=1e-11)
    assert torch.allclose(cut.offsets, whole.slacks, atol=1e-11) and not cut.centers.any()
    assert torch.equal(activation_regions(model, inputs, subspace=3, seed=5).basis, cut.basis)
    assert not torch.equal(activation_regions(model, inputs, subspace=3, seed=6).basis, cut.basis)


def test_an_input_on_a_plane_lies_on_the_boundary_of_the_side_of_bit_zero() -> None:
    model = mlp(2, 2, 1)
    model[0].weight.data.copy_(torch.eye(2))
    model[0].bias.data.zero_()
    regions = activation_regions(model, torch.tensor([[0.0, 3.0]]))
    assert regions.slacks.tolist() == [[0.0, 3.0]] and regions.normals[0].tolist() == [[-1.0, 0.0], [0.0, 1.0]]


@pytest.mark.filterwarnings("ignore:.*nonlinear in each element")
def test_an_exported_clamp_leaves_its_input_as_it_is() -> None:
    model, inputs = mlp(6, 9, 9), torch.randn(4, 6)

    def clamped(clamp: Callable[..., Tensor]) -> ActivationRegions:
        return activation_regions(model, inputs, forward=lambda m, x: torch.relu((h := m(x)) - clamp(h, -0.1, 0.1) + 0.05 * h))

    by_operator, by_function = clamped(torch.ops.aten.clamp.default), clamped(torch.clamp)
    assert torch.equal(by_operator.normals, by_function.normals) and torch.equal(by_operator.offsets, by_function.offsets)


def test_choices_of_max_pooling_and_clamps_bound_where_the_network_is_affine() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1), nn.Hardtanh(-0.2, 0.6)),
        *(nn.Flatten(), nn.Linear(8, 5)),
    ).double()

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return F.relu(m[4](m[3](m[1](m[0](x)).clamp(max=0.4))))

    inputs = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    plain = activation_regions(model, inputs, forward=forward)
    bounded = activation_regions(model, inputs, forward=forward, choices=True)
    assert list(bounded.layers) == ["relu", "max_pool2d", "clamp"]
    assert torch.equal(bounded.normals[:, :5], plain.normals) and torch.allclose(bounded.offsets[:, :5], plain.offsets)
    assert bounded.layers["clamp"].stop - bounded.layers["clamp"].start == 8
    for direction in F.normalize(torch.randn(60, 6, 16, dtype=torch.float64), dim=2):
        rate = -torch.einsum("bnd,bd->bn", bounded.normals, direction)
        slacks = bounded.slacks.clamp(min=0)
        reach = (slacks / rate).where(rate > 1e-12, torch.inf).amin(1, keepdim=True).clamp(max=10.0)
        line = [forward(model, (inputs.flatten(1) + t * reach * direction).view_as(inputs)) for t in (0.0, 0.4, 0.999)]
        assert torch.allclose(line[1], line[0] + 0.4 / 0.999 * (line[2] - line[0]), atol=1e-9)


def test_half_spaces_beyond_the_memory_are_refused_before_it_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    from fold_lightning.regions import around_inputs as module

    monkeypatch.setattr(module.os, "sysconf", lambda name: 100)
    with pytest.raises(
        MemoryError, match="of 50 regions take .* take fewer inputs at once, `layers=` of fewer units, or a slice"
    ):
        activation_regions(mlp(6, 9, 9), torch.randn(50, 6))


def test_what_has_no_polytopes_is_refused() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"piecewise linear networks\. Not known to be piecewise linear: gelu"):
        activation_regions(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.ReLU()), x)
    assert activation_regions(nn.Sequential(nn.Linear(4, 4), nn.GELU()), x, layers="1").normals.shape == (3, 4, 4)
    for k in (0, 5, 2.0):
        with pytest.raises(ValueError, match="`subspace` must be an integer from 1 to the inputs' 4 features, got"):
            activation_regions(mlp(4, 4, 1), x, subspace=k)
    broken = mlp(4, 4, 1)
    broken[0].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite pre-activations"):
        activation_regions(broken, x)

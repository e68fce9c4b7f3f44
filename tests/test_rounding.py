"""Rounding is a unit's own: networks with units of very different scale, against exact twins and rational arithmetic."""

from __future__ import annotations

import copy
import warnings
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from fold_lightning import Walks, activation_codes, activation_regions, face_counts, segment_walks
from helpers.networks import mlp
from helpers.reference import layers_of, rational_codes

SCALES = [2.0**27, 2.0**40, 2.0**50]


def with_large_unit(model: nn.Sequential, layer: int, scale: float, *, same_function: bool = True) -> nn.Sequential:
    """A copy with one unit so many times as large; the next layer takes it back, which for powers of 2 rounds nothing."""
    scaled = copy.deepcopy(model)
    first, second = scaled[layer], scaled[layer + 2]
    first.weight.data[3] *= scale
    first.bias.data[3] *= scale
    if same_function:
        following = second.weight.data[:, 3]
        following /= scale
    return scaled


def assert_same_walks(found: Walks, expected: Walks) -> None:
    assert found.exact.all()
    assert torch.equal(found.segment, expected.segment)
    assert torch.equal(found.unit, expected.unit)
    assert torch.equal(found.position, expected.position)
    assert torch.equal(found.first_codes, expected.first_codes)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_a_large_unit_changes_no_switch_and_no_bit_of_the_others(layer: int, scale: float) -> None:
    model = mlp(6, 24, 24, 24, 24, 2)
    large = with_large_unit(model, layer, scale)
    start, end = torch.randn(10, 6).double(), torch.randn(10, 6).double()
    assert_same_walks(segment_walks(large, start, end), segment_walks(model, start, end))
    inputs = torch.randn(400, 6).double()
    assert torch.equal(activation_codes(large, inputs).bits, activation_codes(model, inputs).bits)


@pytest.mark.parametrize("scale", SCALES)
def test_a_large_channel_changes_no_switch_of_the_others(scale: float) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU()
    )
    model = model.double()
    start, end = torch.randn(6, 1, 6, 6).double(), torch.randn(6, 1, 6, 6).double()
    expected = segment_walks(
        model, start, end, engine="growing batch"
    )  # which takes uneven networks, to the last bit of positions
    assert_same_walks(segment_walks(with_large_unit(model, 0, scale), start, end), expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layer", [0, 2])
def test_half_spaces_scale_with_their_unit_and_faces_stay(layer: int, scale: float) -> None:
    model = mlp(4, 10, 10, 10, 2)
    inputs = torch.randn(20, 4).double()
    expected, found = (activation_regions(m, inputs) for m in (model, with_large_unit(model, layer, scale)))
    factor = torch.ones(30, dtype=torch.float64)
    factor[5 * layer + 3] = scale
    assert torch.equal(found.normals, expected.normals * factor[:, None])
    assert torch.equal(found.offsets, expected.offsets * factor)
    assert torch.equal(face_counts(found), face_counts(expected))


def integers(*shape: int, seed: int, most: int = 64) -> Tensor:
    return torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed)).double()


def short_mlp(seed: int) -> nn.Sequential:
    """Weights of 7 bits, so that rational arithmetic is fast and a scale of 1e8 or 1e12 is exact."""
    model = mlp(3, 5, 5, 5, 5)[:-1]
    for number, layer in enumerate(model[::2]):
        layer.weight.data, layer.bias.data = (
            integers(*p.shape, seed=10 * seed + 2 * number + i) / 64 for i, p in enumerate((layer.weight, layer.bias))
        )
    return nn.Sequential(*model, nn.ReLU())


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e8, 1e12])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.filterwarnings("ignore:.*walks are not exact")
def test_behind_a_large_unit_whose_weights_stay_every_switch_is_as_in_rational_arithmetic(layer: int, scale: float) -> None:
    inexact = 0
    for seed in range(4):
        model = with_large_unit(short_mlp(seed), layer, scale, same_function=False)
        start, end = integers(4, 3, seed=seed, most=3), integers(4, 3, seed=50 + seed, most=3)
        twin = exact_layers(model)
        walks = segment_walks(model, start, end)
        inexact += int((~walks.exact).sum())
        for i in walks.exact.nonzero().flatten().tolist():
            _, codes = rational_codes(twin, start[i].int().tolist(), end[i].int().tolist())
            assert walks.codes(i).tolist() == [list(code) for code in codes]
    assert inexact <= (6 if scale == 1e12 and layer == 0 else 0)  # where biases of 1/64 may be lost


def assert_right_where_exact(model: nn.Sequential, start: Tensor, end: Tensor) -> int:
    """Walks that call themselves exact have the codes of rational arithmetic; return how many do."""
    twin = exact_layers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walks = segment_walks(model, start, end)
    for i in walks.exact.nonzero().flatten().tolist():
        _, codes = rational_codes(twin, start[i].tolist(), end[i].tolist())
        assert walks.codes(i).tolist() == [list(code) for code in codes]
    return int(walks.exact.sum())


@pytest.mark.parametrize("scale", [1e12, 1e13, 1e14])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_switch_that_is_lost_in_large_terms_is_not_called_exact(scale: float, sign: float) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.ReLU()).double()
    model[0].weight.data = torch.tensor([[scale, 0], [scale, 0], [0, 1]]).double()
    model[0].bias.data = torch.tensor([0, 1e-3, 0]).double()
    model[2].weight.data, model[2].bias.data = sign * torch.tensor([[1, -1, 1e-3]]).double(), torch.zeros(1).double()
    with pytest.warns(UserWarning, match="Up to rounding, some pre-activations equal a threshold"):
        assert not segment_walks(model, torch.tensor([[0.9, 0.2]]), torch.tensor([[-0.5, 0.9]])).exact.any()


def pair_mlp(seed: int, scale: float) -> nn.Sequential:
    """Two large units that differ in their biases alone, and that the next layer subtracts."""
    model = mlp(3, 6, 6, 6, 1, seed=seed)[:-1]
    first, second = (model[0], model[2]) if seed % 2 else (model[2], model[4])
    first.weight.data[0] *= scale
    first.weight.data[1] = first.weight.data[0]
    second.weight.data[:, 1] = -second.weight.data[:, 0]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e8, 1e10, 1e12, 1e14, 1e16])
def test_walks_through_large_terms_that_cancel_are_right_where_they_are_exact(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = 0
    for seed in range(6):
        start, end = torch.randn(2, 4, 3, generator=generator).double()
        exact += assert_right_where_exact(pair_mlp(seed, scale), start, end)
    assert exact >= (24 if scale <= 1e10 else 0)


def exact_layers(model: nn.Sequential) -> list[tuple[object, ...]]:
    layers, _ = layers_of(copy.deepcopy(model), (3,))
    for number, module in enumerate(model):
        if isinstance(module, nn.Linear):  # as they are stored: found by differences, they are rounded
            layers[number] = ("affine", module.weight.detach().numpy(), module.bias.detach().numpy())
    return layers


class Cancelling(nn.Module):
    """Units that are 0 everywhere, but for rounding, behind relu(x + 1) - relu(x) - 1 and its kin; and one that is not."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.abs()
        zeros = torch.relu(torch.relu(x + 1) - torch.relu(x) - 1)
        return torch.relu(torch.relu(3 * x) / 3 - x - zeros)


def test_units_that_are_nothing_but_rounding_have_bit_0_and_never_switch() -> None:
    inputs = torch.randn(500, 8).double() * 10.0 ** torch.randint(-6, 1, (500, 1))
    codes = activation_codes(Cancelling(), inputs)
    last = list(codes.layers.values())[-1]
    middle = [s for name, s in codes.layers.items() if codes.layers[name] != last][-2]
    assert not codes.bits[:, last].any() and middle.stop <= last.start
    walks = segment_walks(Cancelling(), inputs[:250], inputs[250:])
    assert not (walks.unit >= last.start).any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_each_row_of_a_batch_is_judged_by_itself(scale: float) -> None:
    model = mlp(5, 20, 20, 2)
    inputs = torch.randn(50, 5).double()
    alone = activation_codes(model, scale * inputs).bits
    beside = activation_codes(model, torch.cat([1e6 * inputs, scale * inputs, 1e-6 * inputs])).bits[50:100]
    assert torch.equal(alone, beside)
    assert alone.tolist() == [rational_bits(model, x) for x in (scale * inputs).tolist()]


def rational_bits(model: nn.Sequential, x: list[float]) -> list[bool]:
    values, bits = [Fraction(v) for v in x], []
    for layer in model[:-1:2]:
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        values = [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b))
            for row, b in zip(weight, bias, strict=True)
        ]
        bits += [v > 0 for v in values]
        values = [max(v, Fraction(0)) for v in values]
    return bits


@pytest.mark.parametrize(("tiny", "bit", "exact"), [(1e-12, True, True), (4e-15, True, False), (1e-18, False, False)])
def test_a_walk_whose_signs_cannot_be_told_is_not_exact(tiny: float, bit: bool, exact: bool) -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.relu(x)
            return torch.relu((x + 1) - x - 1 + tiny)

    with pytest.warns(UserWarning, match="not exact") if not exact else _nothing():
        walks = segment_walks(Shifted(), torch.tensor([[0.25]]).double(), torch.tensor([[0.75]]).double())
    assert bool(walks.exact.all()) == exact
    if exact:
        assert walks.codes(0)[0, -1].item() == bit


def _nothing() -> object:
    import contextlib

    return contextlib.nullcontext()


def test_a_pass_for_rounding_leaves_what_a_model_keeps_between_its_layers() -> None:
    class Keeping(nn.Module):
        """Keeps a tensor on itself, and zeros for rounding to be looked at before it is read again."""

        def forward(self, x: Tensor) -> Tensor:
            self.kept = x + 1
            zero = torch.relu(torch.relu(3 * x) / 3 - torch.relu(x))
            return torch.relu(self.kept + zero - 1.5)

    walks = segment_walks(Keeping(), torch.tensor([[-1.1]]).double(), torch.tensor([[1.0]]).double())
    assert walks.exact.all()
    assert torch.allclose(walks.position.unique(), torch.tensor([1.1, 1.6]).double() / 2.1)

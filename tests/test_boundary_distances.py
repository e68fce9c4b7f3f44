"""Distances to the borders of regions, against bisection along the nearest planes and against answers known on paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fold_lightning import activation_codes, activation_regions, boundary_distances
from helpers.networks import mlp


@pytest.mark.parametrize("seed", range(3))
def test_inside_the_ball_all_codes_are_the_inputs_own_and_just_beyond_some_are_not(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model, x = mlp(4, 10, 10, 3, seed=seed), torch.randn(20, 4, generator=generator, dtype=torch.float64)
    regions = activation_regions(model, x)
    distance, own = boundary_distances(regions), activation_codes(model, x).bits
    ways = torch.nn.functional.normalize(torch.randn(20, 200, 4, generator=generator, dtype=torch.float64), dim=2)
    inside = activation_codes(model, (x[:, None] + 0.999 * distance[:, None, None] * ways).flatten(0, 1)).bits
    assert torch.equal(inside, own.repeat_interleave(200, 0))
    sizes = regions.normals.norm(dim=2)
    nearest = torch.where(sizes > 0, regions.slacks / sizes, torch.inf).argmin(1)
    rows = torch.arange(20)
    way = -regions.normals[rows, nearest] / sizes[rows, nearest, None]
    beyond = activation_codes(model, x + 1.0001 * distance[:, None] * way).bits
    assert (beyond != own).any(1).all()


def test_the_distance_in_a_slice_is_at_least_that_in_the_whole_space() -> None:
    model, x = mlp(8, 12, 12, 3), torch.randn(30, 8, dtype=torch.float64)
    whole = boundary_distances(activation_regions(model, x))
    assert (boundary_distances(activation_regions(model, x, subspace=2)) >= whole - 1e-12).all()


def test_a_region_without_planes_has_no_border_and_an_input_on_one_no_distance() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU()).double()
    nn.init.zeros_(model[0].weight)
    assert boundary_distances(activation_regions(model, torch.zeros(1, 2))).tolist() == [torch.inf]
    nn.init.ones_(model[0].weight), nn.init.zeros_(model[0].bias)
    assert boundary_distances(activation_regions(model, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))).tolist() == pytest.approx(
        [0, 2**0.5]
    )


def test_what_is_no_region_is_refused() -> None:
    with pytest.raises(TypeError, match="Expected `ActivationRegions`, got Tensor: make them with `activation_regions`"):
        boundary_distances(torch.zeros(2, 3))

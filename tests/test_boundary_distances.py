"""Distances to the boundaries of regions, against bisection along the nearest planes and against answers known on paper."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from fold_lightning import (
    activation_codes,
    activation_regions,
    boundary_distances,
    face_counts,
    region_shapes,
    stream_regions,
    supporting_units,
)
from fold_lightning.regions import random_directions, streams
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


@pytest.mark.parametrize("measure", [boundary_distances, face_counts, supporting_units, region_shapes])
def test_what_is_no_region_is_refused(measure: Any) -> None:
    with pytest.raises(TypeError, match="Expected `ActivationRegions`, got Tensor: make them with `activation_regions`"):
        measure(torch.zeros(2, 3))


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"layers": "1"}, {"subspace": random_directions(30, 2, 5, seed=3)}])
def test_streamed_regions_are_those_of_one_call(options: dict[str, Any]) -> None:
    model, x = mlp(5, 8, 8, 2), torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    parts = list(stream_regions(model, x, **options))
    options.pop("batch_size", None)
    whole = activation_regions(model, x, **options)
    assert torch.equal(torch.cat([face_counts(part) for part in parts]), face_counts(whole))
    assert torch.allclose(torch.cat([boundary_distances(part) for part in parts]), boundary_distances(whole), rtol=1e-9)


def test_a_stream_of_regions_keeps_none_and_takes_no_more_than_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH_BYTES", 8 * 16 * 2 * 4)
    model, x = mlp(5, 8, 8, 2), torch.randn(10, 5)
    stream = stream_regions(model, x, subspace=2)
    first = next(stream)
    assert len(first) == 4 and first.normals.nbytes == 8 * 16 * 2 * 4
    reference = weakref.ref(first)
    del first
    second = next(stream)
    assert reference() is None and not torch.equal(second.basis[:, 0], next(stream).basis[:, 0][:1].expand(4, -1))


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1, got 0"),
        ({"subspace": 6}, ValueError, "`subspace` must be an integer from 1 to the inputs' 5 features, got 6"),
        ({"subspace": torch.zeros(3, 2, 5)}, ValueError, r"must be \(4, k, features\), got \(3, 2, 5\)"),
        ({"layer": "1"}, TypeError, "unexpected keyword argument 'layer'"),
    ],
)
def test_a_stream_of_regions_checks_its_arguments_at_once(options: dict[str, Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        stream_regions(mlp(5, 8, 8, 2), torch.randn(4, 5), **options)

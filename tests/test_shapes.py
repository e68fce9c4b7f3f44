"""Vertices, volumes and simplices of regions are those of figures known on paper, and together regions fill their box."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fold_lightning import activation_regions, region_graph, region_shapes
from helpers.networks import cube, mlp, polytope


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_a_cube_and_a_simplex(d: int) -> None:
    shape = region_shapes(polytope(*cube(d)))[0]
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64)
    assert torch.allclose(
        torch.tensor(sorted(shape.vertices.round(decimals=9).tolist()), dtype=torch.float64), corners, atol=1e-9
    )
    assert (
        shape.bounded
        and shape.volume == pytest.approx(2**d)
        and shape.num_simplices in {1: (1,), 2: (2,), 3: (5, 6), 4: range(16, 25)}[d]
    )
    sides = [[float(i == j) for j in range(d)] + [0.1] for i in range(d)]
    simplex = region_shapes(polytope(*sides, [*[-1.0] * d, 1.0]))[0]
    assert simplex.num_simplices == 1 and len(simplex.vertices) == d + 1
    assert simplex.volume == pytest.approx((1 + 0.1 * d) ** d / math.factorial(d))


def test_a_polygon_of_v_vertices_falls_into_v_minus_2_triangles() -> None:
    for v in (3, 5, 9):
        turns = [2 * math.pi * i / v for i in range(v)]
        shape = region_shapes(polytope(*[[math.cos(t), math.sin(t), 1.0] for t in turns], [0.1, 0.1, 5.0]))[0]
        assert len(shape.vertices) == v and shape.num_simplices == v - 2
        assert shape.volume == pytest.approx(v * math.tan(math.pi / v))


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(1, 6, 6, 1), (2, 6, 6, 1), (3, 6, 5, 1)])
def test_all_regions_fill_the_box(widths: tuple[int, ...]) -> None:
    model, d = mlp(*widths), widths[0]
    graph = region_graph(model, torch.zeros(1, d) + 0.1)
    regions = activation_regions(model, graph.points)
    cut = region_shapes(regions, box=(-1.5, 2.0), cut="all")
    assert graph.complete and sum(shape.volume for shape in cut) == pytest.approx(3.5**d)
    assert any(shape.volume == 0 and shape.num_simplices == 0 and len(shape.vertices) == 0 for shape in cut)
    for shape, b in zip(cut, range(len(regions)), strict=True):
        inside = shape.vertices @ regions.normals[b].T + regions.offsets[b]
        assert (inside >= -1e-9).all() and (shape.vertices >= -1.5 - 1e-9).all() and (shape.vertices <= 2 + 1e-9).all()


@pytest.mark.slow
def test_a_box_cuts_what_is_unbounded_alone() -> None:
    model = mlp(2, 6, 6, 1)
    graph = region_graph(model, torch.zeros(1, 2) + 0.1)
    regions = activation_regions(model, graph.points)
    whole, cut = region_shapes(regions), region_shapes(regions, box=(-1e4, 1e4))
    assert any(shape.bounded for shape in whole) and not all(shape.bounded for shape in whole)
    for free, boxed in zip(whole, cut, strict=True):
        assert free.bounded == boxed.bounded and boxed.num_simplices == len(boxed.vertices) - 2
        if free.bounded:
            assert free.volume == boxed.volume and torch.equal(free.vertices, boxed.vertices)
        else:
            assert free.volume == math.inf and free.num_simplices == 0 and math.isfinite(boxed.volume)


def test_degenerate_regions() -> None:
    point = region_shapes(polytope([1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]))[0]
    assert point.volume == 0 and point.num_simplices == 0 and point.vertices.shape == (0, 2)
    slab = region_shapes(polytope([1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]))[0]
    assert slab.volume == math.inf and not slab.bounded
    everything = polytope([0.0, 0.0, 1.0])
    assert region_shapes(everything)[0].volume == math.inf
    assert region_shapes(everything, box=(0.5, 1.5))[0].volume == pytest.approx(1.0)


def test_slices_have_shapes_in_their_own_coordinates() -> None:
    model, inputs = mlp(20, 12, 12, 2), torch.randn(4, 20)
    for shape in region_shapes(activation_regions(model, inputs, subspace=2), box=(-1, 1), cut="all"):
        assert 0 < shape.volume <= 4 + 1e-9 and shape.num_simplices == len(shape.vertices) - 2


def test_impossible_requests_say_what_is_possible() -> None:
    square = polytope(*cube(2))
    with pytest.raises(ValueError, match="Regions must have at most 4 dimensions, got 5"):
        region_shapes(polytope(*cube(5)))
    with pytest.raises(ValueError, match="`box` must be a lower and a larger upper bound"):
        region_shapes(square, box=(1, 1))
    with pytest.raises(ValueError, match="`cut` must be one of 'unbounded', 'all', got 'none'"):
        region_shapes(square, cut="none")  # type: ignore[arg-type]

"""Faces are the half-spaces without which a region would be another."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import activation_codes, activation_regions, face_counts, region_graph, supporting_units
from fold_lightning.faces import interior_point, linear_programs, ray_shooting, supporting
from fold_lightning.faces.linear_programs import largest_height
from fold_lightning.faces.polytopes import ready_polytopes
from fold_lightning.regions import ActivationRegions
from helpers.networks import cube, mlp, polytope
from helpers.reference import Residual, faces_by_least_squares, faces_one_by_one


class Skip(nn.Module):
    """Its second layer sees the input too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(9, 6), nn.Linear(15, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cat([x, self.a(x).relu()], 1)).relu()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "one dimension": (lambda: mlp(1, 8, 8, 2), (1,)),
    "a plane": (lambda: mlp(2, 16, 16, 2), (2,)),
    "three dimensions": (lambda: mlp(3, 12, 12, 2), (3,)),
    "ten dimensions": (lambda: mlp(10, 32, 32, 2), (10,)),
    "a first layer of fewer units than inputs": (lambda: mlp(20, 9, 9, 2), (20,)),
    "as many units as inputs": (lambda: mlp(12, 12, 12, 2), (12,)),
    "images": (lambda: mlp(784, 24, 16, 2), (784,)),
    "no biases": (lambda: mlp(6, 9, 9, 3, bias=False), (6,)),
    "no biases in a plane": (lambda: mlp(2, 6, 6, 3, bias=False), (2,)),
    "no biases and few units": (lambda: mlp(9, 6, 6, 3, bias=False), (9,)),
    "leaky": (lambda: nn.Sequential(nn.Linear(9, 6), nn.LeakyReLU(), nn.Linear(6, 6), nn.LeakyReLU()), (9,)),
    "two thresholds": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(-0.2, 0.3)), (6,)),
    "skip connection": (Skip, (9,)),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), Residual(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 7), nn.ReLU()),
        ),
        (1, 4, 4),
    ),
}


ONE_SEED = {"images", "ten dimensions", "a first layer of fewer units than inputs", "convolutions"}
QUICK = {"one dimension", "no biases in a plane", "leaky"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in sorted(NETWORKS)]
)
def test_faces_are_those_that_one_linear_program_a_row_finds(name: str) -> None:
    build, shape = NETWORKS[name]
    for seed in range(1 if name in ONE_SEED else 3):
        torch.manual_seed(seed)
        regions = activation_regions(build(), torch.randn(2 if name == "images" else 5, *shape))
        faces = supporting_units(regions)
        for b in range(len(faces)):
            assert faces[b].tolist() == faces_one_by_one(regions.normals[b], regions.offsets[b]), (seed, b)
        assert torch.equal(face_counts(regions), faces.sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_faces_of_slices_are_those_that_one_linear_program_a_row_finds(k: int) -> None:
    regions = activation_regions(
        mlp(30, 20, 20, 20, 2), torch.randn(4, 30, generator=torch.Generator().manual_seed(k)), subspace=k
    )
    faces = supporting_units(regions)
    for b in range(4):
        assert faces[b].tolist() == faces_one_by_one(regions.normals[b], regions.offsets[b])


@pytest.mark.slow
def test_least_squares_agree_after_training() -> None:
    model = mlp(8, 16, 16, 16, 1)
    inputs = torch.randn(256, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.mse_loss(model(inputs)[:, 0], inputs.prod(1)).backward()
        optimizer.step()
    regions = activation_regions(model, inputs[:20])
    faces = supporting_units(regions)
    assert 0 < faces.sum() < faces.numel()
    for b in range(20):
        real = regions.normals[b].norm(dim=1) > 0
        assert faces[b, real].tolist() == faces_by_least_squares(regions.normals[b, real], regions.slacks[b, real])


@pytest.mark.slow
def test_crossing_a_face_switches_exactly_its_unit() -> None:
    model = mlp(3, 10, 10, 2)
    x = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    regions = activation_regions(model, x)
    faces, bits = supporting_units(regions)[0], activation_codes(model, x).bits
    crossed = set()
    for direction in torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)):
        rate = -regions.normals[0] @ direction
        distance = (regions.slacks[0] / rate).where(rate > 0, torch.inf)
        first, second = distance.sort().values[:2]
        if second < first * (1 + 1e-6):
            continue
        beyond = x + (first + min(second - first, first) / 1000) * direction
        switched = (activation_codes(model, beyond).bits != bits)[0].nonzero().flatten().tolist()
        assert switched == [int(distance.argmin())] and faces[switched]
        crossed.add(switched[0])
    assert len(crossed) > 3


SIDES = ([1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, -1.0, 1.0])


@pytest.mark.parametrize("d", [2, 3, 4, 6])
def test_a_cube_has_2d_faces_and_its_corners_cut_off_are_2_to_the_d_more(d: int) -> None:
    corners = [[float(s) for s in signs] + [d - 0.5] for signs in itertools.product((1, -1), repeat=d)]
    touching = [[*row[:-1], float(d)] for row in corners]
    far = [[*row[:-1], d + 0.5] for row in corners]
    assert face_counts(polytope(*cube(d))).item() == 2 * d
    assert face_counts(polytope(*cube(d), *corners)).item() == 2 * d + 2**d
    assert face_counts(polytope(*cube(d), *touching)).item() == 2 * d, "a plane through a corner alone is no face"
    assert face_counts(polytope(*cube(d), *far)).item() == 2 * d


@pytest.mark.parametrize("d", [2, 3])
def test_of_identical_half_spaces_the_first_supports(d: int) -> None:
    rows = [[*side[:2], *[0.0] * (d - 2), side[2]] for side in SIDES]
    rows += [[3 * value for value in rows[1]], [0.5 * value for value in rows[0]], rows[3]]
    rows.insert(0, [0.0] * d + [5.0])
    faces = supporting_units(polytope(*rows))
    assert faces[0].tolist() == [False, True, True, True, True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["two thresholds", "equal units", "a narrow layer before"])
def test_a_plane_that_touches_a_cone_is_no_face_where_inputs_have_directions_that_no_unit_sees(kind: str) -> None:
    def cone() -> nn.Sequential:
        """Behind few units and without biases, many planes meet in one corner, whose coordinates are fewer than the inputs'."""
        narrow = [nn.Linear(12, 5), nn.Linear(5, 9)] if kind == "a narrow layer before" else [nn.Linear(12, 9)]
        activation = nn.ReLU6 if kind == "two thresholds" else nn.ReLU
        deeper = [nn.Linear(9, 10, bias=False), activation(), nn.Linear(10, 6), activation()]
        if kind == "equal units":
            for parameter in narrow[0].parameters():
                parameter.data[3] = parameter.data[2]
        return nn.Sequential(*narrow, activation(), *deeper)

    for seed in range(4):
        torch.manual_seed(seed)
        regions = activation_regions(cone(), 0.1 * torch.randn(2, 12))
        faces = supporting_units(regions)
        for b in range(2):
            assert faces[b].tolist() == faces_one_by_one(regions.normals[b], regions.slacks[b]), (seed, b)


def test_a_program_of_its_own_counts_no_more_than_its_point_proves(monkeypatch: pytest.MonkeyPatch) -> None:
    corner = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, -1.0]], dtype=torch.float64)
    assert largest_height(corner, 2) == pytest.approx(1.0, abs=1e-12)
    beyond = SimpleNamespace(status=0, x=[1 + 1e-8, 1 + 1e-8])  # as far as tolerances let it
    monkeypatch.setattr(linear_programs, "linprog", lambda *args, **kwargs: beyond)
    assert largest_height(corner, 2) <= 1


def test_a_region_without_interior_has_no_face() -> None:
    point = polytope([1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0])
    line = polytope([1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 1.0])
    assert face_counts(point).item() == face_counts(line).item() == 0
    assert face_counts(activation_regions(mlp(3, 8, 8, bias=False), torch.zeros(1, 3))).item() == 0


@pytest.mark.parametrize("d", [2, 4])
def test_an_input_on_planes_has_the_faces_of_its_region(d: int) -> None:
    model = mlp(d, 12, 12, 2)
    x = torch.randn(1, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model[0].bias.data[:2] -= model[0](x)[0, :2].detach()
    regions = activation_regions(model, x)
    assert (regions.slacks[0, :2] == 0).all()
    faces = supporting_units(regions)[0]
    assert faces.tolist() == faces_one_by_one(regions.normals[0], regions.offsets[0]) and faces[:2].all()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_units_that_are_constant_have_no_face(d: int) -> None:
    model = mlp(d, 6, 6, 2)
    model[2].weight.data.zero_()
    model[0].weight.data[3] = 0.0
    faces = supporting_units(activation_regions(model, torch.randn(4, d)))
    assert not faces[:, 6:].any() and not faces[:, 3].any() and faces.any(1).all()
    model[0].weight.data.zero_()
    assert face_counts(activation_regions(model, torch.randn(4, d))).tolist() == [0] * 4


@pytest.mark.parametrize("noise", [0.0, 1e-16, 1e-18])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_a_layer_whose_units_are_constant_but_for_rounding_has_no_face(d: int, noise: float) -> None:
    random = torch.Generator().manual_seed(d)
    normals, far = torch.randn(2, d, generator=random), torch.rand(2, generator=random)
    saturated = torch.cat([normals, normals]), torch.cat([1 + far, 3 + far])  # both thresholds are on one side
    constant = noise * torch.randn(12, d, generator=random), 0.1 + torch.rand(12, generator=random)
    rows = (torch.cat(parts).double()[None] for parts in zip(saturated, constant, strict=True))
    regions = ActivationRegions(*rows, torch.zeros(1, d).double(), {"first": slice(0, 4), "second": slice(4, 16)})
    assert supporting_units(regions)[0].nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("tilt", [0.0, 1e-14, -1e-14])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_a_plane_that_is_parallel_but_for_rounding_is_no_face(d: int, tilt: float) -> None:
    strip = [[1.0, *[0.0] * (d - 1), 1.0], [-1.0, *[0.0] * (d - 1), 1.0], [1.0, tilt, *[0.0] * (d - 2), 800.0]]
    assert supporting_units(polytope(*strip))[0].tolist() == [True, True, False]
    prism = [[*side[:2], *[0.0] * (d - 2), side[2]] for side in SIDES]
    corner = [1.0, 1.0, *[0.0] * (d - 2), 3.0]
    corner[d - 1 if d > 2 else 0] += tilt
    assert supporting_units(polytope(*prism, corner))[0].tolist() == [True] * 4 + [False]


@pytest.mark.slow
def test_regions_of_narrow_deep_networks_have_their_faces_alone() -> None:
    for seed in range(3):  # behind a layer of one active unit all planes are parallel
        graph = region_graph(mlp(2, 6, 6, 6, 1, seed=seed), torch.zeros(1, 2) + 0.1)
        assert graph.complete and 2 * len(graph.edges) == graph.face_counts.sum()


@pytest.mark.slow
def test_far_and_near_inputs_have_the_faces_of_their_region() -> None:
    model = mlp(4, 8, 8, 2)
    inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale in (1e-6, 1e4):
        regions = activation_regions(model, scale * inputs)
        faces = supporting_units(regions)
        for b in range(6):
            assert faces[b].tolist() == faces_one_by_one(regions.normals[b], regions.offsets[b])
    scaled = mlp(4, 8, 8, 2)
    scaled[0].weight.data *= 1e6
    scaled[0].bias.data *= 1e-3
    small = activation_regions(scaled, 1e-9 * inputs)
    unscaled = mlp(4, 8, 8, 2)
    unscaled[2].bias.data *= 1e3
    assert torch.equal(supporting_units(small), supporting_units(activation_regions(unscaled, inputs)))


@pytest.mark.slow
def test_hit_and_run_finds_faces_alone_and_more_with_time() -> None:
    regions = activation_regions(mlp(10, 20, 20, 2), torch.randn(20, 10, generator=torch.Generator().manual_seed(0)))
    faces = supporting_units(regions)
    counts = []
    for steps in (10, 100, 1000):
        found = supporting_units(regions, method="hit_and_run", num_steps=steps)
        assert not (found & ~faces).any()
        counts.append(int(found.sum()))
    assert 0 < counts[0] < counts[1] < counts[2] < faces.sum()
    again = face_counts(regions, method="hit_and_run", num_steps=10)
    assert torch.equal(again, face_counts(regions, method="hit_and_run", num_steps=10)) and again.sum() == counts[0]


@pytest.mark.slow
def test_linear_programs_of_their_own_decide_what_the_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = activation_regions(mlp(5, 12, 12, 2), torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    faces = supporting_units(regions)
    asked = []
    monkeypatch.setattr(interior_point, "STEPS", 1)
    monkeypatch.setattr(supporting, "MAX_DIMENSIONS", 2)
    monkeypatch.setattr(supporting, "largest_height", lambda points, i: asked.append(i) or largest_height(points, i))
    assert torch.equal(supporting_units(regions), faces) and asked


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = activation_regions(mlp(6, 16, 16, 2), torch.randn(12, 6, generator=torch.Generator().manual_seed(0)))
    faces = supporting_units(regions)
    monkeypatch.setattr(supporting, "PRODUCT_BYTES", 20_000)
    for module in (ray_shooting, interior_point):
        monkeypatch.setattr(module, "POLYTOPE_BYTES", 20_000)
    assert torch.equal(supporting_units(regions), faces)


def test_random_state_and_regions_stay_as_they_were() -> None:
    regions = activation_regions(mlp(6, 16, 16, 2), torch.randn(3, 6))
    normals, state = regions.normals.clone(), torch.get_rng_state()
    supporting_units(regions)
    supporting_units(regions, method="hit_and_run", num_steps=3)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(regions.normals, normals)


def test_first_layers_make_the_polytopes_small() -> None:
    _, polytopes = ready_polytopes(activation_regions(mlp(784, 24, 16, 2), torch.randn(5, 784)))
    assert polytopes.points.shape[2] < 24 and polytopes.points.shape[1] < 40


def test_impossible_requests_say_what_is_possible() -> None:
    regions = polytope(*SIDES)
    with pytest.raises(ValueError, match="`method` must be one of 'exact', 'hit_and_run', got 'sampled'"):
        supporting_units(regions, method="sampled")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 1, got 0"):
        face_counts(regions, method="hit_and_run", num_steps=0)
    broken = polytope(*SIDES, [float("nan"), 0.0, 1.0])
    with pytest.raises(ValueError, match="`regions` must be finite, got NaN or infinite half-spaces"):
        supporting_units(broken)


def test_a_linear_program_that_is_not_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        linear_programs, "linprog", lambda *args, **kwargs: SimpleNamespace(status=4, message="Numerical trouble.")
    )
    with pytest.raises(RuntimeError, match="of 2 rows and 1 columns, which decides a face, was not solved: Numerical trouble"):
        largest_height(torch.tensor([[2.0], [1.0]], dtype=torch.float64), 0)


@pytest.mark.slow
def test_random_chords_do_not_stall_in_unbounded_regions() -> None:
    """Two inputs, one layer: most regions are unbounded, and the faces all lie on one side of most points."""
    short = total = 0
    for seed in range(4):
        x = 2 * torch.randn(30, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        regions = activation_regions(mlp(2, 12, 1, seed=seed), x)
        exact, found = face_counts(regions), face_counts(regions, method="hit_and_run", num_steps=1000)
        assert (found <= exact).all()
        short, total = short + int((found < exact).sum()), total + len(x)
    assert short < 0.08 * total


@pytest.mark.slow
@pytest.mark.parametrize("d", [3, 4, 5, 6, 7])
def test_pivots_and_linear_programs_agree_near_and_far(d: int) -> None:
    x = torch.randn(6, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    for widths, bias in (((d, 12, 12, 1), True), ((d, 6, 6, 6, 1), True), ((d, 9, 9, 1), False)):
        regions = activation_regions(mlp(*widths, seed=d, bias=bias), x * 10.0 ** torch.arange(6)[:, None].fmod(5).sub(2))
        expected = [faces_one_by_one(*half_spaces) for half_spaces in zip(regions.normals, regions.offsets, strict=True)]
        assert supporting_units(regions).tolist() == expected

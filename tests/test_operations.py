"""Operations of torch that keep networks piecewise linear: linear ones, and those that choose elements by their order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import activation_codes, activation_regions, segment_walks, walk_length, walk_range
from fold_lightning.walks.scheduler import PieceScheduler
from helpers import blackbox

pytestmark = pytest.mark.filterwarnings("ignore:.*nonlinear in each element")

EDGES = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 0, 0, 2]])
"""From each node to another one."""

GRID = torch.stack(torch.meshgrid(*2 * [torch.linspace(-0.9, 0.7, 3).double()], indexing="ij"), -1)
FILTER = torch.complex(torch.linspace(-1, 1, 12), torch.linspace(2, 1, 12)).to(torch.complex128)
MATRIX = torch.linspace(-9, 9, 144).double().view(12, 12).sin()
PERMUTED = (7 * torch.arange(12)) % 12
HALVES = torch.arange(12) // 2


def adjacency() -> Tensor:
    """The edges as a sparse matrix."""
    return torch.sparse_coo_tensor(EDGES.flip(0), torch.linspace(0.5, 1, 6).double(), (12, 12)).coalesce()


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "scatter_add of edges": lambda h: torch.zeros_like(h).scatter_add(1, EDGES[1].expand(len(h), -1), h[:, EDGES[0]]),
    "scatter_add of repeated indices": lambda h: h.scatter_add(1, EDGES[1].view(1, -1).repeat(len(h), 1), h[:, EDGES[0]]),
    "scatter_add in place": lambda h: h.clone().scatter_add_(-1, EDGES[1].expand_as(h[:, :6]), h[:, 6:]),
    "index_add of edges": lambda h: torch.zeros_like(h).index_add(1, EDGES[1], h[:, EDGES[0]]),
    "index_add of nodes with features": lambda h: (
        h.view(-1, 6, 2).index_add(1, EDGES[1], h.view(-1, 6, 2)[:, EDGES[0]], alpha=0.5).flatten(1)
    ),
    "scatter_reduce of sums": lambda h: h.scatter_reduce(1, EDGES[1].expand(len(h), -1), h[:, EDGES[0]], "sum"),
    "scatter_reduce of means": lambda h: h.scatter_reduce(1, EDGES[1].expand(len(h), -1), h[:, EDGES[0]], "mean"),
    "scatter": lambda h: h.scatter(1, PERMUTED[:5].expand(len(h), -1), 2 * h[:, 5:10]),
    "gather": lambda h: h.gather(1, PERMUTED.expand(len(h), -1)),
    "index_copy": lambda h: h.index_copy(1, PERMUTED[:3], h[:, :3]),
    "select_scatter": lambda h: h.select_scatter(h[:, 3], 1, 0).slice_scatter(h[:, :2], 1, 5, 7),
    "sparse.mm": lambda h: torch.sparse.mm(adjacency(), h.T).T,
    "sparse matmul": lambda h: (adjacency() @ h.mT).mT,
    "fft, filter and real part": lambda h: torch.fft.ifft(torch.fft.fft(h) * FILTER).real,
    "rfft, filter and irfft": lambda h: torch.fft.irfft(torch.fft.rfft(h) * FILTER[:7], n=12),
    "fft2 and its imaginary part": lambda h: torch.fft.fft2(h.view(-1, 3, 4)).imag.flatten(1) + h,
    "view_as_real": lambda h: torch.view_as_real(torch.complex(h[:, :6], h[:, 6:]) * FILTER[:6].conj()).flatten(1),
    "view_as_complex": lambda h: torch.cat([(z := torch.view_as_complex(h.view(-1, 6, 2)) * 1j).real, z.imag], 1),
    "grid_sample": lambda h: (
        F.grid_sample(h.view(-1, 1, 3, 4), GRID.expand(len(h), -1, -1, -1), align_corners=False).flatten(1).repeat(1, 2)[:, :12]
    ),
    "nansum and nanmean": lambda h: h - torch.nansum(h, 1, keepdim=True) + h.nanmean(1, keepdim=True),
    "multi_dot": lambda h: torch.linalg.multi_dot([h, MATRIX, MATRIX, MATRIX]),
    "vecdot": lambda h: torch.linalg.vecdot(h[:, None], MATRIX),
    "atleast_2d and sum_to_size": lambda h: torch.atleast_2d(h.view(-1, 1, 12) * MATRIX).sum_to_size(len(h), 1, 12).flatten(1),
    "sides of constant choices": lambda h: torch.where(HALVES > 2, h, h.roll(1, 1)).masked_scatter(PERMUTED > 12, h),
    "unfold and fold": lambda h: F.fold(F.unfold(h.view(-1, 1, 3, 4), 2), (3, 4), 2).flatten(1),
    "moved dimensions": lambda h: torch.hsplit(h.view(-1, 3, 4).swapdims(1, 2).moveaxis(2, 1).flatten(1), 2)[0].repeat(1, 2),
    "linalg.solve": lambda h: torch.linalg.solve(MATRIX + 3 * torch.eye(12).double(), h, left=False),
    "baddbmm": lambda h: torch.baddbmm(h[:, None], h[:, None], MATRIX.expand(len(h), 12, 12)).flatten(1),
    "trapezoid": lambda h: h - torch.trapezoid(h, dim=1)[:, None],
}

CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "maxout by amax": lambda h: h.view(len(h), 6, 2).amax(-1),
    "maxout by max": lambda h: h.view(-1, 6, 2).max(-1).values,
    "minout over two dimensions": lambda h: h.view(-1, 2, 3, 2).amin((1, 3), keepdim=True).flatten(1),
    "min": lambda h: torch.min(h.view(-1, 3, 4), 1, keepdim=True)[0].flatten(1),
    "leaky ReLU by maximum": lambda h: torch.maximum(h, 0.1 * h),
    "maximum of a constant": lambda h: torch.maximum(h, torch.linspace(-0.5, 0.5, 12).double()),
    "maximum of a tensor that grows": lambda h: torch.maximum(torch.zeros_like(h) + 0.3, h.roll(1, 1)),
    "max of two": lambda h: torch.max(h[:, :6], h[:, 6:]),
    "fmin of two": lambda h: torch.fmin(h[:, :6], other=h[:, 6:]),
    "GroupSort": lambda h: h.view(-1, 3, 4).sort(-1).values.flatten(1),
    "OPLU": lambda h: h.view(-1, 2, 6).sort(1, descending=True)[0].flatten(1),
    "full sort": lambda h: torch.sort(h).values,
    "topk": lambda h: h.topk(3, 1).values,
    "smallest of channels": lambda h: torch.topk(h.view(-1, 4, 3), 2, 1, largest=False)[0].flatten(1),
    "topk of all": lambda h: h.view(-1, 3, 4).topk(4, dim=-1)[0].flatten(1),
    "kthvalue from below": lambda h: h.kthvalue(2, 1, keepdim=True)[0].expand(-1, 2),
    "kthvalue from above": lambda h: h.view(-1, 3, 4).kthvalue(3)[0],
    "median": lambda h: h.view(-1, 4, 3).median(-1).values,
    "median of all": lambda h: torch.median(h, 1, keepdim=True).values + h,
    "nanmedian": lambda h: torch.nanmedian(h.view(-1, 4, 3), dim=1)[0],
    "scatter_reduce pooling": lambda h: h[:, :6].scatter_reduce(1, HALVES.expand(len(h), -1), h, "amax"),
    "scatter_reduce in place": lambda h: h.new_zeros(len(h), 6).scatter_reduce_(
        1, HALVES.repeat(len(h), 1), h, reduce="amin", include_self=False
    ),
    "scatter_reduce of edges": lambda h: h.scatter_reduce(1, EDGES[1].expand(len(h), -1), h[:, EDGES[0]], "amax"),
    "index_reduce": lambda h: h.view(-1, 6, 2).index_reduce(1, EDGES[1], h.view(-1, 6, 2)[:, EDGES[0]], "amax").flatten(1),
    "max_pool1d": lambda h: F.max_pool1d(h[:, None], 3, 2, 1).flatten(1),
    "adaptive max pooling": lambda h: F.adaptive_max_pool1d(h.view(-1, 2, 6), 4).flatten(1),
    "max pooling with indices": lambda h: F.max_pool2d(h.view(-1, 1, 3, 4), 2, return_indices=True)[0].flatten(1),
}


class Network(nn.Module):
    """A function of features between ReLUs, in which ReLUs before and behind count."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, seed: int = 0, quarters: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.function = function
        self.first, self.second = nn.Linear(4, 12), nn.Linear(12, 12)
        self.last = nn.Linear(function(torch.zeros(2, 12).double()).shape[1], 6)
        self.relu, self.end = nn.ReLU(), nn.ReLU()
        for parameter in self.parameters():
            value = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
            parameter.data = ((4 * value).round() / 4 if quarters else value).double()
        if quarters:
            self.second.weight.data[1], self.second.bias.data[1] = self.second.weight.data[0], self.second.bias.data[0]
            self.second.bias.data[6:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.last(self.function(self.second(self.relu(self.first(x))))))


def segments(count: int, *, quarters: bool = False) -> tuple[Tensor, Tensor]:
    """Starts and ends of segments (count, 4)."""
    ends = 2 * torch.randn(2, count, 4, dtype=torch.float64)
    return tuple(ends.round() if quarters else ends)  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LINEAR, *CHOICES])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_walks_are_exact_and_switch_as_one_by_one_evaluation_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not name.startswith("sparse"):  # whose batch comes second
        monkeypatch.setattr(PieceScheduler, "_refined", None)
    net = Network((LINEAR | CHOICES)[name])
    start, end = segments(4)
    walks = segment_walks(net, start, end)
    sampled = segment_walks(net, start, end, method="uniform", num_points=20_001)
    assert walks.exact.all()
    reached, walked = walk_range(walks), walk_length(walks)
    assert (walked >= walk_length(sampled)).all() and (reached >= walk_range(sampled)).all() and walked.sum() > 10
    for i in range(len(start)):
        expected = blackbox.walk(blackbox.Twin(net), start[i], end[i])
        assert expected.is_told
        assert (int(reached[i]), int(walked[i])) == expected.range_and_length


@pytest.mark.parametrize("name", CHOICES)
def test_ties_of_equal_channels_and_round_weights_switch_as_the_codes_between_them_say(name: str) -> None:
    net = Network(CHOICES[name], seed=1, quarters=True)
    start, end = segments(8, quarters=True)
    walks = segment_walks(net, start, end)
    assert walks.exact.all()
    for i in range(len(start)):
        position = walks.position[walks.segment == i].unique_consecutive()
        edges = torch.cat([position.new_zeros(1), position, position.new_ones(1)])
        weight = torch.lerp(edges[:-1], edges[1:], torch.tensor([[0.07], [0.5], [0.91]]).double())
        codes = activation_codes(net, torch.lerp(start[i], end[i], weight.view(-1, 1))).bits
        assert torch.equal(walks.codes(i).repeat(3, 1), codes)


@pytest.mark.parametrize("name", CHOICES)
def test_half_spaces_behind_choices_are_those_that_gradients_say(name: str) -> None:
    net, inputs = Network(CHOICES[name]), segments(5)[0]
    regions = activation_regions(net, inputs)
    for i, x in enumerate(inputs):
        normals, slacks = blackbox.Twin(net).half_spaces(x[None])
        assert torch.allclose(regions.normals[i], normals, atol=1e-11)
        assert torch.allclose(regions.slacks[i], slacks, atol=1e-11)


@pytest.mark.parametrize("name", CHOICES)
def test_the_network_is_affine_between_its_choices(name: str) -> None:
    net, inputs = Network(CHOICES[name]), segments(5)[0]
    regions = activation_regions(net, inputs, choices=True)
    assert len(regions.layers) == 3 and (regions.slacks >= -1e-12).all()
    twin = blackbox.Twin(net)
    for direction in F.normalize(torch.randn(40, 5, 4, dtype=torch.float64), dim=2):
        rate = -torch.einsum("bnd,bd->bn", regions.normals, direction)
        reach = (regions.slacks.clamp(min=0) / rate).where(rate > 1e-12, torch.inf).amin(1, keepdim=True).clamp(max=10.0)
        line = [twin(inputs + t * reach * direction)[0] for t in (0.0, 0.4, 0.999)]
        assert torch.allclose(line[1], line[0] + 0.4 / 0.999 * (line[2] - line[0]), atol=1e-9)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.fft.fft(h).abs(),
        lambda h: h.cumprod(1),
        lambda h: h.scatter_reduce(1, EDGES[1].expand(len(h), -1), h, "prod"),
    ],
)
def test_a_walk_through_what_curves_is_not_called_exact(function: Callable[[Tensor], Tensor]) -> None:
    assert not segment_walks(Network(function), *segments(2)).exact.any()

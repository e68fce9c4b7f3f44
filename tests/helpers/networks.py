"""Networks whose walks are known on paper."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from fold_lightning import ActivationRegions


class Tent(nn.Module):
    """relu(relu(x) + relu(-x) - 1) on one input.

    From -2 to 2 the outer unit switches off at -1 and on at 1, and at 0 both inner units switch in one step: r1 = 3, r2 = 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.relu(x) + torch.relu(-x) - 1)


class CantorNet(nn.Module):
    """CantorNet A (Lewandowski et al. 2024): k times a tent that doubles the number of folds, then one output unit.

    On (0, 3/4) -> (1, 3/4), in all 5k + 1 bits: 3 * 2^k - 1 regions, r1 = 2k + 1, r2 = 5 * 2^k - 4; in the 3k bits of `inner` alone:
    2^(k + 1) - 1 regions, r1 = 2k, r2 = 2 (2^k - 1).
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.first, self.second, self.last = nn.Linear(2, 3), nn.Linear(3, 2, bias=False), nn.Linear(2, 1)
        self.inner, self.outer, self.end = nn.ReLU(), nn.ReLU(), nn.ReLU()
        weights = {
            self.first.weight: [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0]],
            self.first.bias: [-2.0, 1.0, 0.0],
            self.second.weight: [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            self.last.weight: [[-0.5, 1.0]],
            self.last.bias: [-0.5],
        }
        for parameter, value in weights.items():
            parameter.data = torch.tensor(value)

    def forward(self, v: Tensor) -> Tensor:
        for _ in range(self.k):
            v = self.outer(self.second(self.inner(self.first(v))))
        return self.end(self.last(v))

    @property
    def inner_layers(self) -> list[str]:
        return ["inner", *(f"inner/{call}" for call in range(2, self.k + 1))]


def polytope(*rows: list[float]) -> ActivationRegions:
    """Return the region around 0 bounded by rows (normal, offset), as from one layer."""
    table = torch.tensor([rows], dtype=torch.float64)
    inputs = torch.zeros(1, table.shape[2] - 1, dtype=torch.float64)
    return ActivationRegions(table[..., :-1], table[..., -1], inputs, {"relu": slice(0, table.shape[1])})


def cube(d: int) -> list[list[float]]:
    """Return the rows of a cube of d dimensions with side 2."""
    return [[float(sign * (i == j)) for j in range(d)] + [1.0] for i in range(d) for sign in (1, -1)]


def mlp(*widths: int, seed: int = 0, bias: bool = True) -> nn.Sequential:
    """Return linear layers of the given widths, with a ReLU after each except the last, in float64, from a seed."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()

"""CantorNet in its three representations (Lewandowski et al. 2024, arXiv 2411.19713): one set, three networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CantorNetA(nn.Module):
    """Representation A: a tent of the first coordinate k times in a row, then one output unit.

    Its units are 3 in each tent (`inner`), 2 behind each (`outer`), and the output (`end`).
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.inner, self.outer, self.end = nn.ReLU(), nn.ReLU(), nn.ReLU()
        table = {
            "first": [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0]],
            "shift": [-2.0, 1.0, 0.0],
            "second": [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            "last": [[-0.5, 1.0]],
        }
        for name, numbers in table.items():
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float64))

    def forward(self, v: Tensor) -> Tensor:
        for _ in range(self.k):
            v = self.outer(self.inner(v @ self.first.T + self.shift) @ self.second.T)
        return self.end(v @ self.last.T - 0.5)

    @property
    def inner_layers(self) -> list[str]:
        """The layers of the tents."""
        return ["inner", *(f"inner/{call}" for call in range(2, self.k + 1))]


class CantorNetMinimum(nn.Module):
    """Representations B and C: the smallest of rectified half-planes and of the notches between them, pair by pair.

    They differ in how ReLUs give the smaller of two numbers: B by b - relu(b - a) with b = relu(b) - relu(-b), C by
    (a + b - |a - b|) / 2. The authors' code takes the maxima of a notch's three half-planes by no units; here they are
    negated minima of negated numbers, by units of the same kind.
    """

    def __init__(self, k: int, representation: str) -> None:
        super().__init__()
        self.representation = representation
        xs = [0.0, 1.0]
        for _ in range(k):
            xs = [x for a, b in zip(xs[::2], xs[1::2], strict=True) for x in (a, (2 * a + b) / 3, (a + 2 * b) / 3, b)]
        heights = [1.0, 0.5, 0.5, 1.0] * (len(xs) // 4)
        corners = torch.tensor([xs, heights], dtype=torch.float64).T
        slope = (corners[1:, 1] - corners[:-1, 1]) / (corners[1:, 0] - corners[:-1, 0])
        self.register_buffer("slope", slope)
        self.register_buffer("height", corners[:-1, 1] - slope * corners[:-1, 0])

    def forward(self, v: Tensor) -> Tensor:
        above = v[:, 1:] - v[:, :1] * self.slope - self.height  # of each straight piece of the border
        last = above.shape[1] - 1
        shapes = above[:, [0, 1, last]]
        notches = (last + 1) // 4
        if notches:
            rising, top, falling = (above[:, 2 + i : last : 4][:, :notches] for i in range(3))
            highest = -self.smaller(self.smaller(-rising, -top), -falling)
            shapes = torch.cat([shapes, highest], 1)
        values = torch.relu(shapes)
        while (n := values.shape[1]) > 1:
            values = self.smaller(values[:, : n // 2 * 2 : 2], values[:, 1::2], values[:, n // 2 * 2 :])
        return values

    def smaller(self, a: Tensor, b: Tensor, odd: Tensor | None = None) -> Tensor:
        """Return the smaller of a and b by one layer of units, which hands on what has no partner."""
        n, odd = a.shape[1], a[:, :0] if odd is None else odd
        parts = (b, -b, b - a) if self.representation == "B" else (a + b, -a - b, b - a, a - b)
        units = torch.relu(torch.cat([*parts, odd, -odd], 1))
        pairs = units[:, : len(parts) * n].unflatten(1, (len(parts), n))
        handed = units[:, len(parts) * n :].unflatten(1, (2, odd.shape[1]))
        found = pairs[:, 0] - pairs[:, 1:].sum(1)
        return torch.cat([found if self.representation == "B" else found / 2, handed[:, 0] - handed[:, 1]], 1)


def cantor_net(representation: str, k: int) -> nn.Module:
    """Return the network of a representation, "A", "B" or "C"."""
    return CantorNetA(k) if representation == "A" else CantorNetMinimum(k, representation)

"""Slow, obvious references for the package's results, in plain Python and from the definitions only.

A network is a list of layers, each a tuple: ``("affine", M, c)``, ``("kinks", thresholds)``, ``("bends", thresholds)``,
``("max", windows)``, ``("residual", layers)``. "kinks" give bits, "bends" and "max" bend without a bit. ``("kinks", thresholds,
slopes)`` also has the slopes below, between and above the thresholds; the function is continuous, and 0 at 0 or at its first
threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog, lsq_linear
from torch import Tensor, nn

Layers = list[tuple[Any, ...]]
Step = tuple[float, tuple[int, ...]]


def walk_by_regions(layers: Layers, start: Sequence[float], end: Sequence[float]) -> tuple[list[Step], int]:
    """Return the steps along a segment, region by region: from each point to the nearest place where anything bends.

    Values and their slopes in t pass through the network together. A value of 0 counts with the sign of its slope, which is its sign
    just after the point.

    Returns:
        The steps as (position, units that switch), and the number of bits.
    """
    x, direction = np.asarray(start, float), np.asarray(end, float) - np.asarray(start, float)
    position, bits, steps = 0.0, None, []
    while True:
        new_bits: list[bool] = []
        distances: list[float] = []
        _germ(layers, x + position * direction, direction, new_bits, distances)
        if bits is not None:
            switched = tuple(u for u in range(len(bits)) if bits[u] != new_bits[u])
            if switched:
                steps.append((position, switched))
        bits = new_bits
        position += min((d for d in distances if d > 1e-11), default=2.0)
        if position >= 1.0 - 1e-11:
            return steps, len(bits)


def _germ(layers: Layers, v: np.ndarray, s: np.ndarray, bits: list[bool], distances: list[float]) -> tuple[Any, Any]:
    """Pass value and slope through layers; record the bits just after the point, and the distance to every bend ahead."""
    for kind, *what in layers:
        if kind == "affine":
            v, s = what[0] @ v + what[1], what[0] @ s
        elif kind in ("kinks", "bends"):
            v, s = _bend(v, s, what[0], what[1], bits if kind == "kinks" else [], distances)
        elif kind == "max":
            v, s = _largest(v, s, what[0], distances)
        elif kind == "residual":
            v2, s2 = _germ(what[0], v, s, bits, distances)
            v, s = v + v2, s + s2
    return v, s


def _above(value: float, slope: float, scale: float) -> bool:
    return slope > 1e-12 * scale if abs(value) <= 1e-12 * scale else value > 0


def _bend(v: Any, s: Any, thresholds: Any, slopes: Any, bits: list[bool], distances: list[float]) -> tuple[Any, Any]:
    scale = max(np.abs(v).max(), 1e-300)
    out_v, out_s = np.zeros_like(v), np.zeros_like(s)
    above = [[_above(v[u] - t, s[u], scale) for u in range(len(v))] for t in thresholds]
    for row in above:
        bits.extend(row)
    for u in range(len(v)):
        for t in thresholds:
            if s[u] != 0:
                distances.append((t - v[u]) / s[u])
        part = sum(row[u] for row in above)
        out_v[u] = piecewise(v[u], thresholds, slopes)
        out_s[u] = slopes[part] * s[u]
    return out_v, out_s


def piecewise(x: Any, thresholds: Any, slopes: Any) -> Any:
    """Return values of the continuous function with these slopes that is 0 where ReLU, hard tanh and similar functions are."""
    first = thresholds[0]
    anchor = first if first != 0 and slopes[0] == 0 else 0  # hardtanh(min) = min
    value = anchor if x >= first else anchor + slopes[0] * (x - first)
    for number, t in enumerate(thresholds):
        if x > t:
            upper = thresholds[number + 1] if number + 1 < len(thresholds) else x
            value = value + slopes[number + 1] * (min(x, upper) - t)
    return value


def _largest(v: Any, s: Any, windows: Any, distances: list[float]) -> tuple[Any, Any]:
    scale = max(np.abs(v).max(), 1e-300)
    winners = []
    for window in windows:
        top = max(v[j] for j in window)
        winner = max((j for j in window if v[j] >= top - 1e-12 * scale), key=lambda j: s[j])
        for j in window:
            if s[j] > s[winner]:
                distances.append((v[winner] - v[j]) / (s[j] - s[winner]))
        winners.append(winner)
    return v[winners], s[winners]


def range_and_length(steps: list[Step]) -> tuple[int, int]:
    """Return r1 and r2 from the definition: distances of all codes from the first, and of each from the next."""
    code: set[int] = set()
    reached = walked = 0
    for _, units in steps:
        code = code.symmetric_difference(units)
        reached, walked = max(reached, len(code)), walked + len(units)
    return reached, walked


def folding_between_classes(
    chi: Sequence[float], start: Sequence[int], end: Sequence[int], num_classes: int, within: str, across: str
) -> tuple[float, list[list[float]]]:
    """Return Phi_N and its matrix, pair by pair and segment by segment."""
    take = {
        "max": max,
        "mean": lambda values: math.fsum(values) / len(values),
        "median": lambda values: float(np.median(values)),
    }
    matrix, off_diagonal = [], []
    for a in range(num_classes):
        row = []
        for b in range(num_classes):
            all_of_pair = [value for value, s, e in zip(chi, start, end, strict=True) if (s, e) == (a, b)]
            folding = [value for value in all_of_pair if value > 0]
            row.append(math.nan if not all_of_pair else take[within](folding) if folding else 0.0)
            if a != b and all_of_pair:
                off_diagonal.append(row[-1])
        matrix.append(row)
    return (take[across](off_diagonal) if off_diagonal else math.nan), matrix


def rational_codes(layers: Layers, start: Sequence[int], end: Sequence[int]) -> tuple[list[Fraction], list[tuple[bool, ...]]]:
    """Return the codes of the open intervals along a segment, in exact rational arithmetic.

    All places where the network bends are found layer by layer. The code of each interval is that of its midpoint.

    Returns:
        The positions where the code changes, and the codes, one more than positions.
    """
    a, b = [Fraction(v) for v in start], [Fraction(v) for v in end]

    def point(t: Fraction) -> list[Fraction]:
        return [(1 - t) * p + t * q for p, q in zip(a, b, strict=True)]

    breaks = [Fraction(0), Fraction(1)]
    for depth in range(_count(layers)):
        values = [_trace(layers, point(t))[depth] for t in breaks]
        new = set(breaks)
        for (t0, z0), (t1, z1) in pairwise(zip(breaks, values, strict=True)):
            new.update(t0 + (t1 - t0) * w for p, q in zip(z0, z1, strict=True) if p * q < 0 for w in [p / (p - q)])
        breaks = sorted(new)
    middles = [(t0 + t1) / 2 for t0, t1 in pairwise(breaks)]
    codes = [_bits(layers, point(t)) for t in middles]
    kept = [i for i in range(1, len(codes)) if codes[i] != codes[i - 1]]
    return [breaks[i] for i in kept], [codes[0], *(codes[i] for i in kept)]


def _count(layers: Layers) -> int:
    return len(_trace(layers, None))


def _trace(layers: Layers, v: Any) -> list[list[Fraction]]:
    """Return, for each bend in execution order, the quantities whose zeros are its breakpoints."""
    seen: list[Any] = []
    _rational(layers, v, seen, [])
    return seen


def _bits(layers: Layers, v: list[Fraction]) -> tuple[bool, ...]:
    bits: list[bool] = []
    _rational(layers, v, [], bits)
    return tuple(bits)


def _rational(layers: Layers, v: Any, seen: list[Any], bits: list[bool]) -> Any:
    for kind, *what in layers:
        if kind == "affine":
            v = v and [
                sum((Fraction(m) * x for m, x in zip(r, v, strict=True)), Fraction(c)) for r, c in zip(*what, strict=True)
            ]
        elif kind in ("kinks", "bends"):
            seen.append(v and [x - Fraction(t) for t in what[0] for x in v])
            if v and kind == "kinks":
                bits.extend(x > t for t in what[0] for x in v)
            v = v and [piecewise(x, [Fraction(t) for t in what[0]], [Fraction(s) for s in what[1]]) for x in v]
        elif kind == "max":
            seen.append(v and [v[i] - v[j] for w in what[0] for i in w for j in w if i < j])
            v = v and [max(v[j] for j in w) for w in what[0]]
        elif kind == "residual":
            inner = _rational(what[0], v, seen, bits)
            v = v and [x + y for x, y in zip(v, inner, strict=True)]
    return v


RELU, ABS = ([0.0], [0.0, 1.0]), ([0.0], [-1.0, 1.0])


def layers_of(model: nn.Sequential, shape: tuple[int, ...]) -> tuple[Layers, tuple[int, ...]]:
    """Return a Sequential of torch modules as a list of layers, for inputs of a shape; affine modules become dense matrices."""
    layers: Layers = []
    for module in model:
        zero = torch.zeros(1, *shape, dtype=torch.float64)
        if isinstance(module, Residual):
            layers.append(("residual", layers_of(module.body, shape)[0]))
        elif isinstance(module, (nn.ReLU, nn.LeakyReLU, nn.PReLU)):
            low = {nn.ReLU: lambda m: 0.0, nn.LeakyReLU: lambda m: m.negative_slope, nn.PReLU: lambda m: m.weight.item()}
            layers.append(("kinks", [0.0], [low[type(module)](module), 1.0]))
        elif isinstance(module, nn.Hardtanh):
            layers.append(("kinks", [module.min_val, module.max_val], [0.0, 1.0, 0.0]))
        elif isinstance(module, Abs):
            layers.append(("kinks", *ABS))
        elif isinstance(module, nn.MaxPool2d):
            layers.append(("max", _windows(module, shape)))
            shape = tuple(module(zero).shape[1:])
        else:
            module = module.double()
            out = module(zero)
            basis = torch.eye(zero.numel(), dtype=torch.float64).view(-1, *shape)
            with torch.no_grad():
                matrix = (module(basis) - out).flatten(1).T
            layers.append(("affine", matrix.numpy(), out.detach().flatten().numpy()))
            shape = tuple(out.shape[1:])
    return layers, shape


def _windows(module: nn.MaxPool2d, shape: tuple[int, ...]) -> list[list[int]]:
    size = module.kernel_size
    index = torch.arange(int(np.prod(shape))).view(shape)
    c, h, w = shape
    return [
        index[i, j : j + size, k : k + size].flatten().tolist()
        for i in range(c)
        for j in range(0, h - size + 1, size)
        for k in range(0, w - size + 1, size)
    ]


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Abs(nn.Module):
    """|x|."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def faces_one_by_one(normals: Tensor, offsets: Tensor) -> list[bool]:
    """Return which rows of ``normals @ x + offsets >= 0`` are faces, by one linear program per row with its plane moved out by 1.

    Rows are scaled to length 1. Of planes equal to 9 digits, only the first counts.
    """
    rows = [
        (n / np.linalg.norm(n), c / np.linalg.norm(n), i)
        for i, (n, c) in enumerate(zip(normals.numpy(), offsets.numpy(), strict=True))
        if n.any()
    ]
    different: list[Any] = []
    for n, c, i in rows:
        if not any(abs(c - e) < 1e-9 and np.allclose(n, m, atol=1e-9) for m, e, _ in different):
            different.append((n, c, i))
    faces = [False] * len(normals)
    for n, c, i in different:
        limits = np.array([-m for m, _, _ in different])
        right = np.array([e + (j == i) for _, e, j in different])
        tries = (linprog(n, limits, right, bounds=(None, None), method=method) for method in ("highs-ds", "highs-ipm"))
        best = next(result for result in tries if result.status == 0)
        faces[i] = best.fun + c < -1e-8 * max(1.0, abs(c))
    return faces


def faces_by_least_squares(normals: Tensor, slacks: Tensor) -> list[bool]:
    """Return the faces by Farkas' lemma: a row is not a face if it is a nonnegative combination of the other rows and 1."""
    rows = torch.cat([normals, slacks[:, None]], 1).numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    one = np.eye(rows.shape[1])[-1:]
    others = (np.vstack([np.delete(rows, i, 0), one]).T for i in range(len(rows)))
    # Of SciPy 1.15, `nnls` may return a point that is not the nearest, with a residual of zero.
    nearest = (lsq_linear(columns, row, (0, np.inf), "bvls") for columns, row in zip(others, rows, strict=True))
    return [bool(np.linalg.norm(found.fun) > 1e-9) for found in nearest]

"""Polynomials of one degree, thousands at a time: interpolation, bounds that exclude roots, and roots.

A polynomial on [-1, 1] is given by its Chebyshev coefficients, whose decay shows how well it has converged to the function that
it interpolates. Its Bernstein coefficients bound it: it lies between the smallest and the largest of them, and the number of
its roots is the number of their sign changes or less by an even number (Descartes' rule). Halving an interval brings them
closer to the polynomial (de Casteljau), so that repeated halving ends with intervals that have one root or none.

Interpolation takes the fewest points with a high degree. In Bernstein's basis rounding errors grow like 2 to the degree; therefore
bounds and roots are taken from polynomials of half the degree on quarters of the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import comb, pi

import torch
from torch import Tensor

from fold_lightning._tensors import longest_run
from fold_lightning.walks.breakpoints import order_by

DEGREE = 30
"""Degree of an interpolation. With degree 15, on twice as many intervals, a vision transformer took 1.5 times as many points."""

LOW_DEGREE = 15
"""Degree of the polynomials that replace an interpolation on each quarter of its interval."""

QUARTERS = 4

NEWTON_STEPS = 8
"""Steps from one halving of a root's bracket to the next; the steps between are Newton's, which may converge slowly."""

MAX_ROOT_STEPS = 100
"""Maximum number of steps to a root; smooth networks need 5 to 10."""

ROOT_TOLERANCE = 1e-12
"""Length of the last step to a root, in [-1, 1]: the error left is about its square, and that of rounding a few 1e-16 divided
by the slope."""


@dataclass(frozen=True)
class SignChanges:
    """E sign changes of K polynomials on [-1, 1].

    Attributes:
        polynomial: int64 (E,) the polynomial of each.
        position: float64 (E,) in [-1, 1]; a sign that changes over an undecided interval changes at its end.
        begins: bool (K,), whether a polynomial is positive just after -1.
        ends: bool (K,), whether it is positive just before 1.
        undecided: float64 (K,), length of the longest interval in which it stays within its margin of 0, or 0.
    """

    polynomial: Tensor
    position: Tensor
    begins: Tensor
    ends: Tensor
    undecided: Tensor


@dataclass(frozen=True)
class Parts:
    """Parts of [-1, 1], in order, in each of which a polynomial keeps its sign or changes it once.

    Attributes:
        polynomial: int64 (I,).
        left: float64 (I,).
        right: float64 (I,).
        first: int64 (I,), the sign just inside the left end: 1, -1, or 0 where the polynomial stays within its margin of 0.
        last: int64 (I,), the sign just inside the right end.
        decided: bool (I,), whether a bound excludes further roots.
    """

    polynomial: Tensor
    left: Tensor
    right: Tensor
    first: Tensor
    last: Tensor
    decided: Tensor


@cache
def nodes() -> Tensor:
    """Return the points to interpolate at, float64 (DEGREE + 1,): Chebyshev points with both ends, ascending."""
    return _lobatto(DEGREE)


@cache
def between_nodes(index: int) -> Tensor:
    """Return a point between node `index` and the next, where an interpolation errs most: float64 (1,)."""
    return -torch.cos(torch.tensor([(index + 0.5) * pi / DEGREE], dtype=torch.float64))


def _lobatto(degree: int) -> Tensor:
    return -torch.cos(torch.arange(degree + 1, dtype=torch.float64) * pi / degree)


def chebyshev_basis(x: Tensor, degree: int = DEGREE) -> Tensor:
    """Return the Chebyshev polynomials at points of [-1, 1], (X, degree + 1).

    Example:
        >>> chebyshev_basis(torch.tensor([0.5]))[0, :3]
        tensor([ 1.0000,  0.5000, -0.5000])
    """
    return torch.cos(torch.arange(degree + 1, dtype=x.dtype, device=x.device) * torch.arccos(x)[:, None])


@cache
def interpolation() -> Tensor:
    """Return the matrix that turns values at the nodes into Chebyshev coefficients."""
    matrix: Tensor = torch.linalg.inv(chebyshev_basis(nodes()))
    return matrix


@cache
def _quarters() -> Tensor:
    """Return the matrices (QUARTERS, DEGREE + 1, LOW_DEGREE + 1) that turn Chebyshev coefficients, a row, into those on quarters."""
    edge = torch.arange(QUARTERS, dtype=torch.float64)[:, None] * (2 / QUARTERS) - 1
    places = edge + (_lobatto(LOW_DEGREE) + 1) / QUARTERS
    low: Tensor = torch.linalg.inv(chebyshev_basis(_lobatto(LOW_DEGREE), LOW_DEGREE))
    return torch.stack([(low @ chebyshev_basis(x.clamp(-1, 1))).T for x in places])


@cache
def _lost() -> Tensor:
    """Return the largest error, for each Chebyshev polynomial, of the polynomials on quarters, float64 (DEGREE + 1,)."""
    x = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    basis = chebyshev_basis(x, LOW_DEGREE)
    errors = [
        (chebyshev_basis((2 * index + 1 + x) / QUARTERS - 1) - basis @ quarter.T).abs().amax(0)
        for index, quarter in enumerate(_quarters())
    ]
    return torch.stack(errors).amax(0).where(torch.arange(DEGREE + 1) > LOW_DEGREE, 0.0)


@cache
def _bernstein() -> Tensor:
    """Return the matrix that turns Chebyshev coefficients of a low degree, a row, into Bernstein coefficients."""
    rows = []
    for k in range(LOW_DEGREE + 1):
        own = [(-1) ** (k - i) * comb(2 * k, 2 * i) / comb(k, i) for i in range(k + 1)]
        share = [
            [comb(k, i) * comb(LOW_DEGREE - k, j - i) / comb(LOW_DEGREE, j) if j >= i else 0.0 for i in range(k + 1)]
            for j in range(LOW_DEGREE + 1)
        ]
        rows.append([sum(a * b for a, b in zip(own, weights, strict=True)) for weights in share])
    return torch.tensor(rows, dtype=torch.float64)


@cache
def _halves() -> Tensor:
    """Return the matrices (2, n, n) that turn Bernstein coefficients, a row, into those on the left and on the right half."""
    size = range(LOW_DEGREE + 1)
    left = torch.tensor([[comb(j, i) / 2**j for j in size] for i in size], dtype=torch.float64)
    return torch.stack([left, left.flip(0, 1)])


def sign_changes(coefficients: Tensor, margin: Tensor, shortest: Tensor) -> SignChanges:
    """Find the sign changes of polynomials; one that only touches 0, within the margin, does not change its sign.

    Args:
        coefficients: float64 (K, DEGREE + 1), Chebyshev coefficients.
        margin: float64 (K,), the distance from 0 within which the sign is unknown.
        shortest: float64 (K,), length in [-1, 1] below which an interval is not halved.

    Returns:
        The changes, in order within each polynomial.

    Example:
        >>> parabola = torch.zeros(1, DEGREE + 1, dtype=torch.float64)
        >>> parabola[0, 0], parabola[0, 2] = 0.5 - 0.25, 0.5  # x^2 - 1/4
        >>> found = sign_changes(parabola, torch.tensor([1e-12]), torch.tensor([1e-9]))
        >>> found.position, found.begins
        (tensor([-0.5000,  0.5000], dtype=torch.float64), tensor([True]))
    """
    low = torch.einsum("kc,qcl->kql", coefficients, _quarters().to(coefficients.device))
    parts = _settle(low, margin + coefficients.abs() @ _lost().to(margin.device), shortest)
    first, last = _known_signs(parts)
    inside = (first * last < 0).nonzero().squeeze(1)
    joint = ((parts.polynomial[1:] == parts.polynomial[:-1]) & (last[:-1] * first[1:] < 0)).nonzero().squeeze(1)
    owner = parts.polynomial[inside]
    roots = _locate_in_quarters(low, owner, parts.left[inside], parts.right[inside], first[inside])
    polynomial, position = torch.cat([owner, parts.polynomial[joint]]), torch.cat([roots, parts.right[joint]])
    order = order_by(polynomial, position)
    begins = torch.ones_like(parts.polynomial, dtype=torch.bool)
    begins[1:] = parts.polynomial[1:] != parts.polynomial[:-1]
    return SignChanges(
        polynomial[order],
        position[order],
        begins=first[begins] > 0,
        ends=last[begins.roll(-1)] > 0,
        undecided=longest_run((parts.right - parts.left).masked_fill(parts.decided, 0.0), parts.polynomial, len(margin), 0.0),
    )


def _settle(low: Tensor, margin: Tensor, shortest: Tensor) -> Parts:
    """Halve quarters of [-1, 1] until the Bernstein coefficients exclude a second root, or stay within the margin of 0.

    Args:
        low: float64 (K, QUARTERS, LOW_DEGREE + 1), the polynomials' Chebyshev coefficients on quarters.
        margin: float64 (K,).
        shortest: float64 (K,).
    """
    device = low.device
    bernstein = (low @ _bernstein().to(device)).flatten(0, 1)
    polynomial = torch.arange(len(low), device=device).repeat_interleave(QUARTERS)
    left = (torch.arange(QUARTERS, dtype=torch.float64, device=device) * (2 / QUARTERS) - 1).repeat(len(low))
    right = left + 2 / QUARTERS
    found: list[tuple[Tensor, ...]] = []
    while len(polynomial) or not found:
        signs = _signs(bernstein, margin[polynomial])
        decided = _decides(signs)
        done = decided | ~signs.any(1) | (right - left < shortest[polynomial])
        ends = (signs[done, 0].long(), signs[done, -1].long())
        found.append((polynomial[done], left[done], right[done], *ends, decided[done]))
        polynomial, left, right = polynomial[~done], left[~done], right[~done]
        middle = (left + right) / 2
        bernstein = torch.matmul(bernstein[~done], _halves().to(device)).flatten(0, 1)
        polynomial, left, right = polynomial.repeat(2), torch.cat([left, middle]), torch.cat([middle, right])
    together = [torch.cat(part) for part in zip(*found, strict=True)]
    order = order_by(together[0], together[1])
    return Parts(*(part[order] for part in together))


def _signs(bernstein: Tensor, margin: Tensor) -> Tensor:
    """Return the signs of coefficients, int8 (I, LOW_DEGREE + 1), 0 within the margin; a 0 at an end takes its neighbour's sign."""
    signs = (bernstein > margin[:, None]).to(torch.int8) - (bernstein < -margin[:, None]).to(torch.int8)
    for end, neighbour in ((0, 1), (-1, -2)):
        signs[:, end] = torch.where(signs[:, end] == 0, signs[:, neighbour], signs[:, end])
    return signs


def _decides(signs: Tensor) -> Tensor:
    """Return whether signs exclude a second root, bool (I,): all equal, or one change with at most one 0 in between."""
    steps = signs.diff(dim=1)
    monotone = (steps >= 0).all(1) | (steps <= 0).all(1)
    zeros = (signs == 0).sum(1)
    return monotone & ((zeros == 0) | ((zeros == 1) & (signs[:, 0] * signs[:, -1] < 0)))


def _known_signs(parts: Parts) -> tuple[Tensor, Tensor]:
    """Return the signs at both ends of each part; an unknown sign is that of the nearest part before with a known one, else after."""
    signs = torch.stack([parts.first, parts.last], dim=1).flatten()
    owner = parts.polynomial.repeat_interleave(2)
    place = torch.arange(len(signs), device=signs.device)
    before = torch.where(signs != 0, place, 0).cummax(0).values
    after = torch.where(signs != 0, place, max(0, len(signs) - 1)).flip(0).cummin(0).values.flip(0)
    earlier = torch.where(owner[before] == owner, signs[before], 0)
    later = torch.where(owner[after] == owner, signs[after], 0)
    first, last = torch.where(earlier != 0, earlier, later).view(-1, 2).unbind(1)
    return first, last


def _locate_in_quarters(low: Tensor, polynomial: Tensor, left: Tensor, right: Tensor, first: Tensor) -> Tensor:
    """Return the root of each polynomial (K,), given by its index in `low`, between two points of a quarter."""
    quarter = ((left + 1) * (QUARTERS / 2)).long()
    middle = (2 * quarter + 1) / QUARTERS - 1
    ends = (left - middle) * QUARTERS, (right - middle) * QUARTERS
    return _locate(low[polynomial, quarter], *ends, first) / QUARTERS + middle


def _locate(coefficients: Tensor, left: Tensor, right: Tensor, first: Tensor) -> Tensor:
    """Return the root of each polynomial between two points, the first of which has the given sign."""
    both = torch.stack([coefficients, coefficients @ _derivative().to(coefficients.device)]).movedim(2, 0).contiguous()
    x, is_near = (left + right) / 2, torch.zeros_like(left, dtype=torch.bool)
    for step in range(MAX_ROOT_STEPS):
        value, slope = _evaluate(both, x)
        is_left = value * first > 0
        left, right = torch.where(is_left, x, left), torch.where(is_left, right, x)
        newton = x - value / slope
        by_newton = (newton >= left) & (newton <= right) & (step % NEWTON_STEPS != NEWTON_STEPS - 1)
        new = torch.where(by_newton | is_near, newton, (left + right) / 2)
        is_near, x = (new - x).abs() <= ROOT_TOLERANCE, new.clamp(left, right)
        if bool(is_near.all()):
            break
    return x


def _evaluate(coefficients: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of polynomials and of their derivatives (LOW_DEGREE + 1, 2, K) at a point each, by Clenshaw's recurrence."""
    ahead, two_ahead = torch.zeros_like(coefficients[0]), torch.zeros_like(coefficients[0])
    for k in range(LOW_DEGREE, 0, -1):
        ahead, two_ahead = torch.addcmul(coefficients[k] - two_ahead, ahead, 2 * x), ahead
    value, slope = (coefficients[0] - two_ahead + ahead * x).unbind(0)
    return value, slope


@cache
def _derivative() -> Tensor:
    """Return the matrix that turns Chebyshev coefficients, a row, into those of the derivative."""
    rows = torch.zeros(LOW_DEGREE + 1, LOW_DEGREE + 1, dtype=torch.float64)
    for k in range(LOW_DEGREE + 1):
        rows[k, [j for j in range(k) if (k - j) % 2]] = 2.0 * k
    rows[:, 0] /= 2
    return rows

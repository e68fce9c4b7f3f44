"""Linear programs, solved one at a time where no faster method decides."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

TOLERANCES = (1e-10, 1e-7)  # the smallest that HiGHS accepts, then its default

POINT_ROUNDING = 1e-14
"""Distance by which rounding may move a plane at a point, as a share of the point's distance from the center, in its metric."""

INTERIOR_MARGIN = 1e-9
"""Least depth at which a point counts as inside, as a share of the size of its coordinates."""


def direction_inside(normals: Tensor) -> Tensor | None:
    """Return a direction float64 (d,) that leads inwards from planes with outward normals (n, d); None if there is none."""
    return _deepest(normals, normals.new_zeros(len(normals)), (-1, 1))


def deepest_point(normals: Tensor, slacks: Tensor) -> Tensor | None:
    """Return the point float64 (d,) of ``normals . x <= slacks`` that is farthest from the planes; None if none is inside.

    Normals (n, d) have length 1. Depths above the largest absolute slack count as equal.
    """
    size = float(slacks.abs().max()) or 1.0
    point = _deepest(normals, slacks / size, (None, None))
    return None if point is None else point * size


def _deepest(normals: Tensor, slacks: Tensor, bounds: tuple[int | None, int | None]) -> Tensor | None:
    """Return the deepest point with coordinates in the bounds, at a depth of at most 1; None if no point is inside."""
    n, d = normals.shape
    limits = np.hstack([normals.cpu().numpy(), np.ones((n, 1))])
    result = _solve(np.r_[np.zeros(d), -1.0], limits, slacks.cpu().numpy(), [bounds] * d + [(None, 1)])
    return torch.from_numpy(result.x[:d]).to(normals.device) if result.x[d] > INTERIOR_MARGIN else None


def largest_height(points: Tensor, i: int) -> float:
    """Return the largest ``points[i] @ z`` over ``{z : points @ z <= 1}`` without row i, at most 2.

    The row's own plane is at height 1, so row i is a face if the result is larger.

    The program maximizes the height with the row relaxed by 1 ("Characterizing the Discrete Geometry of ReLU Networks", Gaines and
    Bi 2026). HiGHS tolerates a point that violates other rows a little, and where many planes meet in a corner this adds up. So the
    point is scaled back until it violates none, and rounding is subtracted.

    Args:
        points: float64 (M, d), dual points.
        i: The row.
    """
    limits = points.cpu().numpy()
    right = np.ones(len(limits))
    right[i] = 2.0
    point = _solve(-limits[i], limits, right, (None, None)).x
    heights = limits @ point
    return float((heights[i] - POINT_ROUNDING * np.linalg.norm(point)) / max(1.0, np.delete(heights, i).max(initial=0.0)))


def _solve(cost: Any, limits: Any, right: Any, bounds: Any) -> Any:
    for tolerance, method in itertools.product(TOLERANCES, ("highs-ds", "highs-ipm")):
        options = {"primal_feasibility_tolerance": tolerance, "dual_feasibility_tolerance": tolerance}
        result = linprog(cost, limits, right, bounds=bounds, method=method, options=options)
        if result.status == 0:
            return result
    raise RuntimeError(
        f"A linear program of {limits.shape[0]} rows and {limits.shape[1]} columns, which decides a face, was not solved: "
        f"{result.message} Inputs far from 0 or weights of very different size may be the reason: normalise them."
    )

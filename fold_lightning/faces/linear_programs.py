"""Linear programs, one at a time, for what nothing faster decides."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

TOLERANCES = (1e-10, 1e-7)  # the smallest that HiGHS takes, then its usual one

POINT_ROUNDING = 1e-14
"""Distance by which the rounding of rows may move a plane at a point, as a share of the point's distance from
the center, in its metric."""

MARGIN = 1e-9
"""Least depth of a point inside, as a share of the size of its coordinates."""


def direction_inside(normals: Tensor) -> Tensor | None:
    """Return a direction float64 (d,) that leads from planes with outward normals (n, d) inwards; None if there is none."""
    return _deepest(normals, normals.new_zeros(len(normals)), (-1, 1))


def deepest_point(normals: Tensor, slacks: Tensor) -> Tensor | None:
    """Return the point float64 (d,) of ``normals . x <= slacks`` that is farthest from the planes; None if none is inside.

    Normals (n, d) have length 1. Points that are farther inside than every plane is from 0 count as equal.
    """
    size = float(slacks.abs().max()) or 1.0
    point = _deepest(normals, slacks / size, (None, None))
    return None if point is None else point * size


def _deepest(normals: Tensor, slacks: Tensor, bounds: tuple[int | None, int | None]) -> Tensor | None:
    """Return the point with coordinates in some bounds that is farthest inside, at a depth of at most 1; None if there is none."""
    n, d = normals.shape
    limits = np.hstack([normals.cpu().numpy(), np.ones((n, 1))])
    result = _solve(np.r_[np.zeros(d), -1.0], limits, slacks.cpu().numpy(), [bounds] * d + [(None, 1)])
    return torch.from_numpy(result.x[:d]).to(normals.device) if result.x[d] > MARGIN else None


def gain(points: Tensor, i: int) -> float:
    """Return the height up to which ``{z : points @ z <= 1}`` would reach along row i without that row, at most 2.

    The row's plane is at height 1.

    The row is relaxed and the program goes as far across it as the other rows let it ("Characterizing the Discrete Geometry of ReLU
    Networks", Gaines and Bi 2026, with the row relaxed by 1 in these units). The program's point may overstep other rows by what
    HiGHS tolerates, which adds up where many planes meet in a corner; so it is drawn back until it oversteps none, and by rounding.

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

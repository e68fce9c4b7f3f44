"""Linear programs, one at a time, for what nothing faster decides."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

TOLERANCES = (1e-10, 1e-7)  # the smallest that HiGHS takes, then its usual one

ASTRAY = 1e-14
"""Of the distance of a point from the center, in its metric: by how much rounding of rows may move a plane there."""

MARGIN = 1e-9
"""How far inside a point must lie of what is as large as its coordinates are."""


def way_inside(normals: Tensor) -> Tensor | None:
    """A direction float64 (d,) in which a point leaves planes with these outward normals (n, d) inwards; None if there is none."""
    return _deepest(normals, normals.new_zeros(len(normals)), (-1, 1))


def deepest_point(normals: Tensor, slacks: Tensor) -> Tensor | None:
    """The point float64 (d,) that is farthest from the planes of ``normals . x <= slacks``, of normals (n, d) of length 1, as far
    as any is from 0; None if there is none inside.
    """
    size = float(slacks.abs().max()) or 1.0
    point = _deepest(normals, slacks / size, (None, None))
    return None if point is None else point * size


def _deepest(normals: Tensor, slacks: Tensor, bounds: tuple[int | None, int | None]) -> Tensor | None:
    """The point with coordinates in some bounds that is farthest inside, where 1 is far enough; None if there is none."""
    n, d = normals.shape
    limits = np.hstack([normals.cpu().numpy(), np.ones((n, 1))])
    result = _solve(np.r_[np.zeros(d), -1.0], limits, slacks.cpu().numpy(), [bounds] * d + [(None, 1)])
    return torch.from_numpy(result.x[:d]).to(normals.device) if result.x[d] > MARGIN else None


def gain(points: Tensor, i: int) -> float:
    """How far ``{z : points @ z <= 1}`` would reach along row i without it: its plane is at 1, and the answer at most 2.

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
    return float((heights[i] - ASTRAY * np.linalg.norm(point)) / max(1.0, np.delete(heights, i).max(initial=0.0)))


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

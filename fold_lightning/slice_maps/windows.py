"""Choice of a window: around three inputs if it holds few enough regions, otherwise zoomed in on the first input."""

from __future__ import annotations

import math

from torch import Tensor

from fold_lightning.regions.around_inputs import half_spaces
from fold_lightning.slice_maps.bends import Bends
from fold_lightning.slice_maps.cutting import Window, subdivide
from fold_lightning.slice_maps.subdivision import Subdivision, TooManyRegions

WINDOW_MARGIN = 1.5
"""Width of a window around inputs, in units of their extent."""

AIM, LEAST = 1 / 3, 1 / 8
"""Share of `max_regions` that a zoomed window aims at, and the least that is accepted: 1,000 and 375 of 3,000."""

MOST = 2 / 3
"""Largest share of `max_regions` that is accepted once a window was found: 2,000 of 3,000; larger maps are hard to read."""

SATURATED = 1.1
"""Growth of the number of regions with a larger window up to which the window counts as holding all regions."""

WIDEST = 3e6
"""Largest distance of the window's border from the first input, in units of the distance to the farthest line of this input's region
or the farthest other input. Cuts are exact to 1e-12 of the largest height; at 7e6, a map of 535 regions lost one region."""

TRIALS = 16
"""Most windows that are tried."""


def choose_window(bends: Bends, max_regions: int) -> tuple[Window, Subdivision]:
    """Return a window and its regions.

    Raises:
        TooManyRegions: If even the smallest windows tried hold more than `max_regions`.
    """
    marks = bends.plane.marks.cpu()
    low, high = marks.aminmax(dim=0)
    if (high > low).any():
        window = square((low + high) / 2, float((high - low).max()) / 2 * WINDOW_MARGIN)
        try:
            return window, subdivide(bends, window, max_regions)
        except (TooManyRegions, MemoryError):
            pass
    return _Zoom(bends, marks[0], max_regions).run()


def square(center: Tensor, half_width: float) -> Window:
    """Return a square window around a point (2,)."""
    x, y = center.tolist()
    return x - half_width, x + half_width, y - half_width, y + half_width


class _Zoom:
    """Search for a square around a point that holds about a wanted number of regions.

    Args:
        bends: The places where the network bends.
        center: The point (2,).
        max_regions: Most regions.
    """

    def __init__(self, bends: Bends, center: Tensor, max_regions: int) -> None:
        self._bends, self._center, self._max_regions = bends, center, max_regions
        self._low, self._high = 0.0, math.inf  # half-widths with too few regions, and with too many
        self._best: tuple[Window, Subdivision] | None = None

    def run(self) -> tuple[Window, Subdivision]:
        """Return the best window tried, and its regions."""
        half_width, before = self._first_guess(), 0
        for _ in range(TRIALS):
            count = self._try(half_width)
            if count is None:
                self._high = half_width
            elif count >= LEAST * self._max_regions or (before and 1 < count <= SATURATED * before and self._high == math.inf):
                break
            else:
                self._low = half_width
            before = count or 0
            half_width = self._next(half_width, count)
        if self._best is None:
            raise TooManyRegions(
                f"A window around the first input holds more than {self._max_regions:,} regions however small it is, because many "
                "lines meet there (such as where max pooling has equal values): raise `max_regions=`, or pass another input or other "
                "`directions=`."
            )
        return self._best

    def _try(self, half_width: float) -> int | None:
        """Return the number of regions of a window, None if there are too many; keep the window if it is the best."""
        window = square(self._center, half_width)
        most = self._max_regions if self._best is None else int(MOST * self._max_regions)
        try:
            found = subdivide(self._bends, window, max(1, most))
        except (TooManyRegions, MemoryError):
            return None
        if self._best is None or found.num_faces > self._best[1].num_faces:
            self._best = window, found
        return found.num_faces

    def _next(self, half_width: float, count: int | None) -> float:
        if self._high == math.inf:
            assert count is not None
            return half_width * min(8.0, max(2.0, math.sqrt(AIM * self._max_regions / count)))
        if self._low == 0.0:
            return half_width / 2
        return math.sqrt(self._low * self._high)

    def _first_guess(self) -> float:
        """Return the half-width of a square that should hold the number of regions aimed at.

        m lines that cross a square make about m^2 / 4 regions. The lines are those of the region around the center, taken as straight
        beyond it.
        """
        reach = _reaches(self._bends, self._center)
        if len(reach) == 0:
            return max(1.0, float(self._bends.plane.marks.abs().max()))
        wanted = math.ceil(2 * math.sqrt(AIM * self._max_regions))
        return float(reach[min(wanted, len(reach) - 1)]) * WINDOW_MARGIN ** (len(reach) <= wanted)


def check_width(bends: Bends, window: Window) -> None:
    """Raise a ValueError if a window is so wide or so far away that rounding would lose regions."""
    marks = bends.plane.marks.cpu()
    reach = _reaches(bends, marks[0])
    scale = max(float(reach.max()) if len(reach) else 0.0, float((marks - marks[0]).abs().max()))
    x0, x1, y0, y1 = window
    x, y = marks[0].tolist()
    farthest = max(abs(x0 - x), abs(x1 - x), abs(y0 - y), abs(y1 - y))
    if farthest > WIDEST * scale > 0:
        raise ValueError(
            f"`window` must reach at most {WIDEST * scale:.3g} from the first input, got {farthest:.3g}: in a larger one, float64 "
            f"does not resolve the regions near the inputs, which lie within {scale:.3g}. Pass a smaller `window=`."
        )


def _reaches(bends: Bends, center: Tensor) -> Tensor:
    """Return the half-widths above 0, ascending, at which a square around a point (2,) first meets each line of its region."""
    plane, replica = bends.plane, bends.replica
    point = plane.inputs(center[None]).to(replica.device)
    basis = plane.basis.to(replica.device).flatten(1)[None]
    normals, slacks, _, _ = half_spaces(replica, bends.structure, point, basis)
    reach = (slacks / normals.abs().sum(2))[0]
    return reach[reach.isfinite() & (reach > 0)].sort().values.cpu()


def check_window(window: object, plane_center: Tensor) -> Window:
    """Return the window (x0, x1, y0, y1) given by a half-width or by four numbers."""
    if isinstance(window, (int, float)) and not isinstance(window, bool):
        if not (math.isfinite(window) and window > 0):
            raise ValueError(f"`window` must be a finite half-width above 0, got {window!r}.")
        return square(plane_center, float(window))
    numbers = list(window) if isinstance(window, (tuple, list)) else []
    if len(numbers) != 4 or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
        raise ValueError(
            "`window` must be a half-width around the first input, or finite bounds (x0, x1, y0, y1) in the plane's coordinates, "
            f"got {window!r}."
        )
    x0, x1, y0, y1 = map(float, numbers)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"`window` must be (x0, x1, y0, y1) with x0 < x1 and y0 < y1, got {window!r}.")
    return x0, x1, y0, y1

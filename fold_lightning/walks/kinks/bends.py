"""Activations of kinks: crossings of thresholds, and the kinks after the activation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.activations.rounding import ROUNDED, SCREEN, Rounding
from fold_lightning.walks.kinks.boxes import FeatureMapShape
from fold_lightning.walks.kinks.memory import steps_of
from fold_lightning.walks.kinks.scan import Scan
from fold_lightning.walks.sparse import any_set, rows_with_any, set_bits

ON = ROUNDED / SCREEN
"""Share of the screen within which a value is on a threshold: rounding may be so large if a value stays on it for an
interval."""


@dataclass(frozen=True)
class Crossing:
    """K crossings of a threshold between two rows.

    Attributes:
        row: int64 (K,), the row before each.
        channel: int64 (K,).
        t: float64 (K,).
    """

    row: Tensor
    channel: Tensor
    t: Tensor


class Sides:
    """Sides of one threshold on which values lie in each interval of a scan.

    A value that is on the threshold at a row, up to rounding, counts as above in the interval next to it if it is above at the
    interval's other end, and as below otherwise.

    Args:
        scan: The scan.
        ends: Values where pieces end (N, C).
        threshold: The threshold.
        screen: Distance from the threshold, (R, C) or (1, 1): a value within it is undecided, or on the threshold if it is
            within `ON` times that distance.

    Attributes:
        left: bool (R, C), whether values are above just after each row.
        right: bool (R, C), whether they are just before the next one.
        unsure: int64, positions of values whose side of the threshold is undecided.
        on: int64, positions of values that are on the threshold.
        is_on: Whether any values are on the threshold.
    """

    def __init__(self, scan: Scan, ends: Tensor, threshold: float, screen: Tensor) -> None:
        self._scan, self.threshold = scan, threshold
        above, on, unsure = _compare(scan.value, threshold, screen)
        above_at_end, on_at_end, unsure_at_end = _compare(ends, threshold, screen if len(screen) == 1 else screen[scan.last])
        at_end = scan.last[unsure_at_end]
        self.unsure = scan.position[torch.cat([unsure, at_end])]
        self.left, self.right = above, scan.shifted(above, above_at_end)
        self.on = self.unsure[:0]
        self.is_on = on is not None or on_at_end is not None
        if self.is_on:
            on = torch.zeros_like(above) if on is None else on
            on_at_end = torch.zeros_like(above_at_end) if on_at_end is None else on_at_end
            self.on = scan.position[torch.cat([on.any(1).nonzero().squeeze(1), scan.last[on_at_end.any(1)]])]
            on_right = scan.shifted(on, on_at_end)
            self.left, self.right = above | (on & self.right), self.right | (on_right & above)

    def crossings(self, lost: Tensor) -> Crossing:
        """Return crossings of the threshold between two rows, except on lost pieces, bool (P,)."""
        scan = self._scan
        row, channel = set_bits(self.left ^ self.right)
        if bool(lost.any()):
            keep = ~lost[scan.pieces(row)]
            row, channel = row[keep], channel[keep]
        before = scan.value[row, channel] - self.threshold
        length = (scan.t_next - scan.t)[row]
        change = scan.slope[row, channel] * length
        return Crossing(row, channel, scan.t[row] - before / change * length)

    def touches(self) -> tuple[Tensor, Tensor]:
        """Return rows and channels (K,) of values that are above on one side of a row and not on the other."""
        scan = self._scan
        row = (scan.previous >= 0).nonzero().squeeze(1)
        some, channel = (self.right[scan.previous[row]] ^ self.left[row]).nonzero(as_tuple=True)
        return row[some], channel


def _compare(values: Tensor, threshold: float, screen: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return which values (R, C) are above a threshold, which are on it (None for none), and the rows of undecided ones."""
    above = torch.empty(values.shape, dtype=torch.bool, device=values.device)
    found: list[tuple[Tensor, Tensor]] = []
    for some in steps_of(*values.shape):
        distances = screen if len(screen) == 1 else screen[some]
        torch.gt(values[some], threshold + distances, out=above[some])
        near = (values[some] >= threshold - distances).bitwise_xor_(above[some])
        if any_set(near):
            row, channel = set_bits(near)
            found.append((row + some.start, channel))
    if not found:
        return above, None, torch.empty(0, dtype=torch.int64, device=values.device)
    row, channel = (torch.cat(part) for part in zip(*found, strict=True))
    distance = values[row, channel] - threshold
    is_on = distance.abs() <= ON * screen.expand_as(values)[row, channel]
    above[row, channel] = (distance > 0) & ~is_on
    on = torch.zeros_like(above)
    on[row, channel] = is_on
    return above, on, row[~is_on]


class Bends:
    """Kinks of a scan after an activation with one or more thresholds.

    Args:
        scan: The scan.
        sides: Sides of each threshold, ascending.
        slopes: float64 (T + 1, C), slopes of the activation below, between and above its thresholds.
    """

    def __init__(self, scan: Scan, sides: list[Sides], slopes: Tensor) -> None:
        self._scan, self._sides, self._slopes = scan, sides, slopes
        self._is_zero_below = len(sides) == 1 and not bool(slopes[0].any())
        self._scales_above = bool((slopes[1] != 1).any())

    def kink_of(self, index: int, crossing: Crossing) -> Tensor:
        """Return the change of slope after the activation at crossings of a threshold."""
        slope = self._scan.slope[crossing.row, crossing.channel]
        step = (self._slopes[index + 1] - self._slopes[index])[crossing.channel]
        return step * slope.abs()

    def alive(self) -> Tensor:
        """Return which rows have kinks after the activation, bool (R + 1,); the last entry is for cells outside."""
        is_alive = (
            rows_with_any(self._sides[0].left) if self._is_zero_below else torch.ones_like(self._scan.t, dtype=torch.bool)
        )
        for row, *_ in self._touched:
            is_alive[row] = True
        is_alive[: len(self._scan.last)] = False
        return F.pad(is_alive, (0, 1))

    def apply(self, kinks: Tensor, keep: Tensor | None, rows: Tensor, out: Tensor) -> None:
        """Write the kinks of boxes after the activation.

        Args:
            kinks: float64 (E, h, w, C), kinks before the activation.
            keep: int64 (E',), boxes to write; None for all.
            rows: int64 (E' h w,), the row of each place in these boxes; R outside the plane.
            out: float64 (E' h w, C).
        """
        cells = kinks.shape[1] * kinks.shape[2]
        boxes = out.view(-1, *kinks.shape[1:])
        for some in steps_of(len(boxes), cells * kinks.shape[3]):
            here = slice(some.start * cells, some.stop * cells)
            factors = self._factors(rows[here])
            if keep is None:
                torch.mul(kinks[some].reshape(factors.shape), factors, out=out[here])
            else:
                torch.index_select(kinks, 0, keep[some], out=boxes[some])
                out[here].mul_(factors)
        for row, channel, change in self._touched:
            place = torch.full((len(self._scan) + 1,), -1, device=rows.device)
            place[rows] = torch.arange(len(rows), device=rows.device)
            place = place[row]
            out[place[place >= 0], channel[place >= 0]] = change[place >= 0]

    def _factors(self, rows: Tensor) -> Tensor:
        """Return the slope of the activation just after rows, (K, C), bool if it is 0 or 1; 0 outside the plane."""
        if self._is_zero_below and not self._scales_above:
            return self._mask.index_select(0, rows)
        is_outside = rows == len(self._scan)
        if bool(is_outside.any()):
            inside = rows.masked_fill(is_outside, 0)
            return self._slopes_at(inside).masked_fill_(is_outside[:, None], 0.0)
        return self._slopes_at(rows)

    @cached_property
    def _mask(self) -> Tensor:
        """Values above the threshold just after each row, bool (R + 1, C), and False for cells outside the plane."""
        return F.pad(self._sides[0].left, (0, 0, 0, 1))

    def first_slopes(self) -> Tensor:
        """Return the slope of the activation where each piece begins, float64 (N, C) in the order of the first rows."""
        return self._slopes_at(torch.arange(len(self._scan.last), device=self._slopes.device))

    def _slopes_at(self, rows: Tensor) -> Tensor:
        """Return the slope of the activation just after rows (K,), float64 (K, C)."""
        if self._is_zero_below:
            above = self._sides[0].left.index_select(0, rows).to(self._slopes.dtype)
            return above.mul_(self._slopes[1]) if self._scales_above else above
        slopes = self._slopes[0].expand(len(rows), -1)
        for index, side in enumerate(self._sides):
            slopes = torch.where(side.left.index_select(0, rows), self._slopes[index + 1], slopes)
        return slopes

    @cached_property
    def _touched(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Rows, channels and changes of slope of values that are on a threshold at a row."""
        found = []
        for side in self._sides:
            if side.is_on:
                row, channel = side.touches()
                before = self._scan.previous[row]
                after = self._slope_of(row, channel, "left") * self._scan.slope[row, channel]
                found.append(
                    (row, channel, after - self._slope_of(before, channel, "right") * self._scan.slope[before, channel])
                )
        return found

    def _slope_of(self, row: Tensor, channel: Tensor, end: str) -> Tensor:
        """Return the slope of the activation of values (K,) on one side, `end`, of intervals that begin at rows (K,)."""
        region = sum(getattr(side, end)[row, channel].long() for side in self._sides)
        return self._slopes[region, channel]


def screen_of(
    rounding: Rounding, layer: str | None, reach: float, scan: Scan, ends: Tensor, z: Tensor, plane: FeatureMapShape
) -> tuple[Tensor, bool]:
    """Return the distance within which values cannot be distinguished from a threshold, and whether rounding may absorb constants.

    Args:
        rounding: Rounding of the model.
        layer: The layer; None for values of no layer, as before a clamp.
        reach: Size of the inputs, as a multiple of the usual one.
        scan: Scan of the values.
        ends: Values where pieces end (N, C).
        z: Values of the rows of the pass (B, ...).
        plane: Shape of their feature maps.

    Returns:
        Distances for the rows of the scan, (R, C), or (1, 1) if one holds for all; and whether a bias or weight may be lost in values
        that are found to be on the threshold.
    """
    usual = z.new_ones(1) if layer is None else rounding.screen(layer, z.new_ones(1, 1)).flatten() / SCREEN
    if len(usual) > 1:
        by_position = usual.view(plane.channels, -1).T
        in_rows = by_position[scan.position % plane.area]
        rows = z.view(len(z), plane.channels, -1) / by_position.T
        largest = max(map(_largest, (scan.value / in_rows, ends / in_rows[scan.last], rows)))
    else:
        in_rows = usual.view(1, 1)
        largest = max(map(_largest, (scan.value, ends, z))) / float(usual)
    size = usual.new_tensor(max(largest, reach))
    return SCREEN * size * in_rows, layer is not None and rounding.may_absorb(size)


def _largest(values: Tensor) -> float:
    """Return the largest magnitude."""
    least, most = values.aminmax()
    return max(-float(least), float(most))

"""Max pooling of kinks: the element of a window with the largest value in each interval, and the changes of that element."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.walks.kinks.kernels import CHUNK_BYTES
from fold_lightning.walks.kinks.scan import Scan
from fold_lightning.walks.sparse import rows_with_any, set_bits

EQUAL_VALUES = 1e-13
"""Difference of two values, as a share of the largest value, up to which they count as equal: rounding leaves about 1e-16."""


@dataclass(frozen=True)
class Takeovers:
    """K points inside intervals at which another element of a window becomes the largest.

    Attributes:
        row: int64 (K,), the row before each.
        channel: int64 (K,).
        t: float64 (K,).
        kink: float64 (K,), slope of the new largest value minus that of the one before.
    """

    row: Tensor
    channel: Tensor
    t: Tensor
    kink: Tensor


class Winners:
    """The largest values of windows at the rows of a scan.

    The maximum of lines is convex: if its value in the middle of an interval is the mean of those at both ends, the element
    with the largest value in the middle has it in the whole interval. Otherwise that element changes, along the upper envelope
    of the lines.

    Args:
        scan: The scan, whose channels are the elements of windows by channels (K C).
        elements: Number K of elements of a window.

    Attributes:
        takeovers: The points at which winners change.
    """

    def __init__(self, scan: Scan, elements: int) -> None:
        self._scan = scan
        self._value, self._slope = (x.unflatten(1, (elements, -1)) for x in (scan.value, scan.slope))
        largest = _largest(self._value)
        self._margin = EQUAL_VALUES * max(map(abs, map(float, largest.aminmax())))
        in_middle, self._first = self._in_middles()
        self._final = self._first
        at_end = scan.shifted(largest, _largest(scan.ends().unflatten(1, (elements, -1))))
        changes = at_end.add_(largest).sub_(in_middle, alpha=2) > self._margin
        self.takeovers = self._follow(*set_bits(changes))

    def _in_middles(self) -> tuple[Tensor, Tensor]:
        """Return the largest values in the middles of intervals (R, C), and the index of the first element with each, uint8."""
        half = ((self._scan.t_next - self._scan.t) / 2)[:, None, None]
        step = max(1, CHUNK_BYTES // (8 * self._value[0].numel()))
        found = []
        for rows in zip(self._value.split(step), self._slope.split(step), half.split(step), strict=True):
            middle = torch.addcmul(*rows)
            largest = _largest(middle)
            found.append((largest, _first_within(middle, largest - self._margin)))
        largest, first = (torch.cat(part) for part in zip(*found, strict=True))
        return largest, first

    @staticmethod
    def _of(values: Tensor, index: Tensor) -> Tensor:
        """Return the values (R, C) of the elements with given indices (R, C) among values (R, K, C)."""
        return values.gather(1, index.long()[:, None]).squeeze(1)

    def _follow(self, row: Tensor, channel: Tensor) -> Takeovers:
        """Follow the upper envelopes of windows from row to row."""
        scan = self._scan
        value, slope = self._value[row, :, channel], self._slope[row, :, channel]
        length = (scan.t_next - scan.t)[row]
        is_best = value >= value.amax(1, keepdim=True) - self._margin
        winner = slope.where(is_best, -torch.inf).argmax(1)
        self._final = self._first.clone()
        self._first[row, channel] = winner.to(torch.uint8)
        now, left = torch.zeros_like(length), torch.arange(len(row), device=row.device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        while len(left):
            own_value, own_slope = (x[left].gather(1, winner[left, None]) for x in (value, slope))
            gain = slope[left] - own_slope
            meets = torch.where(gain > 0, ((own_value - value[left]) / gain).clamp_(min=now[left, None]), torch.inf)
            t = meets.amin(1)
            goes_on = t < length[left]
            left, t, meets, own_slope = left[goes_on], t[goes_on], meets[goes_on], own_slope[goes_on]
            winner[left] = slope[left].where(meets <= t[:, None], -torch.inf).argmax(1)
            now[left] = t
            found.append((left, t, slope[left].gather(1, winner[left, None]).squeeze(1) - own_slope.squeeze(1)))
        self._final[row, channel] = winner.to(torch.uint8)
        which, t, kink = (torch.cat(part) for part in zip(*found, strict=True)) if found else (row, length, length)
        return Takeovers(row[which], channel[which], scan.t[row[which]] + t, kink)

    def kinks(self) -> tuple[Tensor, Tensor]:
        """Return the kinks of the largest values (R + 1, C), and which rows have some, bool (R + 1,)."""
        scan = self._scan
        begins = len(scan.last)
        kinks = self._of(scan.kink[: len(scan)].unflatten(1, (self._value.shape[1], -1)), self._first)
        changed, channel = set_bits(self._first[begins:] != self._final[scan.previous[begins:]])
        row = changed + begins
        before = scan.previous[row]
        after = self._slope[row, self._first[row, channel].long(), channel]
        kinks[row, channel] = after - self._slope[before, self._final[before, channel].long(), channel]
        is_alive = rows_with_any(kinks != 0)
        is_alive[:begins] = False
        return F.pad(kinks, (0, 0, 0, 1)), F.pad(is_alive, (0, 1))

    def first_slopes(self) -> Tensor:
        """Return the slope of the largest values where pieces begin, float64 (N, C)."""
        begins = len(self._scan.last)
        return self._of(self._slope[:begins], self._first[:begins])


def _first_within(values: Tensor, least: Tensor) -> Tensor:
    """Return the index of the first of K values (R, K, C) that is at least `least` (R, C), uint8."""
    index = torch.zeros(least.shape, dtype=torch.uint8, device=least.device)
    is_below = torch.ones_like(index, dtype=torch.bool)
    for place in range(values.shape[1] - 1):
        is_below &= values[:, place] < least
        index += is_below.view(torch.uint8)
    return index


def _largest(values: Tensor) -> Tensor:
    """Return the largest of values (R, K, C)."""
    best = values[:, 0]
    for place in range(1, values.shape[1]):
        best = torch.maximum(best, values[:, place])
    return best

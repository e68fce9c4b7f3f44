"""Max pooling of kinks: which place of a window wins in each interval, and where another one takes over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fold_lightning.walks.kinks.scan import Scan

TIE = 1e-13
"""Share of the largest value by which one must exceed another to win: rounding leaves about 1e-16."""


@dataclass(frozen=True)
class Takeovers:
    """K places inside intervals where another place of a window wins.

    Attributes:
        row: int64 (K,), the row before.
        channel: int64 (K,).
        t: float64 (K,), where.
        kink: float64 (K,), by how much faster the new winner grows.
    """

    row: Tensor
    channel: Tensor
    t: Tensor
    kink: Tensor


class Winners:
    """The largest values of windows at the rows of a scan.

    A window's winner in an interval is the place that wins in the middle of it, if it is as large as any at both ends; otherwise
    winners change inside, along the upper envelope of the places' lines.

    Args:
        scan: The scan, whose channels are the places of windows by channels (K C).
        elements: K.

    Attributes:
        largest: float64 (R, C), the largest value at each row.
        takeovers: Where winners change.
    """

    def __init__(self, scan: Scan, elements: int) -> None:
        self._scan = scan
        self._value, self._slope = (x.unflatten(1, (elements, -1)) for x in (scan.value, scan.slope))
        self.largest = _largest(self._value)
        finite = self.largest.abs().amax()
        self._margin = TIE * float(finite)
        length = (scan.t_next - scan.t)[:, None]
        middle, self._first = self._best(torch.addcmul(scan.value, scan.slope, length / 2).unflatten(1, (elements, -1)))
        self._final = self._first
        grown = self._of(self._slope, self._first).mul_(length / 2)
        at_end = scan.shifted(self.largest, _largest(scan.ends().unflatten(1, (elements, -1))))
        changes = (middle - grown < self.largest - self._margin) | (middle + grown < at_end - self._margin)
        self.takeovers = self._follow(*changes.nonzero(as_tuple=True))

    def _best(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest of values (R, K, C) and its number, uint8; of those as large up to rounding the first."""
        best, number = values[:, 0], torch.zeros_like(values[:, 0], dtype=torch.uint8)
        for place in range(1, values.shape[1]):
            wins = values[:, place] > best + self._margin
            best = torch.where(wins, values[:, place], best)
            number.masked_fill_(wins, place)
        return best, number

    @staticmethod
    def _of(values: Tensor, number: Tensor) -> Tensor:
        """Return values (R, K, C) of the places of these numbers (R, C)."""
        return values.gather(1, number.long()[:, None]).squeeze(1)

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
        """Return the largest values' kinks (R + 1, C), and which rows have some, bool (R + 1,)."""
        scan = self._scan
        begins = len(scan.last)
        kinks = self._of(scan.kink[:-1].unflatten(1, (self._value.shape[1], -1)), self._first)
        rows = torch.arange(begins, len(scan), device=kinks.device)
        changed, channel = (self._first[rows] != self._final[scan.previous[rows]]).nonzero(as_tuple=True)
        row = rows[changed]
        before = scan.previous[row]
        after = self._slope[row, self._first[row, channel].long(), channel]
        kinks[row, channel] = after - self._slope[before, self._final[before, channel].long(), channel]
        is_alive = (kinks != 0).any(1)
        is_alive[:begins] = False
        return F.pad(kinks, (0, 0, 0, 1)), F.pad(is_alive, (0, 1))

    def first_slopes(self) -> Tensor:
        """Return the slope of the largest values where pieces begin, float64 (N, C)."""
        begins = len(self._scan.last)
        return self._of(self._slope[:begins], self._first[:begins])


def _largest(values: Tensor) -> Tensor:
    """Return the largest of values (R, K, C)."""
    best = values[:, 0]
    for place in range(1, values.shape[1]):
        best = torch.maximum(best, values[:, place])
    return best

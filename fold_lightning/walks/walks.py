"""Walks: the units that switch on each of many segments, and the positions of their switches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fold_lightning.activations.layers import Patterns, columns, describe_layers, select_layers
from fold_lightning.walks.events import reversed_events, step_ends
from fold_lightning.walks.table import Column, Table, table_of

ENGINES = {
    "kinks": "slope changes followed from layer to layer",
    "growing batch": "one pass over a growing batch",
    "refinement": "refinement by plain passes",
    "chebyshev": "Chebyshev interpolation",
    "curved refinement": "refinement of a network that curves",
    "uniform": "equidistant points",
}
"""Ways to walk a segment, from the first choice to the last: name -> description."""

KINKS, GROWING_BATCH, REFINEMENT, CHEBYSHEV, CURVED_REFINEMENT, UNIFORM = range(len(ENGINES))


@dataclass(frozen=True, eq=False)
class Walks:
    """The walks of S segments through the codes of N units: E events, each the switch of one unit.

    The events of a segment at one position are one step: they happen together. A walk meets one region more than it has
    steps. Codes are those of the open intervals between steps, so a unit that only touches its threshold does not switch.
    `torch.save` writes walks, and `torch.load` reads them where this class has been imported.

    Attributes:
        segment: int64 (E,), ascending.
        position: float64 (E,), t, ascending within a segment: in (0, 1) for exact walks, and for equidistant points that of the first
            point with the new bit.
        unit: int64 (E,), ascending within a step.
        num_segments: S.
        num_units: N.
        layers: Layer name -> its units.
        exact: bool (S,), whether the network is known to be piecewise linear and the walk passed its check.
        complete: bool (S,), False where the walk was given up.
        resolution: float64 (S,), distance in t below which steps are not distinguished.
        first_codes: bool (S, N), the code in which each walk begins.
        engine: int64 (S,), index in `ENGINES` of the engine that walked each segment; if several walked it, of the last in that
            order.
        notes: Index in `ENGINES` -> reason why segments were left to that engine.
    """

    segment: Tensor
    position: Tensor
    unit: Tensor
    num_segments: int
    num_units: int
    layers: dict[str, slice]
    exact: Tensor
    complete: Tensor
    resolution: Tensor
    first_codes: Tensor
    engine: Tensor
    notes: dict[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the sizes and the layers, and how many segments are exact and complete.

        Example:
            >>> Walks.from_codes(torch.tensor([[[False], [True], [False]]]))
            Walks(segments=1, units=1, events=2, layers={codes: 1}, exact=0, complete=1)
        """
        return (
            f"Walks(segments={self.num_segments}, units={self.num_units}, events={len(self.segment)}, "
            f"layers={describe_layers(self.layers)}, exact={int(self.exact.sum())}, complete={int(self.complete.sum())})"
        )

    @classmethod
    def from_codes(cls, bits: Tensor, *, layers: dict[str, slice] | None = None) -> Walks:
        """Return walks through given codes at T points of each segment, which may come from anywhere.

        Args:
            bits: bool (S, T, N), T at least 2.
            layers: Layer name -> its columns; None makes one layer, "codes", of all.

        Raises:
            ValueError: If the codes do not have three dimensions and at least 2 points, or `layers` do not cover their columns.
            TypeError: If the codes are not bool.

        Example:
            >>> walks = Walks.from_codes(torch.tensor([[[False], [True], [False]]]))
            >>> walks.position, walks.unit
            (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([0, 0]))
        """
        if bits.dim() != 3 or bits.shape[1] < 2:
            raise ValueError(
                f"Codes must have shape (segments, points, units) with at least 2 points, got {tuple(bits.shape)}: "
                "one point makes no walk."
            )
        if bits.dtype != torch.bool:
            raise TypeError(f"Codes must be bool, got {bits.dtype}: compare pre-activations with their threshold first.")
        layers = layers or {"codes": slice(0, bits.shape[2])}
        if layers != columns({name: layer.stop - layer.start for name, layer in layers.items()}) or (
            list(layers.values())[-1].stop != bits.shape[2]
        ):
            raise ValueError(f"`layers` must be adjacent slices that cover all {bits.shape[2]} columns, got {layers}.")
        segment, point, unit = (bits[:, 1:] != bits[:, :-1]).nonzero(as_tuple=True)
        segments = bits[:, 0, 0] if bits.shape[2] else bits.new_zeros(len(bits))
        intervals = bits.shape[1] - 1
        return cls(
            segment=segment,
            position=(point + 1).double() / intervals,
            unit=unit,
            num_segments=bits.shape[0],
            num_units=bits.shape[2],
            layers=layers,
            exact=torch.zeros_like(segments),
            complete=torch.ones_like(segments),
            resolution=torch.full_like(segments, 1.0 / intervals, dtype=torch.float64),
            first_codes=bits[:, 0].clone(),
            engine=torch.full_like(segments, UNIFORM, dtype=torch.int64),
        )

    @classmethod
    def concatenate(cls, parts: list[Walks]) -> Walks:
        """Return the segments of several walks through the same units, one after the other."""
        sizes = torch.tensor([0, *(part.num_segments for part in parts[:-1])]).cumsum(0).tolist()

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return replace(
            parts[0],
            segment=torch.cat([part.segment + first for part, first in zip(parts, sizes, strict=True)]),
            position=joined("position"),
            unit=joined("unit"),
            num_segments=sum(part.num_segments for part in parts),
            exact=joined("exact"),
            complete=joined("complete"),
            resolution=joined("resolution"),
            first_codes=joined("first_codes"),
            engine=joined("engine"),
            notes={engine: note for part in reversed(parts) for engine, note in part.notes.items()},
        )

    def select(self, layers: Patterns) -> Walks:
        """Return the walks through the bits of some layers only; units are renumbered, positions stay.

        Args:
            layers: A layer's name, a glob pattern, or a sequence of them.

        Raises:
            ValueError: If a pattern matches no layer.

        Example:
            >>> bits = torch.tensor([[[False, False], [True, False], [True, True]]])
            >>> walks = Walks.from_codes(bits, layers={"low": slice(0, 1), "high": slice(1, 2)})
            >>> walks.select("high").position
            tensor([1.], dtype=torch.float64)
        """
        names = select_layers(layers, list(self.layers))
        kept = torch.zeros(self.num_units, dtype=torch.bool, device=self.unit.device)
        for name in names:
            kept[self.layers[name]] = True
        events = kept[self.unit]
        return replace(
            self,
            segment=self.segment[events],
            position=self.position[events],
            unit=(kept.cumsum(0) - 1)[self.unit[events]],
            num_units=int(kept.sum()),
            layers=columns({name: self.layers[name].stop - self.layers[name].start for name in names}),
            first_codes=self.first_codes[:, kept],
        )

    def only(self, i: int) -> Walks:
        """Return the walk of segment `i` only.

        Example:
            >>> walks = Walks.from_codes(torch.tensor([[[False], [False]], [[False], [True]]]))
            >>> walks.only(1).unit, walks.only(1).num_segments
            (tensor([0]), 1)
        """
        if not -self.num_segments <= i < self.num_segments:
            raise IndexError(f"There are {self.num_segments} segments, got index {i}.")
        i %= self.num_segments
        first, last = torch.searchsorted(self.segment, torch.tensor([i, i + 1], device=self.segment.device)).tolist()
        return replace(
            self,
            segment=torch.zeros_like(self.segment[first:last]),
            position=self.position[first:last],
            unit=self.unit[first:last],
            num_segments=1,
            exact=self.exact[i : i + 1],
            complete=self.complete[i : i + 1],
            resolution=self.resolution[i : i + 1],
            first_codes=self.first_codes[i : i + 1],
            engine=self.engine[i : i + 1],
        )

    def codes(self, i: int) -> Tensor:
        """Return the codes that segment `i` meets, in order: bool (steps + 1, N).

        The first code is that of the first open interval, which may differ from the code of the segment's start.

        Example:
            >>> Walks.from_codes(torch.tensor([[[False], [False], [True]]])).codes(0)
            tensor([[False],
                    [ True]])
        """
        one = self.only(i)
        position, unit = one.position, one.unit
        _, step = torch.unique_consecutive(position, return_inverse=True)
        steps = int(step[-1]) + 1 if len(step) else 0
        switches = torch.zeros(steps + 1, self.num_units, dtype=torch.bool, device=unit.device)
        switches[0] = one.first_codes[0]
        switches[step + 1, unit] = True
        return switches.cumsum(0) % 2 == 1

    def reversed(self) -> Walks:
        """Return the walks from the ends of the segments to their starts, without walking them again.

        chi depends on the direction ("The Space Between", Lewandowski et al. 2025, Remark 4.3): range and chi change, length and
        regions stay. In walks through equidistant points or given codes a position is that of the first point with the new bit.

        Example:
            >>> there_and_back = torch.tensor([[[0, 0], [1, 0], [1, 1], [0, 1]]]).bool()
            >>> Walks.from_codes(there_and_back).reversed().codes(0).int().tolist()
            [[0, 1], [1, 1], [1, 0], [0, 0]]
        """
        intervals = (1 / self.resolution).round().long()[self.segment] if bool((self.engine == UNIFORM).all()) else None
        segment, position, unit = reversed_events(self.segment, self.position, self.unit, intervals)
        switches = torch.zeros_like(self.first_codes, dtype=torch.int32)
        switches.index_put_((segment, unit), torch.ones_like(unit, dtype=torch.int32), accumulate=True)
        last_codes = self.first_codes ^ (switches % 2 == 1)
        return replace(self, segment=segment, position=position, unit=unit, first_codes=last_codes)

    def table(self, *, start: Column = None, end: Column = None, labels: Column = None) -> Table:
        """Return the measures of each segment as columns, as ``pandas.DataFrame`` takes them.

        Args:
            start: Integer (S,), the index of the input at which each segment starts, as from `class_segments`: a tensor, an array, a
                list or a data frame's column.
            end: Integer (S,), the index of the input at which it ends.
            labels: (B,), the class of each input: integers or names.

        Returns:
            Name -> array (S,): "segment"; "start", "end", "start_class" and "end_class" where they are known; "r1", "r2", "chi"
            (`walk_range`, `walk_length`, `space_folding`), "regions", "exact", "complete", "resolution" and the name of the
            "engine".

        Raises:
            ValueError: If indices are not one for each segment, or labels not one for each input.

        Example:
            >>> bits = torch.tensor([[[0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]]).bool()
            >>> table = Walks.from_codes(bits).table(start=torch.tensor([1]), end=torch.tensor([0]), labels=torch.tensor([3, 7]))
            >>> {name: table[name].item() for name in ("start", "end", "start_class", "end_class", "r1", "r2", "chi")}
            {'start': 1, 'end': 0, 'start_class': 7, 'end_class': 3, 'r1': 3, 'r2': 4, 'chi': 0.25}
        """
        return table_of(self, list(ENGINES), start, end, labels)

    def explain(self) -> str:
        """Return the engines that walked the segments, and the reasons why walks are not exact.

        Example:
            >>> print(Walks.from_codes(torch.tensor([[[False], [True]]])).explain())
            1 of 1 segments by equidistant points: not exact.
        """
        lines = []
        for engine, name in enumerate(ENGINES.values()):
            chosen = self.engine == engine
            if not bool(chosen.any()):
                continue
            exact = int(self.exact[chosen].sum())
            count = int(chosen.sum())
            said = "exact" if exact == count else "not exact" if not exact else f"{exact} of them exact"
            cut = int((~self.complete[chosen]).sum())
            lines.append(f"{count} of {self.num_segments} segments by {name}: {said}{f', {cut} given up' if cut else ''}.")
            lines += [self.notes[engine]] if engine in self.notes else []
        return "\n".join(lines)

    def step_ends(self) -> Tensor:
        """Return whether each event is the last of its step, bool (E,)."""
        return step_ends(self.segment, self.position)

    def num_regions(self) -> Tensor:
        """Return the number of regions on each segment, one more than its steps, int64 (S,)."""
        return torch.bincount(self.segment[self.step_ends()], minlength=self.num_segments) + 1


torch.serialization.add_safe_globals([Walks, slice])  # for `torch.load(weights_only=True)`; `layers` has slices

"""All regions on many segments in one forward pass.

The pass begins with both ends of each segment as its batch. Between neighbouring rows everything computed so far is affine.
An activation finds the places where its pre-activations change sign, adds a row for each to the batch, its values
interpolated, and goes on; so the invariant holds behind it too. This vectorises ExactLine (Sotoudeh and Thakur 2019), which
splits a segment layer by layer; that the batch grows while the model runs, and the treatment of ties, are this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.choosing import find_choice
from fold_lightning.activations.codes import ZERO_TOLERANCE, magnitude
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.operations import CHOICES, CLAMPS, CREATIONS, INDEXED, VIEWS_OF_SEVERAL, is_in_place
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.tracking import has_input_rows, map_tensors, mark_rows, tensors_in
from fold_lightning.walks.breakpoints import MERGE_TOLERANCE, Breakpoints
from fold_lightning.walks.deadline import Deadline
from fold_lightning.walks.piecewise_bends import clamp_bounds, insert_choice_changes
from fold_lightning.walks.sparse import any_set, set_bits


class Unsupported(Exception):
    """The model does something to the batch that growing rows do not survive."""


class TooManyRows(Exception):
    """The rows of these pieces are more than was allowed.

    Args:
        rows: How many there are at least.
        numel: How many numbers a tensor of theirs holds at least.
    """

    def __init__(self, rows: int, numel: int) -> None:
        super().__init__(f"at least {rows}")
        self.rows, self.numel = rows, numel


class GrowingBatch(Interception):
    """A forward pass over segments whose batch grows by the breakpoints it meets.

    Args:
        replica: The model.
        structure: Its activations.
        grid: The pieces of segments, with nothing but their ends.
        max_numel: The most numbers that a tensor may hold.
        probes: Piece (K,) and position (K,) of points at which the pre-activations that the pass implies are kept.
        deadline: Ends the pass at the operation that comes next.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        grid: Breakpoints,
        max_numel: int,
        probes: tuple[Tensor, Tensor],
        deadline: Deadline,
    ) -> None:
        super().__init__(replica)
        self._deadline = deadline
        self.grid = grid
        self.probed: dict[str, Tensor] = {}
        self._structure = structure
        self._columns = {name: columns.start for name, columns in structure.layers.items()}
        self._last = structure.needed[-1]
        self._max_numel = max_numel
        self.peak_numel = 0
        self._probes = probes
        self._versions = {len(grid)}
        self._num_calls = 0
        self._rows: list[Tensor] = []
        self._units: list[Tensor] = []
        self._first: list[Tensor] = []

    def events(self) -> tuple[Tensor, Tensor, Tensor]:
        """Piece, position and unit of each event (E,), in no particular order."""
        rows = torch.cat(self._rows)
        return self.grid.piece[rows], self.grid.position[rows], torch.cat(self._units)

    def first_codes(self) -> Tensor:
        """Bool (P, N): the code in which each piece begins."""
        return torch.cat(self._first, dim=1)

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        self._deadline.check()
        z = self.grid.lift(z)
        if self.num_activations > len(self._structure.needed) or self._structure.needed[self.num_activations - 1] != layer:
            raise Unsupported(f"Layer {layer!r} came in place of another one.")
        if self._structure.batch_dims[layer] != 0 or self._structure.units[layer] * len(z) != z.numel():
            raise Unsupported(f"Layer {layer!r} does not keep the batch first.")
        flat = z.reshape(len(z), -1)
        left, right, weight = self.grid.locate(*self._probes)
        self.probed[layer] = torch.lerp(flat[left], flat[right], weight[:, None])
        flat = self._bend(flat, thresholds, self._columns.get(layer), is_last=layer == self._last)
        return call(flat.reshape(-1, *z.shape[1:]))

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._deadline.check()
        if kwargs.get("out") is not None:
            raise Unsupported("A result of more rows than its place was made for.")
        if name in CLAMPS:
            return self._clamp(name, function, args, kwargs)
        rows = max(self._rows_of(args, kwargs))
        if name in INDEXED:
            args, kwargs = map_tensors(self._with_rows, (args, kwargs))
        if name in CHOICES:
            args, rows = self._insert_choice_changes(name, args, kwargs, rows)
        shared = args if name in VIEWS_OF_SEVERAL else args[:1] if is_in_place(function, kwargs) else ()
        for tensor in filter(has_input_rows, tensors_in(shared)):
            self._grow(tensor, rows)
        args, kwargs = self._align(args, rows), self._align(kwargs, rows)
        result = function(*self._with_batch_size(name, args, rows), **kwargs)
        if name not in CREATIONS:
            self._check_rows(result, rows)
        return result

    def on_untracked(self, name: str, tensors: list[Tensor], num_tensors: int) -> None:
        """Mark tensors with one equal row per input, which grow with the batch."""
        self._num_calls += 1
        for number, tensor in enumerate(tensors):
            if (self._num_calls, number) in self._structure.constant_rows and len(tensor) in self._versions:
                mark_rows(tensor, constant=True)

    def overwrite(self, tensor: Tensor, value: Tensor) -> None:
        self._grow(tensor, len(value))
        tensor.copy_(value)

    def _grow(self, tensor: Tensor, rows: int) -> None:
        """Brings a tensor that is to be written to so many rows, together with all that share its memory."""
        known, storage = len(tensor), tensor.untyped_storage()
        if known == rows:
            return
        numel = storage.nbytes() // tensor.element_size() // known
        shared = self.sharing(tensor)
        if any(len(t) != known or t.stride(0) != numel or t.dtype != tensor.dtype for t in [tensor, *shared]):
            raise Unsupported("A tensor shares its memory with one of other rows.")
        grown = self.grid.lift(tensor.as_strided((known, numel), (numel, 1), 0), rows)
        for t in [tensor, *shared]:
            t.data = grown.as_strided((rows, *t.shape[1:]), t.stride(), t.storage_offset())

    def _clamp(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = self.grid.lift(args[0])
        options, kwargs = map_tensors(lambda bound: _of_one_input(bound, x.dim()), (args[1:], kwargs))
        for bound in clamp_bounds(name, options, kwargs):
            if isinstance(bound, Tensor):
                x = x.expand(len(x), *torch.broadcast_shapes(x.shape[1:], bound.shape))
                level = bound.expand(x.shape[1:]).reshape(-1)
                z = self._bend(x.reshape(len(x), -1) - level, (0.0,), None) + level
            else:
                z = self._bend(x.reshape(len(x), -1), (bound,), None)
            x = z.reshape(-1, *x.shape[1:])
        if not is_in_place(function, kwargs):
            return function(x, *options, **kwargs)
        self.overwrite(args[0], x)
        return function(args[0], *options, **kwargs)

    def _bend(self, z: Tensor, thresholds: Thresholds, column: int | None, *, is_last: bool = False) -> Tensor:
        """Adds rows where z (R, n) crosses a threshold, and returns z at all rows, exactly on it where it crosses.

        Records the events if the bits count from a `column` on.
        """
        tolerance = ZERO_TOLERANCE * self._scale(z)
        found = []
        for number, threshold in enumerate(thresholds):
            crossings = Crossings(self.grid, z, threshold, tolerance)
            if column is not None:
                first = column + number * z.shape[1]
                self._first.append(crossings.first_bits())
                self._record(*crossings.touched(), first)
            found.append((crossings.interval, crossings.position, crossings.unit))
        interval, position, unit = (torch.cat(part) for part in zip(*found, strict=True))
        rows = self.grid.insert(interval, position)
        self._check_size(len(self.grid) * z.shape[1])
        sizes = [len(part[0]) for part in found]
        if column is not None:
            for number, (row, u) in enumerate(zip(rows.split(sizes), unit.split(sizes), strict=True)):
                self._record(row, u, column + number * z.shape[1])
        if is_last:
            raise PassEnded
        self._versions.add(len(self.grid))
        z = self.grid.lift(z)
        for threshold, row, u in zip(thresholds, rows.split(sizes), unit.split(sizes), strict=True):
            z[row, u] = threshold
        return z

    def _insert_choice_changes(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int
    ) -> tuple[tuple[Any, ...], int]:
        """Add a row wherever a call chooses another element, and return its arguments and the number of rows."""
        choice = find_choice(name, self._align(args, rows), self._align(kwargs, rows))
        if choice is None:
            return args, rows
        x = insert_choice_changes(self.grid, choice, self.grid.lift(choice.candidates()), self._check_size)
        self._versions.add(len(self.grid))
        if len(choice.sources) == 1:
            args = (mark_rows(x.view(len(x), *choice.sources[0].shape[1:])), *args[1:])
        return args, len(self.grid)

    def _record(self, rows: Tensor, units: Tensor, first_column: int) -> None:
        self._rows.append(rows)
        self._units.append(units + first_column)

    def _scale(self, z: Tensor) -> Tensor:
        """Roughly the largest magnitude on each row's piece (R, 1): that of both ends and of some rows between."""
        pieces = self.grid.num_pieces
        for stride in (8, 1):
            rows = torch.cat(
                [torch.arange(2 * pieces, device=z.device), torch.arange(2 * pieces, len(z), stride, device=z.device)]
            )
            largest = magnitude(z[rows]).squeeze(1)
            of_pieces = largest.new_zeros(pieces).scatter_reduce_(0, self.grid.piece[rows], largest, "amax")
            if bool(of_pieces.all()):
                break
        return of_pieces[self.grid.piece].unsqueeze(1)

    def _rows_of(self, *values: Any) -> list[int]:
        rows = [len(t) for t in tensors_in(values) if has_input_rows(t)]
        if any(count not in self._versions for count in rows):
            raise Unsupported("A tensor that follows the input lost its batch dimension.")
        return rows

    def _align(self, value: Any, rows: int) -> Any:
        if isinstance(value, Tensor):
            return self.grid.lift(value, rows) if has_input_rows(value) else value
        if type(value) in (tuple, list):
            return type(value)(self._align(item, rows) for item in value)
        if type(value) is dict:
            return {key: self._align(item, rows) for key, item in value.items()}
        return value

    def _with_rows(self, value: Tensor) -> Tensor:
        """Return an index, or another argument of equal rows, that was expanded to the batch as one that grows with it."""
        if has_input_rows(value) or value.dim() < 2 or len(value) not in self._versions:
            return value
        return mark_rows(value.view_as(value), constant=True) if torch.equal(value, value[:1].expand_as(value)) else value

    def _with_batch_size(self, name: str, args: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
        """Renews a batch size that the model read before rows were added."""
        if name not in ("view", "reshape", "expand", "broadcast_to") or len(args) < 2:
            return args
        sizes = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
        if sizes and sizes[0] in self._versions:
            return (args[0], (rows, *sizes[1:]))
        return args

    def _check_size(self, numel: int) -> None:
        self.peak_numel = max(self.peak_numel, numel)
        if numel > self._max_numel:
            raise TooManyRows(len(self.grid), numel)

    def _check_rows(self, result: Any, rows: int) -> None:
        for tensor in tensors_in(result):
            if tensor.dim() == 0 or len(tensor) != rows:
                raise Unsupported(f"An operation turned {rows} rows into shape {tuple(tensor.shape)}.")
            self._check_size(tensor.numel())


def _of_one_input(bound: Tensor, dims: int) -> Tensor:
    """A clamp's bounds without their rows, which must be the same for all inputs."""
    if bound.dim() < dims:
        return bound
    if not torch.equal(bound, bound[:1].expand_as(bound)):
        raise Unsupported("A clamp has other bounds for each input.")
    return bound[0]


class Crossings:
    """Where one threshold is met by pre-activations that are affine between the rows of a grid.

    A pre-activation is above, below or exactly on the threshold at each row. Above beside below means a crossing in
    between, unless it lies within the tolerance of a row; then the unit is taken to be exactly on at that row.

    Attributes:
        interval: int64 (K,) where units cross inside an interval, as places of left ends in the grid's order.
        position: float64 (K,) where.
        unit: int64 (K,) which unit.
    """

    def __init__(self, grid: Breakpoints, z: Tensor, threshold: float, tolerance: Tensor) -> None:
        above, below = z > threshold + tolerance, z < threshold - tolerance
        on = above == below
        self._grid = grid
        self._above = above[grid.order]
        self._on = on[grid.order] if any_set(on) else None
        self._find(z, threshold)
        if self._on is not None:
            self._settle(self._on, z, threshold)

    def _find(self, z: Tensor, threshold: float) -> None:
        grid = self._grid
        interval, unit = set_bits(self._above[:-1] ^ self._above[1:])
        keep = grid.joined[interval]
        if self._on is not None:
            keep &= ~(self._on[interval, unit] | self._on[interval + 1, unit])
        interval, unit = interval[keep], unit[keep]
        left, right = grid.order[interval], grid.order[interval + 1]
        before, after = z[left, unit] - threshold, z[right, unit] - threshold
        begin, end = grid.position[left], grid.position[right]
        self.interval, self.unit = interval, unit
        self.position = begin + (end - begin) * (before / (before - after))
        at_left, at_right = self.position - begin <= MERGE_TOLERANCE, end - self.position <= MERGE_TOLERANCE
        snapped = at_left | at_right
        if bool(snapped.any()):
            self._snap(torch.where(at_left, interval, interval + 1)[snapped], snapped)

    def _snap(self, place: Tensor, snapped: Tensor) -> None:
        if self._on is None:
            self._on = torch.zeros_like(self._above)
        self._on[place, self.unit[snapped]] = True
        self._above[place, self.unit[snapped]] = False
        on = self._on[self.interval, self.unit] | self._on[self.interval + 1, self.unit]
        self.interval, self.unit, self.position = self.interval[~on], self.unit[~on], self.position[~on]

    def _settle(self, on: Tensor, z: Tensor, threshold: float) -> None:
        """Sets pre-activations that are on the threshold up to rounding exactly there, for the layers behind."""
        place, unit = set_bits(on)
        z[self._grid.order[place], unit] = threshold

    def touched(self) -> tuple[Tensor, Tensor]:
        """Rows and units (K,) where a unit switches at a row that was there already: on, with one side above."""
        if self._on is None or len(self._on) < 3:
            nothing = self.unit[:0]
            return nothing, nothing
        interior = (self._grid.joined[:-1] & self._grid.joined[1:])[:, None]
        switches = self._on[1:-1] & (self._above[:-2] ^ self._above[2:]) & interior
        place, unit = set_bits(switches)
        return self._grid.order[place + 1], unit

    def first_bits(self) -> Tensor:
        """Bits bool (P, n) just behind each piece's start."""
        start = torch.cat([self._grid.joined.new_ones(1), ~self._grid.joined]).nonzero().squeeze(1)
        if self._on is None:
            return self._above[start]
        return self._above[start] | (self._on[start] & self._above[start + 1])

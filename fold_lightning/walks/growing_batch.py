"""All regions on many segments in one forward pass.

The batch of the pass begins with both ends of each segment. Between neighbouring rows everything computed so far is affine. At an
activation the pass finds the places where pre-activations change sign and adds a row with interpolated values for each of them, so
that values are affine between neighbouring rows after the activation too. This vectorises ExactLine (Sotoudeh and Thakur 2019), which
splits a segment layer by layer. The growing batch and the treatment of ties are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.choosing import find_choice
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.operations import CHOICES, CLAMPS, CREATIONS, INDEXED, VIEWS_OF_SEVERAL
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import Noise, Rounding
from fold_lightning.activations.tracking import has_input_rows, map_tensors, mark_rows, tensors_in
from fold_lightning.walks.breakpoints import Breakpoints
from fold_lightning.walks.crossings import Crossings, ExactJudge, LayerJudge
from fold_lightning.walks.piecewise_bends import clamp_bounds, insert_choice_changes


class Unsupported(Exception):
    """Error for a model that a growing batch, or a pass with kinks, does not support."""


def check_activation(structure: ModelStructure, number: int, layer: str, z: Tensor) -> None:
    """Raise unless the activation with this number, counted from 1, is the expected layer with the batch in its first dimension.

    Raises:
        Unsupported: Otherwise.
    """
    if number > len(structure.needed) or structure.needed[number - 1] != layer:
        raise Unsupported(f"Layer {layer!r} ran instead of another one.")
    if structure.batch_dims[layer] != 0 or structure.units[layer] * len(z) != z.numel():
        raise Unsupported(f"Layer {layer!r} does not have the batch in its first dimension.")


class TooManyRows(Exception):
    """Error for a pass that takes more memory than allowed.

    Args:
        rows: Minimum number of rows.
        numel: Minimum number of elements of the largest tensor.
    """

    def __init__(self, rows: int, numel: int) -> None:
        super().__init__(f"at least {rows}")
        self.rows, self.numel = rows, numel


class GrowingBatch(Interception):
    """A forward pass over segments whose batch grows by a row for each breakpoint.

    Args:
        replica: The model.
        structure: Its activations.
        grid: The pieces of segments, with nothing but their ends.
        max_numel: Maximum number of elements of a tensor.
        probes: Piece (K,) and position (K,) of points; the pre-activations that the pass implies there are kept.
        rounding: Rounding of the model.
        points: Noise, piece (K,) and position (K,) -> inputs (K, ...) with errors.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        grid: Breakpoints,
        max_numel: int,
        probes: tuple[Tensor, Tensor],
        rounding: Rounding,
        points: Callable[[Noise, Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__(replica)
        self.grid = grid
        self.probed: dict[str, Tensor] = {}
        self._structure = structure
        self._columns = {name: columns.start for name, columns in structure.layers.items()}
        self._last = structure.needed[-1]
        self._max_numel = max_numel
        self.peak_numel = 0
        self._probes = probes
        self._rounding, self._points = rounding, points
        self.doubtful = torch.zeros(grid.num_pieces, dtype=torch.bool, device=grid.piece.device)
        self._reach = torch.empty(0, 1)
        self._versions = {len(grid)}
        self._rows: list[Tensor] = []
        self._units: list[Tensor] = []
        self._first: list[Tensor] = []

    def run(self, inputs: Tensor) -> Any:
        """Pass both ends of each piece, all starts before all ends, through the model."""
        self._reach = torch.maximum(*self._rounding.reach(inputs).chunk(2))
        return super().run(inputs)

    def events(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return piece, position and unit of each event (E,), in no particular order."""
        rows = torch.cat(self._rows)
        return self.grid.piece[rows], self.grid.position[rows], torch.cat(self._units)

    def first_codes(self) -> Tensor:
        """Return the code in which each piece begins, bool (P, N)."""
        return torch.cat(self._first, dim=1)

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        z = self.grid.lift(z)
        check_activation(self._structure, self.num_activations, layer, z)
        flat = z.reshape(len(z), -1)
        left, right, weight = self.grid.locate(*self._probes)
        self.probed[layer] = torch.lerp(flat[left], flat[right], weight[:, None])
        flat = self._bend(flat, thresholds, layer)
        return call(flat.reshape(-1, *z.shape[1:]))

    def operation(self, call: Call) -> Any:
        name, args, kwargs = call.name, call.args, call.kwargs
        if kwargs.get("out") is not None:
            raise Unsupported("An operation writes to `out=`, which has a fixed number of rows.")
        if name in CLAMPS:
            return self._clamp(call)
        rows = max(self._rows_of(args, kwargs))
        if name in INDEXED:
            args, kwargs = map_tensors(self._with_rows, (args, kwargs))
        if name in CHOICES:
            args, rows, result = self._insert_choice_changes(replace(call, args=args, kwargs=kwargs), rows)
            if result is not None:
                self._check_rows(result, rows)
                return result
        shared = args if name in VIEWS_OF_SEVERAL else args[:1] if call.is_in_place else ()
        for tensor in filter(has_input_rows, tensors_in(shared)):
            self._grow(tensor, rows)
        args, kwargs = self._align(args, rows), self._align(kwargs, rows)
        result = call.function(*self._with_batch_size(name, args, rows), **kwargs)
        if name not in CREATIONS:
            self._check_rows(result, rows)
        return result

    def on_untracked(self, call: Call, tensors: list[Tensor]) -> None:
        """Mark tensors with one equal row per input, which grow with the batch."""
        for index, tensor in enumerate(tensors):
            if (self.num_calls, index) in self._structure.constant_rows and len(tensor) in self._versions:
                mark_rows(tensor, constant=True)

    def overwrite(self, tensor: Tensor, value: Tensor) -> None:
        self._grow(tensor, len(value))
        tensor.copy_(value)

    def _grow(self, tensor: Tensor, rows: int) -> None:
        """Extend a tensor that is written in place, and all that share its memory, to `rows` rows."""
        known, storage = len(tensor), tensor.untyped_storage()
        if known == rows:
            return
        numel = storage.nbytes() // tensor.element_size() // known
        shared = self.sharing(tensor)
        if any(len(t) != known or t.stride(0) != numel or t.dtype != tensor.dtype for t in [tensor, *shared]):
            raise Unsupported("A tensor that is written in place, or a view of it, has a layout to which no rows can be added.")
        grown = self.grid.lift(tensor.as_strided((known, numel), (numel, 1), 0), rows)
        for t in [tensor, *shared]:
            t.data = grown.as_strided((rows, *t.shape[1:]), t.stride(), t.storage_offset())

    def _clamp(self, call: Call) -> Any:
        x = self.grid.lift(call.args[0])
        options, kwargs = map_tensors(lambda bound: _of_one_input(bound, x.dim()), (call.args[1:], call.kwargs))
        for bound in clamp_bounds(replace(call, args=(x, *options), kwargs=kwargs)):
            if isinstance(bound, Tensor):
                x = x.expand(len(x), *torch.broadcast_shapes(x.shape[1:], bound.shape))
                level = bound.expand(x.shape[1:]).reshape(-1)
                z = self._bend(x.reshape(len(x), -1) - level, (0.0,)) + level
            else:
                z = self._bend(x.reshape(len(x), -1), (bound,))
            x = z.reshape(-1, *x.shape[1:])
        if not call.is_in_place:
            return call.function(x, *options, **kwargs)
        self.overwrite(call.args[0], x)
        return call.function(call.args[0], *options, **kwargs)

    def _bend(self, z: Tensor, thresholds: Thresholds, layer: str | None = None) -> Tensor:
        """Add rows where z (R, n) crosses a threshold, and return z at all rows; at a crossing it is exactly the threshold.

        If z are pre-activations of a `layer` that counts, their switches are recorded.
        """
        column = self._columns.get(layer) if layer else None
        judge = LayerJudge(self._rounding, layer, self.grid, self._reach, self._points) if layer else ExactJudge()
        screen = judge.screen(z)
        found = []
        for index, threshold in enumerate(thresholds):
            crossings = Crossings(self.grid, z, threshold, screen, judge)
            self.doubtful[crossings.doubtful_pieces] = True
            if column is not None:
                first = column + index * z.shape[1]
                self._first.append(crossings.first_bits())
                self._record(*crossings.touched(), first)
            found.append((crossings.interval, crossings.position, crossings.unit))
        interval, position, unit = (torch.cat(part) for part in zip(*found, strict=True))
        rows = self.grid.insert(interval, position, closest=0.0)
        self._check_size(len(self.grid) * z.shape[1])
        sizes = [len(part[0]) for part in found]
        if column is not None:
            for index, (row, u) in enumerate(zip(rows.split(sizes), unit.split(sizes), strict=True)):
                self._record(row, u, column + index * z.shape[1])
        if layer == self._last:
            raise PassEnded
        self._versions.add(len(self.grid))
        z = self.grid.lift(z)
        for threshold, row, u in zip(thresholds, rows.split(sizes), unit.split(sizes), strict=True):
            z[row, u] = threshold
        return z

    def _insert_choice_changes(self, call: Call, rows: int) -> tuple[tuple[Any, ...], int, Tensor | None]:
        """Add a row wherever a call chooses another element; return its arguments, the number of rows, and its result if known."""
        args = call.args
        choice = find_choice(replace(call, args=self._align(args, rows), kwargs=self._align(call.kwargs, rows)))
        if choice is None:
            return args, rows, None
        x, result = insert_choice_changes(self.grid, choice, self.grid.lift(choice.candidates()), self._check_size)
        self._versions.add(len(self.grid))
        if len(choice.sources) == 1:
            args = (mark_rows(x.view(len(x), *choice.sources[0].shape[1:])), *args[1:])
        return args, len(self.grid), result

    def _record(self, rows: Tensor, units: Tensor, first_column: int) -> None:
        self._rows.append(rows)
        self._units.append(units + first_column)

    def _rows_of(self, *values: Any) -> list[int]:
        rows = [len(t) for t in tensors_in(values) if has_input_rows(t)]
        if any(count not in self._versions for count in rows):
            raise Unsupported("A tensor that depends on the input lost its batch dimension.")
        return rows

    def _align(self, value: Any, rows: int) -> Any:
        return map_tensors(lambda x: self.grid.lift(x, rows) if has_input_rows(x) else x, value)

    def _with_rows(self, value: Tensor) -> Tensor:
        """Mark an argument of equal rows that was expanded to the batch, such as an index, so that it grows with the batch."""
        if has_input_rows(value) or value.dim() < 2 or len(value) not in self._versions:
            return value
        return mark_rows(value.view_as(value), constant=True) if torch.equal(value, value[:1].expand_as(value)) else value

    def _with_batch_size(self, name: str, args: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
        """Replace a batch size that the model read before rows were added."""
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
    """Return a clamp's bound without the batch dimension; raise if it differs between inputs."""
    if bound.dim() < dims:
        return bound
    if not torch.equal(bound, bound[:1].expand_as(bound)):
        raise Unsupported("A clamp has different bounds for different inputs.")
    return bound[0]

"""A forward pass that carries kinks: all regions on many segments, at the cost of the values that each switch changes.

Along a segment every value of a piecewise linear network is affine except at some events, where its slope changes by a kink.
The pass has two rows for each piece of a segment: the values where it begins, and the values where it would end without any
kink. Operations act on these rows as on any batch; the kinks are stored separately and passed on with them. An event is the
switch of one unit. It bends only the units that depend on this one, which are few in a convolutional network: its kinks are
stored for a box of the feature maps.

The method is this project's own; ExactLine (Sotoudeh and Thakur 2019) evaluates the whole layer at each breakpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.fast_kernels import CONVOLUTIONS
from fold_lightning.activations.inspection import ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.operations import CLAMPS, COMPARISONS, CREATIONS, MAX_POOLS
from fold_lightning.activations.registry import Thresholds
from fold_lightning.activations.rounding import Noise, Rounding
from fold_lightning.activations.tracking import depends_on_input, mark_rows
from fold_lightning.walks.estimate import kinks_cost_more
from fold_lightning.walks.growing_batch import TooManyRows, Unsupported, check_activation
from fold_lightning.walks.kinks.bends import Bends, Sides, screen_of
from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Group, Signal, Units
from fold_lightning.walks.kinks.calls import NoRule, RowCall, attach, planar_signal, shape_of, signal_of
from fold_lightning.walks.kinks.events import EventList
from fold_lightning.walks.kinks.memory import Scratch, blanks
from fold_lightning.walks.kinks.operations import carry
from fold_lightning.walks.kinks.pooling import Winners
from fold_lightning.walks.kinks.scan import Cells, Scan
from fold_lightning.walks.kinks.switches import Switches
from fold_lightning.walks.kinks.windows import Windows
from fold_lightning.walks.pieces import Pieces
from fold_lightning.walks.piecewise_bends import clamp_bounds

SMALL_REACH = 1e-3
"""Pieces whose inputs are smaller than this share of the largest inputs of a pass are left to the next engine: rounding is judged by
the largest."""


Writer = Callable[[Tensor, "Tensor | None", Tensor, Tensor], Any]
"""Kinks of boxes (E, h, w, C), indices of boxes (E',), rows of their places (E' h w,), output -> writes the kinks after a
call."""


class DearerThanRows(Exception):
    """Error for a pass with kinks that is estimated to cost more than a growing batch."""


class KinksPass(Interception):
    """A forward pass over pieces of segments that carries kinks.

    Args:
        replica: The model.
        structure: Its activations.
        pieces: The pieces.
        max_numel: Maximum number of elements of a tensor.
        probes: float64 (K, P), positions on each piece; the pre-activations that the pass implies there are kept.
        rounding: Rounding of the model.
        points: Noise, piece (K,) and position (K,) -> inputs (K, ...) with errors.
        scratch: Memory of scans.
        compares_costs: Whether to raise `DearerThanRows` where a growing batch is estimated to cost less.

    Attributes:
        probed: Layer -> pre-activations (K P, n) at the probes.
        switches: Switches of the units that count.
        peak_numel: Number of elements of the largest tensor.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        pieces: Pieces,
        max_numel: int,
        probes: Tensor,
        rounding: Rounding,
        points: Callable[[Noise, Tensor, Tensor], Tensor],
        scratch: Scratch,
        *,
        compares_costs: bool,
    ) -> None:
        super().__init__(replica)
        self._scratch = scratch
        self._events = EventList(pieces.begin, pieces.end)
        self.probed: dict[str, Tensor] = {}
        self.peak_numel = 0
        self._structure, self._max_numel = structure, max_numel
        self._columns = {name: columns.start for name, columns in structure.layers.items()}
        self._last = structure.needed[-1]
        self._probes, self._rounding = probes, rounding
        self.switches = Switches(self._events, rounding, points)
        self._reach = 0.0
        self._has_convolved = False
        self._num_origins = 0
        self._compares_costs = compares_costs
        self._cells = self._values = self._dense = 0

    def run(self, inputs: Tensor) -> Any:
        """Pass both ends of each piece, all starts before all ends, through the model."""
        reach = torch.maximum(*self._rounding.reach(inputs).squeeze(1).chunk(2))
        self._reach = float(reach.max())
        self._events.doubt((reach < SMALL_REACH * self._reach).nonzero().squeeze(1))
        result = super().run(inputs)
        self.switches.doubt_close()
        return result

    @property
    def doubtful(self) -> Tensor:
        """Pieces with a value whose side of a threshold, or with two switches whose order, cannot be decided, bool (P,)."""
        return self._events.doubtful

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Find the switches of a layer, and bend its kinks."""
        check_activation(self._structure, self.num_activations, layer, z)
        if not self._has_convolved:
            raise Unsupported("There is no convolution before the first activation.")
        return self._bend(z, thresholds, call, layer)

    def operation(self, call: Call) -> Any:
        """Pass the kinks of the arguments through any other operation."""
        if self.inside_registered:
            raise Unsupported("A module is registered as an activation.")
        if call.name in CREATIONS or call.name in COMPARISONS or not call.varying:
            return call()
        call = RowCall(call.name, call.function, call.args, call.kwargs)
        if call.name in CLAMPS:
            return self._clamp(call)
        if call.name in MAX_POOLS:
            return self._pool(call)
        self._has_convolved |= call.name in CONVOLUTIONS
        result = call()
        try:
            carry(call, result)
        except NoRule as error:
            raise Unsupported(f"{error}.") from error
        self._check_size(signal_of(result).numel if isinstance(result, Tensor) else 0)
        return result

    def on_untracked(self, call: Call, tensors: list[Tensor]) -> None:
        """Mark tensors with one equal row per input."""
        for index, tensor in enumerate(tensors):
            if (self.num_calls, index) in self._structure.constant_rows and len(tensor) == self.num_inputs:
                mark_rows(tensor, constant=True)

    def overwrite(self, tensor: Tensor, value: Tensor) -> None:
        """Write the result of an activation in place, with its kinks."""
        if any(depends_on_input(other) for other in self.sharing(tensor)):
            raise Unsupported("A tensor that is written in place shares its memory with another.")
        tensor.copy_(value)
        attach(tensor, signal_of(value))

    def _bend(self, z: Tensor, thresholds: Thresholds, call: Callable[[Tensor], Tensor], layer: str | None = None) -> Tensor:
        """Return an activation's result with the kinks of z that are left, and new ones where values cross a threshold."""
        signal = signal_of(z)
        plane, pieces = signal.plane, len(z) // 2
        slopes = None if layer == self._last else _slopes(call, thresholds, z[:1]).reshape(len(thresholds) + 1, *plane)
        begin, end = z.reshape(2, pieces, *plane).permute(0, 1, 3, 4, 2).reshape(2, -1, plane.channels)
        length = (self._events.end - self._events.begin).repeat_interleave(plane.area)
        groups = {origin: group.boxes(plane.channels) for origin, group in signal.groups.items()}
        scan = self._scan([Cells.of(group, plane) for group in groups.values()], begin, (end - begin) / length[:, None])
        ends = scan.ends()
        screen, absorbs = screen_of(self._rounding, layer, self._reach, scan, ends, z, plane)
        if layer is not None:
            self._probe(layer, scan, plane)
        sides = [Sides(scan, ends, threshold, screen) for threshold in thresholds]
        for side in sides:
            self._events.doubt(side.unsure // plane.area)
            if absorbs:
                self._events.doubt(side.on // plane.area)
        bends = Bends(scan, sides, z.new_zeros(len(thresholds) + 1, plane.channels) if slopes is None else _per_channel(slopes))
        born = self._cross(scan, sides, bends, plane, layer)
        if slopes is None:
            raise PassEnded
        result = self._result(z, plane, scan, bends, call)
        found = self._kept(scan, groups, bends.alive(), bends.apply, plane)
        if len(born):
            found[self._num_origins] = born
            self._num_origins += 1
        attach(result, Signal(plane, found))
        return result

    def _clamp(self, call: RowCall) -> Tensor:
        """Bend the kinks of a tensor at the bounds of a clamp."""
        x: Tensor = call.args[0]
        bounds = clamp_bounds(call)
        if len(call.varying) != 1 or any(isinstance(bound, Tensor) for bound in bounds) or call.kwargs.get("out") is not None:
            raise Unsupported("A clamp has tensors as bounds, or writes to `out=`.")
        thresholds = tuple(bound for bound in bounds if isinstance(bound, float))
        result = self._bend(x, thresholds, lambda z: call.of_rows({id(x): z}, len(x)))
        if call.is_in_place:
            self.overwrite(x, result)
        return x if call.is_in_place else result

    def _pool(self, call: RowCall) -> Tensor:
        """Take the largest values of windows, with a new event wherever another element of a window becomes the largest."""
        if call.name.endswith("_with_indices") or call.kwargs.get("return_indices") or call.args[6:7] == (True,):
            raise Unsupported("A max pooling returns indices.")
        x, result = call.args[0], call()
        signal = planar_signal(x)
        plane, out = signal.plane, FeatureMapShape.of(shape_of(result))
        if x.dim() not in (3, 4):
            raise Unsupported("A max pooling is three-dimensional.")
        windows = self._scratch.once(call.key(), lambda: Windows(call, plane, out))
        begin, end = x.reshape(2, -1, *plane).permute(0, 1, 3, 4, 2)
        length = (self._events.end - self._events.begin).view(-1, 1, 1, 1)
        seen = {origin: windows.of_boxes(group.boxes(plane.channels)) for origin, group in signal.groups.items()}
        groups = {origin: boxes for origin, (boxes, _) in seen.items()}
        value = windows.of_planes(begin, -torch.inf).reshape(len(begin) * out.area, -1)
        slope = windows.of_planes((end - begin) / length, 0.0).reshape(len(value), -1)
        scan = self._scan([cells for _, cells in seen.values()], value, slope)
        winners = Winners(scan, windows.elements)
        found = winners.takeovers
        kinks, alive = winners.kinks()
        pooled = self._kept(scan, groups, alive, lambda _, __, rows, out: torch.index_select(kinks, 0, rows, out=out), out)
        if len(found.row):
            position = scan.position[found.row] % out.area
            event = self._events.add(scan.pieces(found.row), found.t)
            pooled[self._num_origins] = Units(event, position // out.width, position % out.width, found.channel, found.kink)
            self._num_origins += 1
        largest = result[: len(begin)]
        growth = scan.by_position(winners.first_slopes()).view(len(begin), out.height, out.width, -1) * length
        result = torch.cat([largest, largest + growth.permute(0, 3, 1, 2).reshape(largest.shape)])
        attach(result, Signal(out, pooled))
        return result

    def _scan(self, cells: list[Cells], value: Tensor, slope: Tensor) -> Scan:
        channels, covered = value.shape[1], sum(each.position.numel() for each in cells)
        self._check_size((len(value) + covered) * channels)
        self._cells += covered
        self._values += covered * channels
        self._dense += len(self._events) * value.numel() // self._events.num_pieces
        if self._compares_costs and kinks_cost_more(self._cells, self._values, self._dense):
            raise DearerThanRows(
                "Switches change so much of the layers that evaluating whole layers at each breakpoint costs less."
            )
        return Scan(self._events, cells, value, slope, self._scratch)

    def _cross(self, scan: Scan, sides: list[Sides], bends: Bends, plane: FeatureMapShape, layer: str | None) -> Units:
        """Record the switches of a layer, and return the kinks of its new events."""
        crossings = [side.crossings(self._events.doubtful) for side in sides]
        row, channel, t = (torch.cat([getattr(each, name) for each in crossings]) for name in ("row", "channel", "t"))
        piece, position = scan.pieces(row), scan.position[row] % plane.area
        self._events.doubt(piece[(t <= scan.t[row]) | (t >= scan.t_next[row])])
        unit = channel * plane.area + position
        if layer is not None:
            t = self.switches.united(layer, piece, t, unit, scan.slope[row, channel].abs())
        column = self._columns.get(layer) if layer else None
        if column is not None:
            firsts = column + plane.numel * torch.arange(len(sides), device=row.device)
            offset = firsts.repeat_interleave(torch.tensor([len(each.row) for each in crossings], device=row.device))
            self.switches.add(piece, t, unit + offset)
            for side, first in zip(sides, firsts.tolist(), strict=True):
                self.switches.add_at_rows(scan, side, plane, first)
        event = self._events.add(piece, t)
        kink = torch.cat([bends.kink_of(index, each) for index, each in enumerate(crossings)])
        return Units(event, position // plane.width, position % plane.width, channel, kink)

    def _result(self, z: Tensor, plane: FeatureMapShape, scan: Scan, bends: Bends, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the activation's two rows for each piece: where it begins, and where it would end without kinks."""
        begin, end = z.chunk(2)
        slope = scan.by_position(bends.first_slopes()).view(len(begin), plane.height, plane.width, plane.channels)
        bent = call(begin.clone())
        return torch.cat([bent, bent + slope.permute(0, 3, 1, 2).reshape(begin.shape) * (end - begin)])

    def _kept(
        self, scan: Scan, groups: dict[int, Boxes], alive: Tensor, write: Writer, plane: FeatureMapShape
    ) -> dict[int, Group]:
        """Return the boxes that have kinks after a call, `plane` being the shape of its result."""
        chosen: list[tuple[int, Boxes, Tensor | None, Tensor]] = []
        for (origin, boxes), row in zip(groups.items(), scan.cell_rows, strict=True):
            keep = alive.index_select(0, row).view(len(boxes), -1).any(1)
            keep &= ~self._events.doubtful[self._events.piece[boxes.event]]
            some = None if bool(keep.all()) else keep.nonzero().squeeze(1)
            rows = row if some is None else row.view(len(boxes), -1).index_select(0, some).flatten()
            if len(rows):
                chosen.append((origin, boxes, some, rows))
        kept: dict[int, Boxes] = {}
        channels = scan.value.shape[1] if not chosen else chosen[0][1].kinks.shape[-1]
        kinks = blanks(scan.value, [(len(rows), channels) for *_, rows in chosen])
        for (origin, boxes, some, rows), out in zip(chosen, kinks, strict=True):
            write(boxes.kinks, some, rows, out)
            place = boxes if some is None else _geometry(boxes, some)
            kept[origin] = Boxes(place.event, place.y, place.x, out.view(-1, *boxes.sides, channels))
        return _joined(kept, plane)

    def _probe(self, layer: str, scan: Scan, plane: FeatureMapShape) -> None:
        """Store the pre-activations that the pass implies at the probes."""
        self.probed[layer] = torch.cat([scan.at(t).transpose(1, 2).reshape(-1, plane.numel) for t in self._probes])

    def _check_size(self, numel: int) -> None:
        self.peak_numel = max(self.peak_numel, numel)
        if numel > self._max_numel:
            raise TooManyRows(len(self._events), numel)


def _joined(kept: dict[int, Boxes], plane: FeatureMapShape) -> dict[int, Group]:
    """Merge neighbouring groups whose boxes cover the whole plane, because each group costs extra calls."""
    runs: list[tuple[int, list[Boxes]]] = []
    goes_on = False
    for origin in sorted(kept):
        boxes = kept[origin]
        is_whole = boxes.sides == (plane.height, plane.width) and not bool((boxes.y | boxes.x).any())
        if is_whole and goes_on:
            runs[-1][1].append(boxes)
        else:
            runs.append((origin, [boxes]))
        goes_on = is_whole
    return {origin: boxes[0] if len(boxes) == 1 else Boxes.concatenate(boxes) for origin, boxes in runs}


def _geometry(boxes: Boxes, keep: Tensor) -> Boxes:
    """Return some boxes without their kinks."""
    return Boxes(boxes.event[keep], boxes.y[keep], boxes.x[keep], boxes.kinks[:0])


def _slopes(call: Callable[[Tensor], Tensor], thresholds: Thresholds, like: Tensor) -> Tensor:
    """Return the slopes of an activation below, between and above its thresholds, for each unit (T + 1, ...)."""
    places = like.new_tensor([thresholds[0] - 1, *thresholds, thresholds[-1] + 1])
    values = call(places.view(-1, *[1] * (like.dim() - 1)).expand(-1, *like.shape[1:]).clone())
    return (values[1:] - values[:-1]) / (places[1:] - places[:-1]).view(-1, *[1] * (like.dim() - 1))


def _per_channel(slopes: Tensor) -> Tensor:
    """Return slopes (T + 1, C, height, width) as (T + 1, C); raise if they differ within a channel."""
    flat = slopes.flatten(2)
    if not torch.equal(flat, flat[..., :1].expand_as(flat)):
        raise Unsupported("An activation has different slopes at different positions.")
    return flat[..., 0]

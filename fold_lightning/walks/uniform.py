"""Walks through the codes of equidistant points, in the model's own precision on its own device.

For networks too large for exact walks. The cost is about one forward pass over the points. Bits are the signs of pre-activations as
computed. Each block of points is reduced to its switches at once, so that only one block of codes is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fold_lightning._checks import is_integer
from fold_lightning.activations.codes import TENSORS_AT_ONCE, signs_of
from fold_lightning.activations.evaluation import Forward, Replica, evaluate_on_replica, float64_device, passes_on
from fold_lightning.activations.inspection import ModelStructure, inspect
from fold_lightning.activations.layers import Patterns
from fold_lightning.walks.segments import check_segments, ends_to_inspect
from fold_lightning.walks.sparse import count_bits, set_bits
from fold_lightning.walks.walks import UNIFORM, Walks

MAX_BYTES = 2**27
"""Working memory of a block of points, in bytes: with half or a quarter of it a ResNet-18's passes were a sixth slower on a
processor."""


@dataclass(frozen=True, eq=False)
class SampledDistances:
    """Hamming distances between the codes of T equidistant points of S segments, layer by layer.

    Range, length and folding of the walks follow from these distances, so that no code and no switch is kept.

    Attributes:
        from_start: Layer name -> int64 (S, T - 1), number of units whose bit differs from the one at the start, at each later point.
        from_previous: Layer name -> int64 (S, T - 1), number of units that switch between each later point and the one before it.
    """

    from_start: dict[str, Tensor]
    from_previous: dict[str, Tensor]


def walk_chunks(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    num_points: int,
    layers: Patterns = None,
    forward: Forward = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Walks]:
    """Yield walks in order, as many segments at a time as fit in memory, at least one.

    An event takes 24 bytes, and a ResNet-18 has 100,000 of them on a segment before training. Arguments and errors are those of
    `segment_walks` with ``method="uniform"``.
    """
    device = float64_device(start.device)
    switches: list[tuple[Tensor, Tensor, Tensor]] = []
    for block in _blocks(model, start, end, num_points, layers, forward, max_bytes):
        switches.append(block.switches())
        if block.last_point < num_points - 1:
            continue
        segment, point, unit = (torch.cat(parts).to(device) for parts in zip(*switches, strict=True))
        first_codes = torch.cat([*block.first_codes.values()], 1).to(device)
        no_segment = torch.zeros(len(first_codes), dtype=torch.bool, device=device)
        switches = []
        yield Walks(
            segment=segment,
            position=point.double() / (num_points - 1),
            unit=unit,
            num_segments=len(first_codes),
            num_units=first_codes.shape[1],
            layers=block.layers,
            exact=no_segment,
            complete=~no_segment,
            resolution=torch.full_like(no_segment, 1 / (num_points - 1), dtype=torch.float64),
            first_codes=first_codes,
            engine=torch.full_like(no_segment, UNIFORM, dtype=torch.int64),
        )


def sampled_distances(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    num_points: int,
    layers: Patterns = None,
    forward: Forward = None,
    max_bytes: int = MAX_BYTES,
) -> SampledDistances:
    """Return the Hamming distances between codes along walks through equidistant points.

    They agree with the events of `segment_walks` with ``method="uniform"``, which has the same arguments and errors, but save the
    time and memory of a list of events.

    Example:
        >>> tent = lambda model, x: (x.relu() + (-x).relu() - 1).relu()
        >>> start, end = torch.tensor([[-2.0]]), torch.tensor([[2.0]])
        >>> found = sampled_distances(torch.nn.Identity(), start, end, num_points=4, forward=tent)
        >>> sum(found.from_start.values()), sum(found.from_previous.values())
        (tensor([[1, 3, 2]]), tensor([[1, 2, 1]]))
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for block in _blocks(model, start, end, num_points, layers, forward, max_bytes):
        for layer in block.bits:
            found.setdefault(layer, []).append(block.distances(layer))
    device = float64_device(start.device)
    from_start, from_previous = (
        {
            layer: torch.cat([part[i].flatten() for part in parts]).view(len(start), -1).to(device)
            for layer, parts in found.items()
        }
        for i in range(2)
    )
    return SampledDistances(from_start, from_previous)


def check_num_points(num_points: int | None) -> None:
    """Raise unless the number of points is an integer of at least 2."""
    if not is_integer(num_points, 2):
        raise ValueError(
            f"`method='uniform'` needs an integer `num_points` of at least 2, got {num_points}: a walk has two ends, and coarse "
            "sampling misses regions."
        )


@dataclass(frozen=True)
class _Block:
    """Codes at consecutive points of k segments.

    Attributes:
        layers: Layer name -> its columns among all units.
        bits: Layer name -> bool (k, m, n), the codes of m points.
        first_codes: Layer name -> bool (k, n), the codes at the start of the segments.
        first_point: Index, on the segment, of the first of these points.
    """

    layers: dict[str, slice]
    bits: dict[str, Tensor]
    first_codes: dict[str, Tensor]
    first_point: int = 0

    @classmethod
    def first(cls, layers: dict[str, slice], bits: dict[str, Tensor]) -> _Block:
        """Return the first block of segments."""
        return cls(layers, bits, {layer: of_layer[:, 0].clone() for layer, of_layer in bits.items()})

    @property
    def last_point(self) -> int:
        """Index, on the segment, of the last of these points."""
        return self.first_point + next(iter(self.bits.values())).shape[1] - 1

    def extended(self, bits: dict[str, Tensor]) -> _Block:
        """Return the next block, which begins with the last point of this one."""
        bits = {layer: torch.cat([self.bits[layer][:, -1:], new], 1) for layer, new in bits.items()}
        return _Block(self.layers, bits, self.first_codes, self.last_point)

    def distances(self, layer: str) -> tuple[Tensor, Tensor]:
        """Return the units of a layer that differ from the start, at all points but the first, and from the point before."""
        bits, first = self.bits[layer], self.first_codes[layer]
        return count_bits(bits[:, 1:] ^ first[:, None]), count_bits(bits[:, 1:] ^ bits[:, :-1])

    def switches(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return segment within the block, point and unit of each switch, in order."""
        switches = torch.cat([bits[:, 1:] ^ bits[:, :-1] for bits in self.bits.values()], 2)
        row, unit = set_bits(switches.flatten(0, 1))
        steps = max(1, switches.shape[1])
        return row // steps, row % steps + self.first_point + 1, unit


def _blocks(
    model: nn.Module, start: Tensor, end: Tensor, num_points: int, layers: Patterns, forward: Forward, max_bytes: int
) -> Iterator[_Block]:
    """Yield the codes of whole segments, or of one part after the other if a segment's points do not fit the memory."""
    check_segments(start, end)
    check_num_points(num_points)
    # To tell batch mixing and bends from rounding, an inspection needs float64, which is cheap for its few inputs.
    with evaluate_on_replica(model, start, forward) as replica:
        structure = inspect(replica, ends_to_inspect(start, end), layers, given=("start", start))
    dtype = _input_dtype(model, start)
    rows = rows_at_once(structure, dtype, max_bytes)
    # Half precision would round the positions.
    precise = torch.promote_types(torch.promote_types(start.dtype, dtype), torch.float32)
    parts = torch.linspace(0, 1, num_points, dtype=precise, device=start.device).tensor_split(math.ceil(num_points / rows))
    replica = Replica(model, forward, start.device, dtype=None)  # of copied weights, since a forward pass may write them
    try:
        for a, b in zip(*(x.detach().split(max(1, rows // num_points)) for x in (start, end)), strict=True):
            block = None
            for part in parts:
                with passes_on(replica):  # entered for each block, so that the caller's code does not run in it
                    points = _points(a, b, part).to(dtype)
                    signs = signs_of(replica, structure, points.flatten(0, 1))
                    bits = {layer: of_layer.unflatten(0, points.shape[:2]) for layer, of_layer in signs.items()}
                block = block.extended(bits) if block else _Block.first(structure.layers, bits)
                yield block
    finally:
        replica.release()


def rows_at_once(structure: ModelStructure, dtype: torch.dtype, max_bytes: int) -> int:
    """Return the number of points for which a forward pass and the codes fit the memory."""
    if structure.is_row_by_row:
        return 1
    return max(1, max_bytes // (dtype.itemsize * TENSORS_AT_ONCE * structure.widest + 2 * structure.num_units))


def _points(start: Tensor, end: Tensor, position: Tensor) -> Tensor:
    """Return points of segments (k, ...) at positions (m,): (k, m, ...)."""
    start, end = (x.to(position.dtype)[:, None] for x in (start, end))
    return torch.lerp(start, end, position.view(-1, *[1] * (start.dim() - 2)))


def _input_dtype(module: nn.Module, inputs: Tensor) -> torch.dtype:
    """Return the dtype of inputs if the model has weights of it, or none; otherwise that of its first weights."""
    tensors = (*module.parameters(), *module.buffers())
    dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    return inputs.dtype if not dtypes or inputs.dtype in dtypes else dtypes[0]

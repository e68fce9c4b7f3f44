"""Estimates of the cost of exact walks, from counts of switches at a few points: the same on every machine."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fold_lightning.activations.codes import CODES_MAX_BYTES, codes_of
from fold_lightning.activations.evaluation import Forward, Replica, evaluate_on_replica
from fold_lightning.activations.inspection import ModelStructure, inspect
from fold_lightning.activations.layers import Patterns
from fold_lightning.walks.segments import check_segments, ends_to_inspect
from fold_lightning.walks.uniform import check_num_points

CURVED_COST_FACTOR = 40
"""Ratio of a switch's time per unit in a network with curves and kinks to that in a piecewise linear one. On the same loaded machine
a switch took, per unit, 0.2 us in convolutional networks with GELU and max pooling, 0.4 to 0.6 us in vision transformers with ReLU,
0.8 and 3.4 us in MLPs of width 256 and 64 with layer norm and ReLU, but 30 to 70 ns in fully connected ReLU networks of 384 to 4,096
units."""

SMOOTH_COST_PER_UNIT = 400
"""Cost of a walk of a smooth network, per unit, in evaluations of a pre-activation; it hardly depends on the number of switches. A
walk took, per unit, 12 us in convolutional networks, 18 to 25 us in MLPs of width 512 and 128, and 21 to 27 us in vision
transformers, where layer norms and attention take time without giving bits."""

CONVOLUTION_DISCOUNT = 4
"""Number of pre-activations of a convolutional network that take as long as one of a fully connected network. One takes 1 to 7 ns in
eleven networks of 4,704 to 100,352 units and 5 to 8 ns in LeNet; in ResNet-20, where a switch changes most of each feature map,
34 ns."""

MAX_COST = 10**6
"""Mean of `exact_costs` up to which a walk takes at most about 0.05 s on a shared core. 90 walks then take less than 5 s, and the two
measurements that every training gets stay within the 10 s that every training is allowed."""

NUM_POINTS = 9
"""Equidistant points of a segment at which its switches are counted."""

ALWAYS_EXACT_COST = 4 * 10**8
"""Number of pre-activations that take 2 s (three convolutions) to 30 s (an MLP) to evaluate. A walk that costs no more than this is
always exact; one that costs more is replaced only by one that is estimated to take less time."""

CURVED_POINTS = 128
"""Number of points at which a walk that follows only the units that count evaluates the network, besides those of switches."""

CURVED_POINTS_A_SWITCH = 10
"""Number of points with which such a walk finds one switch."""

KINK_VALUES = 1.2
"""Cost of a value in a pass with kinks, in values of a growing batch: 80 ns against 65 ns."""

KINK_CELLS = 14.0
"""Cost of a position in a pass with kinks, for any number of channels, in the same unit: sorting and indexing take 0.9 us."""

KINK_MARGIN = 1.25
"""Ratio of the costs above which a growing batch replaces a pass with kinks."""

SMALL_COST = 2 * 10**5
"""Number of values of a growing batch, 15 ms, below which either engine will do."""


def kinks_cost_more(cells: int, values: int, dense: int) -> bool:
    """Return whether kinks are estimated to cost more than a growing batch, such as where they cover narrow feature maps.

    Args:
        cells: Number of positions of all layers so far that a pass with kinks has carried, once for each event that bends them.
        values: Number of values at these positions.
        dense: Number of values of the same layers at all breakpoints so far.

    Example:
        >>> kinks_cost_more(10**6, 4 * 10**6, 8 * 10**6), kinks_cost_more(10**5, 10**6, 8 * 10**6)
        (True, False)
    """
    return dense > SMALL_COST and KINK_VALUES * values + KINK_CELLS * cells > KINK_MARGIN * dense


def count_switches(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    num_points: int = NUM_POINTS,
) -> Tensor:
    """Count the switches seen at a few equidistant points of each segment: a lower bound of an exact walk's breakpoints.

    The switches of all layers up to the last that counts are included, since an exact walk has breakpoints at all of them.
    Where two units switch at one position the walk has one breakpoint for both. Breakpoints of max pooling, which give no bit,
    are not included.

    Args:
        model: Any module, as in `segment_walks`.
        start: Floating-point inputs (S, ...), on the model's device.
        end: As many inputs of the same shape.
        layers: The layers that count.
        forward: How to call the model.
        num_points: Points of each segment, at least 2; a unit that switches back between two of them is missed.

    Returns:
        int64 (S,). Points are evaluated in float64 and values within rounding of a threshold are on it, so that the count is the same
        on all machines.

    Raises:
        ValueError: As `segment_walks` does.
        TypeError: As `segment_walks` does.

    Example:
        >>> tent = lambda model, x: (x.relu() + (-x).relu() - 1).relu()
        >>> count_switches(torch.nn.Identity(), torch.tensor([[-2.0]]), torch.tensor([[2.0]]), forward=tent)
        tensor([4])
    """
    return _count(model, start, end, layers, forward, num_points)[0]


def exact_costs(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    num_points: int = NUM_POINTS,
) -> Tensor:
    """Estimate how many pre-activations an exact walk of each segment evaluates, from counts of switches.

    A walk of a piecewise linear network evaluates all units, up to the last layer that counts, once at each switch of
    `count_switches`; a convolutional network, where a switch changes only a part of each feature map, costs a quarter of that.
    A network with curves and kinks costs `CURVED_COST_FACTOR` times as much, and a smooth one `SMOOTH_COST_PER_UNIT` times its
    units. One evaluation takes 20 to 60 ns on a processor: walks up to `MAX_COST` take up to about 0.05 s each on one core.

    Args:
        model: The arguments are those of `count_switches`.
        start: Where segments begin (S, ...).
        end: Where they end.
        layers: The layers that count.
        forward: How to call the model.
        num_points: Points of each segment.

    Returns:
        int64 (S,), the same on all machines.

    Example:
        >>> tent = lambda model, x: (x.relu() + (-x).relu() - 1).relu()
        >>> exact_costs(torch.nn.Identity(), torch.tensor([[-2.0]]), torch.tensor([[2.0]]), forward=tent)
        tensor([12])
    """
    counts, structure = _count(model, start, end, layers, forward, num_points)
    return _costs(counts, structure)


def costs_more_exactly(replica: Replica, structure: ModelStructure, start: Tensor, end: Tensor) -> Tensor:
    """Return which exact walks cost more than `ALWAYS_EXACT_COST`, and more than walks that follow only the counted units.

    An exact walk evaluates the network at the switches of all layers up to the last that counts. A walk that follows only the units
    that count evaluates it at `CURVED_POINTS` points and at a few for each switch of these units, however often others switch.

    Args:
        replica: The model.
        structure: Its activations.
        start: float64 (S, ...) where segments begin.
        end: Where they end.

    Returns:
        bool (S,); a segment's value does not depend on the other segments.
    """
    if tuple(structure.needed) == structure.counted:
        return torch.zeros(len(start), dtype=torch.bool, device=start.device)
    of_all = _with_all_counted(structure)
    switches = _switches(replica, of_all, start, end, NUM_POINTS)
    counted = torch.cat([switches[:, of_all.layers[layer]] for layer in structure.counted], 1)
    rows, curved_rows = switches.sum(1), CURVED_POINTS + CURVED_POINTS_A_SWITCH * counted.sum(1)
    return (_costs(rows, of_all) > ALWAYS_EXACT_COST) & (_costs(rows, of_all) > curved_rows * of_all.num_units)


def has_planes(structure: ModelStructure) -> bool:
    """Return whether some layer has feature maps: there a switch changes only a part of the next layer, and kinks cost less.

    A switch of a fully connected layer changes all units of the next.
    """
    dims = [structure.dims[layer] for layer in structure.needed]
    return not structure.unknown and not structure.is_row_by_row and any(number in (3, 4) for number in dims)


def _costs(switches: Tensor, structure: ModelStructure) -> Tensor:
    """Return the cost of exact walks with given numbers of switches, in pre-activations of a dense network, int64 (S,)."""
    dense = switches * structure.num_units
    if has_planes(structure):
        return dense // CONVOLUTION_DISCOUNT
    if structure.unknown and not structure.has_kinks:
        return torch.full_like(dense, SMOOTH_COST_PER_UNIT * structure.num_units)
    return dense * CURVED_COST_FACTOR if structure.unknown else dense


def _count(
    model: nn.Module, start: Tensor, end: Tensor, layers: Patterns, forward: Forward, num_points: int
) -> tuple[Tensor, ModelStructure]:
    """Return the number of switches on each segment, int64 (S,), and the structure with all needed layers counted."""
    check_segments(start, end)
    check_num_points(num_points)
    with evaluate_on_replica(model, start, forward) as replica:
        structure = _with_all_counted(inspect(replica, ends_to_inspect(start, end), layers))
        start, end = (x.detach().to(replica.device, torch.float64) for x in (start, end))
        return _switches(replica, structure, start, end, num_points).sum(1), structure


def _with_all_counted(structure: ModelStructure) -> ModelStructure:
    """Return the structure with all layers counted at whose switches an exact walk has breakpoints."""
    return replace(structure, counted=tuple(structure.needed))


def _switches(replica: Replica, structure: ModelStructure, start: Tensor, end: Tensor, num_points: int) -> Tensor:
    """Return how often each unit switches between equidistant points of each segment, int16 (S, N)."""
    position = torch.linspace(0, 1, num_points, dtype=torch.float64, device=start.device)
    position = position.view(-1, *[1] * (start.dim() - 1))
    segments = max(1, CODES_MAX_BYTES // (num_points * (8 * start[0].numel() + structure.num_units)))
    counts = []
    for a, b in zip(start[:, None].split(segments), end[:, None].split(segments), strict=True):
        bits = codes_of(replica, structure, torch.lerp(a, b, position).flatten(0, 1)).unflatten(0, (-1, num_points))
        counts.append((bits[:, 1:] ^ bits[:, :-1]).sum(1, dtype=torch.int16))
    return torch.cat(counts)

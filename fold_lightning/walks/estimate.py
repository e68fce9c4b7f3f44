"""A lower bound of the breakpoints that exact walks meet, from few points: the same count on every machine."""

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

CURVED_ROWS = 40
"""Cost of a switch in a network with curves and kinks, in those of a piecewise linear one, for each unit: 0.2 us in convolutional
networks with GELU and max pooling, 0.4 to 0.6 us in vision transformers with ReLU, 0.8 and 3.4 us in MLPs of width 256 and 64 with
layer norm and ReLU, but 30 to 70 ns in fully connected networks of 384 to 4,096 units with ReLU, on the same loaded machine."""

SMOOTH_ROWS = 400
"""Cost of a smooth network, however often its units switch, in those of a switch, for each unit: 12 us in convolutional networks, 18
to 25 us in MLPs of width 512 and 128, 21 to 27 us in vision transformers, whose layer norms and attention cost without a bit."""

PLANES_SHARE = 4
"""Pre-activations of a network of planes that surely cost no more than one of a fully connected network: 1 to 7 ns in eleven of 4,704
to 100,352 units, 5 to 8 ns in LeNet. Where boxes cover the planes it is too large: 34 ns in ResNet-20."""

MAX_COST = 10**6
"""Mean of `exact_costs` up to which a walk takes up to about 0.05 s on a core that others share: 90 walks take less than 5 s, so that
the two measurements of a training that are always made stay within the 10 s that are always allowed."""

NUM_POINTS = 9
"""Equidistant points of a segment at which its switches are counted."""

LONG = 4 * 10**8
"""Pre-activations whose evaluation takes from 2 s, of three flat convolutions, to half a minute, of an MLP: a walk up to this is
exact whatever else were cheaper, and one above it gives way only to one that takes less."""

CURVED_POINTS = 128
"""Points at which a walk looks that follows only the units that count, apart from their switches."""

CURVED_POINTS_A_SWITCH = 10
"""And those with which it finds a switch."""


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

    All layers up to the last that counts are seen, since an exact walk stops at the switches of each of them. Where two units switch
    at one place the walk has one breakpoint for both. Choices of a max pooling, which bend a walk without a bit, are not seen.

    Args:
        model: Any module, as for `segment_walks`.
        start: Floating-point inputs (S, ...), on the model's device.
        end: As many inputs of the same shape.
        layers: The layers that count.
        forward: How to call the model.
        num_points: Points of each segment, at least 2: a unit that switches back between two of them is missed.

    Returns:
        int64 (S,), in float64 and up to rounding, so that it is the same on all machines.

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
    """Estimate the pre-activations that an exact walk of each segment evaluates, from counts alone.

    They are all units up to the last that counts, once at each switch of `count_switches`: a quarter of them where the network has
    planes of which a switch bends a part alone, and `CURVED_ROWS` times as many where it curves and has kinks. Of a smooth network
    they are `SMOOTH_ROWS` times all units. One takes 20 to 60 ns on a processor: walks up to `MAX_COST` take up to about 0.05 s
    each on one core.

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


def is_dearer_exactly(replica: Replica, structure: ModelStructure, start: Tensor, end: Tensor) -> Tensor:
    """Tell where an exact walk of a piecewise linear network takes minutes, and one that follows only the units that count less.

    An exact walk evaluates the network at the switches of all layers up to the last that counts; one of the units that count alone at
    `CURVED_POINTS` and a few for each of their switches, whatever the others do.

    Args:
        replica: The model.
        structure: Its activations.
        start: float64 (S, ...) where segments begin.
        end: Where they end.

    Returns:
        bool (S,), the same for a segment whichever others come with it.
    """
    if tuple(structure.needed) == structure.counted:
        return torch.zeros(len(start), dtype=torch.bool, device=start.device)
    of_all = _with_all_counted(structure)
    switches = _switches(replica, of_all, start, end, NUM_POINTS)
    counted = torch.cat([switches[:, of_all.layers[layer]] for layer in structure.counted], 1)
    rows, curved_rows = switches.sum(1), CURVED_POINTS + CURVED_POINTS_A_SWITCH * counted.sum(1)
    return (_costs(rows, of_all) > LONG) & (_costs(rows, of_all) > curved_rows * of_all.num_units)


def has_planes(structure: ModelStructure) -> bool:
    """Return whether a switch may bend a part of a layer alone, so that kinks are cheaper than whole layers at each breakpoint.

    A switch of a fully connected layer bends all units of the next.
    """
    dims = [structure.dims[layer] for layer in structure.needed]
    return not structure.unknown and not structure.is_row_by_row and any(number in (3, 4) for number in dims)


def _costs(switches: Tensor, structure: ModelStructure) -> Tensor:
    """Return how many pre-activations of a fully connected network cost what exact walks with so many switches do, int64 (S,)."""
    dense = switches * structure.num_units
    if has_planes(structure):
        return dense // PLANES_SHARE
    if structure.unknown and not structure.has_kinks:
        return torch.full_like(dense, SMOOTH_ROWS * structure.num_units)
    return dense * CURVED_ROWS if structure.unknown else dense


def _count(
    model: nn.Module, start: Tensor, end: Tensor, layers: Patterns, forward: Forward, num_points: int
) -> tuple[Tensor, ModelStructure]:
    """Return the switches on each segment, int64 (S,), and the model's structure with all layers counted that bend a walk."""
    check_segments(start, end)
    check_num_points(num_points)
    with evaluate_on_replica(model, start, forward) as replica:
        structure = _with_all_counted(inspect(replica, ends_to_inspect(start, end), layers))
        start, end = (x.detach().to(replica.device, torch.float64) for x in (start, end))
        return _switches(replica, structure, start, end, num_points).sum(1), structure


def _with_all_counted(structure: ModelStructure) -> ModelStructure:
    """Return the structure with all layers counted that bend a walk."""
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

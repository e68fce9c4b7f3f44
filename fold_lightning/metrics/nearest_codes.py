"""Share of inputs whose nearest neighbour has the same class, computed in blocks of bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.codes import hamming_distance

INPUTS_AT_ONCE = 2**11
"""Largest number of inputs on each side of a block of distances: 32 MiB, and about three times that during its computation."""

UNPACKED_BYTES = 2**26
"""Largest size in bytes of the unpacked codes of a block: blocks of wide networks have fewer inputs."""


def pack_bits(bits: Tensor) -> Tensor:
    """Pack codes, eight bits to a byte.

    Args:
        bits: bool (B, N).

    Returns:
        uint8 (B, ceil(N / 8)), the first bit of each byte is the least significant.

    Example:
        >>> pack_bits(torch.tensor([[True, False, True]]))
        tensor([[5]], dtype=torch.uint8)
    """
    padded = bits.new_zeros(len(bits), 8 * -(-bits.shape[1] // 8))
    padded[:, : bits.shape[1]] = bits
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    octets: Tensor = (padded.view(torch.uint8).unflatten(1, (-1, 8)) << places).sum(2, dtype=torch.uint8)
    return octets


def unpack_bits(packed: Tensor, columns: slice) -> Tensor:
    """Return columns of packed codes (B, ceil(N / 8)), bool (B, number of columns)."""
    first = columns.start // 8
    octets = packed[:, first : -(-columns.stop // 8)]
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (octets[:, :, None] >> places & 1).bool().flatten(1)
    return bits[:, columns.start - 8 * first : columns.stop - 8 * first : columns.step]


def nearest_agreement(packed: Tensor, labels: Tensor, columns: slice) -> Tensor:
    """Return the share of inputs whose nearest other input, by the Hamming distance of codes, has the same class.

    If several others are equally near, an input counts as the share of them that have its class.

    Args:
        packed: Codes of B inputs, uint8 (B, ceil(N / 8)), as from `pack_bits`.
        labels: Integer (B,), the class of each input.
        columns: The bits to compare.

    Returns:
        float64 (); NaN for fewer than two inputs, or no bits.

    Example:
        >>> codes = pack_bits(torch.tensor([[False, False], [False, True], [True, False]]))
        >>> nearest_agreement(codes, torch.tensor([0, 0, 1]), slice(0, 2, 1))  # of (1/2, 1, 0)
        tensor(0.5000, dtype=torch.float64)
    """
    width = len(range(columns.start, columns.stop, columns.step))
    if len(packed) < 2 or width == 0:
        return torch.tensor(torch.nan, dtype=torch.float64, device=packed.device)
    size = min(INPUTS_AT_ONCE, max(1, UNPACKED_BYTES // (8 * -(-(columns.stop - columns.start) // 8) + 8)))
    total = torch.zeros((), dtype=torch.float64, device=packed.device)
    for begin in range(0, len(packed), size):
        bits, label = unpack_bits(packed[begin : begin + size], columns), labels[begin : begin + size]
        least = torch.full_like(label, width + 1, dtype=torch.int64)
        number, agreeing = torch.zeros_like(least), torch.zeros_like(least)
        for other in range(0, len(packed), size):
            distance = hamming_distance(bits[:, None], unpack_bits(packed[other : other + size], columns))
            if other == begin:
                distance.fill_diagonal_(width + 1)  # an input is not its own neighbour
            nearest = distance.amin(1)
            row, neighbour = (distance == torch.minimum(nearest, least)[:, None]).nonzero(as_tuple=True)
            agrees = labels[other + neighbour] == label[row]
            keeps = least <= nearest
            number = number * keeps + torch.bincount(row, minlength=len(label))
            agreeing = agreeing * keeps + torch.bincount(row[agrees], minlength=len(label))
            least = torch.minimum(least, nearest)
        total += (agreeing.double() / number).sum()
    return total / len(packed)

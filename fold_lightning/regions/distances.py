"""Distances from inputs to the boundaries of their regions."""

from __future__ import annotations

import torch
from torch import Tensor

from fold_lightning.regions.around_inputs import ActivationRegions, check_regions


def boundary_distances(regions: ActivationRegions) -> Tensor:
    """Return the distance from each input to the boundary of its region.

    The input lies inside all half-spaces, so this is the smallest distance from it to their planes, ``(a_i . x + c_i) / |a_i|``. The
    nearest plane is always a face. In a slice, the result is the distance within the slice, which is at least that in the whole
    space. The measure is this project's own.

    Args:
        regions: B regions, as from `activation_regions`.

    Returns:
        float64 (B,), in the unit of the inputs; infinite where no plane bounds the region, 0 for an input on a boundary.

    Raises:
        TypeError: If `regions` is not an `ActivationRegions`.

    Example:
        >>> from fold_lightning import activation_regions
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0]])), model[0].bias.data.zero_()
        >>> boundary_distances(activation_regions(model, torch.tensor([[1.0, 1.0], [0.5, 2.0]])))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    check_regions(regions)
    if regions.normals.shape[1] == 0:
        return regions.normals.new_full((len(regions.normals),), torch.inf)
    sizes = regions.normals.norm(dim=2)
    distances = torch.where(sizes > 0, regions.slacks.clamp(min=0) / sizes, torch.inf)
    return distances.amin(1)

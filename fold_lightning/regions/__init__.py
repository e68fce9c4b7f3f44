"""Activation regions: the half-spaces that bound the region around each input.

Where every activation is frozen in the piece that an input takes, a piecewise linear network is affine. So one forward pass over
each input and over a step from it in each direction gives all pre-activations as affine functions, and each unit's sign a half-space.
"""

from fold_lightning.regions.around_inputs import ActivationRegions, activation_regions, check_regions, random_directions
from fold_lightning.regions.distances import boundary_distances
from fold_lightning.regions.frozen_pass import NoPolytopes
from fold_lightning.regions.streams import stream_regions

__all__ = [
    "ActivationRegions",
    "NoPolytopes",
    "activation_regions",
    "boundary_distances",
    "check_regions",
    "random_directions",
    "stream_regions",
]

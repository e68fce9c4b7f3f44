"""Activation regions: the half-spaces that bound the region around each input.

A piecewise linear network is affine once every activation is frozen in the linear piece that an input takes. So one forward pass over
each input, and over a point one step away in each direction, gives all pre-activations as affine functions. The sign of each
pre-activation then gives one half-space.
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

"""The regions, or slices of regions, whose faces are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from fold_lightning._checks import is_integer
from fold_lightning.regions import random_directions

FaceSubspace = Literal["auto", "whole"]

MAX_WHOLE_FEATURES = 4
"""Maximum number of input features with which faces of whole regions are affordable at every measurement."""

SLICE_DIMENSIONS = 2
"""Number of dimensions of slices for inputs with more features."""


@dataclass(frozen=True)
class FaceProbes:
    """Regions around the first inputs of a sample, or slices of them.

    Attributes:
        num_regions: Number of inputs, from the first, around which faces are counted.
        subspace: Number k of dimensions of the slices; None for whole regions.
        num_features: Number of features of an input.
        seed: Seed of the slices.

    Example:
        >>> import torch
        >>> faces = FaceProbes.around(torch.zeros(100, 28, 28), num_regions=64)
        >>> faces.dimension, faces.directions(3).shape
        (2, torch.Size([3, 2, 784]))
    """

    num_regions: int
    subspace: int | None
    num_features: int
    seed: int

    @classmethod
    def around(cls, inputs: Tensor, num_regions: int, subspace: int | FaceSubspace = "auto", seed: int = 0) -> FaceProbes:
        """Choose regions around inputs.

        Args:
            inputs: Inputs (B, ...), of which only the shape is read.
            num_regions: Maximum number of regions.
            subspace: k, "whole", or "auto": whole regions up to 4 features, slices of 2 dimensions beyond.
            seed: Seed of the slices.
        """
        num_features = inputs[0].numel()
        if subspace == "auto":
            subspace = "whole" if num_features <= MAX_WHOLE_FEATURES else SLICE_DIMENSIONS
        return cls(min(num_regions, len(inputs)), None if subspace == "whole" else subspace, num_features, seed)

    def directions(self, count: int) -> Tensor | None:
        """Return the slices through the first `count` inputs, float64 (count, k, features); None for whole regions."""
        return None if self.subspace is None else random_directions(count, self.subspace, self.num_features, self.seed)

    @property
    def dimension(self) -> int:
        """Dimension of the polytopes whose faces are counted."""
        return self.subspace or self.num_features

    def describe(self) -> str:
        """Describe the regions whose faces are counted, for a reader of the curves."""
        what = f"random slices of {self.subspace} dimensions through inputs" if self.subspace else "whole regions around inputs"
        features = f"{self.num_features} feature{'s' * (self.num_features != 1)}"
        bound = f"{'2k' if self.subspace else '2d'} = {2 * self.dimension}"
        return (
            f"Faces of activation regions: {what} of {features}. Over all regions of a network the mean is at most {bound}; over "
            "regions around points it may be more, because points fall into large regions more often."
        )


def check_face_subspace(subspace: object) -> None:
    """Raise if `FaceProbes.around` does not take this subspace.

    Raises:
        ValueError: If it is not "auto", "whole" or an integer of at least 1.
    """
    if subspace not in get_args(FaceSubspace) and not is_integer(subspace, 1):
        raise ValueError(f"`face_subspace` must be 'auto', 'whole' or an integer of at least 1, got {subspace!r}.")

"""Around which inputs faces are counted, and in which slice of their regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fold_lightning.regions import random_directions

FaceInputs = Literal["data", "random", "both"]
FaceSubspace = Literal["auto", "whole"]

MOST_INPUTS = 64
"""Around how many inputs faces are counted."""

MOST_WHOLE_DIMENSIONS = 4
"""Of so many features whole regions are affordable at every measurement."""

SLICE_DIMENSIONS = 2
"""Of more features, their slices of so many dimensions."""


@dataclass(frozen=True)
class FaceProbes:
    """Inputs around which faces are counted.

    Attributes:
        data: Inputs (B, ...) near data; None if they are not asked for.
        random: Inputs (B, ...) spread evenly over the box that the data span; None likewise.
        subspace: k, the dimensions of the slices; None for whole regions.
        features: Of an input.
        seed: Of the slices.
    """

    data: Tensor | None
    random: Tensor | None
    subspace: int | None
    features: int
    seed: int

    @classmethod
    def of(cls, inputs: Tensor, which: bool | FaceInputs, subspace: int | FaceSubspace, seed: int) -> FaceProbes:
        """From inputs (B, ...) of a run.

        Args:
            inputs: Those to look at first come first.
            which: "data" (or True), "random", or "both".
            subspace: k, "whole", or "auto": whole regions up to 4 features, slices of 2 dimensions beyond.
            seed: Of random inputs and slices.
        """
        kind = "data" if which is True else which
        features = inputs[0].numel()
        if subspace == "auto":
            subspace = "whole" if features <= MOST_WHOLE_DIMENSIONS else SLICE_DIMENSIONS
        return cls(
            inputs[:MOST_INPUTS] if kind != "random" else None,
            _in_the_box(inputs, seed) if kind != "data" else None,
            None if subspace == "whole" else subspace,
            features,
            seed,
        )

    def directions(self, count: int) -> Tensor | None:
        """Those of the slices through so many inputs, float64 (count, k, features); None for whole regions."""
        return None if self.subspace is None else random_directions(count, self.subspace, self.features, self.seed)

    @property
    def dimension(self) -> int:
        """D of the polytopes whose faces are counted."""
        return self.subspace or self.features

    def describe(self) -> str:
        """Of what faces are counted, for a reader of the curves."""
        what = f"random slices of {self.subspace} dimensions through inputs" if self.subspace else "whole regions around inputs"
        return (
            f"Faces of activation regions: {what} of {self.features} features. Over all regions of a network the mean is at most "
            f"2d = {2 * self.dimension}; over regions around points it may be more, for points fall into large regions more often."
        )


def _in_the_box(inputs: Tensor, seed: int) -> Tensor:
    """Points (64, ...) spread evenly over the box that inputs span."""
    least, most = inputs.amin(0), inputs.amax(0)
    part = torch.rand((MOST_INPUTS, *inputs.shape[1:]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (least + part * (most - least)).to(inputs.dtype)


def check_face_arguments(which: object, subspace: object) -> None:
    """Refuses what `FaceProbes.of` has no meaning for.

    Raises:
        ValueError: If an argument is none of its choices.
    """
    if not isinstance(which, bool) and which not in get_args(FaceInputs):
        raise ValueError(f"`faces` must be True, False, {', '.join(map(repr, get_args(FaceInputs)))}, got {which!r}.")
    whole = isinstance(subspace, int) and not isinstance(subspace, bool)
    if subspace not in get_args(FaceSubspace) and not (whole and subspace >= 1):  # type: ignore[operator]
        raise ValueError(f"`face_subspace` must be 'auto', 'whole' or a whole number of at least 1, got {subspace!r}.")

"""Comparison of the package's integers for a network with those of its `blackbox.Twin`."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from fold_lightning import (
    Walks,
    activation_codes,
    activation_regions,
    face_counts,
    segment_walks,
    walk_length,
    walk_range,
)
from fold_lightning.regions import NoPolytopes
from helpers.blackbox import Twin, walk
from helpers.reference import faces_one_by_one

MOST_ROWS = 90
"""Most half-spaces for which one linear program each is affordable."""


class Integers:
    """Comparison of integers, with counts.

    Attributes:
        counts: Kind of comparison -> number of comparisons.
        wrong: Descriptions of the differences found.
    """

    def __init__(self, net: nn.Module) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._net, self._twin = net, Twin(net)

    def compare(self, inputs: Tensor, segments: int = 4, faces: int = 1) -> Integers:
        """Compare walks between inputs, their codes, and the faces of the regions around them."""
        inputs = inputs.double() + 0.01 * torch.rand(inputs.shape, generator=torch.Generator().manual_seed(1)).double()
        start, end = (
            inputs[:segments],
            inputs.flip(0)[:segments] * torch.linspace(1, 3, segments).view(-1, *[1] * (inputs.dim() - 1)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.walks(start, end)
            self.codes(inputs)
            for subspace in (None, 2):
                self.faces(inputs[:faces], subspace)
        return self

    def walks(self, start: Tensor, end: Tensor) -> None:
        """Compare r1, r2, the number of regions, and the units of each step."""
        walks = segment_walks(self._net, start, end)
        for i in range(len(start)):
            if walks.exact[i]:
                self._walk(walks, i, start[i], end[i])
            else:
                self._curved_walk(walks, i, start[i], end[i])

    def _walk(self, walks: Walks, i: int, start: Tensor, end: Tensor) -> None:
        steps = walk(self._twin, start, end)
        if not steps.is_told:
            self.counts["segments that the twin does not tell"] += 1
            return
        expected = (*steps.range_and_length, len(steps.steps) + 1)
        found = (int(walk_range(walks)[i]), int(walk_length(walks)[i]), int(walks.num_regions()[i]))
        self._is("segments", found, expected, "r1, r2, regions of an exact walk")
        units = [units for _, units in steps.steps]
        self._is("orders of units", units_by_step(walks, i), units, "steps of an exact walk")

    def _curved_walk(self, walks: Walks, i: int, start: Tensor, end: Tensor) -> None:
        """Count walks that lost switches which equidistant points see, without an error: a refined walk is not proved exact."""
        t = torch.linspace(0, 1, 1001, dtype=torch.float64).view(-1, *[1] * start.dim())
        bits = self._twin.bits((1 - t) * start + t * end)
        seen = (bits[2:-1] != bits[1:-2]).sum(0)
        events = torch.bincount(walks.unit[walks.segment == i], minlength=bits.shape[1])
        self.counts["segments of curved walks"] += 1
        self.counts["curved walks that lost switches"] += int((events < seen).any())

    def codes(self, inputs: Tensor) -> None:
        """Compare all bits, and the number of distinct codes."""
        bits, expected = activation_codes(self._net, inputs).bits, self._twin.bits(inputs)
        self._is("codes", bits.tolist(), expected.tolist(), "codes")
        self._is("distinct codes", len(bits.unique(dim=0)), len(set(map(tuple, expected.tolist()))), "distinct codes")

    def faces(self, inputs: Tensor, subspace: int | None) -> None:
        """Compare half-spaces and face counts of regions, with one linear program per row."""
        try:
            regions = activation_regions(self._net, inputs, subspace=min(subspace, inputs[0].numel()) if subspace else None)
        except NoPolytopes:
            self.counts["networks without polytopes"] += 1
            return
        found = face_counts(regions)
        for i in range(len(inputs)):
            normals, slacks = self._twin.half_spaces(inputs[i : i + 1])
            if regions.basis is not None:
                normals = normals @ regions.basis[i].T
            # Hardsigmoid's derivative is 1/6; torch computes one that is 3e-8 larger.
            error = float((normals - regions.normals[i]).abs().max() / normals.abs().max().clamp(min=1e-12))
            self._is("half-spaces", error < 1e-7, True, f"normals, by {error:.1e}")
            if len(normals) <= MOST_ROWS:
                self._is("face counts", int(found[i]), sum(faces_one_by_one(normals, slacks)), f"faces, subspace={subspace}")

    def _is(self, what: str, found: Any, expected: Any, words: str) -> None:
        self.counts[what] += 1
        if found != expected:
            self.wrong.append(f"{words}: {_short(found)} is not {_short(expected)}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else f"{text[:150]}... ({len(text)})"


def units_by_step(walks: Walks, i: int) -> list[tuple[int, ...]]:
    """Return the units that switch in each step of a walk."""
    events = walks.segment == i
    _, counts = walks.position[events].unique_consecutive(return_counts=True)
    return [tuple(sorted(part.tolist())) for part in walks.unit[events].split(counts.tolist())] if len(counts) else []

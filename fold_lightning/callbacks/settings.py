"""What a monitor is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fold_lightning import figures as drawing
from fold_lightning.callbacks.pace import MaxSeconds
from fold_lightning.probes import FaceInputs, FaceSubspace, check_face_arguments

DEFAULT_INPUTS = 1000
"""Inputs looked at where all that pass are counted."""

INPUTS_PER_SEGMENT = 8
"""How many inputs are looked at for each segment, so that most pairs of classes find theirs."""

LOGGED = (
    *("every_n_epochs", "layers", "num_segments", "segments_per_pair", "num_inputs", "seed", "folding", "codes", "faces"),
    *("face_subspace", "max_seconds"),
)
"""What of it is among a run's hyperparameters."""


@dataclass(frozen=True)
class Settings:
    """The arguments of `FoldingMonitor`, which describes them.

    Raises:
        ValueError: If a number is out of range, or nothing is left to measure.
        TypeError: If an argument is of another kind.
        ModuleNotFoundError: If figures are wanted and matplotlib is not installed.
    """

    every_n_epochs: int
    measure_at_start: bool
    layers: str | list[str] | None
    probes: Any
    num_segments: int
    segments_per_pair: int | None
    num_inputs: int | Literal["all"]
    seed: int
    folding: bool
    codes: bool
    faces: bool | FaceInputs
    face_subspace: int | FaceSubspace
    max_seconds: MaxSeconds
    batch_to_inputs: Callable[[Any], Any] | None
    forward: str | Callable[..., Any] | None
    figures: bool | None

    def __post_init__(self) -> None:
        if self.layers is not None and not isinstance(self.layers, (str, list, tuple)):
            raise TypeError(f"`layers` must be names or glob patterns, got {self.layers!r}.")
        _check_whole("every_n_epochs", self.every_n_epochs, 1)
        _check_whole("num_segments", self.num_segments, 1)
        if self.segments_per_pair is not None:
            _check_whole("segments_per_pair", self.segments_per_pair, 1)
        if self.num_inputs != "all":
            _check_whole("num_inputs", self.num_inputs, 2, ", or 'all'")
        _check_whole("seed", self.seed, 0)
        _check_seconds(self.max_seconds)
        check_face_arguments(self.faces, self.face_subspace)
        if self.batch_to_inputs is not None and not callable(self.batch_to_inputs):
            raise TypeError(f"`batch_to_inputs` must be a function of a batch, got {self.batch_to_inputs!r}.")
        if self.figures and not drawing.is_available():
            raise ModuleNotFoundError("`figures=True` needs matplotlib: pip install 'fold-lightning[figures]'.")

    @property
    def measures(self) -> bool:
        """Whether anything is measured."""
        return self.folding or self.codes or bool(self.faces)

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn."""
        return drawing.is_available() if self.figures is None else self.figures

    @property
    def counts_all(self) -> bool:
        """Whether codes are those of all validation inputs, as they pass."""
        return self.codes and self.num_inputs == "all" and self.probes is None

    @property
    def most_counted(self) -> int:
        """Of how many probes codes are counted."""
        return DEFAULT_INPUTS if self.num_inputs == "all" else self.num_inputs

    @property
    def most_inputs(self) -> int:
        """How many probes to look for."""
        return max(INPUTS_PER_SEGMENT * self.num_segments, self.most_counted)

    def logged(self) -> dict[str, Any]:
        """What is among a run's hyperparameters."""
        return {name: getattr(self, name) for name in LOGGED}


def _check_whole(name: str, value: Any, least: int, otherwise: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}{otherwise}, got {value!r}.")


def _check_seconds(value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and value != "auto" and not (is_number and value > 0):
        raise ValueError(f"`max_seconds` must be a number of seconds above 0, 'auto', or None for no limit, got {value!r}.")

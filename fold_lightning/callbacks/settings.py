"""The arguments of a monitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from fold_lightning import figures as drawing
from fold_lightning._checks import check_bool, check_choice, check_function, check_integer, check_layers, is_number
from fold_lightning.activations.evaluation import check_forward
from fold_lightning.folding import Aggregate, check_aggregates
from fold_lightning.probes import FaceSubspace, check_face_subspace
from fold_lightning.probes.user_probes import check_probes

Method = Literal["auto", "exact", "uniform"]

INPUTS_PER_SEGMENT = 8
"""Number of inputs read per segment, so that most pairs of classes have inputs for it."""

SEEDS = 2**32
"""Number of seeds that NumPy accepts."""

NOT_LOGGED = ("measure_at_start", "probes", "batch_to_inputs", "forward", "figures")
"""Arguments that are not hyperparameters: objects, and settings that change no value."""


SAMPLE_ARGUMENTS = ("num_segments", "segments_per_pair", "num_inputs", "num_regions", "face_subspace", "seed")
"""Arguments by which a sample is drawn from the same data."""


@dataclass(frozen=True)
class Settings:
    """The arguments of `FoldingMonitor`, which describes them.

    Raises:
        ValueError: If a number is out of range, a word is not one of the choices, or `layers` is empty.
        TypeError: If an argument is of another kind.
        ModuleNotFoundError: If figures are wanted and matplotlib is not installed.
    """

    every_n_epochs: int
    every_n_train_steps: int | None
    measure_at_start: bool
    max_overhead: float | None
    layers: str | list[str] | None
    probes: Any
    method: Method
    num_points: int
    num_segments: int
    segments_per_pair: int | None
    within: Aggregate
    across: Aggregate
    num_inputs: int
    num_regions: int
    seed: int
    folding: bool
    codes: bool
    units: bool
    faces: bool
    face_subspace: int | FaceSubspace
    batch_to_inputs: Callable[[Any], Any] | None
    forward: str | Callable[..., Any] | None
    figures: bool | None

    def __post_init__(self) -> None:
        check_layers(self.layers)
        for name in ("measure_at_start", "folding", "codes", "units", "faces"):
            check_bool(name, getattr(self, name))
        for name, least in (
            ("every_n_epochs", 1),
            ("num_points", 2),
            ("num_segments", 1),
            ("num_inputs", 2),
            ("num_regions", 1),
        ):
            check_integer(name, getattr(self, name), least)
        for name in ("every_n_train_steps", "segments_per_pair"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0, below=SEEDS)
        _check_share("max_overhead", self.max_overhead)
        check_choice("method", self.method, get_args(Method))
        check_aggregates(self.within, self.across)
        check_face_subspace(self.face_subspace)
        if self.batch_to_inputs is not None:
            check_function("batch_to_inputs", self.batch_to_inputs)
        check_forward(self.forward)
        if self.probes is not None:
            check_probes(self.probes)
        if self.figures is not None and not isinstance(self.figures, bool):
            raise TypeError(f"`figures` must be True, False or None, got {self.figures!r}.")
        if self.figures and not drawing.is_available():
            raise ModuleNotFoundError("`figures=True` needs matplotlib: pip install 'fold-lightning[figures]'.")

    @property
    def measures(self) -> bool:
        """True if anything is measured."""
        return self.folding or self.codes or self.units or self.faces

    @property
    def draws_figures(self) -> bool:
        """True if figures are drawn."""
        return drawing.is_available() if self.figures is None else self.figures

    @property
    def maps(self) -> bool:
        """True if maps of regions are made, as figures and for TensorBoard's Folding tab, which needs no matplotlib."""
        return self.faces and self.figures is not False

    @property
    def num_items(self) -> int:
        """Number of items to read from a data set."""
        return max(
            INPUTS_PER_SEGMENT * self.num_segments if self.folding else 2,
            self.num_inputs if self.codes or self.units else 2,
            self.num_regions if self.faces else 2,
        )

    def hyperparameters(self) -> dict[str, Any]:
        """Return the arguments that a run logs as hyperparameters."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in NOT_LOGGED}

    def as_text(self) -> dict[str, str]:
        """Return the hyperparameters as text, which checkpoints may hold whatever the values are."""
        return {name: repr(value) for name, value in self.hyperparameters().items()}


def _check_share(name: str, value: Any) -> None:
    if value is None:
        return
    message = f"`{name}` must be a share of the training's time of at least 0, or None for no limit, got {value!r}."
    if not is_number(value):
        raise TypeError(f"{message[:-1]}: 5% is 0.05.")
    if not value >= 0:
        raise ValueError(message)

"""The schedule of measurements: at due epochs and steps, as long as measuring takes a small share of the training's time."""

from __future__ import annotations

import time

FREE_SECONDS = 10.0
"""Seconds that all measurements of a run may take in any case: below it there is no use in sparing any."""


class Schedule:
    """Decides whether a measurement is made now.

    Which inputs are measured never depends on it, only how often.

    Args:
        every_n_epochs: Epochs from one measurement to the next.
        every_n_train_steps: Optimizer steps from one to the next, besides epochs; None measures at epochs only.
        max_overhead: Share of the training's time that measuring may take; None sets no limit.

    Attributes:
        seconds_spent: Time that measuring has taken so far, in s, those of the run before a checkpoint too.
    """

    def __init__(self, every_n_epochs: int, every_n_train_steps: int | None, max_overhead: float | None) -> None:
        self._every_n_epochs, self._every_n_train_steps = every_n_epochs, every_n_train_steps
        self._limit = max_overhead
        self._seconds_before, self._epoch, self._step = 0.0, 0, -1
        self.seconds_spent = self._last_seconds = 0.0
        self.start_training()

    def lift_limit(self) -> None:
        """Measure whatever is due: something decides by the values."""
        self._limit = None

    def start_training(self) -> None:
        """Start the clock of the training."""
        self._began, self._spent_at_start = time.perf_counter(), self.seconds_spent

    def epoch_is_due(self, epoch: int) -> bool:
        """Return whether to measure in an epoch, counted from 1: always while nothing has been measured."""
        passed = epoch // self._every_n_epochs > self._epoch // self._every_n_epochs
        return self._step < 0 or ((passed or epoch == self._epoch) and self.is_affordable())

    def step_is_planned(self, step: int) -> bool:
        """Return whether to measure after an optimizer step, counted from 1, if that is affordable: the same in all processes."""
        every = self._every_n_train_steps
        return every is not None and step % every == 0 and step > max(0, self._step)

    def is_measured(self, step: int) -> bool:
        """Return whether the last measurement was made after this many optimizer steps."""
        return step == self._step

    def spend(self, seconds: float) -> None:
        """Count time that was taken beside measurements."""
        self.seconds_spent += seconds

    def record(self, seconds: float, *, epoch: int | None, step: int) -> None:
        """Keep what a measurement took, and when it was made; an epoch of None is not over."""
        self.spend(seconds)
        self._last_seconds = seconds
        self._epoch, self._step = self._epoch if epoch is None else epoch, step

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        seconds = {"seconds": self._training_seconds(), "spent": self.seconds_spent, "last": self._last_seconds}
        return seconds | {"epoch": self._epoch, "step": self._step}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self._seconds_before, self.seconds_spent = state["seconds"], state["spent"]
        self._last_seconds = state.get("last", 0.0)
        self._epoch, self._step = int(state["epoch"]), int(state["step"])
        self.start_training()

    def is_affordable(self) -> bool:
        """Return whether measuring takes no more than its share of the time with two more measurements as long as the last.

        They are the next one and that at the end of training, which is always made.
        """
        limit, after = self._limit, self.seconds_spent + 2 * self._last_seconds
        return limit is None or after <= max(FREE_SECONDS, limit * self._training_seconds())

    def _training_seconds(self) -> float:
        measuring = self.seconds_spent - self._spent_at_start
        return self._seconds_before + time.perf_counter() - self._began - measuring

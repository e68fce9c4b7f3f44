"""The schedule of measurements: due epochs and steps, limited to a share of the training's time."""

from __future__ import annotations

import time

FREE_SECONDS = 10.0
"""Total seconds of a run's measurements below which none is skipped, because little time would be saved."""


class Schedule:
    """Schedule that decides when to measure.

    It affects how often inputs are measured, never which ones.

    Args:
        every_n_epochs: Number of epochs from one measurement to the next.
        every_n_train_steps: Number of optimizer steps from one to the next, in addition to epochs; None measures at epochs
            only.
        max_overhead: Maximum share of the training's time for measuring; None sets no limit.

    Attributes:
        seconds_spent: Seconds of measuring so far, including those before the checkpoint that a run resumed from.
    """

    def __init__(self, every_n_epochs: int, every_n_train_steps: int | None, max_overhead: float | None) -> None:
        self._every_n_epochs, self._every_n_train_steps = every_n_epochs, every_n_train_steps
        self._limit = max_overhead
        self._seconds_before, self._epoch, self._step = 0.0, 0, -1
        self.seconds_spent = self._last_seconds = 0.0
        self.start_training()

    def lift_limit(self) -> None:
        """Remove the limit, because a callback or a learning-rate schedule monitors the values."""
        self._limit = None

    def start_training(self) -> None:
        """Start the clock of the training."""
        self._began, self._spent_at_start = time.perf_counter(), self.seconds_spent

    def epoch_is_due(self, epoch: int) -> bool:
        """Return whether to measure in an epoch, counted from 1; always True before the first measurement."""
        passed = epoch // self._every_n_epochs > self._epoch // self._every_n_epochs
        return self._step < 0 or ((passed or epoch == self._epoch) and self.is_affordable())

    def step_is_planned(self, step: int) -> bool:
        """Return whether a measurement is planned after an optimizer step, counted from 1; equal in all processes."""
        every = self._every_n_train_steps
        return every is not None and step % every == 0 and step > max(0, self._step)

    def is_measured(self, step: int) -> bool:
        """Return whether the last measurement was made after this many optimizer steps."""
        return step == self._step

    def spend(self, seconds: float) -> None:
        """Add seconds to the time spent on measuring."""
        self.seconds_spent += seconds

    def record(self, seconds: float, *, epoch: int | None, step: int) -> None:
        """Record a measurement's duration and time; `epoch` is None within an epoch."""
        self.spend(seconds)
        self._last_seconds = seconds
        self._epoch, self._step = self._epoch if epoch is None else epoch, step

    def state(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        seconds = {"seconds": self._training_seconds(), "spent": self.seconds_spent, "last": self._last_seconds}
        return seconds | {"epoch": self._epoch, "step": self._step}

    def restore(self, state: dict[str, float]) -> None:
        """Restore the state from a checkpoint."""
        self._seconds_before, self.seconds_spent = state["seconds"], state["spent"]
        self._last_seconds = state.get("last", 0.0)
        self._epoch, self._step = int(state["epoch"]), int(state["step"])
        self.start_training()

    def is_affordable(self) -> bool:
        """Return whether measuring stays within its share with two more measurements that take as long as the last.

        The two are the next one and the one at the end of training, which is never skipped.
        """
        limit, after = self._limit, self.seconds_spent + 2 * self._last_seconds
        return limit is None or after <= max(FREE_SECONDS, limit * self._training_seconds())

    def _training_seconds(self) -> float:
        measuring = self.seconds_spent - self._spent_at_start
        return self._seconds_before + time.perf_counter() - self._began - measuring

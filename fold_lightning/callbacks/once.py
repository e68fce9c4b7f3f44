"""Warnings that are shown once per run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from fold_lightning.callbacks.distributed import AnotherFailed


class OnceWarner:
    """Filter that shows each warning once; warnings that differ only in numbers are the same."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def warn(self, message: str, category: type[Warning] = UserWarning) -> None:
        """Show a new warning, in the first process."""
        if self._is_new(message):
            rank_zero_warn(message, category=category)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Show each warning of this context once."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            self.warn(str(warning.message), warning.category)

    @contextmanager
    def failures(self, trainer: Trainer) -> Iterator[None]:
        """Turn an exception in this context, such as a full disk, into a warning."""
        try:
            yield
        except Exception as error:
            self.warn_of_failure(trainer, error)

    def warn_of_failure(self, trainer: Trainer, error: BaseException) -> None:
        """Warn that something was not measured, in the process where it failed."""
        why = (str(error) or type(error).__name__).rstrip(". ")
        message = (
            f"FoldingMonitor could not measure everything at epoch {trainer.current_epoch}: {why}. Training goes on, with the last "
            "values for callbacks. (This warning is shown once.)"
        )
        if trainer.is_global_zero or isinstance(error, AnotherFailed):
            self.warn(message)
        elif self._is_new(message):
            warnings.warn(f"Process {trainer.global_rank}: {message}", stacklevel=2)

    def _is_new(self, message: str) -> bool:
        without_numbers = re.sub(r"[\d.]+", "", message)
        is_new = without_numbers not in self._shown
        self._shown.add(without_numbers)
        return is_new

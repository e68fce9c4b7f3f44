"""Processes of a run, which share rows and raise errors together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

T = TypeVar("T")


class AnotherFailed(RuntimeError):
    """Error in this process because another process failed."""


class Processes:
    """The processes of a Trainer. Every method is called by all of them, in the same order.

    Args:
        trainer: Trainer whose strategy connects them.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy = trainer.strategy
        self._rank, self._size = trainer.global_rank, trainer.world_size

    def broadcast(self, value: T) -> T:
        """Return the value of the first process."""
        return self._strategy.broadcast(value)

    def all(self, value: bool) -> bool:
        """Return whether a value is true in all processes."""
        return self._strategy.reduce_boolean_decision(value)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise in all processes if one fails in this context, so that none waits forever."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.all(error is None):
            return
        raise error or AnotherFailed("another process failed: see its message")

    def compute_on_first(self, compute: Callable[[], T]) -> T | None:
        """Run a function in the first process and return its result in all; an exception is raised in all."""
        value = None
        with self.raise_together():
            if self._rank == 0:
                value = compute()
        return self.broadcast(value)

    def split_rows(self, count: int) -> Tensor:
        """Return the indices int64 (n,) of this process's rows among `count`: every k-th row with k processes."""
        return torch.arange(self._rank, count, self._size)


def check_not_sharded(strategy: object, model: nn.Module) -> None:
    """Raise for a model with sharded weights, because no process has the whole function.

    Raises:
        MisconfigurationException: For FSDP, for models sharded by hand, and for DeepSpeed's stage 3.
    """
    named = {cls.__name__ for cls in type(strategy).__mro__}
    by_strategy = "FSDPStrategy" in named or ("DeepSpeedStrategy" in named and getattr(strategy, "zero_stage_3", False))
    if by_strategy or any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise MisconfigurationException(
            "FoldingMonitor needs the whole model in each process, but its weights are sharded over processes "
            f"({type(strategy).__name__}). Train with DDP, or measure a checkpoint afterwards with `measure`."
        )

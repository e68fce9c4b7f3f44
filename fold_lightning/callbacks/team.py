"""The processes of a run, as far as they measure together: who takes which rows, and that they fail together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from fold_lightning.callbacks.pace import Pace

T = TypeVar("T")


class AnotherFailed(RuntimeError):
    """What another process could not do, this one leaves too."""


class Team:
    """The processes of a Trainer. Every method is called by all of them, in the same order.

    Args:
        trainer: Whose strategy lets them talk.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy = trainer.strategy
        self._rank, self.size = trainer.global_rank, trainer.world_size

    def leader_says(self, value: T) -> T:
        """The value of the first process, in all of them."""
        return self._strategy.broadcast(value)

    def all(self, value: bool) -> bool:
        """Whether it holds in all processes."""
        return self._strategy.reduce_boolean_decision(value)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in one process fails in all: none is left waiting for another for ever."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.all(error is None):
            return
        raise error or AnotherFailed("another process could not: its own message says why")

    def leader_makes(self, make: Callable[[], T]) -> T | None:
        """What the first process makes, in all of them; an exception is raised in all."""
        made = None
        with self.together():
            if self._rank == 0:
                made = make()
        return self.leader_says(made)

    def spread(
        self, count: int, work: Callable[[Tensor], Tensor | None], pace: Pace, seconds: float | None
    ) -> tuple[int, Tensor | None]:
        """Shares rows among the processes, as many of them as a time allows.

        Args:
            count: How many rows there are.
            work: What a process does with its share, the rows' numbers int64 (n,): it returns a table (n, columns), or None.
            pace: What is known of the time that a row takes.
            seconds: For all rows; None takes all, however long it takes.

        Returns:
            How many rows were worked at, the first ones; and their table, the same as of one process.
        """
        parts: list[Tensor] = []
        done = 0
        blocks = pace.blocks(count, seconds, self.size)
        while (block := self.leader_says(next(blocks, None))) is not None:
            part: Tensor | None = None
            with self.together():
                part = work(self._share(block))
            done = block.stop
            if part is not None:
                parts.append(self._gathered(part, len(block)))
        return done, torch.cat(parts) if parts else None

    def _share(self, block: range) -> Tensor:
        """Every n-th row; where they do not go round, some processes take one that another has too."""
        most = -(-len(block) // self.size)
        return block.start + (self._rank + self.size * torch.arange(most)) % len(block)

    def _gathered(self, part: Tensor, count: int) -> Tensor:
        if self.size == 1:
            return part
        gathered = self._strategy.all_gather(part.contiguous())
        return gathered.transpose(0, 1).reshape(-1, *part.shape[1:])[:count]


def refuse_sharded(strategy: object, model: nn.Module) -> None:
    """Refuses a model of whose weights each process holds a part: no process has the whole function.

    Raises:
        MisconfigurationException: For FSDP, for models sharded by hand, and for DeepSpeed's stage 3.
    """
    named = {cls.__name__ for cls in type(strategy).__mro__}
    by_strategy = "FSDPStrategy" in named or ("DeepSpeedStrategy" in named and getattr(strategy, "zero_stage_3", False))
    if by_strategy or any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise MisconfigurationException(
            "FoldingMonitor measures whole models, and the weights of this one are sharded over processes "
            f"({type(strategy).__name__}). Train with DDP, or DeepSpeed's stages 1 and 2; or measure a checkpoint afterwards "
            "with `segment_walks`."
        )

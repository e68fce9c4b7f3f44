"""What torchmetrics leaves to its users: gathering states from processes that saw nothing, and values beside `compute`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torchmetrics import Metric


class GatheredMetric(Metric):
    """A metric with lists of tensors as states, some of which may stay empty on some processes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._empty: dict[str, Tensor] = {}

    def add_list(self, name: str, empty: Tensor) -> None:
        """Adds a state: a list of tensors like ``empty``, which are joined along their first dimension."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._empty[name] = empty

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the states of all processes."""
        for name, empty in self._empty.items():
            if (
                isinstance(state := getattr(self, name), list) and not state
            ):  # or it would be gathered as a float32 of one dimension
                state.append(empty.to(self.device))
        super().sync(*args, **kwargs)

    def gathered(self) -> AbstractContextManager[None]:
        """In this context the states are those of all processes, as they are in `compute`."""
        should_sync = self.sync_on_compute and not self._is_synced
        context: AbstractContextManager[None] = self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=should_sync, should_unsync=should_sync
        )
        return context

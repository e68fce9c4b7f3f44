"""What torchmetrics leaves to its users: states that keep their digits and stay whole, whoever moves, merges or gathers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

State = Tensor | list[Tensor]


class GatheredMetric(Metric):
    """A metric of exact states, among them lists of tensors that may stay empty on some processes.

    States keep their types, whatever `half`, `set_dtype` or ``precision="bf16-true"`` ask for: chi would lose its digits, and a
    fingerprint its sense. A batch, a state or a merger that is refused leaves the metric as it was.

    Subclasses replace their tensor states in `update`, never change them in place: such a tensor may belong to a compute group
    of a collection, or to inference mode.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._empty: dict[str, Tensor] = {}

    def add_list(self, name: str, empty: Tensor) -> None:
        """Adds a state: a list of tensors like ``empty``, which are joined along their first dimension."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._empty[name] = empty

    @property
    def home(self) -> torch.device:
        """Where the lists are."""
        return torch.device("cpu") if self.compute_on_cpu else self.device

    def joined(self, name: str) -> Tensor:
        """A state that is a list, or was one before it was gathered, as one tensor; empty if nothing was seen."""
        state: State = getattr(self, name)
        parts = [part.to(self.home) for part in ([state] if isinstance(state, Tensor) else state or [self._empty[name]])]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def arrived(self) -> None:
        """Called when states have come from elsewhere; raises ValueError if they do not belong together."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The value of a batch alone, which is added as `update` does."""
        with self._whole_or_not():
            value = super().forward(*args, **kwargs)
            self.arrived()
        return value

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds what another metric of the same kind has seen, or the states ``{name: state}`` of one.

        Raises:
            ValueError: If it is a metric of another kind, or was made with other arguments.
        """
        updates = incoming_state.update_count if isinstance(incoming_state, Metric) else 1
        if isinstance(incoming_state, type(self)):
            incoming_state = incoming_state.metric_state
        if isinstance(incoming_state, dict):
            incoming_state = self._taken(incoming_state)
        with self._whole_or_not():
            super().merge_state(incoming_state)
            self.arrived()
        self._came(updates)

    def reset(self) -> None:
        """Forgets all that was seen."""
        for name in self._empty:  # the other metrics of a compute group have the same list, which must not be cleared for them
            setattr(self, name, [])
        super().reset()

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the states of all processes."""
        lone = [name for name in self._empty if isinstance(state := getattr(self, name), list) and not state]
        for name in lone:  # or it would be gathered as a float32 of one dimension
            setattr(self, name, [self._empty[name].to(self.home)])
        super().sync(*args, **kwargs)
        for name in lone:
            if self._is_synced and self._cache is not None:
                self._cache[name] = []
            else:
                setattr(self, name, [])

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        """In this context the states are gathered; they are given back also if it fails."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def gathered(self) -> AbstractContextManager[None]:
        """In this context the states are those of all processes, as they are in `compute`."""
        should_sync = self.sync_on_compute and not self._is_synced
        return self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=should_sync, should_unsync=should_sync)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws one value or several.

        Args:
            val: A value of `compute` or `forward`, or a list of them, one for each step; None takes `compute()`.
            ax: A matplotlib axis to draw on; None makes a figure.

        Returns:
            The figure, None if an axis was given, and the axis.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.
        """
        return self._plot(val, ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, *args, **kwargs)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: list[str],
    ) -> None:
        found = {name: state_dict.pop(prefix + name) for name in self._defaults if prefix + name in state_dict}
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if not found:
            return
        try:
            with self._whole_or_not():
                for name, state in self._taken(found).items():
                    setattr(self, name, state)
                self.arrived()
        except ValueError as error:
            errors.append(f"{prefix.removesuffix('.') or 'The metric'} keeps its states. {error}")
        else:
            self._came(1)

    def _taken(self, states: dict[str, Any]) -> dict[str, State]:
        """The states as this metric holds its own: lists as lists, which are nobody else's, here."""
        missing = [name for name in self._defaults if name not in states]
        if missing:
            raise ValueError(
                f"A {type(self).__name__} of these arguments has the states {list(self._defaults)}, got {list(states)}: "
                "take them from a metric that was made with the same arguments."
            )
        taken: dict[str, State] = {}
        for name, default in self._defaults.items():
            state = states[name]
            if isinstance(default, list):
                parts = [state] if isinstance(state, Tensor) else state
                taken[name] = [part.to(self.home, self._empty[name].dtype) for part in parts]
            elif state.shape != default.shape:
                raise ValueError(
                    f"The state `{name}` of a {type(self).__name__} of these arguments must have shape {tuple(default.shape)}, "
                    f"got {tuple(state.shape)}: take it from a metric that was made with the same arguments."
                )
            else:
                taken[name] = state.to(self.device, default.dtype)
        return taken

    def _came(self, updates: int) -> None:
        # torchmetrics would give the value from before, or warn that there is none.
        self._computed = None
        self._update_count += updates

    @contextmanager
    def _whole_or_not(self) -> Iterator[None]:
        """What fails in this context leaves the metric as it was."""
        before = self.__dict__ | {name: list(state) for name in self._empty if isinstance(state := getattr(self, name), list)}
        try:
            yield
        except BaseException:
            self.__dict__.update(before)
            raise

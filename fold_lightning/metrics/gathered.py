"""Metrics whose states stay exact, and whose lists may be empty on some processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

State = Tensor | list[Tensor]


class GatheredMetric(Metric):
    """Base class of this package's metrics: states stay exact, and lists may be empty on some processes.

    States keep their dtype under `half`, `set_dtype` and ``precision="bf16-true"``: conversion would round chi and destroy
    fingerprints. Subclasses replace their tensor states in `update` and never change them in place, because a tensor
    made in inference mode cannot be changed outside it.

    Attributes:
        arguments: Names of the arguments of a subclass; two metrics merge only if their values are equal.
    """

    arguments: ClassVar[tuple[str, ...]] = ()

    is_differentiable = False
    higher_is_better: bool | None = None  # neither direction is better
    full_state_update = False
    plot_lower_bound: float = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._empty: dict[str, Tensor] = {}

    def add_list(self, name: str, empty: Tensor) -> None:
        """Add a state that is a list of tensors like ``empty``, which are joined along their first dimension."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._empty[name] = empty

    @property
    def home(self) -> torch.device:
        """Device of the list states."""
        return torch.device("cpu") if self.compute_on_cpu else self.device

    def joined(self, name: str) -> Tensor:
        """Return a list state as one tensor, before or after gathering; empty if nothing was seen."""
        state: State = getattr(self, name)
        parts = [part.to(self.home) for part in ([state] if isinstance(state, Tensor) else state or [self._empty[name]])]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the states of another metric of the same class and arguments, or states ``{name: state}``.

        Raises:
            ValueError: If the metric has another class or other arguments.
        """
        if type(incoming_state) is type(self):
            for name in self.arguments:
                ours, theirs = getattr(self, name), getattr(incoming_state, name)
                if ours != theirs:
                    raise ValueError(f"Metrics that are merged must have the same `{name}`, got {ours!r} and {theirs!r}.")
        super().merge_state(incoming_state)
        self._computed = None  # else `compute` would return the value before the merge

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes."""
        empty = [name for name in self._empty if isinstance(state := getattr(self, name), list) and not state]
        for name in empty:  # else torchmetrics would gather an empty float32 tensor of one dimension
            setattr(self, name, [self._empty[name].to(self.home)])
        super().sync(*args, **kwargs)
        for name in empty:
            if self._is_synced and self._cache is not None:
                self._cache[name] = []
            else:
                setattr(self, name, [])

    def extra_repr(self) -> str:
        """Return the arguments, without the states, for `repr`."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.arguments)

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context in which the states are those of all processes, as they are in `compute`."""
        should_sync = self.sync_on_compute and not self._is_synced
        return self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=should_sync, should_unsync=should_sync)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the metric's own figure, or values.

        Args:
            val: A value of `compute` or `forward`, or a list of them, one for each step. None draws the metric's own
                figure; if it has none, or `ax` is given, it draws the value of `compute`.
            ax: A matplotlib axis to draw values on; None makes a figure.

        Returns:
            The figure, None if an axis was given, and the axis.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.
            ValueError: If a figure of segments or regions is asked for, and there are none.
        """
        figure = self._figure() if val is None and ax is None else None
        return self._plot(val, ax) if figure is None else (figure, figure.axes[0])

    def _figure(self) -> Figure | None:
        """Return the metric's own figure, None if it has none."""
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, *args, **kwargs)

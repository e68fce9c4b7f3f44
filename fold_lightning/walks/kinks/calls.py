"""Calls of torch functions on tensors that carry kinks."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.tracking import has_input_rows, map_tensors
from fold_lightning.walks.kinks.boxes import FeatureMapShape, Signal

RESHAPES = ("view", "reshape", "expand", "broadcast_to")
"""Calls whose arguments may include the batch size."""


class NoRule(Exception):
    """Error for a call through which no rule passes kinks."""


class RowCall(Call):
    """A call that can be repeated with other rows."""

    def of_rows(self, rows: dict[int, Tensor], batch: int) -> Any:
        """Return the result with other rows in place of the given arguments' rows.

        Args:
            rows: Id of an argument -> its rows (B', ...).
            batch: Number of rows of the pass.
        """
        count = len(next(iter(rows.values())))

        def replaced(tensor: Tensor) -> Tensor:
            if id(tensor) in rows:
                return rows[id(tensor)]
            if has_input_rows(tensor) and len(tensor) == batch:  # equal rows
                return tensor[:1].expand(count, *tensor.shape[1:])
            return tensor

        args, kwargs = map_tensors(replaced, (self.args, self.kwargs))
        sizes = args[1] if len(args) > 1 and isinstance(args[1], (tuple, list)) else args[1:]
        if self.name in RESHAPES and sizes and sizes[0] == batch:
            args = (args[0], (count, *sizes[1:]))
        return self.function(*args, **kwargs)

    def key(self) -> Hashable:
        """Return a key that is equal for calls that differ only in the values of the one tensor that depends on the input."""
        shape = tuple(self.varying[0].shape[1:])
        return self.name, shape, repr(map_tensors(lambda tensor: tensor.new_empty(0), (self.args, self.kwargs)))

    def on_planes(self, planes: Tensor) -> Tensor:
        """Return the result for feature maps (N, C, ...) instead of the one tensor that depends on the input."""
        x = self.varying[0]
        result: Tensor = self.of_rows({id(x): planes}, len(x))
        return result


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of one row."""
    return tuple(tensor.shape[1:])


def signal_of(tensor: Tensor) -> Signal:
    """Return the kinks of a tensor, none for inputs."""
    known: Signal | None = getattr(tensor, "_kinks", None)
    return Signal(FeatureMapShape.of(shape_of(tensor)), {}) if known is None else known


def planar_signal(tensor: Tensor) -> Signal:
    """Return the kinks of a tensor in its own shape."""
    return signal_of(tensor).as_plane(FeatureMapShape.of(shape_of(tensor)))


def attach(tensor: Tensor, signal: Signal) -> None:
    """Let a tensor carry kinks."""
    tensor._kinks = signal  # type: ignore[attr-defined]

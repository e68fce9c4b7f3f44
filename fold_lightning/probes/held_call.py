"""Calls of a model in which one tensor of a batch varies and the others are held at the values of one row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from fold_lightning.activations.evaluation import forward_function
from fold_lightning.activations.tracking import has_input_rows, mark_rows
from fold_lightning.probes.batch_parts import Path, replace_tensors, tensors_by_path
from fold_lightning.probes.steps import call_step

Style = Literal["tensor", "argument", "keywords", "positional", "step"]
"""Ways to call a model: with the tensor alone, with a part of the batch, with the part's entries, or by its own step."""


@dataclass(frozen=True, eq=False)
class HeldCall:
    """A `forward=` that puts inputs into a part of a batch, and calls the model with that.

    Attributes:
        held: The part; its tensors with one row per input are reduced to one row.
        path: Path in the part to the tensor that varies.
        rows: Paths in the part to tensors with one row per input.
        style: How the model is called.
        method: Name of the method, submodule or step to call; None calls the model.
        embedding: Path of the `nn.Embedding` whose output is replaced by the inputs; None if the inputs replace the tensor.
    """

    held: Any
    path: Path
    rows: frozenset[Path]
    style: Style
    method: str | None = None
    embedding: str | None = None

    def __call__(self, model: nn.Module, inputs: Tensor) -> Any:
        """Call the model with inputs (B, ...) in place of the tensor that varies."""
        values = replace_tensors(self.held, lambda path, tensor: self._value(path, tensor, inputs))
        if self.embedding is None:
            return self._call(model, values)
        with _replaced_output(model.get_submodule(self.embedding), inputs):
            return self._call(model, values)

    def _call(self, model: nn.Module, values: Any) -> Any:
        if self.style == "step":
            assert self.method is not None
            return call_step(model, self.method, values)
        function: Any = forward_function(model, self.method)
        if self.style == "keywords":
            return function(**values)
        return function(*values) if self.style == "positional" else function(values)

    def _value(self, path: Path, tensor: Tensor, inputs: Tensor) -> Tensor:
        if path == self.path and self.embedding is None:
            return inputs
        dtype = inputs.dtype if tensor.is_floating_point() and inputs.is_floating_point() else tensor.dtype
        tensor = tensor.to(inputs.device, dtype)
        if path in self.rows:
            tensor = tensor.expand(len(inputs), *tensor.shape[1:])
        tensor = tensor.clone()  # a model may write into its arguments
        if path not in self.rows:
            return tensor
        # With this mark, a walk that adds rows to the batch during a pass repeats the tensor's row for them.
        return mark_rows(tensor, constant=True) if has_input_rows(inputs) else tensor


def hold_rows(part: Any, path: Path, num_rows: int) -> tuple[Any, frozenset[Path]]:
    """Reduce each tensor with one row per input to one row; return the part, on the CPU, and the paths to these tensors.

    Args:
        part: A part of a batch, which is not changed.
        path: Path in the part to the tensor that varies.
        num_rows: Batch size B.
    """
    rows = frozenset(at for at, tensor in tensors_by_path(part) if tensor.dim() > 0 and len(tensor) == num_rows)
    rows |= {path}

    def first_row(at: Path, tensor: Tensor) -> Tensor:
        return (tensor[:1] if at in rows else tensor).detach().cpu().clone()

    return replace_tensors(part, first_row), rows


@contextmanager
def _replaced_output(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Replace a module's output in this context."""
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()

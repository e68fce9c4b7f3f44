"""A pass that reads the pre-activations of layers, and makes sure that they are the layers of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import VARYING_LAYERS, LayersVary, ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.registry import Thresholds


class LayerPass(Interception):
    """A pass that shows the pre-activations of the layers up to one to a reader.

    Args:
        replica: Replica of the model.
        structure: Its activations.
        read: Takes a layer, its thresholds and its pre-activations (B, n).
        last: Layer at which the pass ends; None ends it at the last that counts, unless other inputs may meet more.
        to_end: Whether the pass goes on to the end of the model.

    Raises:
        LayersVary: If a pass meets other layers than the inspection did.
    """

    def __init__(
        self,
        replica: Replica,
        structure: ModelStructure,
        read: Callable[[str, Thresholds, Tensor], Any],
        *,
        last: str | None = None,
        to_end: bool = False,
    ) -> None:
        super().__init__(replica)
        self._structure, self._read, self._has_ended = structure, read, False
        goes_on = to_end or (last is None and structure.is_row_by_row and structure.is_whole)
        self._last = None if goes_on else last or structure.needed[-1]

    def run(self, inputs: Tensor) -> Any:
        """Pass inputs (B, ...) through the model."""
        output = super().run(inputs)
        if not self._has_ended:
            self._structure.check_end(self.num_activations)
        return output

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Check the layer and show its pre-activations."""
        structure, number = self._structure, self.num_activations - 1
        structure.check_layer(number, layer, z, self.num_inputs)
        if number < len(structure.needed):
            if self.is_row_by_row and self.num_inputs > 1 and not structure.is_row_by_row:
                raise LayersVary(f"Values of the batch decide how it comes to layer {layer!r}. {VARYING_LAYERS}")
            self._read(layer, thresholds, structure.per_input(layer, z, self.num_inputs))
        if layer == self._last:
            self._has_ended = True
            raise PassEnded
        return call(z)

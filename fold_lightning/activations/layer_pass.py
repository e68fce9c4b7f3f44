"""A pass that reads the pre-activations of layers, and checks that they are the layers of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.inspection import VARYING_LAYERS, LayersVary, ModelStructure
from fold_lightning.activations.interception import Interception, PassEnded
from fold_lightning.activations.registry import Thresholds


class LayerPass(Interception):
    """A pass that calls a function with the pre-activations of each layer.

    Args:
        replica: Replica of the model.
        structure: Result of the model's inspection.
        read: Function of a layer's name, its thresholds and its pre-activations (B, n).
        last: Layer at which the pass ends; None ends it at the last counted layer, or at the end of the model if inputs might
            run further layers.
        to_end: Whether the pass runs to the end of the model.

    Raises:
        LayersVary: If a pass runs other layers than the inspection found.
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
        """Check the layer and read its pre-activations."""
        structure, number = self._structure, self.num_activations - 1
        structure.check_layer(number, layer, z, self.num_inputs)
        if number < len(structure.needed):
            if self.is_row_by_row and self.num_inputs > 1 and not structure.is_row_by_row:
                raise LayersVary(f"The path of a batch to layer {layer!r} depends on its values. {VARYING_LAYERS}")
            self._read(layer, thresholds, structure.per_input(layer, z, self.num_inputs))
        if layer == self._last:
            self._has_ended = True
            raise PassEnded
        return call(z)

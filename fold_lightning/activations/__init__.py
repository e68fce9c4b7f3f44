"""Activations: the units of a network, found during its forward pass, and the codes of inputs.

- `structural_copy`, `replica`, `evaluation`: a copy of the user's model, on which all forward passes run.
- `tracking`, `calls`, `operations`, `registry`, `idioms`, `choosing`: which tensors depend on the inputs, and how each torch
  call acts on them.
- `interception`: a forward pass in which every torch call is intercepted; `structure_pass` and `inspection` find the layers,
  `layer_pass` reads them.
- `rounding`, `codes`, `gradients`: pre-activations that are 0 up to rounding, the bits, and differentiable pre-activations.
"""

from fold_lightning.activations.codes import ActivationCodes, activation_codes
from fold_lightning.activations.registry import register_activation

__all__ = ["ActivationCodes", "activation_codes", "register_activation"]

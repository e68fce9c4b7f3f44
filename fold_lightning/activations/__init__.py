"""Activations: the units of a network, met during its forward pass, and the codes of inputs.

- `structural_copy`, `replica`, `evaluation`: a copy of the user's model, which is passed inputs in its stead.
- `tracking`, `calls`, `operations`, `registry`, `idioms`, `choosing`: what a call of torch does with what depends on the inputs.
- `interception`: a forward pass with every call in view; `structure_pass` and `inspection` find the layers, `layer_pass` reads them.
- `rounding`, `codes`, `gradients`: which pre-activations are 0, the bits, and pre-activations to differentiate.
"""

from fold_lightning.activations.codes import ActivationCodes, activation_codes
from fold_lightning.activations.registry import register_activation

__all__ = ["ActivationCodes", "activation_codes", "register_activation"]

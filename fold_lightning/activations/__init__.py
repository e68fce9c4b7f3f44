"""Activations: the units of a network, met during its forward pass, and the codes of inputs."""

from fold_lightning.activations.codes import ActivationCodes, activation_codes
from fold_lightning.activations.registry import register_activation

__all__ = ["ActivationCodes", "activation_codes", "register_activation"]

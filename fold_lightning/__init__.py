"""Watch how a neural network folds its input space while Lightning trains it."""

from fold_lightning.activations import ActivationCodes, activation_codes, register_activation
from fold_lightning.callbacks import FoldingMonitor
from fold_lightning.codes import hamming_distance
from fold_lightning.folding import folding_profile, space_folding, walk_length, walk_range
from fold_lightning.metrics import SpaceFolding
from fold_lightning.walks import Walks, segment_walks

__all__ = [
    "ActivationCodes",
    "FoldingMonitor",
    "SpaceFolding",
    "Walks",
    "activation_codes",
    "folding_profile",
    "hamming_distance",
    "register_activation",
    "segment_walks",
    "space_folding",
    "walk_length",
    "walk_range",
]

"""Watch how a neural network folds its input space while Lightning trains it."""

from fold_lightning.activations import ActivationCodes, activation_codes, register_activation
from fold_lightning.callbacks import FoldingMonitor
from fold_lightning.codes import code_fingerprints, distinct_fingerprints, hamming_distance
from fold_lightning.folding import folding_profile, global_folding, space_folding, walk_length, walk_range
from fold_lightning.metrics import DistinctCodes, GlobalFolding, SpaceFolding
from fold_lightning.regions import ActivationRegions, activation_regions
from fold_lightning.regularizer import FoldingRegularizer
from fold_lightning.walks import Walks, segment_walks

__all__ = [
    "ActivationCodes",
    "ActivationRegions",
    "DistinctCodes",
    "FoldingMonitor",
    "FoldingRegularizer",
    "GlobalFolding",
    "SpaceFolding",
    "Walks",
    "activation_codes",
    "activation_regions",
    "code_fingerprints",
    "distinct_fingerprints",
    "folding_profile",
    "global_folding",
    "hamming_distance",
    "register_activation",
    "segment_walks",
    "space_folding",
    "walk_length",
    "walk_range",
]

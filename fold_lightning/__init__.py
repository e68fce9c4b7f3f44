"""Watch how a neural network folds its input space while Lightning trains it."""

from typing import TYPE_CHECKING, Any

from fold_lightning.activations import ActivationCodes, activation_codes, register_activation
from fold_lightning.codes import code_fingerprints, distinct_fingerprints, hamming_distance
from fold_lightning.faces import face_counts, supporting_units
from fold_lightning.folding import folding_profile, global_folding, space_folding, walk_length, walk_range
from fold_lightning.metrics import CodeDistances, DistinctCodes, FaceStatistics, GlobalFolding, SpaceFolding, UnitActivity
from fold_lightning.region_graph import RegionGraph, region_graph
from fold_lightning.regions import ActivationRegions, activation_regions
from fold_lightning.regularizer import FoldingRegularizer
from fold_lightning.shapes import RegionShape, region_shapes
from fold_lightning.walks import Walks, segment_walks

if TYPE_CHECKING:
    from fold_lightning.callbacks import FoldingMonitor

__all__ = [
    "ActivationCodes",
    "ActivationRegions",
    "CodeDistances",
    "DistinctCodes",
    "FaceStatistics",
    "FoldingMonitor",
    "FoldingRegularizer",
    "GlobalFolding",
    "RegionGraph",
    "RegionShape",
    "SpaceFolding",
    "UnitActivity",
    "Walks",
    "activation_codes",
    "activation_regions",
    "code_fingerprints",
    "distinct_fingerprints",
    "face_counts",
    "folding_profile",
    "global_folding",
    "hamming_distance",
    "region_graph",
    "region_shapes",
    "register_activation",
    "segment_walks",
    "space_folding",
    "supporting_units",
    "walk_length",
    "walk_range",
]


def __getattr__(name: str) -> Any:
    if name != "FoldingMonitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fold_lightning import callbacks

    callbacks.join_twins()  # `pytorch_lightning` may have been imported since
    return callbacks.FoldingMonitor

"""Measure how a neural network folds its input space while Lightning trains it."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fold_lightning.activations import ActivationCodes, activation_codes, register_activation
    from fold_lightning.callbacks import FoldingMonitor, measure
    from fold_lightning.codes import hamming_distance
    from fold_lightning.faces import face_counts, supporting_units
    from fold_lightning.fingerprints import code_fingerprints, distinct_fingerprints
    from fold_lightning.folding import folding_profile, global_folding, space_folding, walk_length, walk_range
    from fold_lightning.metrics import CodeDistances, DistinctCodes, FaceStatistics, GlobalFolding, SpaceFolding, UnitActivity
    from fold_lightning.probes import class_segments
    from fold_lightning.region_graphs import RegionGraph, region_graph
    from fold_lightning.regions import ActivationRegions, activation_regions, boundary_distances, stream_regions
    from fold_lightning.regularizer import FoldingRegularizer
    from fold_lightning.shapes import RegionShape, region_shapes
    from fold_lightning.slice_maps import SliceMap, slice_map
    from fold_lightning.tensorboard_tab import read_log
    from fold_lightning.walks import Walks, segment_walks, stream_walks

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
    "SliceMap",
    "SpaceFolding",
    "UnitActivity",
    "Walks",
    "activation_codes",
    "activation_regions",
    "boundary_distances",
    "class_segments",
    "code_fingerprints",
    "distinct_fingerprints",
    "face_counts",
    "folding_profile",
    "global_folding",
    "hamming_distance",
    "measure",
    "read_log",
    "region_graph",
    "region_shapes",
    "register_activation",
    "segment_walks",
    "slice_map",
    "space_folding",
    "stream_regions",
    "stream_walks",
    "supporting_units",
    "walk_length",
    "walk_range",
]

_MODULES = {
    "activations": ("ActivationCodes", "activation_codes", "register_activation"),
    "callbacks": ("FoldingMonitor", "measure"),
    "codes": ("hamming_distance",),
    "faces": ("face_counts", "supporting_units"),
    "fingerprints": ("code_fingerprints", "distinct_fingerprints"),
    "folding": ("folding_profile", "global_folding", "space_folding", "walk_length", "walk_range"),
    "metrics": ("CodeDistances", "DistinctCodes", "FaceStatistics", "GlobalFolding", "SpaceFolding", "UnitActivity"),
    "region_graphs": ("RegionGraph", "region_graph"),
    "regions": ("ActivationRegions", "activation_regions", "boundary_distances", "stream_regions"),
    "probes": ("class_segments",),
    "regularizer": ("FoldingRegularizer",),
    "shapes": ("RegionShape", "region_shapes"),
    "slice_maps": ("SliceMap", "slice_map"),
    "tensorboard_tab": ("read_log",),
    "walks": ("Walks", "segment_walks", "stream_walks"),
}
"""Module -> its public names, imported on first use because Lightning imports this package for every Trainer."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("fold-lightning")
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f"fold_lightning.{module}")
    if module == "callbacks":
        # A command line asks for the class before it creates one, and `pytorch_lightning` may have been imported meanwhile.
        import_module("fold_lightning.lightning_packages").derive_from_both_packages()
    return getattr(found, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

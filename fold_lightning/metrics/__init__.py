"""The measures of this package as torchmetrics, accumulated over batches and processes."""

from fold_lightning.metrics.code_distances import CodeDistances
from fold_lightning.metrics.distinct_codes import DistinctCodes
from fold_lightning.metrics.face_statistics import FaceStatistics
from fold_lightning.metrics.global_folding import GlobalFolding
from fold_lightning.metrics.space_folding import SpaceFolding
from fold_lightning.metrics.unit_activity import UnitActivity

__all__ = ["CodeDistances", "DistinctCodes", "FaceStatistics", "GlobalFolding", "SpaceFolding", "UnitActivity"]

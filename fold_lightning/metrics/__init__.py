"""The measures of this package as torchmetrics, accumulated over batches and processes."""

from fold_lightning.metrics.distinct_codes import DistinctCodes
from fold_lightning.metrics.face_statistics import FaceStatistics
from fold_lightning.metrics.global_folding import GlobalFolding
from fold_lightning.metrics.space_folding import SpaceFolding

__all__ = ["DistinctCodes", "FaceStatistics", "GlobalFolding", "SpaceFolding"]

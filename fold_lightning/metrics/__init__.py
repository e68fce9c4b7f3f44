"""The measures of this package as torchmetrics, accumulated over batches and processes."""

from torch.serialization import add_safe_globals
from torchmetrics.metric import jit_distributed_available
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_max, dim_zero_sum

from fold_lightning.metrics.code_distances import CodeDistances
from fold_lightning.metrics.distinct_codes import DistinctCodes
from fold_lightning.metrics.face_statistics import FaceStatistics
from fold_lightning.metrics.global_folding import GlobalFolding
from fold_lightning.metrics.space_folding import SpaceFolding
from fold_lightning.metrics.unit_activity import UnitActivity

__all__ = ["CodeDistances", "DistinctCodes", "FaceStatistics", "GlobalFolding", "SpaceFolding", "UnitActivity"]

# For `torch.load(weights_only=True)` of whole metrics, which refer to functions of torchmetrics.
add_safe_globals([CodeDistances, DistinctCodes, FaceStatistics, GlobalFolding, SpaceFolding, UnitActivity])
add_safe_globals([dim_zero_cat, dim_zero_max, dim_zero_sum, jit_distributed_available])

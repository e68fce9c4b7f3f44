"""The regularizer: a differentiable measure of folding that pushes training towards more folding."""

from fold_lightning.regularizer.held import HeldGradient
from fold_lightning.regularizer.schedules import Schedule
from fold_lightning.regularizer.soft import soft_bits, soft_folding
from fold_lightning.regularizer.term import FoldingRegularizer

__all__ = ["FoldingRegularizer", "HeldGradient", "Schedule", "soft_bits", "soft_folding"]

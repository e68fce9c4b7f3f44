"""The Folding tab of TensorBoard, and its data for notebooks.

TensorBoard imports this when it starts, so nothing here imports torch or Lightning.
"""

from fold_lightning.tensorboard_tab.log import read_log

__all__ = ["read_log"]

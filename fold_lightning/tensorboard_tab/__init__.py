"""The Folding tab of TensorBoard, and its data for notebooks.

TensorBoard imports this package when it starts, so no module here imports torch or Lightning.
"""

from fold_lightning.tensorboard_tab.log import read_log

__all__ = ["read_log"]

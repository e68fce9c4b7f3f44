"""Lightning's two packages, `lightning.pytorch` and `pytorch_lightning`, which define the same classes twice.

`pytorch_lightning` is never imported here, because that redirects the messages of `lightning.pytorch` to its own logger. It
counts only if the user has imported it.
"""

from __future__ import annotations

import importlib
import sys


def in_both_packages(cls: type) -> tuple[type, ...]:
    """Return a class of `lightning.pytorch`, and its `pytorch_lightning` twin if the user has imported that package.

    Example:
        >>> from lightning.pytorch import Callback
        >>> in_both_packages(Callback)[0] is Callback
        True
    """
    if "pytorch_lightning" not in sys.modules:
        return (cls,)
    module = importlib.import_module(cls.__module__.replace("lightning.pytorch", "pytorch_lightning", 1))
    return cls, getattr(module, cls.__name__)


def derive_from_both(derived: type, cls: type) -> None:
    """Make a subclass of a `lightning.pytorch` class a subclass of its `pytorch_lightning` twin too, if that is imported.

    The command line of `pytorch_lightning` accepts only its own callbacks, and may be imported after this package.
    """
    if derived.__bases__ != in_both_packages(cls):
        derived.__bases__ = in_both_packages(cls)

"""Lightning's two packages, `lightning.pytorch` and `pytorch_lightning`, which define the same classes twice.

`pytorch_lightning` is never imported here, because that redirects the messages of `lightning.pytorch` to its own logger. It
counts only if the user has imported it.
"""

from __future__ import annotations

import importlib
import sys

from lightning.pytorch import Callback


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


class AnyCallback(Callback):
    """A callback of `lightning.pytorch`, and of `pytorch_lightning` if that has been imported when one is created.

    Trainers and command lines of `pytorch_lightning` accept only its own callbacks.
    """

    def __init__(self) -> None:
        derive_from_both_packages()
        super().__init__()


def derive_from_both_packages() -> None:
    """Make `AnyCallback` a subclass of `pytorch_lightning.Callback` too, if that package has been imported."""
    bases = in_both_packages(Callback)
    if AnyCallback.__bases__ != bases:
        AnyCallback.__bases__ = bases


derive_from_both_packages()  # for command lines that import a module of callbacks by its path

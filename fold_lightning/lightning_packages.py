"""Lightning's two packages, `lightning.pytorch` and `pytorch_lightning`, which hold the same classes twice.

`pytorch_lightning` is never imported here, for that moves the messages of `lightning.pytorch` to its own logger: only a package
that the user has imported counts.
"""

from __future__ import annotations

import importlib
import sys


def in_both_packages(cls: type) -> tuple[type, ...]:
    """Return a class of `lightning.pytorch`, and that of `pytorch_lightning` where the user has imported it.

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
    """Make a class that derives from one of `lightning.pytorch` derive from that of `pytorch_lightning` too, once imported.

    The command line of `pytorch_lightning` takes no other callbacks, and may be imported after this package.
    """
    if derived.__bases__ != in_both_packages(cls):
        derived.__bases__ = in_both_packages(cls)

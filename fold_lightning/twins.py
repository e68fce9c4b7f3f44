"""Lightning comes as two packages that hold the same classes twice: `lightning.pytorch` and `pytorch_lightning`.

Importing the second moves the first one's messages to its own logger, so it is never imported here: what a user has imported counts.
"""

from __future__ import annotations

import importlib
import sys


def both(cls: type) -> tuple[type, ...]:
    """A class of `lightning.pytorch`, and its twin where the user has imported `pytorch_lightning`.

    Example:
        >>> from lightning.pytorch import Callback
        >>> both(Callback)[0] is Callback
        True
    """
    if "pytorch_lightning" not in sys.modules:
        return (cls,)
    module = importlib.import_module(cls.__module__.replace("lightning.pytorch", "pytorch_lightning", 1))
    return cls, getattr(module, cls.__name__)


def join(heir: type, cls: type) -> None:
    """Lets a class that derives from one of `lightning.pytorch` alone derive from its twin too, as soon as there is one.

    `pytorch_lightning`'s command line takes no other callbacks, and may be imported later than the heir.
    """
    if heir.__bases__ != both(cls):
        heir.__bases__ = both(cls)

"""Folding without a line of code: what Lightning's entry point for callbacks calls whenever a Trainer is made.

It lies beside the package, so that where nobody asks for it nothing is imported, and nothing of ours can stand in a Trainer's way.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

VARIABLE = "FOLD_LIGHTNING"

OFF = ("", "0", "false", "no", "off")


def callbacks() -> list[Any]:
    """A default `FoldingMonitor` if the environment has ``FOLD_LIGHTNING=1``; nothing otherwise. It never raises.

    Example:
        >>> os.environ.pop("FOLD_LIGHTNING", None) and None
        >>> callbacks()
        []
    """
    if os.environ.get(VARIABLE, "").strip().lower() in OFF:
        return []
    try:
        from fold_lightning import FoldingMonitor  # noqa: F401  # which joins it with the callbacks of `pytorch_lightning`
        from fold_lightning.callbacks.stepping_aside import MonitorFromEnvironment

        return [MonitorFromEnvironment()]
    except Exception as error:
        warnings.warn(f"{VARIABLE} is set, but fold_lightning can't be imported: {error!r}", stacklevel=2)
        return []

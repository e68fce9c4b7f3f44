"""The function that Lightning's entry point for callbacks calls whenever a Trainer is created.

It imports the rest of the package only if an environment variable asks for a monitor, so that it costs nothing otherwise.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

VARIABLE = "FOLD_LIGHTNING"

OFF = ("", "0", "false", "no", "off")


def callbacks() -> list[Any]:
    """Return a default `FoldingMonitor` if the environment has ``FOLD_LIGHTNING=1``, else nothing; never raise.

    Example:
        >>> os.environ.pop("FOLD_LIGHTNING", None) and None
        >>> callbacks()
        []
    """
    if os.environ.get(VARIABLE, "").strip().lower() in OFF:
        return []
    try:
        from fold_lightning.callbacks.environment import EnvironmentMonitor

        return [EnvironmentMonitor()]
    except Exception as error:
        warnings.warn(f"{VARIABLE} is set, but fold_lightning can't be imported: {error!r}", stacklevel=2)
        return []

"""Summaries for TensorBoard's HPARAMS page: the hyperparameters of a run, and its metrics.

The page shows hyperparameters only if at least one run has listed its metrics, and uses one run's list for all runs. A metric's
value is the last one of the run's curve, so a run that was killed has values too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

MONITOR = "folding_monitor"
"""Prefix of the monitor's hyperparameters."""

FIRST_METRICS = ("folding/phi", "folding/chi_mean", "codes/distinct", "units/dead")
"""Tags that the page lists first, in this order; tags of the user's validation follow."""

SHOWN = (f"{MONITOR}/method", f"{MONITOR}/regularize")
"""Settings of the monitor that the page shows by default, with the user's own hyperparameters: it has room for five."""

MAX_TEXT = 200
"""Maximum number of characters of a hyperparameter on the page."""

Value = bool | float | str


def flat(hyperparameters: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Flatten nested hyperparameters: names are joined by a slash, values are numbers, bools or text.

    Example:
        >>> flat({"lr": 0.1, "folding_monitor": {"layers": None, "faces": True}})
        {'lr': 0.1, 'folding_monitor/layers': 'None', 'folding_monitor/faces': True}
    """
    found: dict[str, Value] = {}
    for name, value in hyperparameters.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (bool, str)) or (isinstance(value, (int, float)) and math.isfinite(value)):
            found[f"{prefix}{name}"] = value[:MAX_TEXT] if isinstance(value, str) else value
        else:
            found[f"{prefix}{name}"] = str(value)[:MAX_TEXT]
    return found


def session_start(hyperparameters: Mapping[str, Value]) -> Summary:
    """Return the summary that marks the start of a run, with its hyperparameters."""
    info = SessionStartInfo(start_time_secs=time.time())
    for name, value in hyperparameters.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    return _summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def experiment(hyperparameters: Mapping[str, Value], metrics: Iterable[str], descriptions: Mapping[str, str]) -> Summary:
    """Return the summary that names the columns of the page: hyperparameters with their types, and tags of curves."""
    types = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    columns = [
        api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DataType.Value(types.get(type(value), "DATA_TYPE_FLOAT64")),
            differs=name in SHOWN or not name.startswith(f"{MONITOR}/"),  # the page shows these first
        )
        for name, value in hyperparameters.items()
    ]
    tags = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), description=descriptions.get(tag, "")) for tag in metrics]
    found = api_pb2.Experiment(hparam_infos=columns, metric_infos=tags, time_created_secs=time.time())
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=found))


def session_end() -> Summary:
    """Return the summary that marks a run as finished."""
    info = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])

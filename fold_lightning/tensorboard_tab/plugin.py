"""The Folding tab as a plugin of TensorBoard: the files of its page, and the data that the page requests."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from fold_lightning._tables import ABOUT, PLUGIN, PREFIX, Table, unpack
from fold_lightning.tensorboard_tab.log import bytes_of

STATIC = Path(__file__).parent / "static"

MIME_TYPES = {".js": "application/javascript", ".css": "text/css"}

CACHE_SECONDS = 86_400
"""Seconds for which a browser caches plotly's 4 MB."""

CURVES = ("folding/", "codes/", "units/", "faces/", "regions/", "regularizer/", "monitor/")
"""Prefixes of the tags of curves that the tab shows."""

MAX_POINTS = 1000
"""Largest number of points of a curve that the server returns."""

MAX_STEPS = 100
"""Largest number of measurements whose tables TensorBoard keeps in memory, 50 KiB each: a random sample and the last."""

Json = dict[str, Any]


class FoldingLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard declares no types
    """Entry point of the plugin, which makes TensorBoard keep more steps than its default of 10 for plugins."""

    def fix_flags(self, flags: Namespace) -> None:
        flags.samples_per_plugin.setdefault(PLUGIN, MAX_STEPS)

    def load(self, context: Any) -> FoldingTab | None:
        return None if context.data_provider is None else FoldingTab(context)


class BadRequest(Exception):
    """Request with a missing or invalid run, table or step; the message says what was expected."""


class FoldingTab(base_plugin.TBPlugin):  # type: ignore[misc]
    """The Folding tab: its page, and the data of runs as JSON.

    Args:
        context: TensorBoard's context; its data provider reads the logs, also while they grow.
    """

    plugin_name = PLUGIN

    def __init__(self, context: Any) -> None:
        self._provider = context.data_provider

    def is_active(self) -> bool:
        return False  # TensorBoard itself checks for tensors of this plugin

    def frontend_metadata(self) -> Any:
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Folding")

    def get_plugin_apps(self) -> dict[str, Any]:
        routes = {"/runs": self.runs, "/curves": self.curves, "/table": self.table}
        return {"/static/*": serve_static} | {path: _as_json(answer) for path, answer in routes.items()}

    def runs(self, request: wrappers.Request) -> Json:
        """Return run -> names, last step and last time of its tables, whether it has curves, and its `about` table."""
        where = _where(request)
        tables = self._provider.list_tensors(**where, plugin_name=PLUGIN)
        scalars = self._provider.list_scalars(**where, plugin_name="scalars")
        about = self._provider.read_tensors(
            **where, plugin_name=PLUGIN, downsample=1, run_tag_filter=RunTagFilter(tags=[PREFIX + ABOUT])
        )
        return {
            run: {
                "tables": sorted(tag.removeprefix(PREFIX) for tag in tables.get(run, ())),
                "last_step": max((series.max_step for series in tables.get(run, {}).values()), default=0),
                "written": max((series.max_wall_time for series in tables.get(run, {}).values()), default=0),
                "curves": any(tag.startswith(CURVES) for tag in scalars.get(run, ())),
                "about": _columns(unpack(bytes_of(data[-1].numpy))) if (data := _only(about.get(run))) else {},
            }
            for run in sorted({*tables, *scalars})
        }

    def curves(self, request: wrappers.Request) -> Json:
        """Return tag -> description, steps and values of the monitor's curves of `run`."""
        where, run = _where(request), _argument(request, "run")
        listed = self._provider.list_scalars(**where, plugin_name="scalars", run_tag_filter=RunTagFilter(runs=[run]))
        tags = [tag for tag in listed.get(run, ()) if tag.startswith(CURVES)]
        if not tags:
            raise BadRequest(f"Expected a run with curves of FoldingMonitor, got {run!r}.")
        wanted = RunTagFilter(runs=[run], tags=tags)
        read = self._provider.read_scalars(**where, plugin_name="scalars", downsample=MAX_POINTS, run_tag_filter=wanted)
        return {
            tag: {
                "description": listed[run][tag].description,
                "steps": [datum.step for datum in data],
                "values": _numbers(np.array([datum.value for datum in data])),
            }
            for tag, data in sorted(read.get(run, {}).items())
        }

    def table(self, request: wrappers.Request) -> Json:
        """Return the columns of `table` of `run` at the last measurement up to `step`, else at the first, and its step."""
        run, table, step = (_argument(request, name) for name in ("run", "table", "step"))
        if not step.lstrip("-").isdigit():
            raise BadRequest(f"Expected an integer `step`, got {step!r}.")
        wanted = RunTagFilter(runs=[run], tags=[PREFIX + table])
        read = self._provider.read_tensors(**_where(request), plugin_name=PLUGIN, downsample=MAX_POINTS, run_tag_filter=wanted)
        data = _only(read.get(run))
        if not data:
            raise BadRequest(f"Expected a table that run {run!r} has, got {table!r}.")
        steps = [datum.step for datum in data]
        chosen = data[max(0, sum(each <= int(step) for each in steps) - 1)]
        return {"step": chosen.step, "columns": _columns(unpack(bytes_of(chosen.numpy)))}


@wrappers.Request.application
def serve_static(request: wrappers.Request) -> Any:
    """Answer with a file of the page, or with plotly from its Python package."""
    name = request.path.rpartition("/")[2]
    file = plotly_file() if name == "plotly.js" else STATIC / name
    if file is None or file.suffix not in MIME_TYPES or not file.is_file():
        return http_util.Respond(request, f"There is no file {name}.", "text/plain", code=404)
    expires = CACHE_SECONDS if name == "plotly.js" else 0
    return http_util.Respond(request, file.read_bytes(), MIME_TYPES[file.suffix], expires=expires)


def plotly_file() -> Path | None:
    """Return plotly's JavaScript in its Python package; None if plotly is not installed."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _as_json(answer: Callable[[wrappers.Request], Json]) -> Any:
    """Return an application that answers with the JSON of a function, or with its error message and code 400."""

    @wrappers.Request.application
    def application(request: wrappers.Request) -> Any:
        try:
            content, code = answer(request), 200
        except (BadRequest, ValueError) as error:
            content, code = {"error": str(error)}, 400
        return http_util.Respond(request, json.dumps(content, allow_nan=False), "application/json", code=code)

    return application


def _where(request: wrappers.Request) -> dict[str, Any]:
    """Return the arguments that identify the experiment of a request to a data provider."""
    environ = request.environ
    return {"ctx": plugin_util.context(environ), "experiment_id": plugin_util.experiment_id(environ)}


def _argument(request: wrappers.Request, name: str) -> str:
    value: str | None = request.args.get(name)
    if value is None:
        raise BadRequest(f"Expected an argument `{name}`, got {', '.join(request.args) or 'none'}.")
    return value


def _only(series: Any) -> Any:
    """Return the data of the only time series, empty if there is none."""
    return next(iter(series.values()), ()) if series else ()


def _columns(table: Table) -> Json:
    """Return a table for JSON: lists or single values, with None for NaN and infinity."""
    return {name: _numbers(column) for name, column in table.items()}


def _numbers(column: Any) -> Any:
    if column.dtype.kind == "f":
        column = np.where(np.isfinite(column), column, None)
    return column.tolist()

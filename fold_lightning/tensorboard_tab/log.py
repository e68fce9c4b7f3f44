"""Reader of the tables that a monitor wrote to TensorBoard's event files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from fold_lightning._tables import PLUGIN, PREFIX, Table, unpack

EVENT_FILES = "*.tfevents.*"

LISTED_RUNS = 10
"""Maximum number of runs that an error lists."""

Log = dict[str, dict[int, Table]]


def read_log(log_dir: str | os.PathLike[str]) -> Log:
    """Return the tables that `FoldingMonitor` wrote for the Folding tab of TensorBoard, as arrays.

    ========== ================================================================================================================
    table      columns, with a row for each ...
    ========== ================================================================================================================
    segments   segment: `segment`, `start`, `end` (indices of its inputs in the sample), `start_class`, `end_class` (where there are
               labels), `chi`, `exact`, `complete`, and `regions` for exact walks
    pairs      ordered pair of classes that has segments: `start_class`, `end_class`, `folding` (Phi_N aggregates it)
    walks      stored point of a walk, in order: `segment`, `position` t in [0, 1], `distance` (units that differ from the
               first code), `length` (switches so far); chi up to a point is 1 - largest distance so far / length
    layers     layer: `layer`, `chi` (mean over the segments, of its bits alone)
    units      layer: `layer`, `dead`, `always_active`, `active` (shares of units)
    codes      layer: `layer`, `distinct` (number of codes)
    distances  layer: `layer`, `within`, `between` (mean Hamming distances of codes, as shares of units)
    faces      region around an input: `faces`; and `bound`, one number
    map        region of a plane's window, where figures are due: `distance` (units that differ from the code of the first input's
               region), `faces` (regions beyond its edges), `prediction`, `confidence` (its softmax). Its polygon has the `vertices`
               (V, 2) whose numbers are in `corners` from its entry in `starts` up to the next one; `window` has the least and
               largest first and second coordinate, `marks` (I, 2) are the inputs, `mark_class` their classes. `prediction` is
               the class at a region's middle; with several classes, the parts by class have `part_region`, `part_prediction`,
               `part_confidence`, `part_corners` and `part_starts`, and `borders` (K, 2) joins the vertices between classes;
               left out where the table would be too large. If there is no map, `reason` says why
    about      how the run is measured, one text each: `method`, `method_reason`, `segments`, ...; and `class_names`
    ========== ================================================================================================================

    Inputs are numbered in the order in which they were drawn from the data, or given as ``probes=(inputs, labels)``: pass `probes=`
    to be able to find an input again.

    A table has at most 128 KiB before compression, `walks` and `map` at most 256 KiB. A larger table keeps evenly spaced rows, and
    `num_rows` is their number before. A long walk keeps the farthest and the nearest point of each of equal groups of steps.

    Args:
        log_dir: Folder of a run (``logger.log_dir``), or a folder that contains a single run at any depth.

    Returns:
        Table -> step -> column -> array. If a resumed run wrote a step twice, the later value is returned.

    Raises:
        FileNotFoundError: If the folder does not exist, or has no event file.
        ValueError: If the folder holds several runs, or no tables of a monitor.
        TypeError: If the folder is not a path.

    Example:
        >>> log = read_log("logs/digits/version_0")  # doctest: +SKIP
        >>> log["segments"][270]["chi"].mean()  # doctest: +SKIP
        0.27
    """
    if not isinstance(log_dir, (str, os.PathLike)):
        raise TypeError(
            f"`log_dir` must be the folder of a run, got {log_dir!r}: pass `logger.log_dir` of a `TensorBoardLogger`."
        )
    files = _event_files(Path(log_dir))
    found: Log = {}
    for file in files:
        for step, tag, data in _tensors(file):
            found.setdefault(tag.removeprefix(PREFIX), {})[step] = unpack(data)
    if not found:
        raise ValueError(
            f"Expected tables of FoldingMonitor in {log_dir}, got none: the run had no monitor, or one of an older version, which "
            "wrote only curves. Train with `Trainer(callbacks=[FoldingMonitor()], logger=TensorBoardLogger(...))`."
        )
    return {table: dict(sorted(steps.items())) for table, steps in found.items()}


def _event_files(folder: Path) -> list[Path]:
    """Return the event files of the one run in a folder, in the order of writing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected the folder of a run, got {folder}, which is not a folder: pass `logger.log_dir`.")
    runs = {file.parent for file in folder.rglob(EVENT_FILES)}
    if folder in runs:  # runs in subfolders come from other writers
        runs = {folder}
    if not runs:
        raise FileNotFoundError(
            f"Expected event files of TensorBoard in {folder}, got none: train with `TensorBoardLogger`, and pass its `log_dir`."
        )
    if len(runs) > 1:
        names = ", ".join(sorted(str(run.relative_to(folder)) for run in runs)[:LISTED_RUNS])
        more = f" and {len(runs) - LISTED_RUNS} more" if len(runs) > LISTED_RUNS else ""
        raise ValueError(f"Expected one run, got {len(runs)} in {folder}: {names}{more}. Pass the folder of one of them.")
    return sorted(runs.pop().glob(EVENT_FILES), key=lambda file: file.name)


def _tensors(file: Path) -> Iterator[tuple[int, str, bytes]]:
    """Yield step, tag and bytes of the plugin's tensors; an incomplete last event is skipped."""
    ours: set[str] = set()
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == PLUGIN:
                ours.add(value.tag)
            if value.tag in ours:
                yield event.step, value.tag, bytes_of(make_ndarray(value.tensor))


def bytes_of(tensor: Any) -> bytes:
    """Return the bytes in a tensor that holds one string."""
    return bytes(tensor.item() if tensor.ndim == 0 else tensor.flat[0])

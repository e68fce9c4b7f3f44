"""Walks as a table: a row for each segment, for data frames and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning.walks.events import folding_of, ranges

if TYPE_CHECKING:
    from fold_lightning.walks.walks import Walks

Array = np.ndarray[Any, Any]
Table = dict[str, Array]
Column = Any
"""A tensor, an array, a list or a data frame's column with an integer or name for each row; None for no column."""


def table_of(walks: Walks, engines: list[str], start: Column, end: Column, labels: Column) -> Table:
    """Return a column for each measure of a segment, as `Walks.table` describes them."""
    reached = ranges(walks.segment, walks.position, walks.unit, walks.num_segments, walks.num_units)
    walked = torch.bincount(walks.segment, minlength=walks.num_segments)
    columns = {"r1": reached, "r2": walked, "chi": folding_of(reached, walked), "regions": walks.num_regions()}
    columns |= {"exact": walks.exact, "complete": walks.complete, "resolution": walks.resolution}
    measured = {name: column.cpu().numpy() for name, column in columns.items()}
    indices = {"segment": np.arange(walks.num_segments)}
    return indices | _ends(walks.num_segments, start, end, labels) | measured | {"engine": _named(engines, walks.engine)}


def _named(engines: list[str], indices: Tensor) -> Array:
    names: Array = np.array(engines)[indices.cpu().numpy()]
    return names


def _ends(num_segments: int, start: Column, end: Column, labels: Column) -> Table:
    """Return the columns of the segments' ends and their classes, after checking the arguments."""
    if labels is not None and (start is None or end is None):
        raise ValueError("`labels` need the indices of the inputs at the segments' ends: pass `start=` and `end=` too.")
    given = {"start": start, "end": end}
    columns = {name: _indices(name, index, num_segments) for name, index in given.items() if index is not None}
    if labels is None:
        return columns
    classes, indices = _as_array(labels), np.concatenate([columns["start"], columns["end"]])
    if classes.ndim != 1 or (num_segments and not 0 <= indices.min() <= indices.max() < len(classes)):
        reach = f" for indices from {indices.min()} to {indices.max()}" if num_segments else ""
        raise ValueError(
            f"`labels` must have a class for each input, (B,), with B above the largest index, got {classes.shape}{reach}."
        )
    return columns | {f"{side}_class": classes[columns[side]] for side in ("start", "end")}


def _indices(name: str, index: Any, num_segments: int) -> Array:
    array = _as_array(index)
    if array.shape != (num_segments,) or (num_segments and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"`{name}` must be the index of an input for each of {num_segments} segments, integer (S,), got {array.dtype} "
            f"{array.shape}."
        )
    return array.astype(np.int64)


def _as_array(column: Any) -> Array:
    """Return a tensor on any device, a list or a data frame's column as an array."""
    if not isinstance(column, Tensor):
        return np.asarray(column)
    array: Array = column.detach().cpu().float().numpy() if column.dtype == torch.bfloat16 else column.detach().cpu().numpy()
    return array

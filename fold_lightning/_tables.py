"""Conversion of a measurement's tables to bytes, for TensorBoard's event files, and back.

A table is a mapping from names to arrays that have equally many rows, or no dimension. Its bytes are a compressed NumPy archive
without pickled objects, so that reading it runs no code from the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Table = dict[str, Array]

PLUGIN = "fold_lightning"
"""Name of the TensorBoard plugin that reads the tables."""

PREFIX = f"{PLUGIN}/"
"""Prefix of a table's tag; the table's name follows."""

ABOUT = "about"
"""Name of the table that describes how a run is measured; it is written once, when training begins."""

TABLE_BYTES = 2**17
"""Default maximum size of a table before compression, in bytes: 128 KiB."""

NUM_ROWS = "num_rows"
"""Name of a scalar column with the original number of rows, present if rows were left out."""


def pack(table: Mapping[str, Any]) -> bytes:
    """Convert a table to bytes; columns are arrays, lists, numbers or text.

    Example:
        >>> unpack(pack({"chi": [0.5, 0.25], "method": "exact"}))
        {'chi': array([0.5 , 0.25]), 'method': array('exact', dtype='<U5')}
    """
    buffer = io.BytesIO()
    columns: dict[str, Any] = {name: np.asarray(column) for name, column in table.items()}
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


def unpack(data: bytes) -> Table:
    """Convert bytes from `pack` back to a table.

    Raises:
        ValueError: If the bytes are not a table, or contain pickled objects.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return dict(archive)
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"Expected a table of FoldingMonitor, got {len(data)} bytes in another format: {error}") from error


def limit_size(table: Mapping[str, Array], max_bytes: int = TABLE_BYTES) -> Table:
    """Limit a table to `max_bytes`, by evenly spaced rows; if rows are left out, `num_rows` has their original number.

    Example:
        >>> limit_size({"chi": np.arange(6.0)}, max_bytes=24)
        {'chi': array([0., 2., 5.]), 'num_rows': array(6)}
    """
    count = max((len(column) for column in table.values() if column.ndim), default=0)
    size = sum(column.nbytes for column in table.values() if column.ndim)
    if size <= max_bytes:
        return dict(table)
    most = max(1, int(count * max_bytes / size))
    rows = np.arange(most) * (count - 1) // max(1, most - 1)
    return {name: column[rows] if column.ndim else column for name, column in table.items()} | {NUM_ROWS: np.asarray(count)}


def small_integers(column: Array) -> Array:
    """Convert integers to int32 if all of them fit, else to int64."""
    fits = not column.size or (column.min() >= -(2**31) and column.max() < 2**31)
    return column.astype(np.int32 if fits else np.int64)

"""Tables of a measurement as bytes, the way they lie in TensorBoard's event files, and back.

A table is a mapping from names to arrays whose first dimensions agree, or that have none. Its bytes are a compressed NumPy archive
without pickled objects, so that whoever reads them runs no code of the file.
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
"""Name of the plugin of TensorBoard whose tensors these are."""

PREFIX = f"{PLUGIN}/"
"""Beginning of their tags; the table's name follows."""

ABOUT = "about"
"""Table that is written once, when training begins: how the run is measured."""

TABLE_BYTES = 2**17
"""Bytes of a table before it is compressed, 128 KiB, if it does not say otherwise."""

NUM_ROWS = "num_rows"
"""Column without rows that says how many there were, where rows were left out."""


def pack(table: Mapping[str, Any]) -> bytes:
    """Return a table as bytes; columns are arrays, numbers or text.

    Example:
        >>> unpack(pack({"chi": [0.5, 0.25], "method": "exact"}))
        {'chi': array([0.5 , 0.25]), 'method': array('exact', dtype='<U5')}
    """
    buffer = io.BytesIO()
    columns: dict[str, Any] = {name: np.asarray(column) for name, column in table.items()}
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


def unpack(data: bytes) -> Table:
    """Return the table that `pack` made these bytes of.

    Raises:
        ValueError: If they are no table, or hold objects that would have to be unpickled.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return dict(archive)
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"Expected a table of FoldingMonitor, got {len(data)} bytes that are none: {error}") from error


def bounded(table: Mapping[str, Array], max_bytes: int = TABLE_BYTES) -> Table:
    """Return a table of at most so many bytes: evenly spaced rows of it, and their whole number as `num_rows`.

    Example:
        >>> bounded({"chi": np.arange(6.0)}, max_bytes=24)
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
    """Return integers in 4 bytes each where these hold them all, else in 8."""
    fits = not column.size or (column.min() >= -(2**31) and column.max() < 2**31)
    return column.astype(np.int32 if fits else np.int64)

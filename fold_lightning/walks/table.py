"""Walks as a table: a row for each segment, for data frames and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fold_lightning.walks.events import folding_of, ranges

if TYPE_CHECKING:
    from fold_lightning.walks.walks import Walks

Table = dict[str, np.ndarray[Any, Any]]


def table_of(walks: Walks, engines: list[str], start: Tensor | None, end: Tensor | None, labels: Tensor | None) -> Table:
    """Return a column for each measure of a segment, as `Walks.table` describes them."""
    reached = ranges(walks.segment, walks.position, walks.unit, walks.num_segments, walks.num_units)
    walked = torch.bincount(walks.segment, minlength=walks.num_segments)
    columns = {"segment": torch.arange(walks.num_segments)} | _ends(walks.num_segments, start, end, labels)
    columns |= {"r1": reached, "r2": walked, "chi": folding_of(reached, walked), "regions": walks.num_regions()}
    columns |= {"exact": walks.exact, "complete": walks.complete, "resolution": walks.resolution}
    table = {name: column.cpu().numpy() for name, column in columns.items()}
    return table | {"engine": np.array(engines)[walks.engine.cpu().numpy()]}


def _ends(num_segments: int, start: Tensor | None, end: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
    """Return the columns that say where segments start and end, after checking what is given."""
    if labels is not None and (start is None or end is None):
        raise ValueError("`labels` are those of the inputs: pass the indices `start=` and `end=` of the segments' ends too.")
    columns: dict[str, Tensor] = {}
    for name, index in (("start", start), ("end", end)):
        if index is None:
            continue
        if not isinstance(index, Tensor) or index.is_floating_point() or tuple(index.shape) != (num_segments,):
            got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(
                f"`{name}` must be the index of an input for each of {num_segments} segments, int64 (S,), got {got}."
            )
        columns[name] = index.cpu()
    if labels is not None:
        labels, indices = torch.as_tensor(labels).cpu(), torch.cat([columns["start"], columns["end"]])
        if labels.dim() != 1 or (num_segments and not 0 <= int(indices.min()) <= int(indices.max()) < len(labels)):
            raise ValueError(
                f"`labels` must have a class for each input, (B,), with B beyond the largest index, got {tuple(labels.shape)} for "
                f"indices from {int(indices.min())} to {int(indices.max())}."
            )
        columns |= {f"{side}_class": labels[columns[side]] for side in ("start", "end")}
    return columns

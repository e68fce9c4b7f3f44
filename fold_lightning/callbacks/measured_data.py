"""Data for `measure`: probes that can be read by index, or loaders whose batches are streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, default_convert

from fold_lightning.lightning_packages import in_both_packages
from fold_lightning.probes import ModelInput, flat_loaders, user_probes
from fold_lightning.probes.loaders import DEFAULT_BATCH_SIZE
from fold_lightning.probes.user_probes import is_array, is_pair

KINDS = (
    "inputs (B, ...), a pair of inputs and class labels, a dict of columns, a map-style data set, a data loader or another iterable "
    "of batches, or a data module"
)

STAGES = {"val": "validate", "test": "test", "train": "fit"}
"""Kind of a data module's loaders -> stage of its `setup`, in the order in which they are tried."""


class BatchRows(Dataset[Any]):
    """The rows of a batch as a data set.

    Args:
        batch: A tensor (B, ...), or a sequence or mapping of tensors with B rows each.
    """

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(_columns(self.batch)[0])

    def __getitem__(self, row: int) -> Any:
        if isinstance(self.batch, Tensor):
            return self.batch[row]
        if isinstance(self.batch, Mapping):
            return {name: column[row] for name, column in self.batch.items()}
        return tuple(column[row] for column in self.batch)


def split_data(model: nn.Module, data: Any, choice: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return (probes, None) for data that can be read by index, (None, loaders) for other data.

    Args:
        model: The model; a list holds batches if the model takes its first element.
        data: The user's data, except a data module.
        choice: The user's `batch_to_inputs` and `forward`, for `ModelInput.choose`.

    Raises:
        TypeError: If the data are of an unknown kind.
        ValueError: If the data are empty.
    """
    if isinstance(data, CombinedLoader):
        data = data.iterables
    if isinstance(data, IterableDataset):
        return None, DataLoader(data, DEFAULT_BATCH_SIZE)
    if isinstance(data, (DataLoader, CombinedLoader)) or _holds_loaders(data):
        return None, data
    if isinstance(data, Mapping):
        return _rows_of(data), None
    if isinstance(data, (list, tuple)) and not _is_labelled(data):
        return _split_sequence(model, data, choice)
    if is_array(data) or (hasattr(data, "__getitem__") and not isinstance(data, (type, str, bytes))):
        return user_probes(data, "data"), None
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Set)):
        return None, Converted(data)
    raise TypeError(f"`data` must be {KINDS}, got {_describe(data)}.")


def module_loaders(trainer: Trainer, module: Any) -> Any:
    """Attach a data module to a Trainer, and return its validation, test or training loaders, the first kind that exists."""
    datamodule = cast(LightningDataModule, module)
    trainer.datamodule = datamodule  # type: ignore[attr-defined]
    classes = in_both_packages(LightningDataModule)
    datamodule.prepare_data()
    for kind, stage in STAGES.items():
        if not all(is_overridden(f"{kind}_dataloader", datamodule, cls) for cls in classes):
            continue
        datamodule.setup(stage)
        loaders = getattr(datamodule, f"{kind}_dataloader")()
        loaders = loaders.iterables if isinstance(loaders, CombinedLoader) else loaders
        if flat_loaders(loaders):
            if kind != "val":
                rank_zero_info(f"measure takes `{kind}_dataloader`: {type(module).__name__} has no validation loader.")
            return loaders
    raise ValueError(
        f"The data module must have a validation, test or training loader, got {type(module).__name__} with none: define "
        "`val_dataloader`, or pass the data."
    )


class Converted:
    """Batches of any iterable, with NumPy arrays converted to tensors, as a data loader does."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return map(default_convert, self.batches)


def _split_sequence(model: nn.Module, data: Sequence[Any], choice: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return (probes, loaders) of a list, one of them None: of batches if the model takes the first element as one, else of items."""
    if not data:
        raise ValueError(f"`data` must be {KINDS}, got an empty {type(data).__name__}.")
    if _is_number(data[0]) or (
        isinstance(data[0], list) and all(_is_number(each) or isinstance(each, list) for each in data[0])
    ):
        raise TypeError(f"`data` must be {KINDS}, got {_describe(data)}: pass a tensor, such as `torch.tensor(data)`.")
    if not isinstance(data[0], (Mapping, list, tuple)) and not is_array(data[0]):
        return user_probes(data, "data"), None
    converted = [default_convert(each) for each in data]
    if isinstance(data, tuple) and all(isinstance(each, Tensor) for each in converted):
        return _rows_of(converted), None
    if not _is_batch(model, converted[0], choice):
        return (_stacked(converted) if isinstance(converted[0], Tensor) else converted), None
    rank_zero_info(f"measure reads `data` as a list of {len(data)} batches, whose rows are the inputs.")
    if not all(map(_has_rows, converted)):
        return None, iter(converted)
    # Collating integers with floats would turn classes into floats.
    forms = {tuple((column.shape[1:], column.is_floating_point()) for column in _columns(batch)) for batch in converted}
    return (ConcatDataset([BatchRows(batch) for batch in converted]), None) if len(forms) == 1 else (None, iter(converted))


def _stacked(items: Sequence[Tensor]) -> Tensor:
    shapes = list(dict.fromkeys(tuple(item.shape) for item in items))
    if len(shapes) > 1:
        raise ValueError(f"Items of `data` must have one shape, got {', '.join(map(str, shapes[:3]))}: pad or crop them.")
    return torch.stack(list(items))


def _is_labelled(data: Sequence[Any]) -> bool:
    """Return whether a list or tuple is a pair of inputs and labels, and not two batches of inputs."""
    if not is_pair(data) or isinstance(data, tuple):
        return is_pair(data)
    inputs, labels = default_convert(data[0]), default_convert(data[1])
    return not (isinstance(labels, Tensor) and labels.is_floating_point() and labels.shape[1:] == inputs.shape[1:])


def _is_batch(model: nn.Module, first: Any, choice: Mapping[str, Any]) -> bool:
    """Return whether the model takes the first element of a list as a batch; an element with a single number is an item."""
    parts = [first] if isinstance(first, Tensor) else list(first.values() if isinstance(first, Mapping) else first)
    if any(isinstance(part, (int, float)) or (isinstance(part, Tensor) and part.dim() == 0) for part in parts):
        return False
    try:
        ModelInput.choose(model, first, **choice)
    except (TypeError, ValueError):
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, str, bytes))


def _columns(batch: Any) -> list[Any]:
    if isinstance(batch, Tensor):
        return [batch]
    return list(batch.values() if isinstance(batch, Mapping) else batch)


def _has_rows(batch: Any) -> bool:
    """Return whether a batch consists of tensors with equally many rows."""
    columns = _columns(batch)
    return bool(columns) and all(
        isinstance(column, Tensor) and column.dim() > 0 and len(column) == len(columns[0]) for column in columns
    )


def _rows_of(batch: Any) -> BatchRows:
    """Return the rows of a mapping or sequence of columns."""
    converted = (
        {name: default_convert(column) for name, column in batch.items()} if isinstance(batch, Mapping) else tuple(batch)
    )
    if not _has_rows(converted):
        raise ValueError(f"Columns of `data` must be tensors of equal length, one row per input, got {_describe(converted)}.")
    if len(BatchRows(converted)) == 0:
        raise ValueError(f"`data` must hold inputs (B, ...), got none: {_describe(converted)}.")
    return BatchRows(converted)


def _holds_loaders(data: Any) -> bool:
    if not isinstance(data, (list, tuple, Mapping)):
        return False
    flat = flat_loaders(data)
    return bool(flat) and all(isinstance(loader, DataLoader) for loader in flat)


def _describe(data: Any) -> str:
    """Describe a value's kind and that of its parts, for an error message."""
    if isinstance(data, type):
        return f"the class {data.__name__}"
    if isinstance(data, Tensor):
        return f"{tuple(data.shape)}"
    if isinstance(data, Mapping):
        return f"a dict of {', '.join(f'{name!r} {_describe(part)}' for name, part in data.items()) or 'nothing'}"
    if isinstance(data, (list, tuple)) and data:
        kinds = [_describe(part) if isinstance(part, Tensor) else type(part).__name__ for part in data[:3]]
        return f"a {type(data).__name__} of {', '.join(kinds)}{', ...' if len(data) > 3 else ''}"
    return type(data).__name__ if data is not None else "None"

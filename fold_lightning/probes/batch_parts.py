"""The tensors in a batch of any form: their paths, and their replacement by other tensors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from torch import Tensor, nn

Path = tuple[Any, ...]
"""Keys, indices and attribute names that lead from a batch to one of its tensors."""

MAX_DEPTH = 6
"""Maximum nesting depth to which a batch is searched; batches of existing libraries have depth 2 or 3."""


def parts_of(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a container by key, index or attribute name; None for other values.

    Containers are mappings, named tuples, tuples, lists, dataclasses, objects that are read by key (a `Data` of
    torch_geometric), and objects with tensors as attributes.
    """
    if value is None or isinstance(value, (Tensor, nn.Module, str, bytes, int, float, complex, type, Enum)):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, list)):
        return dict(value._asdict()) if hasattr(value, "_asdict") else dict(enumerate(value))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if _is_read_by_key(value):
        keys = value.keys() if callable(value.keys) else value.keys
        return {key: value[key] for key in sorted(keys, key=str)}  # torch_geometric returns them in any order
    attributes = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return attributes if any(isinstance(item, Tensor) for item in attributes.values()) else None


def tensors_by_path(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield (path, tensor) for each tensor of a batch, in the batch's order.

    Example:
        >>> import torch
        >>> [path for path, _ in tensors_by_path(({"x": torch.zeros(2)}, torch.ones(2)))]
        [(0, 'x'), (1,)]
    """
    if isinstance(value, Tensor):
        yield path, value
    elif len(path) < MAX_DEPTH:
        for key, part in (parts_of(value) or {}).items():
            yield from tensors_by_path(part, (*path, key))


def part_at(value: Any, path: Path) -> Any:
    """Return the part of a batch at a path.

    Raises:
        KeyError: If the batch has no such part.
    """
    for key in path:
        value = (parts_of(value) or {})[key]
    return value


def replace_tensors(value: Any, replacement: Callable[[Path, Tensor], Any], path: Path = ()) -> Any:
    """Return a batch of the same form with other tensors; containers are shallow copies, and other values are shared."""
    if isinstance(value, Tensor):
        return replacement(path, value)
    parts = parts_of(value) if len(path) < MAX_DEPTH else None
    if not parts:
        return value
    made = {key: replace_tensors(part, replacement, (*path, key)) for key, part in parts.items()}
    return value if all(made[key] is part for key, part in parts.items()) else _with_parts(value, made)


def _with_parts(value: Any, parts: dict[Any, Any]) -> Any:
    if type(value) in (dict, list, tuple):
        return parts if type(value) is dict else type(value)(parts.values())
    if isinstance(value, tuple):
        return tuple.__new__(type(value), parts.values())
    made = copy.copy(value)
    by_key = isinstance(value, (Mapping, list)) or (not dataclasses.is_dataclass(value) and _is_read_by_key(value))
    for key, part in parts.items():
        if by_key:
            made[key] = part
        else:
            object.__setattr__(made, key, part)  # also works for a frozen dataclass
    return made


def _is_read_by_key(value: Any) -> bool:
    cls = type(value)
    return all(hasattr(cls, name) for name in ("keys", "__getitem__", "__setitem__"))


def names_on(path: Path) -> set[str]:
    """Return the names on a path, in lower case."""
    return {str(key).lower() for key in path if not isinstance(key, int)}


def code_for(batch: Any, path: Path) -> str:
    """Return the Python expression for a part of a batch.

    Example:
        >>> code_for(({"x": 1.0}, 2.0), (0, "x"))
        "batch[0]['x']"
    """
    code = "batch"
    for key in path:
        parts = parts_of(batch) or {}
        is_attribute = key in parts and isinstance(key, str) and not isinstance(batch, Mapping) and not _is_read_by_key(batch)
        code += f".{key}" if is_attribute else f"[{key!r}]"
        batch = parts.get(key)
    return code


def describe_batch(batch: Any) -> str:
    """Describe the type of a batch and the tensors in it, for an error message."""
    tensors = [f"{code_for(batch, path)} {describe_tensor(tensor)}" for path, tensor in tensors_by_path(batch)]
    if isinstance(batch, Tensor):
        return f"{_with_article(describe_tensor(batch))} tensor"
    kind = _with_article(type(batch).__name__)
    if isinstance(batch, Mapping):
        kind += f" with keys {list(batch)}"
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        kind += f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    return f"{kind} with {', '.join(tensors) or 'no tensors'}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in tuple('aeio') else 'a'} {noun}"  # not "u", as in uint8


def describe_tensor(tensor: Tensor) -> str:
    """Return the dtype and the shape of a tensor.

    Example:
        >>> import torch
        >>> describe_tensor(torch.zeros(2, 3))
        'float32 (2, 3)'
    """
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

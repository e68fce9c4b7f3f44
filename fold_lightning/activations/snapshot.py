"""What a forward pass may leave behind on a module, and how to take it away again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

DEEPEST = 4
"""How far containers in containers are looked into."""

DEEPEST_HOLDER = 10
"""How far objects in objects are looked into for random generators: a data set's transforms' generators, say."""

MOST_ITEMS = 100
"""A container of more holds data."""


class Snapshot:
    """A module's attributes, the contents of their tensors, lists, dicts, sets and deques, and the states of its generators.

    Args:
        module: Whose; those of its submodules are their own.
        without: Names of attributes that are left out.

    Example:
        >>> module = nn.Identity()
        >>> module.seen, module.calls = [], {"n": 0}
        >>> snapshot = Snapshot(module)
        >>> module.seen.append(1), module.calls.update(n=1), setattr(module, "last", 2)
        (None, None, None)
        >>> snapshot.restore()
        >>> module.seen, module.calls, hasattr(module, "last")
        ([], {'n': 0}, False)
    """

    def __init__(self, module: nn.Module, without: Collection[str] = ()) -> None:
        attributes = vars(module)
        kept = {name: value for name, value in attributes.items() if name not in without} if without else attributes
        self._restorers = list(_restorers(kept, DEEPEST))

    def restore(self) -> None:
        """Gives everything back as it was, in the same objects."""
        for restorer in self._restorers:
            restorer()


def generator_restorers(holder: Any, depth: int = DEEPEST_HOLDER) -> list[Callable[[], None]]:
    """Gives back the states of all random generators that an object holds, or an object that it holds, and so on.

    Example:
        >>> from types import SimpleNamespace
        >>> dataset = SimpleNamespace(transforms=[SimpleNamespace(generator=torch.Generator().manual_seed(0))])
        >>> (restore,) = generator_restorers(dataset)
        >>> first = torch.rand(1, generator=dataset.transforms[0].generator)
        >>> restore()
        >>> bool(first == torch.rand(1, generator=dataset.transforms[0].generator))
        True
    """
    found: list[Callable[[], None]] = []
    seen: set[int] = set()
    waiting = [(holder, depth)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or isinstance(value, (type, ModuleType, torch.Tensor, np.ndarray, str, bytes)):
            continue
        seen.add(id(value))
        restorer = _generator_restorer(value)
        if restorer is not None:
            found.append(restorer)
        elif depth:
            waiting += [(held, depth - 1) for held in _held(value)]
    return found


def _held(value: Any) -> list[Any]:
    """What an object holds: its attributes, or the items of a container that is no table of data."""
    if isinstance(value, dict):
        items = list(value.values())
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        return list(getattr(value, "__dict__", {}).values())
    return items if len(items) <= MOST_ITEMS else []


def _generator_restorer(value: Any) -> Callable[[], None] | None:
    if isinstance(value, torch.Generator):
        return partial(_set_state, value, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


def _restorers(value: Any, depth: int) -> Iterator[Callable[[], None]]:
    if (generator := _generator_restorer(value)) is not None:
        yield generator
    elif type(value) is torch.Tensor and value.layout is torch.strided and not value.is_meta:
        yield _restorer_of_tensor(value, value.detach().clone())
    elif type(value) is np.ndarray and not value.dtype.hasobject:
        yield _restorer_of_array(value, value.copy())
    elif isinstance(value, tuple):
        yield from _inside(value, depth)
    elif isinstance(value, dict):
        yield _restorer_of_dict(value, dict(value))
        yield from _inside(value.values(), depth)
    elif isinstance(value, (list, deque)):
        yield _restorer_of_sequence(value, list(value))
        yield from _inside(value, depth)
    elif isinstance(value, set):
        yield _restorer_of_set(value, set(value))


def _set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


def _inside(values: Any, depth: int) -> Iterator[Callable[[], None]]:
    if depth:
        for value in list(values):
            yield from _restorers(value, depth - 1)


def _restorer_of_tensor(value: torch.Tensor, before: torch.Tensor) -> Callable[[], None]:
    def restore() -> None:
        same = (value == before) | ((value != value) & (before != before))
        if not bool(same.all()):
            with torch.inference_mode() if value.is_inference() else torch.no_grad():
                value.copy_(before)

    return restore


def _restorer_of_array(value: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> Callable[[], None]:
    def restore() -> None:
        if value.tobytes() != before.tobytes():
            value[...] = before

    return restore


def _restorer_of_dict(value: dict[Any, Any], before: dict[Any, Any]) -> Callable[[], None]:
    def restore() -> None:
        if list(value) != list(before):
            value.clear()
        for key, item in before.items():
            if key not in value or value[key] is not item:
                value[key] = item

    return restore


def _restorer_of_sequence(value: Any, before: list[Any]) -> Callable[[], None]:
    def restore() -> None:
        if len(value) != len(before) or any(a is not b for a, b in zip(value, before, strict=True)):
            value.clear()
            value.extend(before)

    return restore


def _restorer_of_set(value: set[Any], before: set[Any]) -> Callable[[], None]:
    def restore() -> None:
        if value != before:
            value.clear()
            value.update(before)

    return restore

"""What a forward pass may leave behind on a module, and how to take it away again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

DEEPEST = 4
"""How far containers in containers are looked into."""

DEEPEST_HOLDER = 10
"""How far objects in objects are looked into: a data set's transforms' generators, say."""

MOST_ITEMS = 100
"""A container of more holds data, unless it holds objects."""

MOST_HELD = 20_000
"""How many objects are looked into, those that are held most directly first."""


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


def holding_restorers(holder: Any, depth: int = DEEPEST_HOLDER) -> list[Callable[[], None]]:
    """Gives back the attributes and items of an object, of an object that it holds, and so on, and the states of random generators.

    Looked into are attributes, containers, what functions close over or are bound to, and generators that are attributes of a
    class or globals of a function. What tensors and arrays hold is not restored: that is data.

    Example:
        >>> from types import SimpleNamespace
        >>> dataset = SimpleNamespace(transforms=[SimpleNamespace(generator=torch.Generator().manual_seed(0))], file=None)
        >>> restorers = holding_restorers(dataset)
        >>> first, dataset.file = torch.rand(1, generator=dataset.transforms[0].generator), "open"
        >>> for restore in restorers:
        ...     restore()
        >>> bool(first == torch.rand(1, generator=dataset.transforms[0].generator)), dataset.file
        (True, None)
    """
    found: list[Callable[[], None]] = []
    seen: set[int] = set()
    waiting = deque([(holder, depth)])
    while waiting and len(seen) < MOST_HELD:
        value, depth = waiting.popleft()
        if id(value) in seen or isinstance(value, (ModuleType, torch.Tensor, np.ndarray, str, bytes, int, float, type(None))):
            continue
        seen.add(id(value))
        if (generator := _generator_restorer(value)) is not None:
            found.append(generator)
            continue
        if isinstance(value, list):
            found.append(_restorer_of_sequence(value, list(value)))
        elif isinstance(contents := value if isinstance(value, dict) else getattr(value, "__dict__", None), dict):
            found.append(_restorer_of_dict(contents, dict(contents)))
        if depth:
            waiting.extend((held, depth - 1) for held in _held(value))
    return found


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, type):
        for attribute in vars(value).values():
            if isinstance(attribute, FunctionType) or _is_generator(attribute):
                yield attribute
    elif isinstance(value, (dict, list, tuple)):
        items = list(value.values() if isinstance(value, dict) else value)
        if len(items) <= MOST_ITEMS or hasattr(items[0], "__dict__"):  # more of plain values are a table of data
            yield from items
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        yield from _held_by_function(value)
    else:
        if isinstance(value, partial):
            yield from (value.func, value.args, value.keywords)
        yield from getattr(value, "__dict__", {}).values()
        for cls in type(value).__mro__:
            yield from (getattr(value, name, None) for name in _slots(cls))
            yield cls


def _held_by_function(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that is not bound yet
            yield cell.cell_contents
    yield from (function.__defaults__, function.__kwdefaults__)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if _is_generator(value) or (isinstance(value, FunctionType) and value.__module__ == function.__module__):
            yield value


def _slots(cls: type) -> Iterable[str]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots


def _is_generator(value: Any) -> bool:
    return isinstance(value, (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)) and not isinstance(
        value, random.SystemRandom
    )


def _generator_restorer(value: Any) -> Callable[[], None] | None:
    if not _is_generator(value):
        return None
    if isinstance(value, torch.Generator):
        return partial(_set_state, value, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    return partial(setattr, value.bit_generator, "state", value.bit_generator.state)


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

"""What a forward pass may leave behind on a module, and how to take it away again."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

DEEPEST = 4
"""How far containers in containers are looked into."""

DEEPEST_HOLDER = 10
"""How far objects in objects are looked into: a data set's transforms' generators, say."""

LIBRARIES = {*sys.stdlib_module_names, *"torch lightning pytorch_lightning lightning_fabric lightning_utilities numpy".split()}
"""Whose objects are not looked into."""

MOST_ITEMS = 100
"""A container of more holds data, unless it holds objects."""

MOST_HELD = 20_000
"""How many objects are looked into, those that are held most directly first."""


Restorer = Callable[[], bool]
"""Gives something back as it was, and says whether it was otherwise; of generators it says no."""


class Snapshot:
    """A module's attributes, the contents of their tensors, lists, dicts, sets and deques, and the states of its generators.

    Of objects of classes of the user's own the attributes too.

    Args:
        module: Whose; those of its submodules are their own.
        without: Names of attributes that are left out.

    Example:
        >>> module = nn.Identity()
        >>> module.seen, module.calls = [], {"n": 0}
        >>> snapshot = Snapshot(module)
        >>> module.seen.append(1), module.calls.update(n=1), setattr(module, "last", 2)
        (None, None, None)
        >>> snapshot.restore(), snapshot.restore()
        (True, False)
        >>> module.seen, module.calls, hasattr(module, "last")
        ([], {'n': 0}, False)
    """

    def __init__(self, module: nn.Module, without: Collection[str] = ()) -> None:
        attributes = vars(module)
        kept = {name: value for name, value in attributes.items() if name not in without} if without else attributes
        self._restorers = list(_restorers(kept, DEEPEST))

    def restore(self) -> bool:
        """Gives everything back as it was, in the same objects; says whether anything but a generator was otherwise."""
        return restore_all(self._restorers)


def restore_all(restorers: Iterable[Restorer]) -> bool:
    """Whether anything was otherwise."""
    changed = [restore() for restore in restorers]
    return any(changed)


def holding_restorers(holder: Any, depth: int = DEEPEST_HOLDER) -> list[Restorer]:
    """Gives back the attributes and items of an object, of an object that it holds, and so on, and the states of random generators.

    Looked into are attributes, containers, what functions close over or are bound to, and generators that are attributes of a
    class or globals of a function. What tensors and arrays hold is not restored: that is data.

    Example:
        >>> from types import SimpleNamespace
        >>> dataset = SimpleNamespace(transforms=[SimpleNamespace(generator=torch.Generator().manual_seed(0))], file=None)
        >>> restorers = holding_restorers(dataset)
        >>> first, dataset.file = torch.rand(1, generator=dataset.transforms[0].generator), "open"
        >>> restore_all(restorers)
        True
        >>> bool(first == torch.rand(1, generator=dataset.transforms[0].generator)), dataset.file
        (True, None)
    """
    found: list[Restorer] = []
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


def _generator_restorer(value: Any) -> Restorer | None:
    if not _is_generator(value):
        return None
    if isinstance(value, torch.Generator):
        set_state: Callable[[], Any] = partial(value.set_state, value.get_state())
    elif isinstance(value, random.Random):
        set_state = partial(value.setstate, value.getstate())
    elif isinstance(value, np.random.RandomState):
        set_state = partial(value.set_state, value.get_state())
    else:
        set_state = partial(setattr, value.bit_generator, "state", value.bit_generator.state)

    def restore() -> bool:
        set_state()
        return False

    return restore


def _restorers(value: Any, depth: int) -> Iterator[Restorer]:
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
    elif _is_of_the_user(value):
        yield _restorer_of_dict(vars(value), dict(vars(value)))
        yield from _inside(filter(_is_small, vars(value).values()), depth)


def _is_of_the_user(value: Any) -> bool:
    """Whether it is an object with attributes, such as a schedule that a forward pass steps, and not one of a library."""
    if isinstance(value, SimpleNamespace):
        return True
    known = isinstance(value, (type, ModuleType, nn.Module, torch.Tensor))
    return not known and hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in LIBRARIES


def _is_small(value: Any) -> bool:
    """Whether it is no table of data."""
    try:
        return len(value) <= MOST_ITEMS
    except TypeError:  # no container at all
        return True


def _inside(values: Any, depth: int) -> Iterator[Restorer]:
    if depth:
        for value in list(values):
            yield from _restorers(value, depth - 1)


def _restorer_of_tensor(value: torch.Tensor, before: torch.Tensor) -> Restorer:
    def restore() -> bool:
        if torch.equal(value, before) or bool(((value == before) | ((value != value) & (before != before))).all()):
            return False
        with torch.inference_mode() if value.is_inference() else torch.no_grad():
            value.copy_(before)
        return True

    return restore


def _restorer_of_array(value: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> Restorer:
    def restore() -> bool:
        if value.tobytes() == before.tobytes():
            return False
        value[...] = before
        return True

    return restore


def _restorer_of_dict(value: dict[Any, Any], before: dict[Any, Any]) -> Restorer:
    def restore() -> bool:
        has_others = list(value) != list(before)
        if has_others:
            value.clear()
        changed = {key: item for key, item in before.items() if key not in value or value[key] is not item}
        value.update(changed)
        return has_others or bool(changed)

    return restore


def _restorer_of_sequence(value: Any, before: list[Any]) -> Restorer:
    def restore() -> bool:
        if len(value) == len(before) and all(a is b for a, b in zip(value, before, strict=True)):
            return False
        value.clear()
        value.extend(before)
        return True

    return restore


def _restorer_of_set(value: set[Any], before: set[Any]) -> Restorer:
    def restore() -> bool:
        if value == before:
            return False
        value.clear()
        value.update(before)
        return True

    return restore

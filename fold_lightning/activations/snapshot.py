"""What a forward pass may leave behind on a module, and how to take it away again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

DEEPEST = 4
"""How far containers in containers are looked into."""


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


def _restorers(value: Any, depth: int) -> Iterator[Callable[[], None]]:
    if isinstance(value, torch.Generator):
        yield partial(_set_state, value, value.get_state())
    elif isinstance(value, random.Random):
        python = value.getstate()
        yield lambda: value.setstate(python)
    elif isinstance(value, np.random.Generator):
        numpy = value.bit_generator.state
        yield lambda: setattr(value.bit_generator, "state", numpy)
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

"""Structural copies of values: code that changes a copy does not change the original.

Containers, functions with their closures, bound methods, random generators and objects of Python classes are copied, and
references among them become references among the copies. Values that can't be copied safely are shared: files, locks, loggers,
objects of libraries, large data.
"""

from __future__ import annotations

import copy
import itertools
import random
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import partial
from operator import is_
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

_T = TypeVar("_T")

MAX_COPIED_DEPTH = 12
"""Depth to which nested objects are copied; a vocabulary in a tree would exhaust Python's stack."""

MAX_OBJECTS = 20_000
"""Maximum number of objects that are copied, which takes 0.2 s; further objects are shared."""

MAX_ITEMS = 1000
"""Maximum number of items of a container that are copied; a longer container is copied, but its items are shared."""

MAX_COPIED_BYTES = 2**26
"""Maximum size of arrays and tensors that are copied, in bytes; larger ones are shared."""

LIBRARIES = frozenset(
    {*sys.stdlib_module_names, "fold_lightning"}
    | {*"torch torchmetrics lightning pytorch_lightning lightning_fabric lightning_utilities numpy scipy".split()}
)
"""Packages whose objects are shared: copies of threads, loggers and handles would act on the same resource."""

SHARED = (type, types.ModuleType, str, bytes, int, float, complex, type(None), Enum, range, slice, random.SystemRandom)
"""Types that are immutable, have no state of their own, or are meant to be singletons."""

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)

ITERATORS = (itertools.count, itertools.cycle, *map(type, (iter([]), iter(()), iter({}), iter(range(0)), iter(set()))))

ABSENT = object()
"""Replacement for the contents of an empty cell."""


class StructuralCopy:
    """Copier of values, which returns the same copy whenever it is called with the same value.

    Attributes:
        shared_generators: Random generators that copies share with their originals, because they are attributes of a class or
            globals of a function.

    Example:
        >>> copied = StructuralCopy()
        >>> value = {"seen": [1]}
        >>> value["keep"] = value["seen"].append
        >>> twin = copied(value)
        >>> twin["keep"](2)
        >>> value["seen"], twin["seen"]
        ([1], [1, 2])
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}  # keeps the original, so that no other value gets its id
        self._contents: list[tuple[Any, Any]] = []
        self._depth = self._num_objects = 0
        self._seen_code: set[int] = set()
        self.shared_generators: list[Any] = []

    def __call__(self, value: _T) -> _T:
        """Return the copy of a value, or the value itself if it is shared."""
        known = self._copies.get(id(value))
        if known is not None:
            return known[1]  # type: ignore[no-any-return]
        if isinstance(value, weakref.ProxyTypes):  # first, because `isinstance` sees its target's class
            return self._weak_proxy(value)  # type: ignore[no-any-return]
        if isinstance(value, SHARED) or self._depth >= MAX_COPIED_DEPTH or self._num_objects >= MAX_OBJECTS:
            return value
        self._depth += 1
        self._num_objects += 1
        try:
            return self._copy(value)  # type: ignore[no-any-return]
        finally:
            self._depth -= 1

    def reset(self) -> bool:
        """Restore the initial contents of all copied containers and objects; return whether any had changed."""
        changed = [(value, before) for value, before in self._contents if _differs(value, before)]
        for value, before in changed:
            _fill(value, before)
        return bool(changed)

    def _copy(self, value: Any) -> Any:
        for kinds, method in _METHODS:
            if isinstance(value, kinds):
                return method(self, value)
        return self._object(value)

    def _knows(self, value: Any) -> bool:
        return id(value) in self._copies

    def _known(self, value: Any) -> Any:
        """Return the copy of a value if there is one already, else the value itself."""
        return self._copies.get(id(value), (value, value))[1]

    def _keep(self, value: Any, made: _T) -> _T:
        self._copies[id(value)] = (value, made)
        return made

    def _remember_contents(self, made: Any) -> None:
        self._contents.append((made, made.cell_contents if isinstance(made, types.CellType) else made.copy()))

    def _items(self, values: list[Any]) -> list[Any]:
        if len(values) > MAX_ITEMS:
            return list(map(self._known, values))
        return [self(item) for item in values]

    def _sequence(self, value: Any) -> Any:
        base = next(base for base in (list, deque, set) if isinstance(value, base))
        made = self._keep(value, base.__new__(type(value)))
        if isinstance(value, deque):
            deque.__init__(made, maxlen=value.maxlen)
        base.__ior__(made, set(self._items(list(value)))) if base is set else made.extend(self._items(list(value)))
        return self._container(value, made)

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        items = self._items(list(value))
        is_same = all(a is b for a, b in zip(items, value, strict=True))
        return self._keep(value, value if is_same else tuple.__new__(type(value), items))

    def _dict(self, value: dict[Any, Any]) -> Any:
        base = OrderedDict if isinstance(value, OrderedDict) else dict
        made = self._keep(value, base.__new__(type(value)))
        if isinstance(value, defaultdict):
            made.default_factory = self(value.default_factory)  # type: ignore[attr-defined]
        for key, item in zip(base.keys(value), self._items(list(base.values(value))), strict=True):
            base.__setitem__(made, self._known(key), item)
        return self._container(value, made)

    def _container(self, value: Any, made: Any) -> Any:
        self._remember_contents(made)
        if attributes_of(value):
            self._copy_attributes(value, made)
        return made

    def _array(self, value: np.ndarray[Any, Any]) -> Any:
        if value.nbytes > MAX_COPIED_BYTES or value.dtype.hasobject:
            return value
        made = self._keep(value, value.copy())
        self._remember_contents(made)
        return made

    def _tensor(self, value: Tensor) -> Tensor:
        return value if is_data(value) else self._keep(value, value.detach().clone())

    def _note_generators(self, value: Any) -> None:
        """Record the generators among a function's globals, or among a class's attributes and its methods' globals."""
        if id(value) in self._seen_code or _library_of(value) in LIBRARIES:
            return
        self._seen_code.add(id(value))
        if isinstance(value, type):
            held = [item for base in value.__mro__ if _library_of(base) not in LIBRARIES for item in vars(base).values()]
        else:
            held = [value.__globals__.get(name) for name in _names_in(value.__code__)]
        for item in held:
            if isinstance(item, GENERATORS) and not isinstance(item, random.SystemRandom):
                self.shared_generators.append(item)
            elif isinstance(item, types.FunctionType) and item.__module__ == value.__module__:
                self._note_generators(item)

    def _function(self, value: types.FunctionType) -> Any:
        self._note_generators(value)
        if (original := getattr(value, "_torchdynamo_orig_callable", None)) is not None:  # of torch.compile
            return self._keep(value, self(original))
        names = self._names_of_copied_globals(value, set())
        if not (value.__closure__ or value.__defaults__ or value.__kwdefaults__ or names):
            return value
        namespace = {**value.__globals__} if names else value.__globals__
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        made = self._keep(value, types.FunctionType(value.__code__, namespace, value.__name__, None, cells or None))
        for old, new in zip(value.__closure__ or (), cells, strict=True):
            if (contents := cell_contents(old)) is not ABSENT:
                new.cell_contents = self(contents)
                self._remember_contents(new)
        made.__defaults__, made.__kwdefaults__ = self(value.__defaults__), self(value.__kwdefaults__)
        vars(made).update({name: self(item) for name, item in vars(value).items()})
        made.__qualname__, made.__module__, made.__doc__ = value.__qualname__, value.__module__, value.__doc__
        namespace.update({name: self(value.__globals__[name]) for name in names})
        return made

    def _names_of_copied_globals(self, function: types.FunctionType, seen: set[int]) -> list[str]:
        """Return the globals of a user's function that have a copy, may be written to, or are functions that use such globals."""
        if id(function) in seen or _library_of(function) in LIBRARIES:
            return []
        seen.add(id(function))
        names = []
        for name in dict.fromkeys(_names_in(function.__code__)):
            held = function.__globals__.get(name)
            is_function = isinstance(held, types.FunctionType) and held.__module__ == function.__module__
            is_written = isinstance(held, (list, dict, set, deque)) and len(held) <= MAX_ITEMS and not name.startswith("__")
            if self._knows(held) or is_written or (is_function and self._names_of_copied_globals(held, seen)):  # type: ignore[arg-type]
                names.append(name)
        return names

    def _method(self, value: types.MethodType) -> Any:
        return self._keep(value, types.MethodType(self(value.__func__), self(value.__self__)))

    def _builtin_method(self, value: Any) -> Any:
        owner = value.__self__
        made = owner if owner is None else self(owner)
        return value if made is owner else self._keep(value, getattr(made, value.__name__))

    def _partial(self, value: partial[Any]) -> Any:
        keywords = {name: self(item) for name, item in value.keywords.items()}
        return self._keep(value, type(value)(self(value.func), *map(self, value.args), **keywords))

    def _weak_reference(self, value: weakref.ref[Any]) -> Any:
        target = value()
        return value if not self._knows(target) else self._keep(value, type(value)(self(target)))

    def _weak_dict(self, value: Any) -> Any:
        made = self._keep(value, type(value)())
        for key, item in list(value.items()):
            made[self._known(key)] = self._known(item)
        return made

    def _weak_proxy(self, value: Any) -> Any:
        try:
            target = value.__repr__.__self__
        except ReferenceError:
            return value
        return weakref.proxy(self(target)) if self._knows(target) else value

    def _object(self, value: Any) -> Any:
        cls = type(value)
        is_resource = _library_of(cls) in LIBRARIES and not isinstance(value, (Dataset, Sampler, types.SimpleNamespace))
        if is_resource or hasattr(cls, "__del__"):  # deleting a copy would close the resource
            return value
        try:
            made = (types.SimpleNamespace if isinstance(value, types.SimpleNamespace) else object).__new__(cls)
        except TypeError:  # of a class written in C
            return value
        self._note_generators(cls)
        self._keep(value, made)
        self._copy_attributes(value, made)
        return made

    def _copy_attributes(self, value: Any, made: Any) -> None:
        attributes = attributes_of(value)
        if attributes is not None:
            attributes_of(made).update({name: self(item) for name, item in attributes.items()})
            self._remember_contents(attributes_of(made))
        self._copy_slots(value, made)

    def _copy_slots(self, value: Any, made: Any) -> None:
        for slot in slots_of(type(value)):
            with suppress(AttributeError):  # it is not set
                slot.__set__(made, self(slot.__get__(value, type(value))))


_METHODS: list[tuple[Any, Callable[[StructuralCopy, Any], Any]]] = [
    ((list, deque, set), StructuralCopy._sequence),
    (tuple, StructuralCopy._tuple),
    (dict, StructuralCopy._dict),
    (np.ndarray, StructuralCopy._array),
    (Tensor, lambda self, value: self._tensor(value)),
    (types.FunctionType, StructuralCopy._function),
    (types.MethodType, StructuralCopy._method),
    ((types.BuiltinMethodType, types.MethodWrapperType), StructuralCopy._builtin_method),
    (partial, StructuralCopy._partial),
    (weakref.ref, StructuralCopy._weak_reference),
    ((weakref.WeakKeyDictionary, weakref.WeakValueDictionary), StructuralCopy._weak_dict),
    (GENERATORS, lambda self, value: self._keep(value, copy.deepcopy(value))),
    (ITERATORS, lambda self, value: self._keep(value, copy.copy(value))),
]


def is_data(tensor: Tensor) -> bool:
    """Return whether a tensor is not copied: a large one, one on the meta device, or one that is not strided."""
    return tensor.layout is not torch.strided or tensor.is_meta or tensor.nbytes > MAX_COPIED_BYTES


def attributes_of(value: Any) -> Any:
    """Return the attributes of an object, even if its class redefines `__dict__`; None if it holds none."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None


def slots_of(cls: type) -> Iterator[types.MemberDescriptorType]:
    """Yield the slots of a class and its bases."""
    for base in cls.__mro__:
        if "__slots__" in vars(base):
            yield from (member for member in vars(base).values() if isinstance(member, types.MemberDescriptorType))


def _library_of(value: Any) -> str:
    return str(getattr(value, "__module__", None)).partition(".")[0]


def cell_contents(cell: types.CellType) -> Any:
    """Return the contents of a cell of a closure, or `ABSENT`."""
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return ABSENT


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _differs(value: Any, before: Any) -> bool:
    if isinstance(value, types.CellType):
        return cell_contents(value) is not before
    if isinstance(value, np.ndarray):
        return bool(value.tobytes() != before.tobytes())
    if isinstance(value, set):
        return bool(value != before)
    if len(value) != len(before) or not all(map(is_, value, before)):
        return True
    return isinstance(value, dict) and not all(map(is_, value.values(), before.values()))


def _fill(value: Any, contents: Any) -> None:
    if isinstance(value, types.CellType):
        value.cell_contents = contents
    elif isinstance(value, np.ndarray):
        value[...] = contents
    elif isinstance(value, (list, deque)):
        value.clear()
        value.extend(contents)
    else:
        value.clear()
        value.update(contents)

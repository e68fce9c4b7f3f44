"""Calls of torch's functions within a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fold_lightning.activations.tracking import depends_on_input, tensors_in

_WRITERS = frozenset("__iadd__ __isub__ __imul__ __itruediv__ __setitem__".split())


@dataclass(eq=False)
class Call:
    """A call of a torch function.

    Attributes:
        name: Name of the operation, from `operation_name`.
        function: The function that is called.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Return the result."""
        return self.function(*self.args, **self.kwargs)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return tensors_in((self.args, self.kwargs))

    @cached_property
    def varying(self) -> list[Tensor]:
        """Tensors that depend on the inputs when this property is first read."""
        return list(filter(depends_on_input, self.tensors))

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by its position or its name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    @property
    def is_in_place(self) -> bool:
        """True if the call writes to its first argument."""
        name = getattr(self.function, "__name__", "")
        if name == "__set__":
            return self.name == "data"
        return (name.endswith("_") and not name.endswith("__")) or name in _WRITERS or bool(self.kwargs.get("inplace"))

    @property
    def written(self) -> list[Tensor]:
        """Tensors that the call writes to."""
        return tensors_in((self.args[:1] if self.is_in_place else (), self.kwargs.get("out")))

"""Running a model with every operation in view.

A :class:`torch.overrides.TorchFunctionMode` sees each torch function of a forward pass, whether a module or the user's own
code calls it. Tensors that come from the input are marked, so that an activation of a weight is not taken for a unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from fold_lightning.activations.choosing import find_choice
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.fast_kernels import fast_kernel
from fold_lightning.activations.idioms import Part, find_part, keeps_comparison, note_comparison
from fold_lightning.activations.operations import (
    CASTS,
    CHOICES,
    CLAMPS,
    COMPARISONS,
    CREATIONS,
    FINITENESS,
    FUSED,
    QUERIES,
    RESHAPED_AFTER,
    VALUE_READS,
    is_in_place,
    is_piecewise_linear,
    operation_name,
    picks_rows,
    written_by,
)
from fold_lightning.activations.registry import RELU, Activation, Thresholds, activation_of, module_activation_of
from fold_lightning.activations.tracking import (
    comparison_of,
    depends_on_input,
    has_input_rows,
    has_picked_rows,
    map_tensors,
    mark_picked,
    mark_rows,
    memory_of,
    tensors_in,
)

MAX_NOTED = 10_000
"""Tensors of a pass that are noted, alive or not, before those that are gone are forgotten."""

_name_of = lru_cache(2048)(operation_name)  # it is asked for at every call

_RUNNING: list[Interception] = []
"""Passes under way: within one, another may look closer at some rows, and each sees its own modules alone."""


class PassEnded(BaseException):
    """End a forward pass that has shown all it had to; no ``except Exception`` of a model swallows it."""


class OutOfSightError(ValueError):
    """A part of the model computes activations that no interception sees."""


@dataclass(frozen=True)
class Entered:
    """A module that a pass is inside of, and the numbers of activations and unknown operations met before it."""

    module: nn.Module
    is_registered: bool
    num_activations: int
    num_unknown: int


class Interception(TorchFunctionMode):
    """One forward pass in view, which runs once. Subclasses define what happens at activations and at other operations.

    The operations that a subclass makes of its own are never taken for the model's.

    Attributes:
        unknown: Operations on the input's path that are not known to be piecewise linear, with the place of the first call.
        num_unknown: Number of their calls.
        has_kinks: Whether an activation with kinks came before.
        num_activations: Number of activations met.
        num_calls: Number of calls of functions met.
        num_inputs: B.
        bends: Operations that bend without a bit.
        is_row_by_row: Whether what the pass does depends on values of the batch: rows were picked by them, or Python read them.
        inside_registered: Number of modules the pass is inside of that the user registered as activations.
        inside_function: Whether a torch function is running that was seen to be called, or an operation of our own.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.unknown: dict[str, str] = {}
        self.num_unknown = 0
        self.has_kinks = False
        self.bends: dict[str, None] = {}
        self.is_row_by_row = False
        self.inside_function = False
        self.num_activations = 0
        self.num_calls = 0
        self.num_inputs = 0
        self.inside_registered = 0
        self._replica = replica
        self._entered: list[Entered] = []
        self._calls: Counter[str] = Counter()
        self._alive: dict[int, ref[Tensor]] = {}  # by id: weak sets compare their members, which tensors refuse

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Handle an activation: ``z`` are its pre-activations, ``call`` applies it."""
        return call(z)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Handle any other operation on a tensor that has one row per input."""
        return function(*args, **kwargs)

    def overwrite(self, tensor: Tensor, value: Tensor) -> None:
        """Write the result of an activation in place."""
        tensor.copy_(value)

    def on_untracked(self, name: str, tensors: list[Tensor], num_tensors: int) -> None:
        """Handle the arguments of an operation, of `num_tensors`, that have no row per input."""

    def on_module_exit(self, entered: Entered, args: tuple[Any, ...]) -> None:
        """Handle the return of a module that was called with these positional arguments."""

    def run(self, inputs: Tensor) -> Any:
        """Pass inputs (B, ...), on the replica's device, until the model returns or an override raises `PassEnded`.

        Returns:
            What the model returns; None if the pass was ended.
        """
        self.num_inputs = len(inputs)
        outer = self._replica.begin_pass()
        _RUNNING.append(self)
        before = register_module_forward_pre_hook(self._enter_module)
        after = register_module_forward_hook(self._leave_module, always_call=True)
        try:
            with self:
                return self._replica.forward(mark_rows(inputs))
        except PassEnded:
            return None
        finally:
            before.remove()
            after.remove()
            _RUNNING.pop()
            self._replica.end_pass(outer)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.inside_function = True  # no torch function calls another one here: the mode is off until it returns
        try:
            return self._see(func, args, kwargs or {})
        finally:
            self.inside_function = False

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Hide the operations in this context, which are our own."""
        was_inside, self.inside_function = self.inside_function, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.inside_function = was_inside

    def _see(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = _name_of(func)
        if name in QUERIES or (name == "type" and len(args) == 1 and not kwargs):
            return func(*args, **kwargs)
        if name == "dtype" and self._replica.dtype is not None:
            return self._replica.dtype if args[0].is_floating_point() else args[0].dtype
        if not args and isinstance(kwargs.get("input"), Tensor):
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        tensors = tensors_in((args, kwargs))
        if not all(map(self._replica.takes_as_is, tensors)):
            args, kwargs = map_tensors(self._replica.converted, (args, kwargs))
            tensors = tensors_in((args, kwargs))
        if name in CASTS and args and self._replica.dtype is not None and _stays_floating(args, kwargs):
            if not self._replica.cast_copies(name, args, kwargs):
                return args[0]
            name, func, args, kwargs, tensors = "clone", Tensor.clone, args[:1], {}, tensors[:1]
        if name in CASTS and args and not has_input_rows(args[0]):  # a cast takes nothing but the type of its target
            return func(*args, **kwargs)
        func = fast_kernel(name, func, args, kwargs)
        self._note(tensors)
        if activation_of(name) is not None and any(map(_is_transformed, tensors)):
            raise OutOfSightError(f"The {name} of {self.caller()} runs inside a transformation of functions such as torch.vmap")
        self.num_calls += 1
        untracked = [t for t in tensors if not has_input_rows(t)]
        self.on_untracked(name, untracked, len(tensors))
        if len(untracked) == len(tensors) or name in FINITENESS:
            result = func(*args, **kwargs)
        else:
            result = self._on_tracked(name, func, args, kwargs, tensors)
        self._note(tensors_in(result))
        return result

    def _on_tracked(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Any:
        takes_shape_only = name in CREATIONS or (name in RESHAPED_AFTER and not depends_on_input(args[0]))
        varying = [] if takes_shape_only else list(filter(depends_on_input, tensors))
        if varying and not self.inside_registered and not any(t.is_complex() for t in varying):
            if (x := find_part(name, args, kwargs)) is not None:
                return self._activate(RELU, name, func, args, kwargs, part=x)
            if (listed := activation_of(name)) is not None:
                return self._activate(listed, name, func, args, kwargs)
        if varying and not self.inside_registered:
            self.is_row_by_row |= name in VALUE_READS
            self._classify(name, args, kwargs, tensors)
        result = self.operation(name, func, args, kwargs)
        picked = any(map(has_picked_rows, varying)) or (bool(varying) and picks_rows(name, args, kwargs))
        if name not in CREATIONS or _has_rows_of(result, args[0]):
            for tensor in tensors_in(result):
                mark_rows(tensor, constant=not varying and not depends_on_input(tensor))
                if picked:
                    mark_picked(tensor)
        if varying:
            note_comparison(name, args, kwargs, result)
        for written in written_by(func, args, kwargs) if varying else ():
            for tensor in [written, *self.sharing(written)]:
                mark_rows(tensor)
        return result

    def _note(self, tensors: Iterable[Tensor]) -> None:
        self._alive.update((id(tensor), ref(tensor)) for tensor in tensors)
        if len(self._alive) > MAX_NOTED:
            self._alive = {key: weak for key, weak in self._alive.items() if weak() is not None}

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """Return the other tensors of this pass that share a tensor's memory."""
        memory = memory_of(tensor)
        alive = (weak() for weak in self._alive.values())
        return [t for t in alive if t is not None and t is not tensor and memory and memory_of(t) == memory]

    def _activate(
        self,
        listed: Activation,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        part: Part | None = None,
    ) -> Any:
        """Handle an activation of the table, or a call that takes the positive or negative part of a tensor."""
        in_place = is_in_place(func, kwargs)
        x = args[0] if part is None else part.of
        if not isinstance(x, Tensor) or not depends_on_input(x) or x.numel() == 0:
            return func(*args, **kwargs)
        if part is not None:
            func, args, kwargs = part.take, (x,), {}
        options = {key: value for key, value in kwargs.items() if key not in ("inplace", "approximate")}
        z = x if listed.pre_activation is None else mark_rows(listed.pre_activation(x, *args[1:], **options))
        self.is_row_by_row |= has_picked_rows(x)

        def call(pre: Tensor) -> Tensor:
            result: Tensor = func(pre if z is x else x, *args[1:], **kwargs)
            return result

        self.num_activations += 1
        result = mark_rows(self.activation(self._layer_name(name), listed.thresholds(*args[1:], **options), z, call))
        if has_picked_rows(x):
            mark_picked(result)
        if listed.piecewise_linear:
            self.has_kinks = True
        else:
            self.unknown.setdefault(name, self.caller())
        if in_place and result is not x:
            self.overwrite(x, result)
            return x
        return result

    def _classify(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        if name in FUSED:
            raise OutOfSightError(f"{self.caller()} is a fused {name}")
        if name in COMPARISONS or keeps_comparison(name, args):
            return
        chooses = name in CHOICES and find_choice(name, args, kwargs) is not None
        if chooses or name in CLAMPS:
            self.bends[name] = None
        jumps = any(comparison_of(t) is not None for t in tensors)
        if jumps or (not chooses and not is_piecewise_linear(name, args, kwargs)):
            self.unknown.setdefault(name, self.caller())
            self.num_unknown += 1

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if _RUNNING[-1] is not self:
            return
        if isinstance(module, torch.jit.ScriptModule):
            raise OutOfSightError(f"{self.place(module)} is a ScriptModule")
        registered = module_activation_of(module)
        self._entered.append(Entered(module, registered is not None, self.num_activations, self.num_unknown))
        if registered is None:
            return
        if not args or not isinstance(args[0], Tensor):
            raise OutOfSightError(
                f"{self.place(module)} is registered as an activation, but was not called with its pre-activation as first "
                "positional argument"
            )
        if not self.inside_registered and depends_on_input(args[0]):
            self._activate_module(module, registered, args[0])
        self.inside_registered += 1

    def _activate_module(self, module: nn.Module, registered: Activation, z: Tensor) -> None:
        name = self._count_call(self._replica.path(module) or type(module).__name__)
        self.num_activations += 1
        self.is_row_by_row |= has_picked_rows(z)
        with self.unseen():
            self.activation(name, registered.thresholds(), z, lambda pre: pre)
        if registered.piecewise_linear:
            self.has_kinks = True
        else:
            self.unknown.setdefault(type(module).__name__, self.place(module))

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _RUNNING[-1] is not self or not self._entered:
            return
        entered = self._entered.pop()
        self.inside_registered -= entered.is_registered
        self.on_module_exit(entered, args)

    def _layer_name(self, function: str) -> str:
        if not self._entered:
            return self._count_call(function)
        module = self._entered[-1].module
        path = self._replica.path(module)
        return self._count_call(path if path and _is_activation_module(module) else ".".join(filter(None, (path, function))))

    def caller(self) -> str:
        """Return where the call that is being looked at comes from."""
        return self.place(self._entered[-1].module) if self._entered else "forward"

    def place(self, module: nn.Module) -> str:
        """Return a module's class and path."""
        path = self._replica.path(module)
        name = type(module).__name__
        return name if path in ("", name) else f"{name} ({path!r})"

    def _count_call(self, name: str) -> str:
        self._calls[name] += 1
        return name if self._calls[name] == 1 else f"{name}/{self._calls[name]}"


def _stays_floating(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args[0].is_floating_point():
        return False
    targets = [a for a in [*args[1:], *kwargs.values()] if isinstance(a, (torch.dtype, Tensor))]
    dtypes = [t if isinstance(t, torch.dtype) else t.dtype for t in targets]
    return all(dtype.is_floating_point for dtype in dtypes)


def _has_rows_of(result: Any, tensor: Any) -> bool:
    return isinstance(result, Tensor) and isinstance(tensor, Tensor) and result.shape[:1] == tensor.shape[:1]


def _is_transformed(tensor: Tensor) -> bool:
    """Return whether a tensor stands for another inside torch.vmap, torch.func.grad or the like."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_activation_module(module: nn.Module) -> bool:
    return any(cls.__module__ == "torch.nn.modules.activation" for cls in type(module).__mro__) and not isinstance(
        module, (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)
    )

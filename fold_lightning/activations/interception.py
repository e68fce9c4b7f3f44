"""Running a user's model with every operation in view.

A :class:`torch.overrides.TorchFunctionMode` sees each torch function of a forward pass, whether a module or the user's own
code calls it. What comes from the input is marked as it passes, so that an activation of a weight is not taken for a unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from fold_lightning.activations.borrowing import BorrowedModel
from fold_lightning.activations.following import follow, follows, map_tensors, tensors_in, varies
from fold_lightning.activations.operations import (
    CASTS,
    CLAMPS,
    COMPARISONS,
    CREATIONS,
    FINITENESS,
    FUSED,
    MAX_POOLS,
    QUERIES,
    RESHAPED_AFTER,
    is_in_place,
    is_piecewise_linear,
    operation_name,
    written_by,
)
from fold_lightning.activations.slow_kernels import quicker
from fold_lightning.activations.table import Activation, Thresholds, activation_of, module_activation_of

MOST_NOTED = 10_000
"""Tensors of a pass, dead or alive, before the dead are forgotten."""


class PassEnded(BaseException):
    """Ends a forward pass that has shown all it had to; no ``except Exception`` of a model swallows it."""


class OutOfSightError(ValueError):
    """A part of the model computes activations that no interception sees."""


class Interception(TorchFunctionMode):
    """One forward pass in view. Subclasses say what happens at activations and at all other operations.

    Attributes:
        unknown: Names of the operations on the input's path that are not known to be piecewise linear.
        num_unknown: How many calls of these there were.
        num_activations: How many activations were met.
        bends: Names of those that bend without a bit.
        inside_registered: In how many modules that the user registered as activations the pass is.
        inside_function: Whether a function of torch is running that was seen to be called.
    """

    def __init__(self, borrowed: BorrowedModel) -> None:
        super().__init__()
        self.unknown: dict[str, None] = {}
        self.num_unknown = 0
        self.bends: dict[str, None] = {}
        self.inside_function = False
        self._borrowed = borrowed
        self._callers: list[nn.Module] = []
        self._calls: Counter[str] = Counter()
        self.num_activations = 0
        self._met_before: list[tuple[int, int]] = []
        self.inside_registered = 0
        self._alive: dict[int, ref[Tensor]] = {}  # by id: weak sets compare their members, which tensors refuse

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """An activation is met: ``z`` are its pre-activations, ``call`` applies it."""
        return call(z)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any other operation on something that follows the input."""
        return function(*args, **kwargs)

    def overwrite(self, tensor: Tensor, value: Tensor) -> None:
        """An activation in place writes its result."""
        tensor.copy_(value)

    def beside(self, name: str, tensors: list[Tensor], arguments: int) -> None:
        """These of so many tensors that an operation takes were not seen to follow the input."""

    def module_left(self, module: nn.Module, args: tuple[Any, ...], before: tuple[int, int]) -> None:
        """A module has returned; before it so many activations and unknown operations had been met."""

    def run(self, inputs: Tensor) -> Any:
        """Passes the inputs (B, ...), float64 where the model is, through the model until it ends or an override raises `PassEnded`.

        Returns:
            What the model returns; None if the pass was ended.
        """
        before = register_module_forward_pre_hook(lambda module, args: self._enter_module(module, args))
        after = register_module_forward_hook(lambda *call: self._leave_module(*call), always_call=True)
        try:
            self._borrowed.begin_pass()
            with self:
                return self._borrowed.forward(follow(inputs))
        except PassEnded:
            return None
        finally:
            before.remove()
            after.remove()
            self._callers.clear()
            self._met_before.clear()
            self._calls.clear()
            self._alive.clear()
            self.inside_registered = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.inside_function = True  # no torch function calls another one here: the mode is off until it returns
        try:
            return self._see(func, args, kwargs or {})
        finally:
            self.inside_function = False

    def _see(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = operation_name(func)
        if name in QUERIES or (name == "type" and len(args) == 1 and not kwargs):
            return func(*args, **kwargs)
        if name == "dtype" and self._borrowed.in_float64:
            return torch.float64 if args[0].is_floating_point() else args[0].dtype
        if not args and isinstance(kwargs.get("input"), Tensor):
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        args, kwargs = map_tensors(self._borrowed.float64, (args, kwargs))
        if name in CASTS and args and self._borrowed.in_float64 and _stays_float64(args, kwargs):
            if not self._borrowed.copies(name, args, kwargs):
                return args[0]
            name, func, args, kwargs = "clone", Tensor.clone, args[:1], {}
        if name in CASTS and args and not follows(args[0]):  # what it may be cast to gives nothing but its type
            return func(*args, **kwargs)
        func = quicker(name, func, args, kwargs)
        tensors = list(tensors_in((args, kwargs)))
        self._note(tensors)
        if activation_of(name) is not None and any(map(_is_transformed, tensors)):
            raise OutOfSightError(f"The {name} of {self.caller()} runs inside a transformation of functions such as torch.vmap")
        self.beside(name, [t for t in tensors if not follows(t)], len(tensors))
        if not any(map(follows, tensors)) or name in FINITENESS:
            result = func(*args, **kwargs)
        else:
            result = self._on_followers(name, func, args, kwargs, tensors)
        self._note(tensors_in(result))
        return result

    def _on_followers(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Any:
        varying = [] if name in CREATIONS or (name in RESHAPED_AFTER and not varies(args[0])) else list(filter(varies, tensors))
        if varying and (listed := activation_of(name)) is not None and not self.inside_registered:
            return self._activate(listed, name, func, args, kwargs)
        if varying:
            self._classify(name, varying, args, kwargs)
        result = self.operation(name, func, args, kwargs)
        if name not in CREATIONS or _has_rows_of(result, args[0]):
            for tensor in tensors_in(result):
                follow(tensor, constant=not varying and not varies(tensor))
        for written in written_by(func, args, kwargs) if varying else ():
            for tensor in [written, *self.sharing(written)]:
                follow(tensor)
        return result

    def _note(self, tensors: Iterable[Tensor]) -> None:
        self._alive.update((id(tensor), ref(tensor)) for tensor in tensors)
        if len(self._alive) > MOST_NOTED:
            self._alive = {key: weak for key, weak in self._alive.items() if weak() is not None}

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """The other tensors of this pass that share a tensor's memory."""
        memory = _memory(tensor)
        alive = (weak() for weak in self._alive.values())
        return [t for t in alive if t is not None and t is not tensor and memory and _memory(t) == memory]

    def _activate(
        self, listed: Activation, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        x, args = args[0], args[1:]
        if not isinstance(x, Tensor) or not varies(x) or x.numel() == 0:
            return func(x, *args, **kwargs)
        in_place = is_in_place(func, kwargs)
        options = {key: value for key, value in kwargs.items() if key not in ("inplace", "approximate")}
        z = x if listed.pre_activation is None else follow(listed.pre_activation(x, *args, **options))

        def call(pre: Tensor) -> Tensor:
            result: Tensor = func(pre if z is x else x, *args, **kwargs)
            return result

        self.num_activations += 1
        result = follow(self.activation(self._layer_name(name), listed.thresholds(*args, **options), z, call))
        if not listed.piecewise_linear:
            self.unknown[name] = None
        if in_place and result is not x:
            self.overwrite(x, result)
            return x
        return result

    def _classify(self, name: str, varying: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in FUSED:
            raise OutOfSightError(f"{self.caller()} is a fused {name}")
        if name in COMPARISONS:
            return
        if name in MAX_POOLS or name in CLAMPS:
            self.bends[name] = None
        floating = sum(t.is_floating_point() for t in varying)
        divisor = args[1] if len(args) > 1 else kwargs.get("other")
        divides = name in ("div", "divide", "true_divide", "truediv") and isinstance(divisor, Tensor) and varies(divisor)
        known = is_piecewise_linear(name, floating, divides_by_input=divides) and not kwargs.get("rounding_mode")
        if floating < len(varying) or not known:
            self.unknown[name] = None
            self.num_unknown += 1

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise OutOfSightError(f"{self.place(module)} is a ScriptModule")
        self._callers.append(module)
        self._met_before.append((self.num_activations, self.num_unknown))
        registered = module_activation_of(module)
        if registered is None:
            return
        if not args or not isinstance(args[0], Tensor):
            raise OutOfSightError(
                f"{self.place(module)} is registered as an activation, but was not called with its pre-activation as first "
                "positional argument"
            )
        if not self.inside_registered and varies(args[0]):
            name = self._count_call(self._borrowed.path(module) or type(module).__name__)
            self.num_activations += 1
            self.activation(name, registered.thresholds(), args[0], lambda z: z)
            self.unknown[type(module).__name__] = None
        self.inside_registered += 1

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._callers:
            return
        self._callers.pop()
        before = self._met_before.pop()
        if module_activation_of(module) is not None:
            self.inside_registered -= 1
        self.module_left(module, args, before)

    def _layer_name(self, function: str) -> str:
        path, is_activation = "", False
        if self._callers:
            path = self._borrowed.path(self._callers[-1])
            is_activation = _is_activation_module(self._callers[-1])
        name = path if is_activation and path else ".".join(filter(None, (path, function)))
        return self._count_call(name)

    def caller(self) -> str:
        """Where the call that is being looked at comes from."""
        return self.place(self._callers[-1]) if self._callers else "forward"

    def place(self, module: nn.Module) -> str:
        """A module's class and path."""
        path = self._borrowed.path(module)
        name = type(module).__name__
        return name if path in ("", name) else f"{name} ({path!r})"

    def _count_call(self, name: str) -> str:
        self._calls[name] += 1
        return name if self._calls[name] == 1 else f"{name}/{self._calls[name]}"


def _stays_float64(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args[0].is_floating_point():
        return False
    targets = [a for a in [*args[1:], *kwargs.values()] if isinstance(a, (torch.dtype, Tensor))]
    dtypes = [t if isinstance(t, torch.dtype) else t.dtype for t in targets]
    return all(dtype.is_floating_point for dtype in dtypes)


def _memory(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors and those of torch.func have none of their own
        return 0


def _has_rows_of(result: Any, tensor: Any) -> bool:
    return isinstance(result, Tensor) and isinstance(tensor, Tensor) and result.shape[:1] == tensor.shape[:1]


def _is_transformed(tensor: Tensor) -> bool:
    """Whether it stands for another inside torch.vmap, torch.func.grad or the like."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_activation_module(module: nn.Module) -> bool:
    return any(cls.__module__ == "torch.nn.modules.activation" for cls in type(module).__mro__) and not isinstance(
        module, (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)
    )

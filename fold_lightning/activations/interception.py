"""Running a user's model with every operation in view, and leaving no trace.

A :class:`torch.overrides.TorchFunctionMode` sees each torch function of a forward pass, whether a module or the user's own
code calls it. What comes from the input is marked as it passes, so that an activation of a weight is not taken for a unit.
Parameters and buffers are replaced by float64 copies on their way into an operation; the model itself is only read.
"""

from __future__ import annotations

import inspect
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from fold_lightning.activations.operations import (
    CASTS,
    COMPARISONS,
    FINITENESS,
    FUSED,
    QUERIES,
    is_in_place,
    is_piecewise_linear,
    operation_name,
)
from fold_lightning.activations.snapshot import Snapshot
from fold_lightning.activations.table import Activation, Thresholds, activation_of, module_activation_of

Forward = str | Callable[..., Any] | None
_T = TypeVar("_T")


class PassEnded(BaseException):
    """Ends a forward pass that has shown all it had to; no ``except Exception`` of a model swallows it."""


class OutOfSightError(ValueError):
    """A part of the model computes activations that no interception sees."""


class Interception(TorchFunctionMode):
    """One forward pass in view. Subclasses say what happens at activations and at all other operations.

    Attributes:
        unknown: Names of the operations on the input's path that are not known to be piecewise linear.
        passed_over: Name and shape of each activation of something that was not seen to follow the input, such as a weight.
        inside_registered: In how many modules that the user registered as activations the pass is.
        inside_function: Whether a function of torch is running that was seen to be called.
    """

    def __init__(self, borrowed: BorrowedModel) -> None:
        super().__init__()
        self.unknown: dict[str, None] = {}
        self.passed_over: list[tuple[str, torch.Size]] = []
        self.inside_function = False
        self._borrowed = borrowed
        self._callers: list[nn.Module] = []
        self._calls: Counter[str] = Counter()
        self._activations_met = 0
        self._met_before: list[int] = []
        self.inside_registered = 0

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """An activation is met: ``z`` are its pre-activations, ``call`` applies it."""
        return call(z)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any other operation on something that follows the input."""
        return function(*args, **kwargs)

    def module_left(self, module: nn.Module, args: tuple[Any, ...], output: Any, activations: int) -> None:
        """A module has returned, and met so many activations."""

    def run(self, inputs: Tensor) -> Any:
        """Passes the inputs, float64 (B, ...), through the model until it ends or an override raises `PassEnded`.

        Returns:
            What the model returns; None if the pass was ended.
        """
        before = register_module_forward_pre_hook(lambda module, args: self._enter_module(module, args))
        after = register_module_forward_hook(lambda *call: self._leave_module(*call), always_call=True)
        try:
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
        if name == "dtype":
            return torch.float64 if args[0].is_floating_point() else args[0].dtype
        args, kwargs = _map_tensors(self._borrowed.float64, (args, kwargs))
        if name in CASTS and args and _stays_float64(args, kwargs):
            return args[0]
        followers = [t for t in tensors_in((args, kwargs)) if follows(t)]
        if activation_of(name) is not None and any(_is_transformed(t) for t in tensors_in((args, kwargs))):
            raise OutOfSightError(f"The {name} of {self.caller()} runs inside a transformation of functions such as torch.vmap")
        if not followers and activation_of(name) is not None:
            self.passed_over.extend((name, tensor.shape) for tensor in tensors_in((args, kwargs)))
        if not followers or name in FINITENESS:
            return func(*args, **kwargs)
        if (listed := activation_of(name)) is not None and not self.inside_registered:
            return self._activate(listed, name, func, args, kwargs)
        self._classify(name, followers, args, kwargs)
        result = self.operation(name, func, args, kwargs)
        for tensor in tensors_in(result):
            follow(tensor)
        if is_in_place(func, kwargs) and isinstance(args[0], Tensor):
            follow(args[0])
        return result

    def _activate(
        self, listed: Activation, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if args:
            x, args = args[0], args[1:]
        else:
            x = kwargs.pop("input", None)
        if not isinstance(x, Tensor) or not follows(x) or x.numel() == 0:
            return func(x, *args, **kwargs)
        in_place = is_in_place(func, kwargs)
        options = {key: value for key, value in kwargs.items() if key not in ("inplace", "approximate")}
        z = x if listed.pre_activation is None else follow(listed.pre_activation(x, *args, **options))

        def call(pre: Tensor) -> Tensor:
            result: Tensor = follow(func(pre if z is x else x, *args, **kwargs))
            return result

        self._activations_met += 1
        result = self.activation(self._layer_name(name), listed.thresholds(*args, **options), z, call)
        if not listed.piecewise_linear:
            self.unknown[name] = None
        if in_place and result is not x:
            replace(x, result)
            return x
        return result

    def _classify(self, name: str, followers: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in FUSED:
            raise OutOfSightError(f"{self.caller()} is a fused {name}")
        if name in COMPARISONS:
            return
        floating = sum(t.is_floating_point() for t in followers)
        divisor = args[1] if len(args) > 1 else kwargs.get("other")
        divides = name in ("div", "divide", "true_divide", "truediv") and isinstance(divisor, Tensor) and follows(divisor)
        if floating < len(followers) or not is_piecewise_linear(name, floating, divides_by_input=divides):
            self.unknown[name] = None

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise OutOfSightError(f"{self.place(module)} is a ScriptModule")
        self._callers.append(module)
        self._met_before.append(self._activations_met)
        registered = module_activation_of(module)
        if registered is None:
            return
        if not self.inside_registered and args and isinstance(args[0], Tensor) and follows(args[0]):
            name = self._count_call(self._borrowed.path(module) or type(module).__name__)
            self._activations_met += 1
            self.activation(name, registered.thresholds(), args[0], lambda z: z)
            self.unknown[type(module).__name__] = None
        self.inside_registered += 1

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._callers:
            return
        self._callers.pop()
        met = self._activations_met - self._met_before.pop()
        if module_activation_of(module) is not None:
            self.inside_registered -= 1
        self.module_left(module, args, output, met)

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


class BorrowedModel:
    """A model in evaluation mode, in float64, for as long as :func:`borrow` lends it."""

    def __init__(self, model: nn.Module, forward: Forward, device: torch.device) -> None:
        self.device = device
        self._forward = _forward_function(model, forward)
        self._paths = {id(module): _plain_path(path) for path, module in reversed(list(model.named_modules()))}
        self._copies: dict[int, Tensor | None] = {id(t): None for t in [*model.parameters(), *model.buffers()]}
        self._buffers = {id(b) for b in model.buffers()}

    def forward(self, inputs: Tensor) -> Any:
        return self._forward(inputs)

    def path(self, module: nn.Module) -> str:
        """Where a module lives in the model; for one that it does not own, its class."""
        return self._paths.get(id(module), type(module).__name__)

    def float64(self, tensor: Tensor) -> Tensor:
        """The tensor as operations get it: floating point in float64, buffers as copies that may be written."""
        key = id(tensor)
        if key not in self._copies:
            return self._convert(tensor)
        copy = self._copies[key]
        if copy is None:
            copy = self._convert(tensor)
            copy = copy.clone() if copy is tensor and key in self._buffers else copy.detach()
            self._copies[key] = copy
        return copy

    def _convert(self, tensor: Tensor) -> Tensor:
        dtype = torch.float64 if tensor.is_floating_point() else tensor.dtype
        if tensor.dtype == dtype and tensor.device == self.device:
            return tensor
        converted = tensor.to(device=self.device, dtype=dtype)
        return follow(converted) if follows(tensor) else converted


@contextmanager
def borrow(model: nn.Module, inputs: Tensor, forward: Forward = None) -> Iterator[BorrowedModel]:
    """Lends a model for forward passes that change nothing of it.

    Modes, attributes (also what their lists, dicts and generators hold), gradients and random states are as before when the
    context ends, also by an exception.

    Args:
        model: The user's model; of a compiled one the original is measured.
        inputs: Any inputs of the passes to come; they must be where the model is.
        forward: A name of a method or submodule, or a callable of ``(model, inputs)`` or ``(inputs)``; None calls the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an `nn.Module`, got {type(model).__name__}: wrap a function with `forward=`.")
    model = original_module(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{type(model).__name__} is a ScriptModule, whose activations can't be seen: pass the module that it was made from."
        )
    _check_device(model, inputs)
    modules = list(model.modules())
    before = [Snapshot(module) for module in modules]
    try:
        for module in modules:
            module.training = False
        with preserved_random_state(), torch.inference_mode(False), torch.no_grad(), _eager():
            yield BorrowedModel(model, forward, _float64_device(inputs.device))
    finally:
        for snapshot in before:
            snapshot.restore()


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Gives back the random states of Python, NumPy and torch, also after an exception."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def original_module(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, or the model itself."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def follow(tensor: _T) -> _T:
    """Marks a tensor as following the input."""
    tensor._follows_input = True  # type: ignore[attr-defined]
    return tensor


def follows(tensor: Tensor) -> bool:
    return getattr(tensor, "_follows_input", False)


def replace(tensor: Tensor, value: Tensor) -> None:
    """Makes an existing tensor object hold a value of another number of rows, as an in-place operation would."""
    if tensor.shape == value.shape:
        tensor.copy_(value)
    else:
        tensor.data = value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_map_tensors(function, item) for item in value)
    if type(value) is dict:
        return {key: _map_tensors(function, item) for key, item in value.items()}
    return value


def _stays_float64(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args[0].is_floating_point():
        return False
    targets = [a for a in [*args[1:], *kwargs.values()] if isinstance(a, (torch.dtype, Tensor))]
    dtypes = [t if isinstance(t, torch.dtype) else t.dtype for t in targets]
    return all(dtype.is_floating_point for dtype in dtypes)


def _is_transformed(tensor: Tensor) -> bool:
    """Whether it stands for another inside torch.vmap, torch.func.grad or the like."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_activation_module(module: nn.Module) -> bool:
    return any(cls.__module__ == "torch.nn.modules.activation" for cls in type(module).__mro__) and not isinstance(
        module, (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)
    )


def _forward_function(model: nn.Module, forward: Forward) -> Callable[[Tensor], Any]:
    if forward is None:
        return model
    if isinstance(forward, str):
        target: Any = model
        for part in forward.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise ValueError(
                f"`forward={forward!r}` names nothing to call in {type(model).__name__}: "
                "expected the name of a method or a submodule, such as 'encode' or 'net.backbone'."
            )
        return target  # type: ignore[no-any-return]
    if not callable(forward):
        raise TypeError(
            f"`forward` must be a name or a callable of (model, inputs), got {type(forward).__name__}: "
            "for instance `forward=lambda model, inputs: model.encode(inputs)`."
        )
    if _takes_model(forward):
        return lambda inputs: forward(model, inputs)
    return forward


def _takes_model(forward: Callable[..., Any]) -> bool:
    try:
        inspect.signature(forward).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return True
    required = [
        p
        for p in inspect.signature(forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) != 1 and not isinstance(forward, nn.Module)


def _plain_path(path: str) -> str:
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def _check_device(model: nn.Module, inputs: Tensor) -> None:
    devices = {t.device for t in [*model.parameters(), *model.buffers()]}
    if devices and inputs.device not in devices:
        raise ValueError(
            f"Model and inputs must be on one device, got a model on {', '.join(sorted(map(str, devices)))} and inputs on "
            f"{inputs.device}: move one with `.to(device)`."
        )


def _float64_device(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def _eager() -> Iterator[None]:
    """Compiled submodules and functions run uncompiled: a compiled graph calls no torch function that a mode could see."""
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*global hooks on modules", UserWarning)  # the hooks here expect it
        yield

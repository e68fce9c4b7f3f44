"""Evaluation of a user's model on a replica, in evaluation mode, without effects on the model or on random states."""

from __future__ import annotations

import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fold_lightning.activations.calls import Call
from fold_lightning.activations.replica import ModelCopy, cast_dtype

Forward = str | Callable[..., Any] | None

FLOAT_CASTS = {"double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
"""Tensor methods that cast to a fixed dtype."""

GLOBAL_HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks")
"""Names of torch's registries of global module hooks."""


class Replica:
    """A copy of a user's model, on which forward passes run.

    Args:
        model: The user's model.
        forward: How to call it, as in `activation_codes`.
        device: Device of the passes.
        dtype: Floating dtype of the passes: weights are cast to it, floating tensors report it as their `dtype`, and casts
            between floating dtypes do nothing. None keeps all dtypes.
        shares_parameters: Whether the parameters are the user's own tensors, so that gradients reach them.

    Attributes:
        module: The copy of the model.
        forward: The function of inputs that calls the copy.
        shared_generators: Random generators that the replica shares with the model.
        structures: Results of inspections, kept while the replica is in use.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        device: torch.device,
        *,
        dtype: torch.dtype | None = torch.float64,
        shares_parameters: bool = False,
    ) -> None:
        self.device, self.dtype = device, dtype
        self._copy = ModelCopy(model, device, dtype, shares_parameters=shares_parameters)
        self.module, self.shared_generators = self._copy.module, self._copy.shared_generators
        self.forward = forward_function(self.module, self._copy(forward))
        self._paths = {id(part): path for path, part in reversed(list(self.module.named_modules()))}
        self._own_dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
        self.structures: dict[Any, Any] = {}
        self._arguments = model, forward, device
        self._twin: Replica | None = None
        self._is_stateful = False

    def reset(self) -> None:
        """Undo the last pass's changes to the copy, so that each pass starts from the user's model."""
        self._is_stateful |= self._copy.reset()

    def takes(self, inputs: Tensor) -> bool:
        """Return whether the model takes inputs in its own dtype, without interception."""
        model, forward, _ = self._arguments
        plain = Replica(model, forward, inputs.device, dtype=None, shares_parameters=True)
        try:
            plain.forward(inputs.to(self._own_dtype))
        except Exception:
            return False
        return True

    def twin(self) -> Replica:
        """Return a replica for passes that run during a pass of this one: itself, or a second one if passes change its state."""
        if not self._is_stateful:
            return self
        if self._twin is None:
            self._twin = Replica(*self._arguments, dtype=self.dtype)
        return self._twin

    def release(self) -> None:
        """Free the memory of the copy."""
        self._copy.release()
        if self._twin is not None:
            self._twin.release()

    def path(self, module: nn.Module) -> str:
        """Return the path of a module in the model; for a module outside it, the name of its class."""
        name: str = self._paths.get(id(module), type(module).__name__)
        return name

    def takes_as_is(self, tensor: Tensor) -> bool:
        """Return whether operations take a tensor without conversion."""
        return self.dtype is None or (tensor.device == self.device and tensor.dtype == cast_dtype(tensor.dtype, self.dtype))

    def converted(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the device of the passes, in the dtype that `cast_dtype` gives."""
        assert self.dtype is not None
        made = tensor.detach().to(self.device, cast_dtype(tensor.dtype, self.dtype), copy=True)
        vars(made).update(vars(tensor))  # its marks
        return made

    def ignores_cast(self, call: Call) -> bool:
        """Return whether a cast does nothing here because both dtypes are floating."""
        given = (value for value in (*call.args, *call.kwargs.values()) if isinstance(value, (torch.dtype, Tensor)))
        dtypes = (value.dtype if isinstance(value, Tensor) else value for value in given)
        return self.dtype is not None and all(dtype.is_floating_point for dtype in dtypes)

    def cast_copies(self, call: Call) -> bool:
        """Return whether a cast that does nothing here would return a copy in the user's model, not the tensor itself."""
        name, args, kwargs = call.name, call.args, call.kwargs
        if kwargs.get("copy") or (name in ("to", "type_as") and args[-1] is True):
            return True
        target = FLOAT_CASTS.get(name) or next((a for a in [*args[1:], *kwargs.values()] if isinstance(a, torch.dtype)), None)
        # Floating tensors report the passes' dtype, so a cast to it most likely means the dtype that the tensor already has.
        return target is not None and target != self._own_dtype and not (target == self.dtype and name not in FLOAT_CASTS)


_shared: ContextVar[tuple[nn.Module, Forward, Replica] | None] = ContextVar("shared", default=None)


@contextmanager
def evaluate_on_replica(
    model: nn.Module, inputs: Tensor, forward: Forward = None, *, dtype: torch.dtype | None = torch.float64
) -> Iterator[Replica]:
    """Make a replica of a model for the passes in this context, or use the one that `shared_replica` made.

    Args:
        model: The user's model, which is only read.
        inputs: Any inputs on the model's device.
        forward: A name of a method or submodule, or a callable of ``(model, inputs)`` or ``(inputs)``; None calls the model.
        dtype: Floating dtype of the passes; None keeps all dtypes.

    Raises:
        ValueError: If the model can't be copied, or is on another device than the inputs.
        TypeError: If the model is not a module.
    """
    _check_model(model, inputs)
    shared = _shared.get()
    if dtype == torch.float64 and shared is not None and shared[0] is model and shared[1] is forward:
        yield shared[2]
        return
    replica = Replica(model, forward, float64_device(inputs.device) if dtype == torch.float64 else inputs.device, dtype=dtype)
    try:
        with passes_on(replica):
            yield replica
    finally:
        replica.release()


@contextmanager
def passes_on(replica: Replica) -> Iterator[None]:
    """Run passes of a replica without autocast and gradients, and restore random states afterwards."""
    with undisturbed(), preserved_random_state(*replica.shared_generators), torch.autocast(replica.device.type, enabled=False):
        yield


@contextmanager
def shared_replica(model: nn.Module, inputs: Tensor, forward: Forward = None) -> Iterator[None]:
    """Share one replica among all measurements of a model in this context, so that it is copied and inspected once.

    The arguments are those of `evaluate_on_replica`. The model must not be trained within the context.
    """
    with evaluate_on_replica(model, inputs, forward) as replica:
        token = _shared.set((model, forward, replica))
        try:
            yield
        finally:
            _shared.reset(token)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run code without gradients, compilation and global module hooks, and restore random states afterwards."""
    with preserved_random_state(), eager(), without_global_hooks(), torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def preserved_random_state(*generators: Any) -> Iterator[None]:
    """Restore the random states of Python, NumPy, torch and the given generators, also after an exception."""
    on_gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    restorers = [_restorer(source) for source in (*generators, random, np.random, torch.default_generator, *on_gpus)]
    try:
        yield
    finally:
        for restore in restorers:
            restore()


def _restorer(source: Any) -> Callable[[], None]:
    """Return a function that restores the current state of a random generator."""
    if isinstance(source, np.random.Generator):
        return partial(setattr, source.bit_generator, "state", source.bit_generator.state)
    if hasattr(source, "getstate"):  # Python's own
        return partial(source.setstate, source.getstate())
    return partial(source.set_state, source.get_state())


def forward_function(model: nn.Module, forward: Forward) -> Callable[[Tensor], Any]:
    """Return the function of inputs that `forward` specifies."""
    if forward is None:
        return model
    if isinstance(forward, str):
        target: Any = model
        for part in forward.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise ValueError(
                f"`forward` must be the name of a method or a submodule of {type(model).__name__}, such as 'encode' or "
                f"'net.backbone', got {forward!r}."
            )
        return target  # type: ignore[no-any-return]
    check_forward(forward)
    if _takes_model(forward):
        return lambda inputs: forward(model, inputs)
    return forward


def check_forward(forward: Any) -> None:
    """Raise unless `forward` is a name, a callable or None.

    Raises:
        TypeError: If it is none of these.
    """
    if not (forward is None or isinstance(forward, str) or callable(forward)):
        raise TypeError(
            f"`forward` must be a name or a callable of (model, inputs), got {type(forward).__name__}: "
            "for instance `forward=lambda model, inputs: model.encode(inputs)`."
        )


def _takes_model(forward: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(forward)
        signature.bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in signature.parameters.values() if p.default is p.empty and p.kind in kinds]
    return len(required) != 1 and not isinstance(forward, nn.Module)


def _check_model(model: Any, inputs: Tensor) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an `nn.Module`, got {type(model).__name__}: wrap a function with `forward=`.")
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta}
    if devices and inputs.device not in devices:
        raise ValueError(
            f"Model and inputs must be on one device, got a model on {', '.join(sorted(map(str, devices)))} and inputs on "
            f"{inputs.device}: move one with `.to(device)`."
        )


def float64_device(device: torch.device) -> torch.device:
    """Return the device itself, or the CPU for a device without float64."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled submodules and functions uncompiled, because calls inside a compiled graph can't be intercepted."""
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*global hooks on modules", UserWarning)  # the interception's own hooks cause it
        yield


@contextmanager
def without_global_hooks() -> Iterator[None]:
    """Suspend the user's global module hooks, which would also run on the replica."""
    held = [getattr(torch_module, name) for name in GLOBAL_HOOKS]
    before = [hooks.copy() for hooks in held]
    for hooks in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in zip(held, before, strict=True):
            hooks.clear()
            hooks.update(kept)

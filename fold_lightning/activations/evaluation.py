"""Evaluating a user's model on a replica: in evaluation mode, without a trace on the model or on random states."""

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

from fold_lightning.activations.replica import ModelCopy, cast_dtype

Forward = str | Callable[..., Any] | None

FLOAT_CASTS = {"double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
"""Methods that cast to one dtype."""

GLOBAL_HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks")
"""Hooks of all modules, by their names in torch."""


class Replica:
    """A copy of a user's model that is passed inputs in its stead.

    Args:
        model: The user's model.
        forward: How to call it, as of `activation_codes`.
        device: Device of the passes.
        dtype: Floating dtype of the passes: weights are copies in it, all floating dtypes read as it, and casts between floating
            dtypes do nothing. None leaves everything its own dtype.
        shares_parameters: Whether the parameters are the user's own, so that gradients reach them. None shares them where
            everything has its own dtype.

    Attributes:
        structures: Results of `inspect_model`, kept while the replica is in use.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        device: torch.device,
        *,
        dtype: torch.dtype | None = torch.float64,
        shares_parameters: bool | None = None,
    ) -> None:
        self.device, self.dtype = device, dtype
        self._copy = ModelCopy(model, device, dtype, shares_parameters=shares_parameters)
        module = self._copy.module
        self._forward = forward_function(module, self._copy(forward))
        self._paths = {id(part): path for path, part in reversed(list(module.named_modules()))}
        self._own_dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
        self._converted: dict[int, tuple[Tensor, Tensor]] = {}
        self.structures: dict[Any, Any] = {}
        self._arguments = model, forward, device
        self._twin: Replica | None = None
        self._is_stateful = False

    @property
    def shared_generators(self) -> list[Any]:
        """Random generators that the replica shares with the model."""
        return self._copy.shared_generators

    @property
    def module(self) -> nn.Module:
        """The module that is passed inputs."""
        return self._copy.module

    def begin_pass(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Take back what the last pass changed: each pass finds the model as the user left it.

        Returns:
            State of the pass that is under way, if this one runs within it, for `end_pass`.
        """
        self._is_stateful |= self._copy.reset()
        outer, self._converted = self._converted, {}
        return outer

    def end_pass(self, outer: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Go on with the pass that was under way."""
        self._converted = outer

    def forward(self, inputs: Tensor) -> Any:
        """Call the copy of the model."""
        return self._forward(inputs)

    def takes(self, inputs: Tensor) -> bool:
        """Return whether the model takes inputs in its own dtype, when nothing is intercepted."""
        model, forward, _ = self._arguments
        plain = Replica(model, forward, inputs.device, dtype=None)
        try:
            plain.forward(inputs.to(self._own_dtype))
        except Exception:
            return False
        return True

    def twin(self) -> Replica:
        """Return a replica for passes that run while one of this is under way: another one if passes leave something behind."""
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
        """Return whether operations get a tensor as it is."""
        return self.dtype is None or (tensor.device == self.device and tensor.dtype == cast_dtype(tensor.dtype, self.dtype))

    def converted(self, tensor: Tensor) -> Tensor:
        """Return a tensor as operations get it: in the dtype of the passes, or the complex one of its precision, on their device.

        Tensors that `forward` makes or finds outside the model are converted, each once in a pass, so that what is written into
        one is there when it is read again.
        """
        if self.dtype is None or self.takes_as_is(tensor):
            return tensor
        if id(tensor) not in self._converted:  # with the original, so that no other tensor gets its id
            made = tensor.detach().to(self.device, cast_dtype(tensor.dtype, self.dtype), copy=True)
            vars(made).update(vars(tensor))  # its marks
            self._converted[id(tensor)] = (tensor, made)
        return self._converted[id(tensor)][1]

    def cast_copies(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether a cast that does nothing here would give the user's model a copy, not the tensor itself."""
        if kwargs.get("copy") or (name in ("to", "type_as") and args[-1] is True):
            return True
        target = FLOAT_CASTS.get(name) or next((a for a in [*args[1:], *kwargs.values()] if isinstance(a, torch.dtype)), None)
        # All dtypes read as that of the passes here, so a cast to that is most likely one to the dtype that the tensor has.
        return target is not None and target != self._own_dtype and not (target == self.dtype and name not in FLOAT_CASTS)


_shared: ContextVar[tuple[nn.Module, Forward, Replica] | None] = ContextVar("shared", default=None)


@contextmanager
def evaluate_on_replica(model: nn.Module, inputs: Tensor, forward: Forward = None) -> Iterator[Replica]:
    """Make a replica of a model for the passes in this context, or use the one that `shared_replica` made.

    Args:
        model: The user's model, which is only read.
        inputs: Any inputs of the passes to come, on the model's device.
        forward: A name of a method or submodule, or a callable of ``(model, inputs)`` or ``(inputs)``; None calls the model.

    Raises:
        ValueError: If the model can't be copied, or is on another device than the inputs.
        TypeError: If it is no module.
    """
    _check_model(model, inputs)
    shared = _shared.get()
    if shared is not None and shared[0] is model and shared[1] is forward:
        yield shared[2]
        return
    with undisturbed():
        replica = Replica(model, forward, float64_device(inputs.device))
        try:
            with preserved_random_state(*replica.shared_generators):
                yield replica
        finally:
            replica.release()


def replica_for_signs(model: nn.Module, inputs: Tensor, forward: Forward = None, dtype: torch.dtype | None = None) -> Replica:
    """Make a replica of a model on the inputs' device, in a dtype or in the model's own, for passes `without_autocast`.

    Its weights are copies, since a forward pass may write them; a ResNet-18's take 25 ms. Release it when it is done.

    The arguments and errors are those of `evaluate_on_replica`.
    """
    _check_model(model, inputs)
    with undisturbed():
        return Replica(model, forward, inputs.device, dtype=dtype, shares_parameters=False)


@contextmanager
def without_autocast(replica: Replica) -> Iterator[None]:
    """Run passes of a replica in the dtypes of its weights: without autocast, gradients, or a trace on random states."""
    with undisturbed(), preserved_random_state(*replica.shared_generators), torch.autocast(replica.device.type, enabled=False):
        yield


@contextmanager
def shared_replica(model: nn.Module, inputs: Tensor, forward: Forward = None) -> Iterator[None]:
    """Make one replica for all measurements of a model in this context: weights are copied once, and it is inspected once.

    The arguments are those of `evaluate_on_replica`. The model must not be trained meanwhile.
    """
    with evaluate_on_replica(model, inputs, forward) as replica:
        token = _shared.set((model, forward, replica))
        try:
            yield
        finally:
            _shared.reset(token)


@contextmanager
def undisturbed(*, gradients: bool = False) -> Iterator[None]:
    """Run code without gradients that leaves random states as they were, uncompiled and unseen by hooks of all modules."""
    with preserved_random_state(), _eager(), _without_global_hooks():
        if gradients:
            yield
            return
        with torch.inference_mode(False), torch.no_grad():
            yield


@contextmanager
def preserved_random_state(*generators: Any) -> Iterator[None]:
    """Give back the random states of Python, NumPy, torch and some generators, also after an exception."""
    on_gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    restorers = [_restorer(source) for source in (*generators, random, np.random, torch.default_generator, *on_gpus)]
    try:
        yield
    finally:
        for restore in restorers:
            restore()


def _restorer(source: Any) -> Callable[[], None]:
    """Return a function that gives a source of random numbers the state that it has now."""
    if isinstance(source, np.random.Generator):
        return partial(setattr, source.bit_generator, "state", source.bit_generator.state)
    if hasattr(source, "getstate"):  # Python's own
        return partial(source.setstate, source.getstate())
    return partial(source.set_state, source.get_state())


def forward_function(model: nn.Module, forward: Forward) -> Callable[[Tensor], Any]:
    """Return the function of inputs that `forward` stands for."""
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
    """Return a device itself, or the processor for a device without float64."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled submodules and functions uncompiled: a compiled graph calls no torch function that a mode could see."""
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*global hooks on modules", UserWarning)  # the hooks here expect it
        yield


@contextmanager
def _without_global_hooks() -> Iterator[None]:
    """Take away the user's hooks of all modules, which would see the replica's."""
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

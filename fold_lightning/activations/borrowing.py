"""Borrowing a user's model: evaluation mode, float64, and all of it given back.

Parameters and buffers are replaced by float64 copies on their way into an operation; the model itself is only read.
"""

from __future__ import annotations

import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fold_lightning.activations.following import follow, follows, varies
from fold_lightning.activations.snapshot import DEEPEST_HOLDER, Restorer, Snapshot, holding_restorers, restore_all

Forward = str | Callable[..., Any] | None


CAST_TO = {"double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}


class BorrowedModel:
    """A model in evaluation mode, in float64, for as long as :func:`borrow` lends it.

    Attributes:
        in_float64: Whether all dtypes read as float64, and casts between floating ones do nothing.
        looks: What was found by looking at it, to be looked up as long as the loan lasts.
    """

    in_float64 = True

    def __init__(self, model: nn.Module, forward: Forward, device: torch.device) -> None:
        self.device = device
        self._forward = forward_function(model, forward)
        self._paths = {id(module): _plain_path(path) for path, module in reversed(list(model.named_modules()))}
        self._parameters = {id(p) for p in model.parameters()}
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
        self._copies: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._buffers = {id(b) for b in model.buffers()}
        self.looks: dict[Any, Any] = {}

    def copies(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a cast between floating dtypes, which is none here, is a copy in the user's model, not the tensor itself."""
        if kwargs.get("copy") or (name in ("to", "type_as") and args[-1] is True):
            return True
        target = CAST_TO.get(name) or next((a for a in [*args[1:], *kwargs.values()] if isinstance(a, torch.dtype)), None)
        # All dtypes read as float64 here, so a cast to that is most likely one to what the tensor has.
        return target is not None and target != self._dtype and not (target == torch.float64 and name not in CAST_TO)

    def begin_pass(self) -> None:
        """Forgets what the last pass wrote into parameters, buffers and other tensors."""
        self._copies = {
            key: (tensor, copy, version)
            for key, (tensor, copy, version) in self._copies.items()
            if key in self._parameters and copy._version == version
        }

    def forward(self, inputs: Tensor) -> Any:
        return self._forward(inputs)

    def path(self, module: nn.Module) -> str:
        """Where a module lives in the model; for one that it does not own, its class."""
        return self._paths.get(id(module), type(module).__name__)

    def float64(self, tensor: Tensor) -> Tensor:
        """The tensor as operations get it: in float64 or complex128, parameters and buffers as copies that may be written.

        A copy lasts as long as the pass, so what is written into one is there when the tensor is read again.
        """
        key = id(tensor)
        dtype = _double(tensor.dtype)
        is_own = key in self._parameters or key in self._buffers
        if not is_own and tensor.dtype == dtype and tensor.device == self.device:
            return tensor
        if key not in self._copies:  # with the original, lest another tensor gets its id
            copy = _like(tensor, tensor.detach().to(self.device, dtype, copy=True))
            self._copies[key] = (tensor, copy, copy._version)
        return self._copies[key][1]


def _double(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def _like(tensor: Tensor, copy: Tensor) -> Tensor:
    return follow(copy, constant=not varies(tensor)) if follows(tensor) else copy


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
    model = _to_lend(model, inputs)
    kept = _kept.get()
    if kept is None or kept.model is not model or kept.forward is not forward:
        with _lent(model, inputs, forward) as loan:
            yield loan.borrowed
        return
    try:
        yield kept.borrowed
    finally:
        if kept.clean_up():  # a look leaves something behind that the passes after it find
            kept.borrowed.looks.clear()


@dataclass(frozen=True)
class _Loan:
    """A model that is lent, and what makes it as it was when that began and says whether it had changed."""

    model: nn.Module
    forward: Forward
    borrowed: BorrowedModel
    clean_up: Callable[[], bool]


_kept: ContextVar[_Loan | None] = ContextVar("kept", default=None)


@contextmanager
def _lent(model: nn.Module, inputs: Tensor, forward: Forward) -> Iterator[_Loan]:
    with undisturbed(model) as clean_up, eager():
        yield _Loan(model, forward, BorrowedModel(model, forward, _float64_device(inputs.device)), clean_up)


def _to_lend(model: nn.Module, inputs: Tensor) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an `nn.Module`, got {type(model).__name__}: wrap a function with `forward=`.")
    model = original_module(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{type(model).__name__} is a ScriptModule, whose activations can't be seen: pass the module that it was made from."
        )
    _check_device(model, inputs)
    return model


@contextmanager
def kept_borrowed(model: nn.Module, inputs: Tensor, forward: Forward = None) -> Iterator[None]:
    """One loan for all that borrows a model meanwhile, called in the same way: its weights are copied once, and it is looked at once.

    Each borrower finds the model as the first did. The arguments are those of `borrow`. The model must not be trained meanwhile.
    """
    with _lent(_to_lend(model, inputs), inputs, forward) as loan:
        token = _kept.set(loan)
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def undisturbed(model: nn.Module, *holders: Any, depth: int = DEEPEST_HOLDER) -> Iterator[Callable[[], bool]]:
    """Evaluation mode without gradients; what is then run of a model leaves nothing behind on it, nor on other objects.

    What it yields takes away what was left so far, and says whether there was something.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        restorers = [*(Snapshot(module).restore for module, _ in modes), random_state_restorer(*holders, depth=depth)]

        def clean_up() -> bool:
            return restore_all(restorers)

        try:
            with torch.inference_mode(False), torch.no_grad():
                yield clean_up
        finally:
            clean_up()
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def preserved_random_state(*holders: Any, depth: int = DEEPEST_HOLDER) -> Iterator[None]:
    """Gives back the random states of Python, NumPy and torch, and what some objects hold, also after an exception."""
    restore = random_state_restorer(*holders, depth=depth)
    try:
        yield
    finally:
        restore()


def random_state_restorer(*holders: Any, depth: int = DEEPEST_HOLDER) -> Restorer:
    """What gives back the random states as they are now, and what some objects hold."""
    restorers = [restorer for holder in holders for restorer in holding_restorers(holder, depth)]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> bool:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        return restore_all(restorers)

    return restore


def original_module(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, or the model itself."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def forward_function(model: nn.Module, forward: Forward) -> Callable[[Tensor], Any]:
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
def eager() -> Iterator[None]:
    """Compiled submodules and functions run uncompiled: a compiled graph calls no torch function that a mode could see."""
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*global hooks on modules", UserWarning)  # the hooks here expect it
        yield

"""A copy of a user's model, with modules, weights and attributes of its own, on which measurements run.

Forward passes change only the copy. Parametrizations, weight norm, pruning, and hooks that change the model's result run in the
copy too; hooks that only observe do not.
"""

from __future__ import annotations

import dis
import types
from collections import OrderedDict
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fold_lightning.activations.structural_copy import MAX_ITEMS, StructuralCopy, attributes_of, cell_contents, is_data
from fold_lightning.activations.tracking import forget_marks

LAYER_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
"""Forward pre-hooks that compute a weight."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks")
"""Attributes that hold a module's forward hooks."""

HOOK_FLAGS = frozenset("_forward_pre_hooks_with_kwargs _forward_hooks_with_kwargs _forward_hooks_always_called".split())

OTHER_HOOKS = frozenset(
    """_backward_pre_hooks _backward_hooks _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks
    _load_state_dict_post_hooks""".split()
)

COMPILED = frozenset(["_compiled_call_impl", "_compiler_ctx"])

INERT = "log log_dict print save_hyperparameters manual_backward".split()
"""Methods of a LightningModule that do nothing in a replica."""


class ModelCopy(StructuralCopy):
    """Copies of a module tree and of values that refer to it.

    Args:
        model: The user's model.
        device: Device of the copies.
        dtype: Floating dtype of the copied tensors. None leaves dtypes as they are.
        shares_parameters: Whether parameters, and other tensors that require gradients, are the model's own.

    Attributes:
        module: The copy of the model.

    Raises:
        ValueError: If the model holds something that can't be copied: a ScriptModule, or a weight that is lazy, sharded,
            quantized or on the meta device.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, dtype: torch.dtype | None, *, shares_parameters: bool = False
    ) -> None:
        super().__init__()
        self._device, self._dtype = device, dtype
        self._shares_parameters = shares_parameters
        self._written: list[tuple[Tensor, Tensor, int]] = []
        self._owned: set[int] = set()
        _refuse_scripted(model)
        modules = list(model.modules())
        originals = [original_module(module) for module in modules]
        for module in originals:
            self._shell(module)
        for module, original in zip(modules, originals, strict=True):
            self._keep(module, self(original))
        for module in dict.fromkeys(originals):
            self._fill(module)
        self.module: nn.Module = self(model)

    def reset(self) -> bool:
        """Restore the initial contents of copied modules, containers and tensors; return whether any had changed."""
        differed = super().reset()
        for number, (tensor, made, version) in enumerate(self._written):
            if made._version != version:
                with torch.no_grad():
                    made.copy_(tensor)
                forget_marks(made)
                self._written[number] = (tensor, made, made._version)
                differed = True
        return differed

    def release(self) -> None:
        """Drop all copies, because reference cycles would keep their tensors until Python's next garbage collection."""
        for original, made in self._copies.values():
            if isinstance(made, nn.Module) and made is not original:
                attributes_of(made).clear()
        self._copies, self._contents, self._written = {}, [], []

    def _copy(self, value: Any) -> Any:
        if not isinstance(value, nn.Module):
            return super()._copy(value)
        original = original_module(value)  # of a module outside the tree, held by a list or a function
        if not self._knows(original):
            self._shell(original)
            self._fill(original)
        return self._keep(value, self(original))

    def _tensor(self, value: Tensor) -> Tensor:
        is_owned = id(value) in self._owned
        _check_tensor(value, is_owned)
        if not is_owned and is_data(value):
            return value
        if self._shares_parameters and (isinstance(value, nn.Parameter) or value.requires_grad):
            return self._keep(value, value)
        with torch.inference_mode(False), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            made = self._cast_copy(value)
        made.requires_grad_(value.requires_grad and made.is_floating_point())
        if isinstance(value, nn.Parameter):
            made = nn.Parameter(made, made.requires_grad)
        self._keep(value, made)
        self._written.append((value, made, made._version))
        if attributes := getattr(value, "__dict__", None):
            vars(made).update({name: self(item) for name, item in attributes.items()})
        return made

    def _cast_copy(self, value: Tensor) -> Tensor:
        base = value._base  # the copy of a view is a view of the copy of its base
        if base is not None and base.dtype == value.dtype and base.is_contiguous() and base.storage_offset() == 0:
            made = self(base)
            if made is not base:
                return made.as_strided(value.size(), value.stride(), value.storage_offset())
        dtype = value.dtype if self._dtype is None else cast_dtype(value.dtype, self._dtype)
        return value.detach().to(self._device, dtype, copy=True)

    def _shell(self, module: nn.Module) -> None:
        if self._knows(module):
            return
        cls: Any = type(module)
        if hasattr(cls, "__del__"):  # deleting a copy must not release the model's resources
            cls = type(cls.__name__, (cls,), {"__del__": lambda self: None, "__module__": cls.__module__})
        self._owned.update(map(id, (*module._parameters.values(), *module._buffers.values())))
        self._note_generators(type(module))
        self._keep(module, object.__new__(cls))

    def _fill(self, module: nn.Module) -> None:
        made, attributes = self(module), attributes_of(module)
        target = attributes_of(made)
        for name, value in attributes.items():
            if name in HOOKS:
                target[name] = OrderedDict((key, self(hook)) for key, hook in value.items() if self._may_change_output(hook))
            elif name in HOOK_FLAGS or name in OTHER_HOOKS:
                target[name] = value.copy() if name in HOOK_FLAGS else OrderedDict()
            elif name in ("_parameters", "_buffers", "_modules"):
                target[name] = type(value)((key, self(item)) for key, item in value.items())
                self._remember_contents(target[name])
            elif name not in COMPILED:
                target[name] = self(value)
        target.update(training=False, _is_full_backward_hook=None)
        if "_trainer" in target and hasattr(type(module), "configure_optimizers"):
            target.update(dict.fromkeys(INERT, _do_nothing))
            target["_device"] = self._device
            if attributes["_trainer"] is not None:
                target["_trainer"] = ReadOnlyTrainer(attributes["_trainer"], made)
        self._copy_slots(module, made)
        self._remember_contents(target)

    def _may_change_output(self, hook: Any) -> bool:
        return isinstance(hook, LAYER_HOOKS) or self._reaches_model(hook, 4) or not returns_nothing(hook)

    def _reaches_model(self, value: Any, depth: int) -> bool:
        """Return whether a function, or what it holds, refers to a module of the tree."""
        if isinstance(value, nn.Module):
            return self._knows(value)
        held: list[Any] = []
        if isinstance(value, types.MethodType):
            held = [value.__self__]
        elif isinstance(value, partial):
            held = [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, types.FunctionType):
            held = list(map(cell_contents, value.__closure__ or ()))
        elif isinstance(value, (list, tuple, set, dict)):
            held = list(value.values() if isinstance(value, dict) else value)
        elif not isinstance(value, (type, types.ModuleType, Tensor)):
            held = list((attributes_of(value) or {}).values())
        return depth > 0 and len(held) <= MAX_ITEMS and any(self._reaches_model(item, depth - 1) for item in held)


def cast_dtype(dtype: torch.dtype, floating: torch.dtype) -> torch.dtype:
    """Return `floating` for a floating dtype, the complex dtype of its precision for a complex one, and any other dtype itself."""
    if dtype.is_complex:
        return floating.to_complex()
    return floating if dtype.is_floating_point else dtype


def original_module(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile` and data-parallel wrappers, or the model itself."""
    while not isinstance(model, torch.jit.ScriptModule):
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := (attributes_of(model) or {}).get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        else:
            break
    return model


def returns_nothing(hook: Any) -> bool:
    """Return whether a function's code can only return None; such a hook only observes.

    Example:
        >>> returns_nothing(lambda *_: None), returns_nothing(lambda module, args, output: 2 * output)
        (True, False)
    """
    while isinstance(hook, (partial, types.MethodType)):
        hook = hook.func if isinstance(hook, partial) else hook.__func__
    if not isinstance(hook, types.FunctionType):
        return False
    returned: list[Any] = []
    for before, instruction in pairwise(dis.get_instructions(hook)):
        if instruction.opname == "RETURN_CONST":
            returned.append(instruction.argval)
        elif instruction.opname == "RETURN_VALUE":
            returned.append(before.argval if before.opname == "LOAD_CONST" else hook)
    return all(value is None for value in returned)


class ReadOnlyTrainer:
    """Read-only view of a Trainer, whose loggers do nothing; attributes that are set on it are not set on the Trainer.

    Args:
        trainer: The user's Trainer.
        module: Its `lightning_module`: the copy of the user's.
    """

    def __init__(self, trainer: Any, module: nn.Module) -> None:
        vars(self).update(_read=trainer, lightning_module=module)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # it passes `isinstance` as a Trainer
        return type(vars(self)["_read"])

    @property
    def logger(self) -> Any:
        """Silent logger, or None if the Trainer has no logger."""
        return _SILENT if vars(self)["_read"].logger is not None else None

    @property
    def loggers(self) -> list[Any]:
        """One silent logger for each of the Trainer's."""
        return [_SILENT for _ in vars(self)["_read"].loggers]

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_read"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[name] = value


class _Silent:
    """Replacement for a logger, its experiment, and whatever these return."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


_SILENT = _Silent()


def _do_nothing(*_: Any, **__: Any) -> None:
    return None


def _refuse_scripted(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{type(module).__name__} ({path!r}) is a ScriptModule, whose activations cannot be intercepted: pass the module "
                "that it was made from."
            )


def _check_tensor(tensor: Tensor, is_owned: bool) -> None:
    """Raise for a weight whose values can't be copied."""
    if nn.parameter.is_lazy(tensor):
        raise ValueError("The model has lazy modules without weights: call it once with a batch before measuring it.")
    if type(tensor).__name__ == "DTensor":
        raise ValueError("The model's weights are sharded over processes (DTensor): measure a copy that is not sharded.")
    if is_owned and tensor.is_meta:
        raise ValueError("The model has weights on the meta device, which holds no values: load them first.")
    if is_owned and tensor.is_quantized:
        raise ValueError("The model has quantized weights: measure it before they are quantized.")

"""Forward passes in which every torch call is intercepted.

A :class:`torch.overrides.TorchFunctionMode` intercepts each torch function of a forward pass, whether a module or the user's
own code calls it. Tensors that depend on the input are marked, so that an activation of weights does not count as units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from fold_lightning.activations import operations
from fold_lightning.activations.calls import Call
from fold_lightning.activations.choosing import find_choice
from fold_lightning.activations.evaluation import Replica
from fold_lightning.activations.fast_kernels import fast_kernel
from fold_lightning.activations.idioms import find_part, keeps_comparison, note_comparison
from fold_lightning.activations.operations import is_piecewise_linear, operation_name, picks_rows
from fold_lightning.activations.registry import RELU, Activation, Thresholds, activation_of, module_activation_of
from fold_lightning.activations.tracking import (
    comparison_of,
    depends_on_input,
    has_input_rows,
    map_tensors,
    mark_rows,
    memory_of,
    tensors_in,
)

MAX_NOTED = 10_000
"""Number of weak references to a pass's tensors above which dead ones are dropped."""

_RUNNING: list[Interception] = []
"""Stack of running passes: a pass may start another one for some rows, and each handles only its own modules."""


class PassEnded(BaseException):
    """Signal that ends a forward pass early; a model's ``except Exception`` does not catch it."""


class NotInterceptable(ValueError):
    """Error for a part of the model whose activations can't be intercepted."""


@dataclass(frozen=True)
class RunningModule:
    """A module whose `forward` is running, and the pass's numbers of activations and other bends before it."""

    module: nn.Module
    is_registered: bool
    num_activations: int
    num_bends: int


class Interception(TorchFunctionMode):
    """A forward pass with intercepted torch calls, which runs once.

    Subclasses define what happens at activations and at other operations. Their own torch calls are not intercepted.

    Attributes:
        looks_for_bends: Whether operations are classified into `unknown` and `bends`.
        unknown: Operations on the input's path that are not known to be piecewise linear -> place of the first call.
        has_kinks: Whether a piecewise linear activation has run.
        num_activations: Number of activations so far.
        num_calls: Number of torch calls so far.
        num_inputs: Batch size B.
        bends: Operations that have kinks but no bits.
        num_bends: Number of calls of operations in `bends` and, activations aside, in `unknown`.
        is_row_by_row: Whether the pass depends on values of the batch: they selected rows, or Python read them.
        inside_registered: Number of running modules that the user registered as activations.
    """

    looks_for_bends = False

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.unknown: dict[str, str] = {}
        self.num_bends = 0
        self.has_kinks = False
        self.bends: dict[str, None] = {}
        self.is_row_by_row = False
        self.num_activations = 0
        self.num_calls = 0
        self.num_inputs = 0
        self.inside_registered = 0
        self._replica, self._has_picked_rows = replica, False
        self._conversions: dict[int, tuple[Tensor, Tensor]] = {}
        self._running: list[RunningModule] = []
        self._calls: Counter[str] = Counter()
        self._alive: dict[int, ref[Tensor]] = {}  # by id: weak sets compare their members, which tensors refuse

    def activation(self, layer: str, thresholds: Thresholds, z: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Handle an activation: ``z`` are its pre-activations, ``call`` applies it."""
        return call(z)

    def operation(self, call: Call) -> Any:
        """Handle any other operation on a tensor that has one row per input."""
        return call()

    def overwrite(self, tensor: Tensor, value: Tensor) -> None:
        """Write the result of an activation in place."""
        tensor.copy_(value)

    def on_untracked(self, call: Call, tensors: list[Tensor]) -> None:
        """Handle tensor arguments of a call that do not have one row per input."""

    def on_module_exit(self, running: RunningModule, args: tuple[Any, ...]) -> None:
        """Handle the return of a module that was called with these positional arguments."""

    def run(self, inputs: Tensor) -> Any:
        """Pass inputs (B, ...), on the replica's device, until the model returns or an override raises `PassEnded`.

        Returns:
            The model's output; None if the pass was ended.
        """
        self.num_inputs = len(inputs)
        self._replica.reset()
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

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Handle a call; the mode is off until it returns, so that nested calls are not intercepted."""
        kwargs = kwargs or {}
        name = operation_name(func)
        if name in operations.QUERIES or (name == "type" and len(args) == 1 and not kwargs):
            return func(*args, **kwargs)
        if name == "dtype" and self._replica.dtype is not None:
            return self._replica.dtype if args[0].is_floating_point() else args[0].dtype
        if not args and isinstance(kwargs.get("input"), Tensor):
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        call = Call(name, func, args, kwargs)
        if not all(map(self._replica.takes_as_is, call.tensors)):
            call = Call(name, func, *map_tensors(self._converted, (args, kwargs)))
        if name in operations.CASTS and args:
            x = call.args[0]
            if self._replica.ignores_cast(call):
                if not self._replica.cast_copies(call):
                    return x
                call = Call("clone", Tensor.clone, (x,), {})
            elif not has_input_rows(x):  # the result does not depend on the values of a cast's target
                return call()
        call.function = fast_kernel(call)
        self._note(call.tensors)
        if activation_of(call.name) is not None and any(map(torch._C._functorch.is_functorch_wrapped_tensor, call.tensors)):
            raise NotInterceptable(f"The {name} of {self.caller()} runs inside a function transform such as torch.vmap")
        self.num_calls += 1
        untracked = [t for t in call.tensors if not has_input_rows(t)]
        self.on_untracked(call, untracked)
        is_constant = len(untracked) == len(call.tensors) or name in operations.FINITENESS
        result = call() if is_constant else self._on_tracked(call)
        self._note(tensors_in(result))
        return result

    def _on_tracked(self, call: Call) -> Any:
        name, args = call.name, call.args
        takes_shape_only = name in operations.CREATIONS or (name in operations.RESHAPED_AFTER and not depends_on_input(args[0]))
        varying = [] if takes_shape_only else call.varying
        if varying and not self.inside_registered:
            if not any(t.is_complex() for t in varying):
                if (part := find_part(call)) is not None:
                    x, take = part
                    return self._activate(RELU, call, x, Call(name, take, (x,), {}))
                if (listed := activation_of(name)) is not None:
                    return self._activate(listed, call, args[0], call)
            self.is_row_by_row |= name in operations.VALUE_READS
            if self.looks_for_bends:
                self._classify(call)
        result = self.operation(call)
        self._has_picked_rows |= bool(varying) and picks_rows(call)
        if name not in operations.CREATIONS or result.shape[:1] == args[0].shape[:1]:
            for tensor in tensors_in(result):
                mark_rows(tensor, constant=not varying and not depends_on_input(tensor))
        if varying:
            note_comparison(call, result)
        for written in call.written if varying else ():
            for tensor in [written, *self.sharing(written)]:
                mark_rows(tensor)
        return result

    def _converted(self, tensor: Tensor) -> Tensor:
        """Return a tensor in the dtype and on the device of the passes.

        Tensors that `forward` makes or finds outside the model are converted once per pass, so that later reads see what was
        written into them.
        """
        if self._replica.takes_as_is(tensor):
            return tensor
        if id(tensor) not in self._conversions:  # keeps the original, so that no other tensor gets its id
            self._conversions[id(tensor)] = (tensor, self._replica.converted(tensor))
        return self._conversions[id(tensor)][1]

    def _note(self, tensors: Iterable[Tensor]) -> None:
        self._alive.update((id(tensor), ref(tensor)) for tensor in tensors)
        if len(self._alive) > MAX_NOTED:
            self._alive = {key: weak for key, weak in self._alive.items() if weak() is not None}

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """Return the other tensors of this pass that share a tensor's memory."""
        memory = memory_of(tensor)
        alive = (weak() for weak in self._alive.values())
        return [t for t in alive if t is not None and t is not tensor and memory and memory_of(t) == memory]

    def _activate(self, listed: Activation, call: Call, x: Any, bending: Call) -> Any:
        """Handle a call that applies an activation to x; `bending` is the call, or an equivalent one."""
        if not depends_on_input(x) or x.numel() == 0:
            return call()
        options = {key: value for key, value in bending.kwargs.items() if key not in ("inplace", "approximate")}
        z = x if listed.pre_activation is None else mark_rows(listed.pre_activation(x, *bending.args[1:], **options))

        def bend(pre: Tensor) -> Tensor:
            result: Tensor = bending.function(pre if z is x else x, *bending.args[1:], **bending.kwargs)
            return result

        thresholds = listed.thresholds(*bending.args[1:], **options)
        result = mark_rows(self._handle_activation(listed, call.name, self._layer_name(call.name), thresholds, z, bend))
        if call.is_in_place and result is not x:
            self.overwrite(x, result)
            return x
        return result

    def _handle_activation(
        self, listed: Activation, name: str, layer: str, thresholds: Thresholds, z: Tensor, bend: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Count an activation, call `activation`, and update `has_kinks`, `unknown` and `is_row_by_row`."""
        self.num_activations += 1
        self.is_row_by_row |= self._has_picked_rows
        result = self.activation(layer, thresholds, z, bend)
        if listed.piecewise_linear:
            self.has_kinks = True
        else:
            self.unknown.setdefault(name, self.caller())
        return result

    def _classify(self, call: Call) -> None:
        name = call.name
        if name in operations.FUSED:
            is_layer = bool(self._running) and isinstance(self._running[-1].module, (nn.RNNBase, nn.RNNCellBase))
            raise NotInterceptable(
                f"{self.caller() if is_layer else f'The {name} of {self.caller()}'} is a fused recurrent layer"
            )
        if name in operations.COMPARISONS or keeps_comparison(call):
            return
        chooses = name in operations.CHOICES and find_choice(call) is not None
        bends = chooses or name in operations.CLAMPS
        jumps = any(comparison_of(t) is not None for t in call.tensors)
        is_unknown = not chooses and not is_piecewise_linear(call)
        if bends:
            self.bends[name] = None
        if jumps or is_unknown:
            self.unknown.setdefault(name if is_unknown else f"{name} of a comparison", self.caller())
        self.num_bends += bends or jumps or is_unknown

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if _RUNNING[-1] is not self:
            return
        if isinstance(module, torch.jit.ScriptModule):
            raise NotInterceptable(f"{self.place(module)} is a ScriptModule")
        registered = module_activation_of(module)
        self._running.append(RunningModule(module, registered is not None, self.num_activations, self.num_bends))
        if registered is None:
            return
        if not args or not isinstance(args[0], Tensor):
            raise NotInterceptable(
                f"{self.place(module)} is registered as an activation, but was not called with its pre-activation as first "
                "positional argument"
            )
        if not self.inside_registered and depends_on_input(args[0]):
            kind = type(module).__name__
            layer = self._count_call(self._replica.path(module) or kind)
            with torch._C.DisableTorchFunction():  # the subclass's own calls
                self._handle_activation(registered, kind, layer, registered.thresholds(), args[0], lambda pre: pre)
        self.inside_registered += 1

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _RUNNING[-1] is not self or not self._running:
            return
        running = self._running.pop()
        self.inside_registered -= running.is_registered
        self.on_module_exit(running, args)

    def _layer_name(self, function: str) -> str:
        if not self._running:
            return self._count_call(function)
        module = self._running[-1].module
        path = self._replica.path(module)
        is_activation = any(cls.__module__ == "torch.nn.modules.activation" for cls in type(module).__mro__)
        return self._count_call(path if path and is_activation else ".".join(filter(None, (path, function))))

    def caller(self) -> str:
        """Return the place of the module that makes the current call."""
        return self.place(self._running[-1].module) if self._running else "forward"

    def place(self, module: nn.Module) -> str:
        """Return a module's class and path."""
        path = self._replica.path(module)
        name = type(module).__name__
        return name if path in ("", name) else f"{name} ({path!r})"

    def _count_call(self, name: str) -> str:
        self._calls[name] += 1
        return name if self._calls[name] == 1 else f"{name}/{self._calls[name]}"

"""A model is measured on a replica: it computes the same in float64, and the model never notices."""

from __future__ import annotations

import copy
import functools
import gc
import random
import threading
import types
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from fold_lightning import FoldingRegularizer, activation_codes, activation_regions, segment_walks
from fold_lightning.activations.evaluation import evaluate_on_replica
from fold_lightning.activations.replica import ModelCopy, returns_nothing
from fold_lightning.activations.structural_copy import MAX_COPIED_BYTES, StructuralCopy
from helpers.networks import mlp

SEEN: list[int] = []
COUNTS = {"hooks": 0}


def small(*widths: int) -> nn.Sequential:
    return mlp(*(widths or (4, 6, 5))).float()


def stepped(model: nn.Module) -> nn.Module:
    """A model after a training step, so that derived weights are stale or have gradients."""
    model.train()(torch.randn(7, 4)).sum().backward()
    return model


class LowRank(nn.Module):
    """A weight and a low-rank change of it, as LoRA adds one."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(6, 2))
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(self.drop(x), self.down), self.up)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.first
        self.kept = [self.first.weight, {"bias": (self.first.bias,)}]

    def forward(self, x: Tensor) -> Tensor:
        assert self.second.weight is self.first.weight is self.kept[0] and self.again is self.first
        return self.again(self.second(self.first(x))) + self.kept[1]["bias"][0]


class OneMemory(nn.Module):
    """Two buffers on one memory: what is written into one is in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("whole", torch.randn(4))
        self.register_buffer("part", self.whole[:2])

    def forward(self, x: Tensor) -> Tensor:
        self.part.zero_()
        return x * self.whole

    def double(self) -> OneMemory:
        self.whole = self.whole.double()
        self.part = self.whole[:2]
        return self


class ViewOfABuffer(OneMemory):
    """A view of a buffer that is no buffer, as caches are kept."""

    def __init__(self) -> None:
        super().__init__()
        del self._buffers["part"]
        self.part = self.whole[:2]


class Odd(nn.Module):
    """Refers to itself in functions, containers and objects, keeps what it sees, and holds what can't be copied."""

    file = open("/dev/null", "w")  # noqa: SIM115

    def __init__(self) -> None:
        super().__init__()
        self.net = small()
        self.lock, self.out, self.generator = threading.Lock(), self.file, (i for i in range(9))
        self.act, self.scaled = self._act, functools.partial(self._scale, by=2.0)
        self.closure = lambda x: self.net(x) + len(self.seen) + self.calls
        self.seen, self.calls, self.counts = [], 0, {"deep": [0]}
        self.keep = self.seen.append
        self.helper, self.space = Helper(self), SimpleNamespace(owner=self, steps=0)
        self.parent = weakref.ref(self)
        self.random, self.numpy, self.torch = random.Random(1), np.random.default_rng(1), torch.Generator().manual_seed(1)
        self.table = np.zeros(3)
        self.register_buffer("steps", torch.zeros(()))

    def _act(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.parent().counts["deep"][0] += 1
        return x

    def _scale(self, x: Tensor, by: float) -> Tensor:
        return by * x

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            y = self.closure(self.scaled(self.act(x))) + self.helper.owner.net[0].bias.sum() + self.space.steps
        self.keep(x)
        self.space.steps += 1
        self.helper.steps.append(1)
        self.steps += 1
        self.last, self.new = x, self.random.random() + self.numpy.random() + torch.rand(1, generator=self.torch).item()
        self.table += 1
        return y + float(self.table[0])


class Helper:
    def __init__(self, owner: nn.Module) -> None:
        self.owner, self.steps = owner, []


class Patched(nn.Module):
    """A forward that was replaced on the instance, as many libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()
        before = self.net.forward
        self.net.forward = types.MethodType(lambda net, x: before(x) + net[0].bias.sum(), self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Hooked(nn.Module):
    """Hooks that belong to the model: one changes an output, one keeps a feature that forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kept = small(), {}
        self.net[0].register_forward_hook(lambda module, args, output: 2 * output - 1)
        self.net[1].register_forward_hook(self._keep)
        self.net[0].register_forward_pre_hook(lambda module, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept["feature"] = output

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.kept.pop("feature").sum(1, keepdim=True)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def _symmetric() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    return net


def _pruned() -> nn.Module:
    net = small()
    prune.random_unstructured(net[0], "weight", 0.3)
    prune.l1_unstructured(net[0], "weight", 0.3)
    return stepped(net)


CASES: dict[str, Callable[[], nn.Module]] = {
    "batch norm and dropout": lambda: stepped(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))),
    "weight norm": lambda: stepped(nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))),
    "weight norm, parametrized": lambda: stepped(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU())),
    "spectral norm": lambda: stepped(nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))),
    "spectral norm, parametrized": lambda: stepped(nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU())),
    "orthogonal": lambda: stepped(nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3))),
    "a parametrization of the user's": _symmetric,
    "pruning, twice": _pruned,
    "low-rank adaptation": lambda: nn.Sequential(LowRank(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)),
    "tied weights": Tied,
    "two buffers on one memory": OneMemory,
    "a view of a buffer": ViewOfABuffer,
    "a transformer layer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.TransformerEncoderLayer(2, 1, 5, batch_first=True)
    ),
    "references to itself": Odd,
    "a patched forward": Patched,
    "hooks that matter": Hooked,
    "a compiled part": lambda: nn.Sequential(torch.compile(small(), backend="eager"), nn.Linear(5, 3)),
    "a lazy layer that was run": lambda: stepped(nn.Sequential(nn.LazyLinear(5), nn.ReLU())),
    "a graph": lambda: nn.Sequential(torch.fx.symbolic_trace(small()), nn.Linear(5, 3)),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[kind]()


def fingerprint(value: Any, depth: int = 6, seen: set[int] | None = None) -> Any:
    """All that can change of an object, with the identities of what it holds."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return id(value), value._version, value.dtype, value.requires_grad, value.detach().reshape(-1).tolist()
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if id(value) in seen or depth == 0:
        return id(value)
    seen.add(id(value))
    if isinstance(value, dict):
        return id(value), [(str(key), fingerprint(item, depth, seen)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return id(value), [fingerprint(item, depth, seen) for item in value]
    attributes = getattr(value, "__dict__", {}) if type(value).__module__ not in ("threading", "_io") else {}
    return id(value), [(name, fingerprint(item, depth - 1, seen)) for name, item in attributes.items()]


def random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_replica_computes_what_the_model_does_and_leaves_it_as_it_was(kind: str) -> None:
    model, x = made(kind), torch.randn(9, 4)
    model.train()
    before, states = fingerprint(model), random_states()
    bits = activation_codes(model, x, forward=lambda m, x: torch.relu(m(x))).bits
    segment_walks(model, x[:4], x[4:8], forward=lambda m, x: torch.relu(m(x)))
    assert fingerprint(model) == before and random_states() == states
    alone = [made(kind).double().eval()(row.double()[None]) for row in x]
    found = [bits[i : i + 1, -z.numel() :] for i, z in enumerate(alone)]
    with torch.no_grad():
        assert all(torch.equal(some, z.flatten(1) > 0) for some, z in zip(found, alone, strict=True))


def counting(module: nn.Module, args: Any, output: Any) -> None:
    COUNTS["hooks"] += 1


class Observer:
    """Observes a model that it holds."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, 0
        for module in model:
            module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls += 1


@pytest.mark.parametrize("measure", ["codes", "walks", "regions", "regularizer"])
def test_hooks_of_the_user_run_as_often_as_without_a_measurement(measure: str) -> None:
    model, x, calls = small(), torch.randn(6, 4), []
    observer = Observer(model)
    model[0].register_forward_hook(counting)
    model[0].register_forward_hook(lambda *_: calls.append(1))  # which might return something
    model[0].register_forward_pre_hook(lambda *_: SEEN.append(1))  # into a global
    model.register_full_backward_hook(lambda *_: calls.append(2))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(3))
    try:
        COUNTS["hooks"], SEEN[:] = 0, []
        if measure == "codes":
            activation_codes(model, x)
        elif measure == "walks":
            segment_walks(model, x[:3], x[3:])
        elif measure == "regions":
            activation_regions(model, x)
        else:
            FoldingRegularizer().forward(model, x).backward()
            assert model[0].weight.grad.abs().sum() > 0
        assert (COUNTS["hooks"], SEEN, calls, observer.calls) == (0, [], [], 0)
        assert len(nn.modules.module._global_forward_hooks) == 1
        model(x)
        assert (COUNTS["hooks"], SEEN, calls.count(3), observer.calls) == (1, [1], 4, 3)
    finally:
        handle.remove()


def test_a_hook_that_returns_nothing_by_its_code_only_observes() -> None:
    def early(module: nn.Module, args: Any, output: Any) -> Any:
        if output is None:
            return
        return None

    def sometimes(module: nn.Module, args: Any, output: Any) -> Any:
        if output is None:
            return args
        return None

    assert returns_nothing(early) and returns_nothing(counting) and returns_nothing(functools.partial(early))
    assert not returns_nothing(sometimes) and not returns_nothing(len)


class Logging(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        self.log("mean", x.mean())
        self.log_dict({"most": x.max(), "least": x.min()})
        self.print("not to be printed")
        if self._trainer is not None:
            assert isinstance(self.trainer, Trainer) and self.trainer.max_epochs == 3 and self.trainer.lightning_module is self
            assert self.current_epoch == 0 and self.global_step == 0
            self.logger.experiment.add_scalar("seen", 1.0)
            self.loggers[0].log_metrics({"seen": 1.0})
            self.trainer.mine = 3
        return self.net(x)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("attached", [False, True])
def test_logging_in_a_forward_does_nothing(attached: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from helpers.training import Recorder

    model, x, logger = Logging(), torch.randn(6, 4), Recorder()
    if attached:
        model._trainer = Trainer(
            max_epochs=3, logger=logger, accelerator="cpu", enable_checkpointing=False, enable_model_summary=False
        )
    said = len(logger.said)
    assert torch.equal(activation_codes(model, x).bits, model.net[0](x) > 0)
    FoldingRegularizer()(model, x).backward()
    assert len(logger.said) == said and "not to be printed" not in capsys.readouterr().out
    assert not hasattr(model._trainer, "mine")


@pytest.mark.parametrize("form", ["method", "lambda", "closure", "partial", "name"])
def test_a_forward_that_refers_to_the_model_calls_the_replica(form: str) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = small(), 0

        def encode(self, x: Tensor) -> Tensor:
            self.calls += 1
            assert self.net[0].weight.dtype == torch.float64
            return self.net(x)

    model, head, x = Encoder(), nn.Sequential(nn.Linear(5, 3), nn.Dropout()), torch.randn(6, 4)
    forwards: dict[str, Any] = {
        "method": model.encode,
        "lambda": lambda m, x: torch.relu(head(m.encode(x))),
        "closure": lambda x: torch.relu(head(model.encode(x))),
        "partial": functools.partial(Encoder.encode, model),
        "name": "encode",
    }
    codes = activation_codes(model, x, forward=forwards[form])
    assert next(iter(codes.layers)) == "net.1" and model.calls == 0 and head.training
    if "head" in forwards[form].__code__.co_freevars if form in ("lambda", "closure") else False:
        assert torch.equal(codes.bits[:, -3:], head[0](model.net(x)) > 0)


MODEL = small()


def encode_globally(x: Tensor) -> Tensor:
    return MODEL(x)


def test_a_forward_that_names_a_global_model_calls_the_replica() -> None:
    x = torch.randn(6, 4)
    MODEL.seen = []
    codes = activation_codes(MODEL, x, forward=lambda x: encode_globally(x))
    assert list(codes.layers) == ["1"] and torch.equal(codes.bits, MODEL[0](x) > 0)


def test_large_data_and_what_can_not_be_copied_is_shared() -> None:
    class Table(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.rows, self.items = torch.zeros(MAX_COPIED_BYTES // 4 + 1), [str(i) for i in range(100_000)]

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.data, self.lock = small(), Table(), threading.Lock()
            self.closes = Closes()

    model = Holds()
    copied = ModelCopy(model, torch.device("cpu"), torch.float64).module
    assert copied.data is not model.data and copied.data.rows is model.data.rows
    assert copied.data.items is not model.data.items and copied.data.items[7] is model.data.items[7]
    assert copied.lock is model.lock and copied.closes is model.closes and copied.net[0].weight.dtype == torch.float64


class Closes:
    """Closes what it holds when it ends: the end of a copy must not."""

    closed = False

    def __del__(self) -> None:
        Closes.closed = True


@pytest.mark.slow
def test_the_end_of_a_replica_ends_nothing_of_the_model() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def __del__(self) -> None:
            SEEN.append(7)

    model = Ends()
    SEEN.clear()
    activation_codes(model, torch.randn(3, 4))
    gc.collect()
    assert not SEEN


def test_a_replica_is_gone_when_its_use_ends() -> None:
    model = Odd()
    with evaluate_on_replica(model, torch.zeros(1, 4)) as replica:
        kept = weakref.ref(replica.module.net[0].weight)
        assert kept() is not None
    gc.disable()
    try:
        del replica
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU()), "lazy modules.*call it once with a batch"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.ReLU()), r"\('0'\) is a ScriptModule"),
        (lambda: nn.Sequential(nn.Linear(4, 4, device="meta"), nn.ReLU()), "meta device.*load them first"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_replica_is_refused_by_name(model: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_codes(model(), torch.randn(3, 4))


def test_copies_of_values_are_apart_and_keep_their_references() -> None:
    shared: list[Any] = [1]
    value = {"a": shared, "b": (shared, {"deep": shared}), "f": lambda: shared.append(2), "g": shared.append}
    copied = StructuralCopy()
    twin = copied(value)
    twin["f"](), twin["g"](3)
    assert shared == [1] and twin["a"] is twin["b"][0] is twin["b"][1]["deep"] and twin["a"] == [1, 2, 3]
    copied.reset()
    assert twin["a"] == [1] and twin["a"] is twin["b"][0]
    assert copied(value) is twin and copied(copy) is copy and copied(int) is int

"""How a model takes a batch is found by trying: the right tensor varies, the rest is held, and nothing of the user's changes."""

from __future__ import annotations

import copy
import pickle
from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from fold_lightning import activation_codes, activation_regions, segment_walks
from fold_lightning.probes import ModelInput, split_batch

generator = torch.Generator().manual_seed(0)
B = 8
X, Z = torch.randn(2, B, 4, generator=generator)
MASK = (torch.rand(B, 4, generator=generator) > 0.4).float()
Y, WEIGHT = torch.arange(B) % 3, torch.rand(B, generator=generator)
IDS, ATTENTION = torch.randint(1, 20, (B, 5), generator=generator), torch.ones(B, 5, dtype=torch.int64)


class Model(nn.Module):
    """A network whose forward pass is given as a function."""

    def __init__(self, forward: Callable[..., Any], features: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        self.forward = lambda *args, **kwargs: forward(self.net, *args, **kwargs)  # type: ignore[method-assign]
        self.forward.__wrapped__ = forward.__get__(self.net)  # type: ignore[attr-defined]  # for its signature
        self.requires_grad_()


class Text(nn.Module):
    """A small transformer encoder without its attention: ids and a mask."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=0, **options)
        self.positions = nn.Embedding(5, 6)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return self.net(functional.relu(hidden).mean(1))


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    mask: Tensor
    label: Tensor


class Graphs:
    """Read by key and by attribute, as a batch of torch_geometric is."""

    def __init__(self, **held: Any) -> None:
        vars(self)["_store"] = held

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._store[name]

    def keys(self) -> list[str]:
        return list(self._store)

    def __getitem__(self, key: str) -> Any:
        return self._store[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[key] = value

    def __copy__(self) -> Graphs:
        return Graphs(**self._store)


Named = namedtuple("Named", "x mask y")

by_key = Model(lambda net, batch: net(batch["x"] * batch["mask"] + len(batch["mask"]) * 0))
by_attribute = Model(lambda net, batch: net(batch.x * batch.mask))
by_keywords = Model(lambda net, x, mask: net(x * mask))
by_any_keywords = Model(lambda net, **batch: net(batch["x"] * batch["mask"]))
with_a_default = Model(lambda net, x, mask=None, y=None: net(x if mask is None else x * mask))
sum_of_two = Model(lambda net, a, b: net(a + b))
with_an_offset = Model(lambda net, x: net(torch.cat([x, torch.zeros(len(x), 1)], 1)), 5)
views = Model(lambda net, views: net(views[0]) + net(views[1]))
whole = Model(lambda net, batch: net(batch[0]))
alone = Model(lambda net, x: net(x))
nested = Model(lambda net, first, second: net(first["x"] + second))

by_length = Model(lambda net, x, lengths: net(x * (torch.arange(4) < lengths[:, None])))
scaled = Model(lambda net, batch: net(batch["x"] * batch["scale"] + batch["table"].sum(0)))


def writes(net: nn.Module, batch: dict[str, Any]) -> Any:
    mask = batch["mask"]
    mask[mask == 0] = 0.5
    batch.pop("y")
    batch["x"] = batch["x"] * mask
    return net(batch["x"])


in_dict = {"x": X, "mask": MASK, "y": Y}
masked: Callable[[nn.Module, Tensor], Any] = lambda model, x: model.net(x * MASK[:1])  # noqa: E731
shifted: Callable[[nn.Module, Tensor], Any] = lambda model, x: model.net(x + Z[:1])  # noqa: E731
plain: Callable[[nn.Module, Tensor], Any] = lambda model, x: model.net(x)  # noqa: E731

# Model, batch, its forward pass by hand, what is described, and whether class labels are found.
FORMS: dict[str, tuple[nn.Module, Any, Callable[[nn.Module, Tensor], Any], str, bool]] = {
    "tensor": (alone, X, plain, "", False),
    "pair": (alone, (X, Y), plain, "", True),
    "named": (alone, {"image": X, "label": Y}, plain, "varies `batch['image']`", True),
    "rows made inside": (with_an_offset, (X, Y), with_an_offset.forward, "", True),
    "dict": (by_key, in_dict, masked, "varies `batch['x']`, holds `batch['mask']` fixed", True),
    "user dict": (by_key, UserDict(in_dict), masked, "varies `batch['x']`, holds `batch['mask']` fixed", True),
    "dict, (target, weight)": (
        by_key,
        ({"mask": MASK, "x": X}, (Y, WEIGHT)),
        masked,
        "varies `batch[0]['x']`, holds `batch[0]['mask']` fixed",
        True,
    ),
    "dict, (regression, weight)": (
        by_key,
        ({"mask": MASK, "x": X}, (WEIGHT, Y)),
        masked,
        "varies `batch[0]['x']`, holds `batch[0]['mask']` fixed",
        False,
    ),
    "dict, dict": (by_key, ({"x": X, "mask": MASK}, {"label": Y}), masked, "varies `batch[0]['x']`", True),
    "views": (views, ([X, Z], Y, ["a"] * B), lambda m, x: m.net(x) + m.net(Z[:1]), "holds `batch[0][1]` fixed", True),
    "one of two views": (alone, ([X, Z], Y, ["a"] * B), plain, "varies `batch[0][0]`", True),
    "keywords": (by_keywords, in_dict, masked, "varies `batch['x']`, holds `batch['mask']` fixed", True),
    "any keywords": (by_any_keywords, in_dict, masked, "holds `batch['mask']` fixed", True),
    "keywords in a pair": (by_any_keywords, ({"x": X, "mask": MASK}, Y), masked, "holds `batch[0]['mask']` fixed", True),
    "keywords with defaults": (with_a_default, in_dict, masked, "holds `batch['mask']` fixed", True),
    "two tensors": (sum_of_two, (X, Z, Y), shifted, "varies `batch[0]`, holds `batch[1]` fixed", True),
    "two of a dict": (sum_of_two, {"u": X, "v": Z, "y": Y}, shifted, "varies `batch['u']`, holds `batch['v']` fixed", True),
    "dict and tensor": (nested, ({"x": X}, Z, Y), shifted, "varies `batch[0]['x']`, holds `batch[1]` fixed", True),
    "all of a tuple": (whole, (X, Y), plain, "varies `batch[0]`", True),
    "dataclass": (by_attribute, Frozen(X, MASK, Y), masked, "varies `batch.x`, holds `batch.mask` fixed", True),
    "attributes": (
        by_attribute,
        SimpleNamespace(x=X, mask=MASK, y=Y),
        masked,
        "varies `batch.x`, holds `batch.mask` fixed",
        True,
    ),
    "by key and attribute": (by_attribute, Graphs(x=X, mask=MASK, y=Y), masked, "holds `batch['mask']` fixed", True),
    "named tuple": (by_attribute, Named(X, MASK, Y), masked, "varies `batch.x`, holds `batch.mask` fixed", True),
    "lengths": (
        by_length,
        {"lengths": torch.arange(B) % 3 + 2, "x": X, "y": Y},
        lambda m, x: m.net(torch.cat([x[:, :2], 0 * x[:, 2:]], 1)),
        "varies `batch['x']`, holds `batch['lengths']` fixed",
        True,
    ),
    "tensors without rows": (
        scaled,
        {"x": X, "scale": torch.tensor(2.0), "table": torch.ones(3, 4), "y": Y, "names": ["a"] * B},
        lambda m, x: m.net(2 * x + 3),
        "holds `batch['scale']`, `batch['table']` fixed",
        True,
    ),
    "writes into its batch": (
        Model(writes),
        in_dict,
        lambda m, x: m.net(x * (MASK[:1] + 1) / 2),
        "varies `batch['x']`, holds `batch['mask']` fixed",
        True,
    ),
    "something between": (with_a_default, (X, None, Y), plain, "", True),
    "double": (by_key, {"x": X.double(), "mask": MASK, "y": Y}, masked, "holds `batch['mask']` fixed", True),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_right_tensor_varies_and_the_rest_is_held(form: str) -> None:
    model, batch, by_hand, text, has_labels = FORMS[form]
    chosen = ModelInput.choose(model, batch)
    items, labels = chosen.split(batch)
    assert torch.equal(items.float(), X) and text in chosen.describe() and chosen.num_outputs == 3
    assert torch.equal(labels, Y) if has_labels else labels is None
    inputs = chosen.prepare(model, items)
    found, expected = (segment_walks(model, inputs[:4], inputs[4:], forward=forward) for forward in (chosen.forward, by_hand))
    assert found.exact.all() and "growing batch" in found.explain()
    assert torch.equal(found.unit, expected.unit) and torch.allclose(found.position, expected.position, atol=1e-12)
    codes = [activation_codes(model, inputs, forward=forward).bits for forward in (chosen.forward, by_hand)]
    assert torch.equal(*codes)
    regions = [activation_regions(model, inputs[:2], forward=forward).normals for forward in (chosen.forward, by_hand)]
    assert torch.allclose(*regions)


class Scaled(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return 3 * super().forward(ids)


def scaled_text() -> Text:
    model = Text()
    model.words = Scaled(20, 6)
    return model


@pytest.mark.parametrize("make", [Text, scaled_text, lambda: Text(max_norm=0.5)], ids=["plain", "scaled", "max_norm"])
@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": IDS, "attention_mask": ATTENTION, "labels": Y},
        {"attention_mask": ATTENTION.float(), "input_ids": IDS, "labels": Y},
        ({"input_ids": IDS, "attention_mask": ATTENTION}, Y),
        (IDS, Y),
        (IDS, ATTENTION, Y),
        (IDS.int(), Y),
    ],
    ids=["dict", "mask first", "dict and labels", "pair", "triple", "int32"],
)
def test_token_ids_are_walked_in_their_embedding(make: Callable[[], Text], batch: Any) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    chosen = ModelInput.choose(model, batch)
    items, labels = chosen.split(batch)
    assert "varies the embedding of `batch" in chosen.describe() and "(`words`)" in chosen.describe()
    assert torch.equal(items.long(), IDS) and labels is not None and torch.equal(labels, Y)
    inputs = chosen.prepare(model, items)
    assert inputs.shape == (B, 5, 6) and inputs.is_floating_point() and not inputs.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def by_hand(model: Text, embedded: Tensor) -> Any:
        hidden = embedded + model.positions(torch.arange(5))
        return model.net(functional.relu(hidden).mean(1))

    walks, expected = (segment_walks(model, inputs[:4], inputs[4:], forward=f) for f in (chosen.forward, by_hand))
    assert walks.exact.all() and len(walks.position) > 0 and torch.equal(walks.unit, expected.unit)
    with torch.no_grad():
        plain = model.eval().words(items)  # which keeps to max_norm by writing into the weights
        assert torch.allclose(inputs, plain)
        model.words.weight *= 0.25
    assert torch.allclose(chosen.prepare(model, items), 0.25 * plain)


def test_the_measured_function_is_the_models() -> None:
    model = Text().eval()
    batch = {"input_ids": IDS, "attention_mask": ATTENTION}
    chosen = ModelInput.choose(model, batch)
    inputs = chosen.prepare(model, IDS[:1])
    assert callable(chosen.forward)
    assert torch.allclose(chosen.forward(model, inputs), model(IDS[:1], ATTENTION[:1]))
    assert not model.words._forward_hooks


def test_tables_of_categories_are_held() -> None:
    class Tabular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.color, self.size = nn.Embedding(5, 2), nn.Embedding(3, 2)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            color, size = self.color(batch["categories"][:, 0]), self.size(batch["categories"][:, 1])
            return self.net(torch.cat([color, batch["numbers"], size], 1))

    model, categories = Tabular(), torch.randint(3, (B, 2))
    chosen = ModelInput.choose(model, {"categories": categories, "numbers": X, "target": WEIGHT})
    assert chosen.describe() == "varies `batch['numbers']`, holds `batch['categories']` fixed at the values of the first row"
    walks = segment_walks(model, X[:4], X[4:], forward=chosen.forward)
    by_hand = segment_walks(
        model, X[:4], X[4:], forward=lambda model, x: model({"categories": categories[:1].expand(len(x), 2), "numbers": x})
    )
    assert walks.exact.all() and torch.equal(walks.unit, by_hand.unit)


def test_two_embeddings_of_the_same_ids_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Embedding(20, 4), nn.Embedding(20, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return torch.relu(self.one(ids) - self.two(ids)).sum(1)

    with pytest.raises(ValueError, match=r"`model\(batch\[0\]\)`: 2 modules embed it \(one, two\)"):
        ModelInput.choose(Two(), (IDS, Y))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ("text", TypeError, "No inputs found in a str with no tensors.*batch_to_inputs"),
        ((X.to(torch.uint8), Y), TypeError, r"batch\[0\] uint8 \(8, 4\).*\.float\(\) / 255"),
        (
            {"a": X[:, :3], "b": X[:, :2]},
            ValueError,
            r"takes no part of a dict with keys \['a', 'b'\] with batch\['a'\] float32 \(8, 3\).*Tried: `model\(batch\['a'\]\)`: "
            r"RuntimeError: mat1 and mat2.*`model\(batch\['b'\]\)`.*Pass `batch_to_inputs=`.*submodule \('net'\)",
        ),
        ((X[:0], Y[:0]), ValueError, "it has no rows"),
        (3, TypeError, "No inputs found in an int with no tensors"),
        (Y, TypeError, r"No inputs found in an int64 \(8,\) tensor"),
        (Y.to(torch.uint8), TypeError, r"No inputs found in a uint8 \(8,\) tensor"),
    ],
)
def test_a_refusal_lists_what_there_is(batch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ModelInput.choose(alone, batch)


def test_a_function_that_returns_nothing_is_named() -> None:
    message = r"`batch_to_inputs` must return inputs \(B, \.\.\.\) or \(inputs, labels\), got None: end it with `return`"
    with pytest.raises(TypeError, match=message):
        ModelInput.choose(alone, (X, Y), batch_to_inputs=lambda batch: None)
    with pytest.raises(TypeError, match=message):
        split_batch((X, Y), lambda batch: None)
    later = ModelInput.choose(alone, (X, Y), batch_to_inputs=lambda batch: batch if len(batch[0]) == B else None)
    with pytest.raises(TypeError, match=message):
        later.split((X[:3], Y[:3]), alone)
    with pytest.raises(TypeError, match="No inputs found in a NoneType"):  # a batch, which no function returned
        ModelInput.choose(alone, None)


def test_what_a_model_takes_and_cannot_be_measured_is_refused_when_it_is_measured() -> None:
    mixing = Model(lambda net, x: net(x - x.mean(0)))
    chosen = ModelInput.choose(mixing, (X, Y))
    with pytest.raises(ValueError, match="mixes the inputs of a batch"):
        segment_walks(mixing, X[:4], X[4:], forward=chosen.forward)
    linear = nn.Linear(4, 3)
    assert ModelInput.choose(linear, {"x": X, "mask": MASK}).describe() == "varies `batch['x']`"


def test_the_users_forward_and_function_are_used() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
            self.calls = 0

        def encode(self, batch: Any) -> Tensor:
            return self.net(batch["x"] + batch["shift"])

        def scale(self, x: Tensor) -> Tensor:
            self.calls += 1
            return 2 * x

    model = Encoder()
    chosen = ModelInput.choose(model, {"x": X, "shift": Z}, forward="encode")
    walks = segment_walks(model, X[:4], X[4:], forward=chosen.forward)
    assert torch.equal(walks.unit, segment_walks(model.net, X[:4] + Z[:1], X[4:] + Z[:1]).unit)
    assert ModelInput.choose(model, (X, Y), forward="net").forward == "net"
    function = lambda x: model.net(x)  # noqa: E731
    to_inputs = lambda batch: (model.scale(batch["data"]), batch["class"])  # noqa: E731
    chosen = ModelInput.choose(model, {"data": X, "class": Y}, batch_to_inputs=to_inputs, forward=function)
    items, labels = chosen.split({"data": X, "class": Y}, model)
    assert chosen.forward is function and chosen.describe() == ""
    assert torch.equal(items, 2 * X) and torch.equal(labels, Y) and model.calls == 0
    with pytest.raises(ValueError, match=r"Tried: `model\(batch\['x'\]\)`"):
        ModelInput.choose(model, {"x": X[:, :2]}, forward=function)


@pytest.mark.parametrize("form", ["dict", "pair", "views", "two of a dict", "dataclass"])
def test_a_choice_travels_to_other_processes(form: str) -> None:
    model, batch, *_ = FORMS[form]
    chosen = replace(ModelInput.choose(model, batch), batch_to_inputs=lambda batch: batch)
    other = pickle.loads(pickle.dumps(chosen))
    assert other.batch_to_inputs is None and other.describe() == chosen.describe()
    other = other.with_callables(chosen.batch_to_inputs, None)
    assert other.batch_to_inputs is chosen.batch_to_inputs
    walks = [segment_walks(model, X[:4], X[4:], forward=one.forward) for one in (chosen, other)]
    assert torch.equal(walks[0].position, walks[1].position)


def test_what_is_held_stays_as_it_is() -> None:
    model = Model(writes).eval()
    chosen = ModelInput.choose(model, in_dict)
    before = [tensor.clone() for tensor in chosen.held_tensors()]
    assert callable(chosen.forward)
    chosen.forward(model, X)
    assert all(map(torch.equal, before, chosen.held_tensors())) and len(before) == 3
    other = chosen.with_held([part + 1 for part in before])
    assert not torch.equal(other.forward(model, X), chosen.forward(model, X))


def test_a_module_without_a_forward_is_refused_by_the_names_of_its_parts() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU())

    with pytest.raises(ValueError, match=r"missing the required \"forward\".*the name of a submodule \('encoder'\)"):
        ModelInput.choose(Steps(), (X, Y))


@dataclass
class Windows:
    """A batch of a forecasting library, which makes of it what the model gets."""

    past: Tensor
    future: Tensor
    covariates: Tensor | None = None

    def for_model(self) -> tuple[Tensor, Tensor | None]:
        return 2 * self.past, self.covariates


class Forecaster(LightningModule):
    """Its steps prepare a batch before the model gets it, and bend and mix its output."""

    calls_forward_itself = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
        self.losses: list[Tensor] = []

    def forward(self, prepared: tuple[Tensor, Tensor | None]) -> Tensor:
        past, covariates = prepared
        return self.net(past if covariates is None else past + covariates)

    def step(self, batch: Windows) -> Tensor:
        prepared = batch.for_model()
        output = self.forward(prepared) if self.calls_forward_itself else self(prepared)
        loss = functional.relu(output.mean(0) - batch.future.abs().mean(0)).sum()
        self.losses.append(loss)
        self.log("loss", loss)
        return loss


class Validating(Forecaster):
    def validation_step(self, batch: Windows, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        assert batch_idx == dataloader_idx == 0
        return self.step(batch)


class CallingForward(Validating):
    calls_forward_itself = True


class Training(Forecaster):
    def training_step(self, batch: Windows) -> Tensor:
        return self.step(batch)


class ByHand(Training):
    automatic_optimization = False


class Elsewhere(Forecaster):
    def validation_step(self, batch: Windows, batch_idx: int) -> Tensor:
        return self.net(batch.past).sum()


class Unused(Forecaster):
    def validation_step(self, batch: Windows, *_: int) -> Tensor:
        return self((torch.ones_like(batch.past), None))


@pytest.mark.parametrize(("make", "step"), [(Validating, "validation"), (CallingForward, "validation"), (Training, "training")])
@pytest.mark.parametrize("covariates", [None, MASK], ids=["alone", "held"])
def test_a_batch_that_a_step_prepares_comes_as_the_step_gives_it(
    make: type[Forecaster], step: str, covariates: Tensor | None
) -> None:
    model = make()
    batch = Windows(X, torch.ones(B, 3), covariates)
    chosen = ModelInput.choose(model, batch)
    held = "`batch.future` fixed"
    if covariates is not None:
        held = "`batch.future`, `batch.covariates` fixed at the values of the first row"
    assert chosen.describe() == f"varies `batch.past`, holds {held}, and calls the model as `{step}_step` does"
    assert chosen.num_outputs == 3 and not model.losses and "forward" not in vars(model)
    shift = 0 if covariates is None else covariates[:1]
    for forward in (chosen.forward, pickle.loads(pickle.dumps(chosen)).forward):
        found = segment_walks(model, X[:4], X[4:], forward=forward)
        expected = segment_walks(model, X[:4], X[4:], forward=lambda model, x: model.net(2 * x + shift))
        assert found.exact.all() and len(found.unit) and torch.equal(found.unit, expected.unit)
        assert torch.allclose(found.position, expected.position, atol=1e-12)
        assert list(found.layers) == ["net.1"]
    assert not model.losses and "forward" not in vars(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ByHand, r"Tried: .*`model\(batch\)`: TypeError"),
        (
            Elsewhere,
            r"`model.validation_step\(batch\) in batch.past`: TypeError: `validation_step` does not call the module's `forward`",
        ),
        (Unused, r"`model.validation_step\(batch\) in batch.past`: no activation depends on it"),
    ],
)
def test_a_step_that_does_not_say_what_the_model_gets_is_refused(make: type[Forecaster], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        ModelInput.choose(make(), Windows(X, torch.ones(B, 3)))
    assert ("_step" in str(refused.value)) == (make is not ByHand)


def test_a_batch_of_another_form_is_refused_by_name() -> None:
    chosen = ModelInput.choose(by_key, ({"x": X, "mask": MASK}, Y))
    with pytest.raises(TypeError, match=r"Expected inputs at `batch\[0\]\['x'\]`, as in the first batch, got a dict"):
        chosen.split({"x": X})
    items, labels = chosen.split(({"x": X},))
    assert torch.equal(items, X) and labels is None


@pytest.mark.parametrize("form", ["dict", "pair", "views"])
def test_choosing_leaves_no_trace(form: str) -> None:
    source, batch, *_ = FORMS[form]
    model = copy.deepcopy(source)
    model.net.append(nn.BatchNorm1d(3))
    seen: list[Any] = []
    handle = model.net.register_forward_hook(lambda *_: seen.append(1))
    model.train()
    state, kept, random = copy.deepcopy(model.state_dict()), copy.deepcopy(batch), torch.get_rng_state()
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    ModelInput.choose(model, batch)
    assert torch.equal(torch.get_rng_state(), random) and not seen
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(vars(module) == attributes[name] for name, module in model.named_modules())
    assert all(part.grad is None for part in model.parameters())
    assert repr(batch) == repr(kept)
    handle.remove()

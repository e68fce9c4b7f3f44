"""The regularizer's push by hand: its length and direction, what it leaves alone, and what a training makes of it."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import FoldingRegularizer, segment_walks, space_folding
from helpers.networks import mlp
from helpers.regularization import Watchful, batch

SHARE, WARM = 0.4, 4


def regularizer(weight: float = 1.0, **options: Any) -> FoldingRegularizer:
    return FoldingRegularizer(weight, **({"share": SHARE, "warm_steps": WARM, "every_n_steps": 3} | options))


def task(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gives the model the gradients of a task, and returns the batch."""
    inputs, labels = batch(seed=seed, dtype=dtype)
    model.zero_grad()
    (scale * F.cross_entropy(model(inputs).float(), labels)).backward()
    return inputs, labels


def pushes(model: nn.Module, ours: FoldingRegularizer, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The task's gradients, and what a push adds to them."""
    inputs, labels = task(model, **options)
    before = [p.grad.clone() for p in model.parameters()]
    ours.push(model, inputs, labels)
    return before, [p.grad - old for p, old in zip(model.parameters(), before, strict=True)]


def length(tensors: list[Tensor]) -> float:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm().item()


def gradient_of_the_term(model: nn.Module, ours: FoldingRegularizer, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """By autograd, of the parameters that have bits behind them."""
    twin = copy.deepcopy(model)
    ours(twin, inputs, labels).backward()
    return [p.grad for p in list(twin.parameters())[:-2]]


def test_each_push_is_the_terms_unit_gradient_at_its_share_of_the_tasks() -> None:
    model, ours, plain = mlp(5, 12, 12, 3), regularizer(schedule="linear"), regularizer(schedule="constant")
    for step in range(7):
        ours.progress = step / 8
        plain.draws = ours.draws
        if step % 3 == 0:
            term = gradient_of_the_term(model, plain, *batch(seed=step))
            unit = [gradient / length(term) for gradient in term]
        gradients, added = pushes(model, ours, seed=step)
        expected = SHARE * min(1, (step + 1) / WARM) * (1 - step / 8) * length(gradients[:-2])
        assert all(torch.allclose(a, expected * u, atol=1e-9) for a, u in zip(added, unit, strict=False))
        assert length(added[:-2]) > 1e-3 and not any(bool(a.any()) for a in added[-2:]), "no bits are behind the last layer"


def test_a_minus_weight_pushes_the_other_way_and_weight_0_does_nothing() -> None:
    model = mlp(5, 12, 12, 3)
    _, more = pushes(model, regularizer(1.0))
    _, less = pushes(model, regularizer(-0.5))
    assert all(torch.allclose(-0.5 * a, b) for a, b in zip(more, less, strict=True)) and length(more) > 0
    nothing = regularizer(0.0)
    _, none = pushes(model, nothing)
    assert length(none) == 0 and nothing.draws == 0 and nothing.soft_chi is None


def test_the_push_follows_the_scale_of_the_loss() -> None:
    model = mlp(5, 12, 12, 3)
    _, one = pushes(model, regularizer())
    _, scaled = pushes(model, regularizer(), scale=1024.0)
    assert all(torch.allclose(1024 * a, b, rtol=1e-5) for a, b in zip(one, scaled, strict=True))


def test_parameters_that_are_frozen_or_have_no_gradient_stay_and_do_not_count() -> None:
    model, (inputs, labels) = mlp(5, 12, 12, 12, 3), batch()
    model[0].requires_grad_(False)
    task(model)
    model[2].weight.grad = None
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    regularizer(warm_steps=0).push(model, inputs, labels)
    assert model[0].weight.grad is None and model[2].weight.grad is None
    added = [p.grad - before[name] for name, p in model.named_parameters() if name in before]
    reached = [name for name in before if not name.startswith("6")]
    twin, pushed = copy.deepcopy(model), ["2.weight", *reached]
    twin.zero_grad()
    FoldingRegularizer(schedule="constant")(twin, inputs, labels).backward()
    term = {name: p.grad for name, p in twin.named_parameters() if name in pushed}
    part = length([term[name] for name in reached]) / length(list(term.values()))
    expected = SHARE * part * length([before[name] for name in reached])
    assert 0 < part < 0.99 and length(added) == pytest.approx(expected, rel=1e-6)


def test_a_gradient_that_overflowed_stays_what_it_is() -> None:
    model = mlp(5, 12, 12, 3)
    inputs, labels = task(model)
    model[0].weight.grad[0, 0] = torch.inf
    before = [p.grad.clone() for p in model.parameters()]
    regularizer().push(model, inputs, labels)
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_term_that_is_no_number_is_left_out_counted_and_the_held_gradient_stays() -> None:
    model, ours = mlp(5, 12, 12, 3), regularizer(every_n_steps=1, warm_steps=0, schedule="constant")
    _, first = pushes(model, ours)
    inputs, labels = task(model)
    before = [p.grad.clone() for p in model.parameters()]
    ours.push(model, inputs * torch.nan, labels)
    second = [p.grad - old for p, old in zip(model.parameters(), before, strict=True)]
    assert ours.num_skipped == 1 and all(torch.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_sparse_gradients_are_left_alone() -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.net = nn.Embedding(4, 5, sparse=True).double(), mlp(5, 12, 12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + self.places(torch.ones(len(x), dtype=torch.int64)))

    model = Embeds()
    inputs, labels = task(model)
    before = model.places.weight.grad.to_dense().clone()
    dense = model.net[0].weight.grad.clone()
    regularizer().push(model, inputs, labels)
    assert torch.equal(model.places.weight.grad.to_dense(), before) and not torch.equal(model.net[0].weight.grad, dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pushed_as_far(dtype: torch.dtype) -> None:
    model = mlp(5, 12, 12, 3).to(dtype)
    gradients, added = pushes(model, regularizer(warm_steps=0), dtype=dtype)
    assert length([a.float() for a in added]) / length([g.float() for g in gradients[:-2]]) == pytest.approx(SHARE, rel=0.02)


def test_modes_buffers_attributes_and_random_states_are_as_before_a_push() -> None:
    model = Watchful()
    inputs, labels = task(model, dtype=torch.float32)
    kept, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes, number = [m.training for m in model.modules()], model.number
    before = model.net[0].weight.grad.clone()
    FoldingRegularizer().push(model, inputs, labels)
    assert not torch.equal(model.net[0].weight.grad, before) and model.number == number
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), random)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, ours: FoldingRegularizer, which: range) -> None:
    for step in which:
        optimizer.zero_grad()
        inputs, labels = task(model, seed=step)
        ours.push(model, inputs, labels)
        optimizer.step()


def test_its_state_dict_holds_the_same_gradient_on() -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, FoldingRegularizer]:
        model = mlp(5, 12, 12, 3)
        return model, torch.optim.Adam(model.parameters(), 1e-2), regularizer()

    model, optimizer, ours = start()
    steps(model, optimizer, ours, range(5))
    kept = pickle.loads(pickle.dumps([part.state_dict() for part in (model, optimizer, ours)]))
    older = copy.deepcopy(kept)
    del older[2]["_extra_state"]["held"]  # of a version before the push
    steps(model, optimizer, ours, range(5, 8))
    found = []
    for state in (kept, older):
        again = start()
        for part, of_part in zip(again, state, strict=True):
            part.load_state_dict(of_part)
        steps(*again, range(5, 8))
        found.append([torch.equal(a, b) for a, b in zip(model.parameters(), again[0].parameters(), strict=True)])
    assert all(found[0]) and not all(found[1])


@pytest.mark.slow
def test_pushes_raise_the_exact_folding_and_with_a_minus_weight_lower_it() -> None:
    inputs, labels = batch(64, dtype=torch.float32)

    def folded(weight: float) -> float:
        model = mlp(5, 32, 32, 32, 3).float()
        ours = FoldingRegularizer(weight, schedule="constant")
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            ours.push(model, inputs, labels)
            optimizer.step()
        return space_folding(segment_walks(model, inputs[:30], inputs[30:60])).mean().item()

    more, plain, less = (folded(weight) for weight in (1.0, 0.0, -1.0))
    assert more > 1.5 * plain > 1.5 * less


def test_what_cannot_be_pushed_is_refused() -> None:
    model, (inputs, labels) = mlp(5, 8, 3), batch()
    with pytest.raises(ValueError, match="`push` needs a `share`, got None"):
        FoldingRegularizer(share=None).push(model, inputs, labels)
    with pytest.raises(ValueError, match="one class for each of 12 inputs"):
        FoldingRegularizer(0.0).push(model, inputs, labels[:-1])
    for share in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`share` must be a finite number above 0, or None"):
            FoldingRegularizer(share=share)

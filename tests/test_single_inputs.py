"""An input without a batch dimension is answered with the sentence that says so, and a batch of scalars is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fold_lightning import (
    FoldingRegularizer,
    activation_codes,
    activation_regions,
    measure,
    region_graph,
    segment_walks,
    slice_map,
    stream_walks,
)
from helpers.networks import mlp

DOORS: dict[str, tuple[str, Callable[[nn.Module, Tensor], Any]]] = {
    "codes": ("inputs", activation_codes),
    "codes in float32": ("inputs", lambda model, x: activation_codes(model, x, dtype=torch.float32)),
    "walks": ("start", lambda model, x: segment_walks(model, x, x + 1)),
    "uniform walks": ("start", lambda model, x: segment_walks(model, x, x + 1, method="uniform", num_points=5)),
    "regions": ("inputs", activation_regions),
    "graph": ("start", lambda model, x: region_graph(model, x, max_regions=999)),
    "map": ("inputs", slice_map),
    "stream": ("start", lambda model, x: stream_walks(model, x, x + 1, batch_size=1)),
    "measure": ("data", lambda model, x: measure(model, x)),
    "measure with a label": ("data", lambda model, x: measure(model, (x, torch.arange(len(x)) % 2))),
    "measure of batches": ("data", lambda model, x: measure(model, iter([x, x]))),
    "regularizer": ("inputs", lambda model, x: FoldingRegularizer(num_segments=2)(model, x)),
}

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "features": (lambda: mlp(3, 8, 2), (3,)),
    "two features": (lambda: mlp(2, 8, 2), (2,)),  # which torch takes without a batch
    "a grey image": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)), (1, 5, 5)),
    "a coloured image": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)), (3, 5, 5)),
    "two channels": (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (2, 5, 5)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("network", MODELS)
def test_a_single_input_is_told_from_a_batch(door: str, network: str) -> None:
    (make, shape), (name, ask) = MODELS[network], DOORS[door]
    model, x = make().float(), torch.randn(*shape)
    sizes = ", ".join(map(str, shape))
    said = rf"must be a batch \(B, \.\.\.\), got shape \({sizes},?\), which the model takes as one input"
    said = f"Inputs {said}: stack several" if name == "data" else rf"`{name}` {said}: use `{name}\[None\]`"
    with pytest.raises(ValueError, match=said):
        ask(model, x)
    if door != "regularizer" and name != "data" and not (door == "graph" and x.dim() > 1):
        ask(model, x[None])


def test_a_batch_of_scalars_is_one() -> None:
    model, x = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 4), nn.ReLU()), torch.randn(7)
    assert activation_codes(model, x).bits.shape == (7, 4)
    assert segment_walks(model, x, -x).num_segments == 7
    assert activation_codes(nn.ReLU(), x).bits.shape == (7, 1)
    assert activation_codes(nn.Sequential(nn.Flatten(), nn.Linear(9, 2), nn.ReLU()), torch.randn(1, 3, 3)).bits.shape == (1, 2)


def test_inputs_that_the_model_takes_neither_way_are_refused_as_before() -> None:
    with pytest.raises(ValueError, match=r"refused a batch of shape \(2, 4\).*mat1 and mat2"):
        activation_codes(mlp(3, 8, 2).float(), torch.randn(5, 4))

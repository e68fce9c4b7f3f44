"""The table of linear operations, against torch: what it lists is affine, and what is affine is listed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import get_testing_overrides

from fold_lightning.activations import operations
from fold_lightning.activations.operations import AFFINE, MULTILINEAR, operation_name
from fold_lightning.activations.registry import activation_of
from fold_lightning.activations.tracking import tensors_in

torch.manual_seed(0)
SQUARE, SPATIAL, SIGNAL = torch.randn(4, 4).double(), torch.randn(1, 1, 3, 3).double(), torch.randn(4, 1, 3).double()
VECTOR, POSITIVE = torch.randn(4).double(), 1 + torch.rand(4).double()
INDEX, MASK = torch.tensor([[1, 0, 3, 2], [0, 0, 1, 1]]), torch.tensor([True, False, True, False])
TRIANGLE = torch.linalg.cholesky(SQUARE @ SQUARE.T + torch.eye(4).double())
LU, PIVOTS = torch.linalg.lu_factor(SQUARE)
COMPLEX = torch.complex(SQUARE, SQUARE.T)

SHAPES = [(4, 4), (4,), (2, 4, 4), (1, 4, 4, 4), (1, 4, 4, 4, 4), (8, 4, 2)]
"""Shapes of first tensors."""

ARGUMENTS: list[tuple[Any, ...]] = [
    (),
    (2,),
    (1,),
    (0, 1),
    (1, 0),
    (1, 1, 2),
    (1, 1, 1, 2),
    (2, 1, 1),
    (2.5,),
    ((2, 2),),
    ((1, 1),),
    ((4, 4),),
    ((16,),),
    ((4, 2), (2, 1)),
    ((0, 1), (1, 0)),
    (SQUARE,),
    (VECTOR,),
    (POSITIVE,),
    (SQUARE, SQUARE),
    (SQUARE, VECTOR),
    (VECTOR, VECTOR),
    (SQUARE.expand(2, 4, 4),),
    (SQUARE.expand(2, 4, 4), SQUARE.expand(2, 4, 4)),
    (SQUARE, VECTOR, 0.5),
    (1, INDEX[0]),
    (1, INDEX),
    (1, INDEX, SQUARE),
    (1, INDEX[0], SQUARE),
    (1, INDEX[0], 2.5),
    (1, INDEX, SQUARE, "sum"),
    (INDEX[0],),
    (INDEX, SQUARE[:2]),
    ((INDEX[0],), SQUARE),
    (MASK,),
    (MASK, 2.5),
    (MASK, SQUARE),
    (1, 2.5),
    (VECTOR, 0, 1),
    (VECTOR, 1, 1, 3),
    (SIGNAL.expand(4, 4, 3),),
    (SPATIAL.expand(4, 4, 3, 3),),
    (SPATIAL[None].expand(4, 4, 3, 3, 3),),
    (TRIANGLE,),
    (TRIANGLE, True),
    (LU, PIVOTS),
    ([1, 3], 1),
    (2, 1),
]
"""What follows the first tensor in calls; most functions refuse most of them."""

RECIPES: dict[str, Callable[[Tensor], Any]] = {
}

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
from fold_lightning.activations.tracking import tensors_in

pytestmark = pytest.mark.filterwarnings("ignore")


torch.manual_seed(0)
SQUARE, SPATIAL, SIGNAL = torch.randn(4, 4).double(), torch.randn(1, 1, 3, 3).double(), torch.randn(4, 1, 3).double()
VECTOR, POSITIVE = torch.randn(4).double(), 1 + torch.rand(4).double()
INDEX, MASK = torch.tensor([[1, 0, 3, 2], [0, 0, 1, 1]]), torch.tensor([True, False, True, False])
TRIANGLE = torch.linalg.cholesky(SQUARE @ SQUARE.T + torch.eye(4).double())
LU, PIVOTS = torch.linalg.lu_factor(SQUARE)
COMPLEX = torch.complex(SQUARE, SQUARE.T)

SHAPES = [(4, 4), (1, 4, 4, 4)]
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

SPARSE = SQUARE.to_sparse()
GRID = torch.rand(1, 2, 2, 2).double()
PAIR = torch.tensor([[[0, 3]]])

RECIPES: dict[str, Callable[[Tensor], Any]] = {
    "affine_grid": lambda x: torch.nn.functional.affine_grid(x[None, :2, :3], [1, 1, 3, 3], align_corners=False),
    "batch_norm": lambda x: torch.nn.functional.batch_norm(x, VECTOR, POSITIVE),
    "cat": lambda x: torch.cat([x, 2 * x]),
    "concat": lambda x: torch.concat([x, x]),
    "concatenate": lambda x: torch.concatenate([x, x]),
    "column_stack": lambda x: torch.column_stack([x, x]),
    "hstack": lambda x: torch.hstack([x, x]),
    "vstack": lambda x: torch.vstack([x, x]),
    "dstack": lambda x: torch.dstack([x, x]),
    "row_stack": lambda x: torch.row_stack([x, x]),
    "stack": lambda x: torch.stack([x, SQUARE]),
    "conv_tbc": lambda x: torch.conv_tbc(x[None], SQUARE[None], VECTOR),
    "copy": lambda x: torch.zeros_like(x).copy_(x),
    "cross": lambda x: torch.cross(x[:, :3], SQUARE[:, :3], dim=1),
    "linalg_cross": lambda x: torch.linalg.cross(SQUARE[:, :3], x[:, :3]),
    "dropout": lambda x: torch.nn.functional.dropout(x, training=False),
    "dropout1d": lambda x: torch.nn.functional.dropout1d(x, training=False),
    "dropout2d": lambda x: torch.nn.functional.dropout2d(x[None], training=False),
    "dropout3d": lambda x: torch.nn.functional.dropout3d(x[None, None], training=False),
    "view_as_complex": lambda x: torch.view_as_complex(x.view(-1, 2)),
    "avg_pool3d": lambda x: torch.nn.functional.avg_pool3d(x[None, None], 1, 2),
    "adaptive_avg_pool3d": lambda x: torch.nn.functional.adaptive_avg_pool3d(x[None, None], (1, 2, 2)),
    "conv3d": lambda x: torch.conv3d(x[None, None, None], SPATIAL[None]),
    "addmv": lambda x: torch.addmv(x[0], SQUARE, VECTOR),
    "bilinear": lambda x: torch.nn.functional.bilinear(x, SQUARE, SIGNAL[:3].expand(3, 4, 3)[..., :1].expand(3, 4, 4)),
    "bmm": lambda x: torch.bmm(x[None], SQUARE[None]),
    "cartesian_prod": lambda x: torch.cartesian_prod(x[0], VECTOR),
    "combinations": lambda x: torch.combinations(x[0], 2),
    "conv_transpose3d": lambda x: torch.conv_transpose3d(x[None, None, None], SPATIAL[None]),
    "dot": lambda x: torch.dot(x[0], VECTOR),
    "ger": lambda x: torch.ger(VECTOR, x[0]),
    "meshgrid": lambda x: torch.meshgrid(x[0], VECTOR, indexing="ij"),
    "outer": lambda x: torch.outer(x[0], VECTOR),
    "vdot": lambda x: torch.vdot(x[0], VECTOR),
    "fill": lambda x: torch.zeros(3).double().fill_(x[0, 0]),
    "grid_sample": lambda x: torch.nn.functional.grid_sample(x[None, None], GRID, align_corners=False),
    "grid_sampler": lambda x: torch.grid_sampler(x[None, None], GRID, 0, 0, False),
    "index_copy": lambda x: x.index_copy(0, INDEX[0], x.flip(0)),
    "index_fill": lambda x: SQUARE.index_fill(0, INDEX[0, :2], x[0, 0]),
    "index_put": lambda x: SQUARE.index_put((INDEX[0],), x),
    "index_reduce": lambda x: x.index_reduce(0, INDEX[1], SQUARE, "mean"),
    "istft": lambda x: torch.istft(torch.complex(x[:3], x[1:]), 4, 2, window=POSITIVE, center=True),
    "linalg_multi_dot": lambda x: torch.linalg.multi_dot([SQUARE, x, SQUARE]),
    "linalg_solve": lambda x: torch.linalg.solve(SQUARE, x),
    "linalg_lu_solve": lambda x: torch.linalg.lu_solve(LU, PIVOTS, x),
    "linalg_solve_triangular": lambda x: torch.linalg.solve_triangular(TRIANGLE, x, upper=False),
    "linalg_tensorsolve": lambda x: torch.linalg.tensorsolve(SQUARE, x[0]),
    "lobpcg": lambda x: torch.lobpcg(x @ x.T, 1, niter=1)[0],  # other calls take half a minute
    "max_unpool1d": lambda x: torch.nn.functional.max_unpool1d(x[None, :1, :2], PAIR, 2),
    "ormqr": lambda x: torch.ormqr(SQUARE, VECTOR, x),
    "rmul": lambda x: 2.5 * x,
    "setitem": lambda x: SQUARE.clone().__setitem__(0, x[0]) or x,
    "slice_scatter": lambda x: SQUARE.slice_scatter(x[:2], 0, 0, 2),
    "smm": lambda x: torch.smm(SPARSE, x).to_dense(),
    "sparse_addmm": lambda x: torch.sparse.addmm(x, SPARSE, SQUARE),
    "sparse_mm": lambda x: torch.sparse.mm(SPARSE, x),
    "unflatten": lambda x: x.unflatten(0, (2, 2)),
    "upsample": lambda x: torch.nn.functional.interpolate(x[None, None], scale_factor=2, mode="bicubic"),
}
"""Calls of operations that no call of the lists above meets."""

WITHOUT_RECIPE = """align_as align_tensors align_to convolution feature_dropout
    grid_sampler_2d grid_sampler_3d hspmm identity iter linalg_ldl_solve max_unpool2d max_unpool3d native_batch_norm native_dropout
    refine_names rename sspaddmm upsample_bilinear upsample_nearest zero"""
"""Listed, but called by no test: other names or dimensions of what is called, or constant results."""

AFFINE_FOR_SOME_ARGUMENTS = """chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w
    hermite_polynomial_h hermite_polynomial_he laguerre_polynomial_l legendre_polynomial_p shifted_chebyshev_polynomial_t
    shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v shifted_chebyshev_polynomial_w
    pow float_power matrix_power linalg_matrix_power linalg_vander leaky_relu normalize local_response_norm lp_pool1d lp_pool2d
    lp_pool3d quantile nanquantile msort mode fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d
    fractional_max_pool3d_with_indices clamp_max nextafter"""
"""Powers of 1, windows of one element, numbers that are far from a bend."""

LOSSES = "kl_div nll_loss l1_loss smooth_l1_loss hinge_embedding_loss margin_ranking_loss"
"""They take a mean over the batch."""

NO_FUNCTIONS_OF_THE_INPUT = "resize resize_as sym_sum unique_consecutive to_sparse cdouble cfloat"
"""They change memory, depend on which values are equal, or are casts and layouts of their own."""

EXCEPTIONS = frozenset(f"{AFFINE_FOR_SOME_ARGUMENTS} {LOSSES} {NO_FUNCTIONS_OF_THE_INPUT}".split())
NOT_CALLED = frozenset("item autograd.grad backward register_hook cuda".split())


def is_affine(call: Callable[[Tensor], Any], shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> bool | None:
    """Whether a function is affine; None if it refuses its argument or does not depend on it."""
    generator = torch.Generator().manual_seed(1)
    x, y = 3 * torch.randn(2, *shape, generator=generator, dtype=dtype)
    try:
        a, b, between = (values(call(point.clone())) for point in (x, y, 0.3 * x + 0.7 * y))
    except Exception:  # whatever torch says to arguments of another function
        return None
    if a.numel() == 0 or not a.shape == b.shape == between.shape or torch.allclose(a, b):
        return None
    if not torch.isfinite(torch.cat([a, b, between])).all():
        return None
    return torch.allclose(between, 0.3 * a + 0.7 * b, atol=1e-9)


def values(result: Any) -> Tensor:
    """All numbers of a result."""
    parts = [t.resolve_conj() for t in tensors_in(result) if t.is_floating_point() or t.is_complex()]
    return torch.cat([(torch.view_as_real(t) if t.is_complex() else t.to_dense()).flatten() for t in parts])


def verdicts(name: str, functions: list[Callable[..., Any]]) -> Iterator[bool]:
    """Yield whether the calls of functions of one name that depend on their first tensor are affine in it."""
    calls = [lambda x, f=f, args=args: f(x, *args) for f in functions for args in ARGUMENTS]
    for call in [RECIPES[name]] if name in RECIPES else calls:
        for shape in SHAPES:
            verdict = is_affine(call, shape)
            verdict = is_affine(call, shape, torch.complex128) if verdict is None and len(shape) == 2 else verdict
            if verdict is not None:
                yield verdict


def functions_by_name() -> dict[str, list[Callable[..., Any]]]:
    """All functions of torch that a mode may see."""
    found: dict[str, list[Callable[..., Any]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function in get_testing_overrides():
            found.setdefault(operation_name(function), []).append(function)
    return found


FUNCTIONS = functions_by_name()


@pytest.mark.slow
def test_what_the_table_lists_is_affine() -> None:
    uncalled = []
    for name in sorted(AFFINE | MULTILINEAR):
        found = list(verdicts(name, FUNCTIONS.get(name, [])))
        assert all(found), name
        uncalled += [] if found else [name]
    assert uncalled == sorted(WITHOUT_RECIPE.split())


@pytest.mark.slow
def test_what_is_affine_is_listed() -> None:
    listed = AFFINE | MULTILINEAR | operations.QUERIES | operations.CASTS | operations.CREATIONS | operations.CHOICES
    missing = []
    for name in sorted(FUNCTIONS.keys() - listed - NOT_CALLED - EXCEPTIONS):
        missing += [name] if any(verdicts(name, FUNCTIONS[name])) else []
    assert missing == []

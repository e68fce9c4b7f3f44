"""Classification of torch's operations: which keep functions of the input piecewise linear.

Operations are classified by name: ``torch.add``, ``x.add_``, ``x + y`` and ``x.__radd__`` are all "add". An operation that is
in no table may be curved; walks through it are checked everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor

from fold_lightning.activations.calls import Call
from fold_lightning.activations.tracking import depends_on_input, tensors_in

QUERIES = frozenset(
    """shape size dim ndim ndimension numel nelement len device is_cuda is_cpu is_mps is_meta layout stride is_contiguous
    storage_offset requires_grad requires_grad_ grad grad_fn is_leaf names is_nested is_sparse is_quantized is_floating_point
    is_complex element_size itemsize nbytes dim_order data_ptr output_nr get_device hash format repr str
    set_grad_enabled retains_grad is_inference is_shared untyped_storage isinstance names version""".split()
)
"""Calls that read no values."""

COMPARISONS = frozenset(
    """eq ne lt le gt ge greater greater_equal less less_equal not_equal signbit argmax argmin
    logical_not logical_and logical_or logical_xor""".split()
)
"""Operations with piecewise constant results; the operations that use these decide whether the function stays piecewise
linear."""

FINITENESS = frozenset("isnan isinf isfinite".split())
"""Operations with the same result for every input, because inputs are finite."""

CASTS = frozenset("to type type_as float double half bfloat16 cuda cpu".split())
"""Casts between floating dtypes and between devices are identities here, because passes run in one dtype on one device."""

AFFINE = frozenset(
    """add sub subtract rsub neg negative positive cat concat concatenate hstack vstack dstack row_stack stack column_stack
    view reshape flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis t T mT H mH
    adjoint expand expand_as view_as reshape_as broadcast_to broadcast_tensors atleast_1d atleast_2d atleast_3d as_strided
    block_diag meshgrid cartesian_prod combinations repeat tile repeat_interleave contiguous clone detach data alias identity
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout native_dropout nan_to_num
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    max_unpool1d max_unpool2d max_unpool3d mean nanmean sum nansum sum_to_size cumsum diff gradient trace
    trapz trapezoid cumulative_trapezoid pad constant_pad_nd interpolate upsample upsample_nearest upsample_bilinear affine_grid
    pixel_shuffle native_channel_shuffle pixel_unshuffle channel_shuffle unfold fold getitem setitem narrow select
    split split_with_sizes tensor_split hsplit vsplit dsplit chunk unsafe_chunk unsafe_split unsafe_split_with_sizes
    unbind iter index_select gather take take_along_dim masked_select roll flip fliplr flipud rot90 diagonal diag diagflat
    diag_embed linalg_diagonal tril triu copy zero fill lerp
    scatter scatter_add scatter_reduce index_add index_copy index_put index_fill index_reduce put masked_scatter masked_fill where
    select_scatter slice_scatter diagonal_scatter slice slice_inverse reshape_alias neg_view embedding fill_diagonal
    deg2rad rad2deg dequantize share_memory reversed
    real imag complex view_as_real view_as_complex conj conj_physical resolve_conj resolve_neg
    fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2 fft_ihfft2
    fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn fft_fftshift fft_ifftshift
    rename align_to align_as align_tensors refine_names to_dense""".split()
)
"""Operations that are jointly affine in all tensors except `CURVED_ARGUMENTS`; `REDUCTIONS` only with one of
`LINEAR_REDUCTIONS`."""

MULTILINEAR = frozenset(
    """mul multiply matmul rmatmul mm bmm mv dot vdot inner outer ger addmm addmv addbmm baddbmm addr cross kron
    linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution
    einsum tensordot chain_matmul linalg_multi_dot linalg_vecdot linalg_cross linalg_matmul
    sparse_mm smm dsmm hspmm sspaddmm sparse_addmm batch_norm native_batch_norm addcmul addcdiv stft istft
    div divide true_divide truediv rmul grid_sample grid_sampler grid_sampler_2d grid_sampler_3d ldexp xlogy xlog1py polar
    linalg_solve linalg_tensorsolve linalg_solve_triangular linalg_lu_solve linalg_ldl_solve lu_solve cholesky_solve
    triangular_solve ormqr""".split()
)
"""Operations that are affine if only one of their tensors depends on the input, and it is none of `CURVED_ARGUMENTS`."""

CURVED_ARGUMENTS = {
    **dict.fromkeys("div divide true_divide truediv ldexp xlogy xlog1py".split(), ((1, "other"),)),
    **dict.fromkeys("grid_sample grid_sampler grid_sampler_2d grid_sampler_3d".split(), ((1, "grid"),)),
    "addcdiv": ((2, "tensor2"),),
    "polar": ((1, "angle"),),
    "lerp": ((2, "weight"),),
    "istft": ((4, "window"),),
    **dict.fromkeys("linalg_solve linalg_tensorsolve linalg_solve_triangular".split(), ((0, "A"),)),
    "linalg_lu_solve": ((0, "LU"),),
    "linalg_ldl_solve": ((0, "LD"),),
    "lu_solve": ((1, "LU_data"),),
    "cholesky_solve": ((1, "L"),),
    "triangular_solve": ((1, "A"),),
    "ormqr": ((0, "input"), (1, "tau")),
}
"""Arguments (position, name) in which an operation is not linear, or not jointly with others."""

ADDED_TO = frozenset("addmm addmv addbmm baddbmm addr addcmul addcdiv sparse_addmm sspaddmm".split())
"""Operations that add to their first tensor, and are multilinear in the others."""

REDUCTIONS = frozenset("scatter scatter_reduce index_reduce".split())
LINEAR_REDUCTIONS = frozenset([None, "add", "sum", "mean"])

CREATIONS = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())
"""Operations that do not depend on the values of their tensor."""

RESHAPED_AFTER = frozenset("expand_as view_as reshape_as".split())
"""Operations that use only the shape of their second tensor."""

VIEWS_OF_SEVERAL = RESHAPED_AFTER | {"broadcast_tensors"}
"""Operations that take several tensors and return views of them."""

MAX_POOLS = frozenset(
    """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices""".split()
)
"""Operations that have a kink, but no bit, where another element becomes the largest."""

CHOICES = MAX_POOLS | frozenset(
    """max min amax amin maximum minimum fmax fmin sort topk kthvalue median nanmedian scatter_reduce index_reduce""".split()
)
"""Operations that return elements of their input by order, and have a kink, but no bit, where the order changes."""

INDEXED = frozenset("gather take_along_dim scatter scatter_add scatter_reduce grid_sample grid_sampler".split())
"""Operations with an index or a grid that has one row per input."""

CLAMPS = frozenset("clamp clip clamp_min clamp_max".split())
"""Operations that have kinks, but no bits, at their bounds."""

ELEMENTWISE = frozenset(
    """sin cos tan asin acos atan arctan arcsin arccos sinh cosh asinh acosh atanh erf erfc sinc logaddexp
    sign sgn heaviside floor ceil round trunc fix frac
    copysign hypot remainder fmod log1p expm1 logaddexp2 bucketize l1_loss smooth_l1_loss huber_loss""".split()
)
"""Curved or discontinuous elementwise functions that normalisation and attention do not use: they may be meant as
activations."""

VALUE_READS = frozenset("item tolist numpy contains equal allclose is_nonzero array".split())
"""Calls that return values to Python, which may control the pass."""

FUSED = frozenset("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split())
"""Fused recurrent layers, whose activations can't be intercepted."""


@lru_cache(2048)
def operation_name(function: Callable[..., Any]) -> str:
    """Return the common name of a function, its method, and the in-place and reflected forms.

    Example:
        >>> import torch
        >>> operation_name(torch.relu_), operation_name(torch.Tensor.__radd__), operation_name(torch.Tensor.shape.__get__)
        ('relu', 'add', 'shape')
    """
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):
        return str(getattr(function.__self__, "__name__", name))  # type: ignore[attr-defined]
    if name in ("__float__", "__int__", "__bool__", "__index__", "__complex__"):
        return "item"  # they return a value to Python
    if name == "grad":
        return "autograd.grad"
    bare = name.partition(".")[0].strip("_").removeprefix("special_")  # operators have overloads: relu.default
    if name.startswith("__") and bare[:1] in "ri" and bare[1:] in ("add", "mul"):
        bare = bare[1:]
    if bare.removesuffix("_copy") in AFFINE:
        return bare.removesuffix("_copy")
    return _SYNONYMS.get(bare, bare)


_SYNONYMS = {
    "isub": "sub",
    "idiv": "div",
    "itruediv": "truediv",
    "index": "getitem",
    "log_sigmoid": "logsigmoid",
    "expit": "sigmoid",
}


def is_piecewise_linear(call: Call) -> bool:
    """Return whether an operation keeps piecewise linear functions of the input piecewise linear."""
    name, kwargs = call.name, call.kwargs
    varying = [t for t in tensors_in((call.args[1:], kwargs)) if depends_on_input(t)] if name in ADDED_TO else call.varying
    if not all(t.is_floating_point() or t.is_complex() for t in varying):
        return False
    is_curved = any(depends_on_input(call.argument(*argument)) for argument in CURVED_ARGUMENTS.get(name, ()))
    if name in MULTILINEAR:
        return len(varying) <= 1 and not is_curved and not kwargs.get("rounding_mode")
    if name in CLAMPS:
        return len(varying) <= 1
    reduction = next((value for value in (kwargs.get("reduce"), *call.args) if isinstance(value, str)), None)
    if name in REDUCTIONS and reduction not in LINEAR_REDUCTIONS:
        return False
    return name in AFFINE and (len(varying) <= 1 or not is_curved)


def bounds_of(call: Call) -> tuple[Any, Any]:
    """Return the lower and the upper bound of a clamp, None for a missing one."""
    low = None if call.name == "clamp_max" else call.argument(1, "min")
    return low, call.argument(1 if call.name == "clamp_max" else 2, "max")


def picks_rows(call: Call) -> bool:
    """Return whether a call selects or orders rows by values of the input, so that its rows need not be those of the batch."""
    name, args, kwargs = call.name, call.args, call.kwargs
    if name in ("masked_select", "take"):
        return True
    if name == "getitem":
        index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return depends_on_input(index)
    given = [*args[1:], *(kwargs[key] for key in ("dim", "index", "indices") if key in kwargs)]
    first = (0, -args[0].dim()) if args and isinstance(args[0], Tensor) else (0,)
    along_rows = name == "msort" or any(type(value) is int and value in first for value in given)
    if name in ("index_select", "gather", "take_along_dim"):
        return along_rows and any(map(depends_on_input, given))
    return name in ("sort", "argsort", "topk", "msort") and along_rows

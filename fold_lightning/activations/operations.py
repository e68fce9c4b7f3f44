"""What torch's operations do to a function that is piecewise linear in the input.

Operations are known by name: ``torch.add``, ``x.add_``, ``x + y`` and ``x.__radd__`` are all "add". What no table knows
may be curved; a walk through it is checked everywhere instead of trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fold_lightning.activations.tracking import depends_on_input

QUERIES = frozenset(
    """shape size dim ndim ndimension numel nelement len device is_cuda is_cpu is_mps is_meta layout stride is_contiguous
    storage_offset requires_grad requires_grad_ grad grad_fn is_leaf names is_nested is_sparse is_quantized is_floating_point
    is_complex element_size itemsize nbytes dim_order data_ptr output_nr get_device hash format repr str
    set_grad_enabled retains_grad is_inference is_shared untyped_storage isinstance names version""".split()
)
"""They read no values."""

COMPARISONS = frozenset(
    """eq ne lt le gt ge greater greater_equal less less_equal not_equal signbit argmax argmin
    logical_not logical_and logical_or logical_xor""".split()
)
"""Their results are piecewise constant; what uses them decides."""

FINITENESS = frozenset("isnan isinf isfinite".split())
"""They say the same of every input that is measured."""

CASTS = frozenset("to type type_as float double half bfloat16 cuda cpu".split())
"""Between floating dtypes, and between devices, they are the identity here: everything runs in float64 on one device."""

AFFINE = frozenset(
    """add sub subtract rsub neg negative positive cat concat concatenate hstack vstack dstack stack column_stack
    view reshape flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis t T mT expand
    expand_as view_as reshape_as broadcast_to broadcast_tensors repeat tile repeat_interleave contiguous clone detach data
    alias identity dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum cumsum diff trace
    pad constant_pad_nd interpolate upsample upsample_nearest upsample_bilinear pixel_shuffle pixel_unshuffle channel_shuffle
    unfold fold getitem setitem narrow select split split_with_sizes tensor_split chunk unbind iter index_select gather
    take_along_dim roll flip fliplr flipud rot90 diagonal diag tril triu copy zero""".split()
)
"""Affine in all their tensors together."""

MULTILINEAR = frozenset(
    """mul multiply matmul rmatmul mm bmm mv dot inner outer addmm addmv addbmm baddbmm linear bilinear conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc einsum tensordot chain_matmul kron batch_norm
    addcmul lerp masked_fill where div divide true_divide truediv rmul""".split()
)
"""Affine while only one of their tensors follows the input (for a division, the numerator)."""

CREATIONS = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())
"""They take nothing but a shape from what they are called on."""

RESHAPED_AFTER = frozenset("expand_as view_as reshape_as".split())
"""They take nothing but a shape from their second tensor."""

VIEWS_OF_SEVERAL = RESHAPED_AFTER | {"broadcast_tensors"}
"""They take several tensors and return what shares their memory."""

MAX_POOLS = frozenset(
    """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d""".split()
)
"""They bend without a bit where another element wins."""

CLAMPS = frozenset("clamp clip clamp_min clamp_max".split())
"""They bend without a bit at their bounds."""

ELEMENTWISE = frozenset(
    """sin cos tan asin acos atan arctan arcsin arccos sinh cosh asinh acosh atanh erf erfc sinc logaddexp
    sign sgn heaviside floor ceil round trunc fix frac""".split()
)
"""Functions of each element that curve or jump, of which no normalisation or attention is made: whoever calls one may mean an activation."""

VALUE_READS = frozenset("item tolist numpy contains equal allclose is_nonzero array".split())
"""Values leave for Python, which may decide by it what the pass does."""

FUSED = frozenset("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split())
"""Recurrent layers whose activations no one sees from outside."""


def operation_name(function: Callable[..., Any]) -> str:
    """The name that a function, a method, its in-place and its reflected form share.

    Example:
        >>> import torch
        >>> operation_name(torch.relu_), operation_name(torch.Tensor.__radd__), operation_name(torch.Tensor.shape.__get__)
        ('relu', 'add', 'shape')
    """
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):
        return str(getattr(function.__self__, "__name__", name))  # type: ignore[attr-defined]
    if name in ("__float__", "__int__", "__bool__", "__index__", "__complex__"):
        return "item"  # a value leaves for Python
    if name == "grad":
        return "autograd.grad"
    bare = name.partition(".")[0].strip("_").removeprefix("special_")  # operators have overloads: relu.default
    if name.startswith("__") and bare[:1] in "ri" and bare[1:] in ("add", "mul"):
        bare = bare[1:]
    return {"isub": "sub", "itruediv": "truediv", "log_sigmoid": "logsigmoid", "expit": "sigmoid"}.get(bare, bare)


def is_in_place(function: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call writes its first argument."""
    name = getattr(function, "__name__", "")
    if name == "__set__":
        return operation_name(function) == "data"
    return (name.endswith("_") and not name.endswith("__")) or name in _WRITERS or bool(kwargs.get("inplace"))


def written_by(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that a call writes."""
    out = kwargs.get("out")
    written = [*(args[:1] if is_in_place(function, kwargs) else ()), *(out if isinstance(out, (tuple, list)) else (out,))]
    return [tensor for tensor in written if isinstance(tensor, Tensor)]


_WRITERS = frozenset("__iadd__ __isub__ __imul__ __itruediv__ __setitem__".split())


def is_piecewise_linear(name: str, tensors: int, *, divides_by_input: bool = False) -> bool:
    """Whether an operation keeps piecewise linear functions of the input piecewise linear.

    Args:
        name: The operation's name, as from :func:`operation_name`.
        tensors: How many of its floating-point arguments follow the input.
        divides_by_input: Whether a divisor follows the input.
    """
    if name in MULTILINEAR:
        return tensors <= 1 and not divides_by_input
    return name in AFFINE or name in MAX_POOLS or (name in CLAMPS and tensors <= 1)


def picks_rows(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call picks or orders rows by values of the input: those of its result need not be those of the batch."""
    given = [*args[1:], *(kwargs[key] for key in ("dim", "index", "indices") if key in kwargs)]
    if name == "getitem":
        first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return isinstance(first, Tensor) and depends_on_input(first)
    if name in ("masked_select", "take"):
        return True
    along_rows = any(isinstance(value, int) and value == 0 for value in given)
    if name in ("index_select", "gather", "take_along_dim"):
        return along_rows and any(isinstance(value, Tensor) and depends_on_input(value) for value in given)
    return name in ("sort", "argsort", "topk", "msort") and (along_rows or name == "msort")

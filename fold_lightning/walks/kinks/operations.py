"""Linear operations on kinks: rules for convolutional networks, and a fallback that passes kinks as a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fold_lightning.activations.operations import is_piecewise_linear
from fold_lightning.activations.tracking import tensors_in
from fold_lightning.walks.kinks.boxes import Boxes, FeatureMapShape, Group, Signal
from fold_lightning.walks.kinks.calls import NoRule, RowCall, attach, planar_signal, shape_of, signal_of
from fold_lightning.walks.kinks.convolution import Convolution, ConvolvedSignal
from fold_lightning.walks.kinks.matrix import Matrix
from fold_lightning.walks.kinks.resampling import Resampling
from fold_lightning.walks.kinks.superposition import Part, by_events, superposed

PROBE = 2.0**20
"""Input whose image shows the factor of an operation: much larger than the constants that it may add."""

CHUNK_NUMEL = 2**20
"""Number of elements that are passed through an operation at once."""


def carry(call: RowCall, result: Any) -> None:
    """Attach to the result of a call the kinks that follow from those of its arguments.

    Raises:
        NoRule: If no rule gives them.
    """
    if call.kwargs.get("out") is not None:
        raise NoRule(f"{call.name} writes to `out=`")
    if not isinstance(result, Tensor) or not _RULES.get(call.name, lambda *_: False)(call, result):
        _pass_rows(call, result)


def _pass_rows(call: RowCall, result: Any) -> None:
    """Pass all kinks as rows through the operation, which is affine."""
    results = tensors_in(result)
    if call.is_in_place or not is_piecewise_linear(call):
        raise NoRule(f"{call.name} has no rule")
    varying = call.varying
    batch = len(varying[0])
    if any(tensor.dim() == 0 or len(tensor) != batch for tensor in results):
        raise NoRule(f"{call.name} does not have the batch in its first dimension")
    signals = [signal_of(x) for x in varying]
    found: list[dict[int, Group]] = [{} for _ in results]
    for origin, groups in by_events(signals).items():
        event = torch.cat([group.event for _, group in groups]).unique()
        step = max(1, CHUNK_NUMEL // max(tensor[:1].numel() for tensor in (*varying, *results)))
        parts: list[list[Tensor]] = []
        for some in event.split(step):
            rows = {id(x): x.new_zeros(len(some) + 1, *x.shape[1:]) for x in varying}
            for index, group in groups:
                x = varying[index]
                mine = group[torch.isin(group.event, some)]
                place = torch.searchsorted(some, mine.event)
                rows[id(x)][place] = mine.rows(signals[index].plane).view(-1, *x.shape[1:])
            images = tensors_in(call.of_rows(rows, batch))
            parts.append([image[:-1] - image[-1:] for image in images])
        for groups_of, image, tensor in zip(found, zip(*parts, strict=True), results, strict=True):
            plane = FeatureMapShape.of(shape_of(tensor))
            groups_of[origin] = Boxes.of_rows(event, torch.cat(image).reshape(-1, *plane))
    for tensor, groups_of in zip(results, found, strict=True):
        attach(tensor, Signal(FeatureMapShape.of(shape_of(tensor)), groups_of))


def _reshape(call: RowCall, result: Tensor) -> bool:
    """Keep the kinks of values that stay in their order."""
    x = call.args[0]
    if len(result) != len(x):
        return False
    attach(result, signal_of(x))
    return True


def _scale(call: RowCall, result: Tensor) -> bool:
    """Multiply each channel by its factor."""
    x, *others = call.varying
    if others or result.shape != x.shape:
        return False
    signal = planar_signal(x)
    probes = result.new_full((2, *shape_of(x)), PROBE)
    probes[1] = -PROBE
    upper, lower = call.on_planes(probes).reshape(2, *signal.plane)
    factors = ((upper - lower) / (2 * PROBE)).flatten(1)
    if not torch.equal(factors, factors[:, :1].expand_as(factors)):
        return False
    attach(result, signal.scaled(factors[:, 0]))
    return True


def _add(call: RowCall, result: Tensor) -> bool:
    """Add the kinks of two tensors; a constant changes none."""
    varying = call.varying
    if len(varying) == 1 and result.shape == varying[0].shape and call.name == "add":
        return _reshape(RowCall(call.name, call.function, (varying[0],), {}), result)
    if len(varying) == 1:
        return _scale(call, result)
    if len(varying) > 2 or any(x.shape != result.shape for x in varying):
        return False
    signs = (-1.0, 1.0) if call.name == "rsub" else (1.0, 1.0) if call.name == "add" else (1.0, -1.0)
    factors = [signs[0], signs[1]]
    factors[0 if call.name == "rsub" else 1] *= float(call.kwargs.get("alpha", 1))
    signals = [signal_of(x) for x in varying]
    if signals[0].plane != signals[1].plane:
        signals = [planar_signal(x) for x in varying]
    plane = signals[0].plane
    scaled = [
        signal if factor == 1 else signal.scaled(result.new_tensor([factor]))
        for signal, factor in zip(signals, factors, strict=True)
    ]
    sums = {origin: [(group, 0) for _, group in groups] for origin, groups in by_events(scaled).items()}
    attach(result, superposed(sums, plane, result))
    return True


def _concatenate(call: RowCall, result: Tensor) -> bool:
    """Concatenate the kinks of tensors along their channels."""
    tensors = call.args[0]
    if call.argument(1, "dim", 0) not in (1, 1 - result.dim()) or any(len(x) != len(result) for x in tensors):
        return False
    plane = FeatureMapShape.of(shape_of(result))
    signals = [planar_signal(x) for x in tensors]
    channels = [signal.plane.channels for signal in signals]
    parts: dict[int, list[Part]] = {
        origin: [(group.boxes(channels[index]), sum(channels[:index])) for index, group in groups]
        for origin, groups in by_events(signals).items()
    }
    attach(result, superposed(parts, plane, result))
    return True


def _convolve(call: RowCall, result: Tensor) -> bool:
    """Convolve in one or two dimensions."""
    x, weight = call.args[0], call.argument(1, "weight")
    if len(call.varying) != 1 or call.varying[0] is not x or result.dim() != weight.dim():
        return False
    dims = weight.dim() - 2
    stride, dilation = (_each(call.argument(place, name, 1), dims) for place, name in ((3, "stride"), (5, "dilation")))
    padding = call.argument(4, "padding", 0)
    if isinstance(padding, str):
        same = [d * (k - 1) // 2 for d, k in zip(dilation, weight.shape[2:], strict=False)]
        padding = (*same, *[0] * (2 - dims)) if padding == "same" else (0, 0)
    else:
        padding = _each(padding, dims, 0)
    signal, out = planar_signal(x), FeatureMapShape.of(shape_of(result))
    kernel = weight if dims == 2 else weight[..., None]
    convolution = Convolution(signal.plane, out, kernel, stride, padding, dilation, call.argument(6, "groups", 1))
    attach(result, ConvolvedSignal(convolution, signal))
    return True


def _multiply(call: RowCall, result: Tensor) -> bool:
    """Multiply flattened feature maps by a matrix."""
    x, weight = call.args[0], call.argument(1, "weight")
    signal = signal_of(x)
    if len(call.varying) != 1 or call.varying[0] is not x or x.dim() != 2 or weight.shape[1] != signal.plane.numel:
        return False
    matrix = Matrix(signal.plane, weight)
    attach(
        result, Signal(FeatureMapShape.of(shape_of(result)), {origin: matrix(group) for origin, group in signal.groups.items()})
    )
    return True


def _resample(call: RowCall, result: Tensor) -> bool:
    """Average, enlarge or pad rows and columns separately."""
    x, *others = call.varying
    if others or result.dim() != x.dim() or x.dim() not in (3, 4):
        return False
    signal, out = planar_signal(x), FeatureMapShape.of(shape_of(result))
    resampling = Resampling.of(call, signal.plane, out)
    if resampling is None:
        return False
    attach(result, resampling(signal))
    return True


def _each(value: Any, dims: int, other: int = 1) -> tuple[int, int]:
    """Return one number for each dimension of a plane."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    values = values * dims if len(values) == 1 else values
    return (values[0], other) if dims == 1 else (values[0], values[1])


_RULES: dict[str, Callable[[RowCall, Tensor], bool]] = {
    **dict.fromkeys(
        "view reshape flatten unflatten ravel squeeze unsqueeze contiguous clone detach data alias".split(), _reshape
    ),
    **dict.fromkeys("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout identity".split(), _reshape),
    **dict.fromkeys("mul multiply rmul div divide true_divide truediv neg negative batch_norm".split(), _scale),
    **dict.fromkeys("add sub subtract rsub".split(), _add),
    **dict.fromkeys("cat concat concatenate".split(), _concatenate),
    **dict.fromkeys("conv1d conv2d".split(), _convolve),
    "linear": _multiply,
    **dict.fromkeys("avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d interpolate upsample".split(), _resample),
    **dict.fromkeys("upsample_nearest upsample_bilinear pad constant_pad_nd".split(), _resample),
}
"""Rules by the name of a call: each attaches kinks to the result, or returns False if it does not apply."""

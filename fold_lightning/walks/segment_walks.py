"""Walks along straight segments between inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from fold_lightning._checks import check_integer, is_integer
from fold_lightning._progress import progress_bar
from fold_lightning.activations.evaluation import Forward, evaluate_on_replica
from fold_lightning.activations.inspection import inspect
from fold_lightning.activations.layers import Patterns
from fold_lightning.walks.scheduler import PieceScheduler
from fold_lightning.walks.segments import check_segments, ends_to_inspect
from fold_lightning.walks.uniform import check_num_points, walk_chunks
from fold_lightning.walks.walks import ENGINES, UNIFORM, Walks

if TYPE_CHECKING:
    from tqdm.auto import tqdm

Method = Literal["exact", "uniform"]

DEFAULT_MAX_BYTES = 2**27
"""Default working memory in bytes, 128 MiB. MLPs take longer with twice as much, since larger tensors leave the allocator's
pool, and with half as much, since smaller ones mean more calls."""


def segment_walks(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    layers: Patterns = None,
    forward: Forward = None,
    method: Method = "exact",
    num_points: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    engine: str | None = None,
    progress: bool = False,
) -> Walks:
    """Return the codes met on the straight segments ``(1 - t) start + t end``, t in [0, 1].

    "exact" meets every region on a segment once, as "The Space Between" (Lewandowski et al. 2025) asks of a sampling. If the
    network is known to be piecewise linear (affine operations, max pooling, clamps, ReLU and similar activations), the
    breakpoints are found layer by layer as in ExactLine (Sotoudeh and Thakur 2019), and `Walks.exact` is True. In a
    convolutional network a switch changes the slopes of only a part of each feature map; there the pass carries these changes
    from layer to layer instead of whole layers at each breakpoint. This treatment is this project's own.

    If the network curves (smooth activations, normalisation, attention, products) or has an unknown operation, pre-activations
    are interpolated by polynomials of degree 30 on 4 intervals, which are halved until the error is 1e-12 of the layer's
    largest value. A bound on the polynomials excludes further switches; a switch is located to that error divided by the unit's
    slope. Where halving does not help (kinks), intervals are refined until every unit stays away from its threshold or passes
    it once, and switches are located to 1e-10 in t. `Walks.resolution` is the length of the longest part in which a unit stays
    at its threshold within these errors, or 1e-10. `Walks.exact` is False, since the network is assumed to be smooth between
    the points, 33 on each of 4 intervals, or 64 intervals with one more point each: a bump so narrow that no point lies on it
    is missed. This treatment is this project's own.

    "uniform" takes the codes of equidistant points, for networks too large for "exact": it costs about one forward pass over the
    points, in the model's own precision on its own device. It misses regions, and chi may err either way; bits are signs of the
    pre-activations as they come out, so that rounding may switch a unit that stays at its threshold.

    The function measured is the model's in evaluation mode, for "exact" with its stored weights in float64; the model does not
    change. Codes are those of the open intervals between breakpoints: what switches at one t is one step, and a unit that only
    touches its threshold does not switch. A pre-activation below 1e-15 of the terms that it is summed from counts as 0, since
    rounding leaves as much, and breakpoints closer than their rounding error count as one. Between 1e-15 and 1e-14 of its terms a
    sign can't be decided, and `Walks.exact` is False. `Walks.exact` is also False if the terms of a value that is 0, or of two
    breakpoints that are one, are 1e12 times as large as the smallest of the network's biases and of its rows and columns of weights.
    That smallest one may have been lost in rounding.

    A walk of a piecewise linear network costs about as much as a float64 forward pass over one point for each breakpoint, or
    less; the breakpoints are those of all layers up to the last that counts. A smooth network costs about 150 points, and one
    with curves and kinks about six points for each switch. Between two images a network of a ResNet's size has 10^5
    breakpoints. If few units count, a segment whose exact walk would evaluate more than 4 x 10^8 pre-activations, by estimate,
    is walked as if the network were curved, following only these units, unless that is estimated to cost more: `Walks.exact` is
    then False, and `Walks.explain` says so.

    Args:
        model: Any module; activations are found as modules and as functions.
        start: Floating-point inputs (S, ...), on the model's device.
        end: As many inputs of the same shape.
        layers: The layers whose bits count: a layer's name, a glob pattern or a sequence of them; None counts all. Layers that do not
            count still bend the walk.
        forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.
        method: "exact" or "uniform".
        num_points: For "uniform" only: number of points of each segment, at least 2, its ends.
        max_bytes: Approximate working memory in bytes: segments are walked in chunks, long ones in pieces. The result does not depend
            on it.
        engine: For "exact" only: the first engine, one of `ENGINES`, in place of the one that suits the network, for
            comparisons. Segments that it does not take go to the next one.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The walks. `Walks.exact` is True for each that has been checked: at random points the pre-activations that a walk implies are
        compared with a plain forward pass, and where they differ, the segment is walked again with a check of every interval.

    Raises:
        ValueError: For inputs of different shapes, not finite, or on another device than the model; for an unknown layer or method,
            too few points, a model without activations, or with some that can't be intercepted (a fused LSTM, a
                ScriptModule).
        TypeError: For inputs that are not floating-point tensors.

    Example:
        >>> tent = lambda model, x: (x.relu() + (-x).relu() - 1).relu()
        >>> walks = segment_walks(torch.nn.Identity(), torch.tensor([[-2.0]]), torch.tensor([[2.0]]), forward=tent)
        >>> walks.position
        tensor([0.2500, 0.5000, 0.5000, 0.7500], dtype=torch.float64)
        >>> walks.num_regions()
        tensor([4])
    """
    check_segments(start, end)
    _check_method(method, num_points, max_bytes, engine)
    if num_points is not None:
        chunks = walk_chunks(model, start, end, num_points=num_points, layers=layers, forward=forward, max_bytes=max_bytes)
        with progress_bar(len(start), "segments", progress) as bar:
            found = []
            for walks in chunks:
                found.append(walks)
                bar.update(walks.num_segments)
        return Walks.concatenate(found)
    with evaluate_on_replica(model, start, forward) as replica:
        structure = inspect(replica, ends_to_inspect(start, end), layers, given=("start", start))
        start, end = (x.detach().to(replica.device, torch.float64) for x in (start, end))
        walks = PieceScheduler(replica, structure, start, end, max_bytes, engine).walks(progress=progress)
    _warn(walks, curved=bool(structure.unknown))
    return walks


def stream_walks(
    model: nn.Module, start: Tensor, end: Tensor, *, batch_size: int = 256, progress: bool = False, **options: Any
) -> Iterator[Walks]:
    """Yield the walks of a long list of segments, some segments at a time, so that memory does not grow with their number.

    An event takes 24 bytes, and a walk's first code one byte for each unit. Keep a metric's state or a `Walks.table` instead:
    a table takes about 120 bytes per segment, or 150 with both ends and their classes.

    Args:
        model: Any module, as in `segment_walks`.
        start: Floating-point inputs (S, ...), on the model's device.
        end: As many inputs of the same shape.
        batch_size: Number of segments at a time.
        progress: Whether to show a progress bar on a terminal.
        options: Other arguments of `segment_walks`.

    Returns:
        An iterator over the walks of `batch_size` segments each; the model's weights are read again for each.

    Raises:
        ValueError: As `segment_walks` does; for a batch size less than 1.
        TypeError: As `segment_walks` does; for a batch size that is not an integer.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
        >>> batches = stream_walks(model, torch.zeros(600, 2), torch.ones(600, 2))
        >>> [walks.num_segments for walks in batches]
        [256, 256, 88]
    """
    check_segments(start, end)
    check_integer("batch_size", batch_size, 1)
    bound = signature(segment_walks).bind(model, start, end, **options)
    bound.apply_defaults()
    # checked now, because errors of a batch would come late and describe only that batch
    given = bound.arguments
    _check_method(given["method"], given["num_points"], given["max_bytes"], given["engine"])
    with evaluate_on_replica(model, start, given["forward"]) as replica:
        inspect(replica, ends_to_inspect(start, end), given["layers"], given=("start", start))
    return _stream(
        model, start.split(batch_size), end.split(batch_size), progress_bar(len(start), "segments", progress), options
    )


def _stream(
    model: nn.Module, starts: Sequence[Tensor], ends: Sequence[Tensor], bar: tqdm[Any], options: dict[str, Any]
) -> Iterator[Walks]:
    with bar:
        for start, end in zip(starts, ends, strict=True):
            yield segment_walks(model, start, end, **options)
            bar.update(len(start))


def _warn(walks: Walks, *, curved: bool) -> None:
    """Warn of walks that were given up, and of inexact ones unless the network curves: there no walk is exact."""
    unfinished, inexact = int((~walks.complete).sum()), int((~walks.exact).sum())
    if unfinished:
        warnings.warn(f"{unfinished} of {walks.num_segments} walks were given up: see `Walks.complete`.", stacklevel=3)
    elif inexact and not curved:
        message = f"{inexact} of {walks.num_segments} walks are not exact: see `Walks.exact`. {walks.explain()}"
        warnings.warn(message, stacklevel=3)


def _check_method(method: str, num_points: int | None, max_bytes: int, engine: str | None) -> None:
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}.")
    if method == "uniform":
        check_num_points(num_points)
    if method == "exact" and num_points is not None:
        raise ValueError(f"`num_points={num_points}` goes with `method='uniform'`: an exact walk meets every region.")
    engines = list(ENGINES)[:UNIFORM]
    if engine is not None and (method != "exact" or engine not in engines):
        raise ValueError(f"`engine` must be one of {', '.join(map(repr, engines))}, for `method='exact'`, got {engine!r}.")
    if not is_integer(max_bytes, 1):
        raise ValueError(f"`max_bytes` must be an integer of at least 1, got {max_bytes!r}.")

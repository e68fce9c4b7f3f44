"""Trials of calls on a replica of a model: whether it takes them, and whether activations depend on the tensor that varies."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fold_lightning.activations.evaluation import Forward, Replica, evaluate_on_replica, forward_function
from fold_lightning.activations.inspection import InputsRefused, record_pass
from fold_lightning.activations.structure_pass import StructurePass
from fold_lightning.probes.batch_parts import Path, part_at, parts_of, tensors_by_path
from fold_lightning.probes.candidates import Candidate, candidates
from fold_lightning.probes.classes import logits_in
from fold_lightning.probes.held_call import HeldCall, hold_rows
from fold_lightning.probes.token_embedding import embed, noted_embeddings

MAX_REASON = 160
"""Maximum number of characters of a model's error message that are reported for each call that was tried."""


@dataclass(frozen=True)
class Trial:
    """A call that was tried.

    Attributes:
        candidate: The call.
        call: The `forward=` for it; None for the model's plain call with the tensor.
        embedding: Path of the embedding whose output varies; None for floating-point inputs.
        held_paths: Paths in the batch to the tensors that are held.
        num_outputs: Number of the model's outputs per input; None if it returned no tensor (B, C).
        refusal: Why it failed; "" if the model took it.
        is_clear: Whether activations depend on the tensor, row by row, so that no other call needs to be tried.
    """

    candidate: Candidate
    call: HeldCall | None = None
    embedding: str | None = None
    held_paths: tuple[Path, ...] = ()
    num_outputs: int | None = None
    refusal: str = ""
    is_clear: bool = False


def try_candidates(model: nn.Module, batch: Any, forward: Forward) -> tuple[list[Trial], Trial | None]:
    """Try calls until one is clear; return all trials and the chosen one, or None if the model took no call."""
    tried: list[Trial] = []
    device = device_of(model)
    shared = _ReplaceableCall(forward)
    through = forward if callable(forward) else shared
    found = list(candidates(model, batch, forward))
    if not found:
        return [], None
    with evaluate_on_replica(model, torch.empty(0, device=device), through) as replica, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the measurement repeats the warnings
        for candidate in found:
            trial = _try(model, replica, shared, candidate, batch, device)
            tried.append(trial)
            if trial.is_clear:
                return tried, trial
    return tried, next((trial for trial in tried if not trial.refusal), None)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class _ReplaceableCall:
    """A `forward=` whose call can be replaced, so that one replica serves all trials."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.call: HeldCall | None = None
        self.output: Any = None

    def __call__(self, model: nn.Module, inputs: Tensor) -> Any:
        self.output = None
        if self.call is None:
            self.output = forward_function(model, self.forward)(inputs)
        else:
            self.output = self.call(model, inputs)
        return self.output


def _try(
    model: nn.Module, replica: Replica, shared: _ReplaceableCall, candidate: Candidate, batch: Any, device: torch.device
) -> Trial:
    tensor = part_at(batch, candidate.inputs).detach().to(device)
    if len(tensor) == 0:
        return Trial(candidate, refusal="it has no rows")
    rows = tensor[[0, -1, 0]]
    call: HeldCall | None = None
    held_paths: tuple[Path, ...] = ()
    if candidate.style != "tensor" or not tensor.is_floating_point():
        call, held_paths = _held_call(
            candidate, batch, candidate.step or (shared.forward if isinstance(shared.forward, str) else None)
        )
    shared.call = call
    if not tensor.is_floating_point():
        assert call is not None
        embedding = _embedding_of(replica, rows[:2])
        if embedding.refusal:
            return Trial(candidate, refusal=embedding.refusal)
        shared.call = call = HeldCall(call.held, call.path, call.rows, call.style, call.method, embedding.path)
        rows = embed(model, embedding.path, rows)
    path = None if call is None else call.embedding
    trial = partial(Trial, candidate, call, path, held_paths)
    num_outputs: int | None = None
    try:
        two = record_pass(replica, rows[:2])
        num_outputs = _num_outputs(shared.output, 2)
        three = record_pass(replica, rows)
    except InputsRefused as error:
        return Trial(candidate, refusal=_reason(error))
    except ValueError:  # the model takes it, and the measurement raises the reason why it can't be measured
        return trial(num_outputs, is_clear=True)
    is_clear = bool(two.activations) and all(_has_rows(name, two, three) for name in two.activations)
    if candidate.style == "step" and not is_clear:  # a step also takes a batch in which an unused tensor varies
        return Trial(candidate, refusal="no activation depends on it")
    return trial(num_outputs, is_clear=is_clear)


def _held_call(candidate: Candidate, batch: Any, method: str | None) -> tuple[HeldCall, tuple[Path, ...]]:
    """Return the call of a candidate, and the paths in the batch to the held tensors."""
    part, path = part_at(batch, candidate.part), candidate.inputs[len(candidate.part) :]
    prefix = candidate.part
    places: dict[Any, Any] = {}
    if candidate.keys is not None:
        entries = parts_of(part) or {}
        numbers = candidate.keys if candidate.style == "keywords" else range(len(candidate.keys))
        places = dict(zip(numbers, candidate.keys, strict=True))
        part = {number: entries[key] for number, key in places.items()}
        path = (next(number for number, key in places.items() if key == path[0]), *path[1:])
        if candidate.style == "positional":
            part = tuple(part.values())
    held, rows = hold_rows(part, path, len(part_at(batch, candidate.inputs)))
    others = [at for at, _ in tensors_by_path(held) if at != path]
    style = "argument" if candidate.style == "tensor" else candidate.style
    held_paths = tuple((*prefix, places.get(at[0], at[0]), *at[1:]) for at in others)
    return HeldCall(held, path, rows, style, method), held_paths


@dataclass(frozen=True)
class _Embedding:
    path: str = ""
    refusal: str = ""


def _embedding_of(replica: Replica, ids: Tensor) -> _Embedding:
    """Return the embedding that takes token ids when the model is called with them, or a refusal."""
    reason = "no `nn.Embedding` takes it unchanged"
    replica.reset()
    with noted_embeddings(replica.module, ids) as found:
        try:
            replica.forward(ids.to(replica.device))
        except Exception as error:
            reason = f"{reason} ({_reason(error)})"
    paths = list(dict.fromkeys(found))
    if len(paths) == 1:
        return _Embedding(paths[0])
    return _Embedding(refusal=f"{len(paths)} modules embed it ({', '.join(paths)})" if paths else reason)


def _has_rows(layer: str, two: StructurePass, three: StructurePass) -> bool:
    """Return whether a layer grows with the batch, from two rows to three; a model of two views may take two rows as its views."""
    if layer not in three.activations:
        return False
    small, large = two.activations[layer].z.shape, three.activations[layer].z.shape
    return len(small) == len(large) and any(3 * a == 2 * b for a, b in zip(small, large, strict=True))


def _num_outputs(output: Any, num_rows: int) -> int | None:
    with suppress(Exception):
        logits = logits_in(output)
        if logits is not None and logits.dim() in (1, 2) and len(logits) == num_rows:
            return 1 if logits.dim() == 1 else logits.shape[1]
    return None


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = " ".join(f"{type(cause).__name__}: {cause}".split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."

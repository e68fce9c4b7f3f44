"""Candidate calls of a model with a batch, most likely first."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fold_lightning.activations.evaluation import Forward, forward_function
from fold_lightning.activations.replica import original_module
from fold_lightning.probes.batch_parts import Path, code_for, part_at, parts_of
from fold_lightning.probes.batches import input_paths, is_side, label_path
from fold_lightning.probes.held_call import Style
from fold_lightning.probes.steps import step_names
from fold_lightning.probes.token_embedding import has_embedding

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Candidate:
    """A tensor of a batch that may be the input, and a way to call the model with it.

    Attributes:
        inputs: Path to the tensor.
        part: Path to the part of the batch that is passed to the model.
        style: How the part is passed.
        keys: Entries of the part that are passed; None for the whole part.
        step: Name of the step that is called with the batch, for style "step".
    """

    inputs: Path
    part: Path
    style: Style
    keys: tuple[Any, ...] | None = None
    step: str | None = None

    def describe(self, batch: Any) -> str:
        """Return the call as Python code."""
        code = code_for(batch, self.part)
        if self.style == "keywords":
            return f"model(**{code})" if self.keys is None else f"model({', '.join(f'{k}={code}[{k!r}]' for k in self.keys)})"
        if self.style == "positional":
            assert self.keys is not None
            return f"model({', '.join(code_for(batch, (*self.part, key)) for key in self.keys)})"
        if self.step is not None:
            return f"model.{self.step}({code}) in {code_for(batch, self.inputs)}"
        return f"model({code})"

    def num_taken(self, batch: Any) -> int:
        """Return the number of first parts of a batch that are not labels, because the model takes them."""
        keys = list(parts_of(batch) or {})
        if self.style == "positional" and not self.part and self.keys is not None:
            return len(self.keys)
        return keys.index(self.inputs[0]) + 1 if self.inputs else 0


def candidates(model: nn.Module, batch: Any, forward: Forward) -> Iterator[Candidate]:
    """Yield candidate calls of a model with a batch, in the order in which to try them.

    For each path of `input_paths` (integer tensors only if the model has an `nn.Embedding`), these are: entries of a part as
    keywords, if two or more have names of the model's parameters; the tensor alone; the parts of the batch that contain it,
    from the innermost to the whole batch; their entries as keywords; their entries as positional arguments. Labels are left out
    unless the model requires them. A callable `forward` gets the tensor alone. Last come calls of the model's own step with the
    whole batch, because a step may prepare a batch before it calls the model.
    """
    takes_ids = has_embedding(model) and not callable(forward)
    parameters = _parameters(model, forward)
    has_integers = False
    paths: list[Path] = []
    for path in input_paths(batch):
        tensor = part_at(batch, path)
        if is_side(path) and has_integers:  # of uint8 images with floating-point weights, the weights are not the inputs
            break
        if not tensor.is_floating_point() and not (takes_ids and tensor.dtype.itemsize > 1):
            has_integers = True
            continue
        if callable(forward):
            yield Candidate(path, path, "tensor")
            continue
        paths.append(path)
        parts = [path[:depth] for depth in reversed(range(len(path)))]
        by_name = [found for part in parts for found in _as_keywords(batch, path, part, parameters)]
        names = {p.name for p in parameters}
        matching = [found for found in by_name if len(names & {*(found.keys or part_at(batch, found.part))}) > 1]
        yield from matching
        yield Candidate(path, path, "tensor")
        for part in parts:
            yield Candidate(path, part, "argument")
        yield from (found for found in by_name if found not in matching)
        for part in parts:
            yield from _as_arguments(batch, path, part, parameters)
    if forward is None:
        yield from (Candidate(path, (), "step", step=step) for step in step_names(model) for path in paths if not is_side(path))


def _parameters(model: nn.Module, forward: Forward) -> list[inspect.Parameter]:
    """Return the parameters of the function that is called with a batch; none if its signature can't be read."""
    try:
        function = original_module(model).forward if forward is None else forward_function(model, forward)
        function = function.forward if isinstance(function, nn.Module) else function
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _as_keywords(batch: Any, path: Path, part: Path, parameters: list[inspect.Parameter]) -> Iterator[Candidate]:
    value = part_at(batch, part)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    required = {p.name for p in parameters if p.default is p.empty and p.name in names}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    labels = label_path(batch, path)
    label = labels[len(part)] if labels is not None and labels[: len(part)] == part else None
    keys = tuple(key for key in value if (takes_all or key in names) and (key != label or key in required))
    if path[len(part)] in keys:
        yield Candidate(path, part, "keywords", None if len(keys) == len(value) else keys)


def _as_arguments(batch: Any, path: Path, part: Path, parameters: list[inspect.Parameter]) -> Iterator[Candidate]:
    keys = list(parts_of(part_at(batch, part)) or {})
    number = keys.index(path[len(part)])
    num_required = sum(p.kind in POSITIONAL and p.default is p.empty for p in parameters)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        labels = label_path(batch, path, num_taken=max(number + 1, len(keys) - 1))
        is_here = labels is not None and len(labels) > len(part) and labels[: len(part)] == part
        num_required = keys.index(labels[len(part)]) if is_here and labels is not None else len(keys)
    if number < num_required <= len(keys) and num_required > 1:
        yield Candidate(path, part, "positional", tuple(keys[:num_required]))

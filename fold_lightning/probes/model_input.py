"""The way from a batch to the inputs that are measured."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from fold_lightning.activations.evaluation import Forward, evaluate_on_replica, preserved_random_state, undisturbed
from fold_lightning.activations.replica import ModelCopy, original_module
from fold_lightning.probes.batch_parts import Path, code_for, describe_batch, part_at, replace_tensors, tensors_by_path
from fold_lightning.probes.batches import HINT, BatchToInputs, label_path
from fold_lightning.probes.classes import as_classes
from fold_lightning.probes.held_call import HeldCall
from fold_lightning.probes.token_embedding import embed
from fold_lightning.probes.trials import Trial, device_of, try_candidates


@dataclass(frozen=True, eq=False)
class ModelInput:
    """The way from a batch to the inputs that are measured, chosen once.

    Attributes:
        inputs: Path in a batch to the inputs, or to the token ids that are walked in their embedding.
        labels: Path to the labels; None if there are none.
        forward: `forward=` of `segment_walks`, `activation_codes` and `activation_regions`.
        batch_to_inputs: The user's function of a batch.
        embedding: Path of the `nn.Embedding` in whose output inputs are walked; None for floating-point inputs.
        num_outputs: Numbers that the model returns for an input; None if it returns no tensor (B, C).
        text: `describe()`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        >>> chosen = ModelInput.choose(model, {"image": torch.randn(4, 3), "label": torch.arange(4)})
        >>> items, labels = chosen.split({"image": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
        >>> items.shape, labels, chosen.describe()
        (torch.Size([2, 3]), tensor([0, 1]), "walks in `batch['image']`")
    """

    inputs: Path
    labels: Path | None
    forward: Forward
    batch_to_inputs: BatchToInputs | None = None
    embedding: str | None = None
    num_outputs: int | None = None
    text: str = field(default="", repr=False)

    @classmethod
    def choose(
        cls, model: nn.Module, batch: Any, *, batch_to_inputs: BatchToInputs | None = None, forward: Forward = None
    ) -> ModelInput:
        """Choose how a model takes a batch, by trying it on a replica of the model.

        Tensors are tried in the order of `input_paths`: those named like inputs, then those of two or more dimensions, then
        others; masks, weights and lengths last, labels never. Each is tried with entries of its part as keywords, where two or
        more have names of the model's parameters; alone; in the parts of the batch that hold it, innermost first; with their
        entries as any keywords; with their entries as positional arguments; and last in the batch that the module's own
        `validation_step` or `training_step` gets, up to its call of `forward`. The first call that meets activations which
        depend on the tensor, row by row, is taken; if none does, the first call that the model takes.

        Args:
            model: The user's model, which stays as it is.
            batch: A batch as a step gets it, which stays as it is.
            batch_to_inputs: Function of the batch that returns inputs or (inputs, labels).
            forward: How to call the model, as of `activation_codes`. A callable gets a tensor alone.

        Raises:
            TypeError: If the batch holds no tensor that may be the inputs.
            ValueError: If the model takes none of them; it says so if they are one input without a batch dimension.
        """
        batch = unpack(batch, batch_to_inputs, model)
        trials, chosen = try_candidates(model, batch, forward)
        if chosen is None:
            if not trials:
                raise TypeError(f"No inputs found in {describe_batch(batch)}: {HINT}")
            raise ValueError(_single_input(model, trials, batch, forward) or _refusal(model, batch, trials))
        candidate = chosen.candidate
        labels = label_path(batch, candidate.inputs, candidate.num_taken(batch))
        text = "" if batch_to_inputs is not None and chosen.call is None else _describe(batch, chosen, labels)
        how = forward if chosen.call is None else chosen.call
        return cls(candidate.inputs, labels, how, batch_to_inputs, chosen.embedding, chosen.num_outputs, text)

    def split(self, batch: Any, model: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the items (B, ...) of a batch, and their class labels int64 (B,) or None.

        Args:
            batch: A batch of the same form.
            model: The user's model. If it is given, `batch_to_inputs` runs on copies of itself and of the batch, with a copy of
                the model where it refers to that.

        Raises:
            TypeError: If the batch holds no tensor where the inputs were in the first one.
        """
        batch = unpack(batch, self.batch_to_inputs, model)
        try:
            items = part_at(batch, self.inputs)
        except KeyError:
            items = None
        if not isinstance(items, Tensor) or items.dim() == 0:
            raise TypeError(
                f"Expected inputs at `{code_for(batch, self.inputs)}`, as in the first batch, got {describe_batch(batch)}."
            )
        labels = None
        if self.labels is not None:
            with suppress(KeyError):
                labels = as_classes(part_at(batch, self.labels), len(items))
        return items, labels

    def prepare(self, model: nn.Module, items: Tensor) -> Tensor:
        """Return the floating-point inputs (B, ...) of items, on the model's device; token ids by the embedding as it is now."""
        if self.embedding is not None:
            return embed(model, self.embedding, items)
        return items.to(device_of(model))

    def describe(self) -> str:
        """Return what is walked in and what is held; "" where the model takes the batch's first tensor alone."""
        return self.text

    def __getstate__(self) -> dict[str, Any]:
        is_users = not isinstance(self.forward, (HeldCall, str))
        return vars(self) | {"batch_to_inputs": None} | ({"forward": None} if is_users else {})

    def with_callables(self, batch_to_inputs: BatchToInputs | None, forward: Forward) -> ModelInput:
        """Return the same way with the user's functions, which pickling leaves out."""
        is_ours = isinstance(self.forward, HeldCall)
        return replace(self, batch_to_inputs=batch_to_inputs, forward=self.forward if is_ours else forward)

    def held_tensors(self) -> list[Tensor]:
        """Return the tensors that are held while the inputs vary."""
        return [tensor for _, tensor in tensors_by_path(self.forward.held)] if isinstance(self.forward, HeldCall) else []

    def with_held(self, tensors: list[Tensor]) -> ModelInput:
        """Return the same way with other tensors held, as `held_tensors` gave them."""
        if not isinstance(self.forward, HeldCall) or len(tensors) != len(self.held_tensors()):
            return self
        others = iter(tensors)
        held = replace_tensors(self.forward.held, lambda path, tensor: next(others))
        return replace(self, forward=replace(self.forward, held=held))


def unpack(batch: Any, batch_to_inputs: BatchToInputs | None, model: nn.Module | None) -> Any:
    """Return what the user's function makes of a batch; with a model, on copies of whatever it might change."""
    if batch_to_inputs is None or model is None:
        return batch if batch_to_inputs is None else batch_to_inputs(batch)
    copied = ModelCopy(model, device_of(model), None, shares_parameters=True)
    function = copied(batch_to_inputs)
    with undisturbed(), preserved_random_state(*copied.shared_generators):
        try:
            batch = copy.deepcopy(batch)
        except Exception:  # a batch that cannot be copied is trusted to be read only
            return function(batch)
        return function(batch)


def _describe(batch: Any, chosen: Trial, labels: Path | None) -> str:
    inputs = code_for(batch, chosen.candidate.inputs)
    if chosen.call is None:
        return "" if chosen.candidate.inputs in ((), (0,)) else f"walks in `{inputs}`"
    text = (
        f"walks in `{inputs}`" if chosen.embedding is None else f"walks in the embedding of `{inputs}` (`{chosen.embedding}`)"
    )
    held = [f"`{code_for(batch, path)}`" for path in chosen.held_paths if path != labels]
    text = f"{text}, holds {', '.join(held)}" if held else text
    step = chosen.candidate.step
    return text if step is None else f"{text}, and calls the model as `{step}` does"


def _single_input(model: nn.Module, trials: list[Trial], batch: Any, forward: Forward) -> str:
    """Return the sentence that says that a batch is one input, if the model takes it as one; else ""."""
    for path in dict.fromkeys(trial.candidate.inputs for trial in trials if trial.candidate.style == "tensor"):
        single = part_at(batch, path).detach()[None]
        if not single.is_floating_point() or not single.numel():
            continue
        single = single.to(device_of(model))
        with evaluate_on_replica(model, single, forward) as replica:
            if replica.takes(single):
                return (
                    f"Inputs must be a batch (B, ...), got shape {tuple(single.shape[1:])}, which the model takes as one input: "
                    "stack several with `torch.stack`."
                )
    return ""


def _refusal(model: nn.Module, batch: Any, trials: list[Trial]) -> str:
    module = original_module(model)
    parts = [name for name, part in module.named_children() if any(True for _ in part.parameters())]
    named = f" or the name of a submodule ({', '.join(map(repr, parts[:8]))})" if parts else ""
    calls = [f"`{trial.candidate.describe(batch)}`: {trial.refusal}" for trial in trials]
    tried = "; ".join(dict.fromkeys(calls))
    return (
        f"The model takes nothing of {describe_batch(batch)}. Tried: {tried}. Pass `batch_to_inputs=`, a function of the batch "
        "that returns the inputs, or (inputs, labels), and `forward=`, a function of the model and the inputs that calls the "
        f"model{named}."
    )

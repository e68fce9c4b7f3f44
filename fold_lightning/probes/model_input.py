"""The conversion of a batch to the inputs that are measured."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from fold_lightning.activations.evaluation import Forward, evaluate_on_replica, preserved_random_state, undisturbed
from fold_lightning.activations.replica import ModelCopy, original_module
from fold_lightning.probes.batch_parts import Path, code_for, describe_batch, part_at, replace_tensors, tensors_by_path
from fold_lightning.probes.batches import HINT, BatchToInputs, apply_function, label_path
from fold_lightning.probes.classes import as_classes
from fold_lightning.probes.held_call import HeldCall
from fold_lightning.probes.token_embedding import embed
from fold_lightning.probes.trials import Trial, device_of, try_candidates


@dataclass(frozen=True, eq=False)
class ModelInput:
    """The conversion of a batch to the inputs that are measured, chosen once.

    Attributes:
        inputs: Path in a batch to the inputs, or to the token ids whose embeddings are the inputs.
        labels: Path to the labels; None if there are none.
        forward: `forward=` of `segment_walks`, `activation_codes` and `activation_regions`.
        batch_to_inputs: The user's function of a batch.
        embedding: Path of the `nn.Embedding` whose outputs are the inputs; None for floating-point inputs.
        num_outputs: Number of the model's outputs per input; None if it returns no tensor (B, C).
        held_vary: Whether held tensors differ between the rows of a batch, so that most inputs are measured with those of another.
        text: Result of `describe`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        >>> chosen = ModelInput.choose(model, {"image": torch.randn(4, 3), "label": torch.arange(4)})
        >>> items, labels = chosen.split({"image": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
        >>> items.shape, labels, chosen.describe()
        (torch.Size([2, 3]), tensor([0, 1]), "varies `batch['image']`")
    """

    inputs: Path
    labels: Path | None
    forward: Forward
    batch_to_inputs: BatchToInputs | None = None
    embedding: str | None = None
    num_outputs: int | None = None
    held_vary: bool = False
    text: str = field(default="", repr=False)

    @classmethod
    def choose(
        cls, model: nn.Module, batch: Any, *, batch_to_inputs: BatchToInputs | None = None, forward: Forward = None
    ) -> ModelInput:
        """Choose how to call a model with a batch, by trying calls on a replica of the model.

        Calls are tried in the order of `candidates`: for each tensor, most likely inputs first, with entries of its part as
        keywords, alone, in the parts of the batch that contain it, and with entries as positional arguments; last in the
        module's own `validation_step` or `training_step`, up to its call of `forward`. The first call is chosen in which
        activations depend on the tensor, row by row; if there is none, the first call that the model takes.

        Args:
            model: The user's model, which is not changed.
            batch: A batch as a step gets it, which is not changed.
            batch_to_inputs: Function of the batch that returns inputs or (inputs, labels).
            forward: How to call the model, as in `activation_codes`. A callable gets a tensor alone.

        Raises:
            TypeError: If the batch holds no tensor that may be the inputs.
            ValueError: If the model takes none of them; the message says whether a batch dimension is missing.
        """
        batch = unpack(batch, batch_to_inputs, model)
        trials, chosen = try_candidates(model, batch, forward)
        if chosen is None:
            if not trials:
                raise TypeError(f"No inputs found in {describe_batch(batch)}: {HINT}")
            raise ValueError(_single_input(model, trials, batch, forward) or _refusal(model, batch, trials))
        candidate = chosen.candidate
        labels = label_path(batch, candidate.inputs, candidate.num_taken(batch))
        held = [path for path in chosen.held_paths if path != labels]
        held_vary = any(_has_different_rows(part_at(batch, path), len(part_at(batch, candidate.inputs))) for path in held)
        text = (
            "" if batch_to_inputs is not None and chosen.call is None else _describe(batch, chosen, held, held_vary=held_vary)
        )
        how = forward if chosen.call is None else chosen.call
        return cls(candidate.inputs, labels, how, batch_to_inputs, chosen.embedding, chosen.num_outputs, held_vary, text)

    def split(self, batch: Any, model: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the items (B, ...) of a batch, and their class labels int64 (B,) or None; see `parts`."""
        items, labels = self.parts(batch, model)
        return items, as_classes(labels, len(items))

    def parts(self, batch: Any, model: nn.Module | None = None) -> tuple[Tensor, Any]:
        """Return the items (B, ...) of a batch, and its labels as they are; None if it has none.

        Args:
            batch: A batch of the same form.
            model: The user's model. If it is given, copies of `batch_to_inputs`, of the batch, and of the model that the
                function may refer to are used.

        Raises:
            TypeError: If the batch has no tensor at the path of the inputs, or the function returns None.
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
                labels = part_at(batch, self.labels)
        return items, labels

    def prepare(self, model: nn.Module, items: Tensor) -> Tensor:
        """Return the floating-point inputs (B, ...) of items, on the model's device; token ids go through the current embedding."""
        if self.embedding is not None:
            return embed(model, self.embedding, items)
        return items.to(device_of(model))

    def describe(self) -> str:
        """Describe the inputs and the held tensors; "" if the model takes the batch's first tensor alone."""
        return self.text

    def __getstate__(self) -> dict[str, Any]:
        is_users = not isinstance(self.forward, (HeldCall, str))
        return vars(self) | {"batch_to_inputs": None} | ({"forward": None} if is_users else {})

    def with_callables(self, batch_to_inputs: BatchToInputs | None, forward: Forward) -> ModelInput:
        """Return a copy with the user's functions, which pickling leaves out."""
        is_ours = isinstance(self.forward, HeldCall)
        return replace(self, batch_to_inputs=batch_to_inputs, forward=self.forward if is_ours else forward)

    def held_tensors(self) -> list[Tensor]:
        """Return the tensors that are held while the inputs vary."""
        return [tensor for _, tensor in tensors_by_path(self.forward.held)] if isinstance(self.forward, HeldCall) else []

    def with_held(self, tensors: list[Tensor]) -> ModelInput:
        """Return a copy with other held tensors, in the order of `held_tensors`."""
        if not isinstance(self.forward, HeldCall) or len(tensors) != len(self.held_tensors()):
            return self
        others = iter(tensors)
        held = replace_tensors(self.forward.held, lambda path, tensor: next(others))
        return replace(self, forward=replace(self.forward, held=held))


def unpack(batch: Any, batch_to_inputs: BatchToInputs | None, model: nn.Module | None) -> Any:
    """Apply the user's function to a batch; with a model, run on copies of everything that it might change."""
    if batch_to_inputs is None or model is None:
        return batch if batch_to_inputs is None else apply_function(batch_to_inputs, batch)
    copied = ModelCopy(model, device_of(model), None, shares_parameters=True)
    function = copied(batch_to_inputs)
    with undisturbed(), preserved_random_state(*copied.shared_generators):
        try:
            batch = copy.deepcopy(batch)
        except Exception:  # a batch that can't be copied is passed itself
            return apply_function(function, batch)
        return apply_function(function, batch)


def _has_different_rows(tensor: Tensor, num_rows: int) -> bool:
    return tensor.dim() > 0 and len(tensor) == num_rows and not bool((tensor == tensor[:1]).all())


def _describe(batch: Any, chosen: Trial, held: list[Path], *, held_vary: bool) -> str:
    inputs = code_for(batch, chosen.candidate.inputs)
    if chosen.call is None:
        return "" if chosen.candidate.inputs in ((), (0,)) else f"varies `{inputs}`"
    text = f"varies `{inputs}`" if chosen.embedding is None else f"varies the embedding of `{inputs}` (`{chosen.embedding}`)"
    named = ", ".join(f"`{code_for(batch, path)}`" for path in held)
    text = f"{text}, holds {named} fixed{' at the values of the first row' * held_vary}" if held else text
    step = chosen.candidate.step
    return text if step is None else f"{text}, and calls the model as `{step}` does"


def _single_input(model: nn.Module, trials: list[Trial], batch: Any, forward: Forward) -> str:
    """Return an error message if the model takes the batch as one input without a batch dimension; else ""."""
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
        f"The model takes no part of {describe_batch(batch)}. Tried: {tried}. Pass `batch_to_inputs=`, a function of the batch "
        "that returns the inputs, or (inputs, labels), and `forward=`, a function of the model and the inputs that calls the "
        f"model{named}."
    )

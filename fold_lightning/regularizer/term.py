"""The regularizer: a term that rewards folding, and its push on a task's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fold_lightning.activations.codes import check_inputs
from fold_lightning.activations.evaluation import evaluate_on_replica
from fold_lightning.activations.gradients import pre_activations
from fold_lightning.activations.inspection import ModelStructure, inspect
from fold_lightning.regularizer.arguments import check_arguments, check_batch
from fold_lightning.regularizer.held import HeldGradient, mean_over
from fold_lightning.regularizer.pairs import Between, draw_input_pairs
from fold_lightning.regularizer.schedules import Schedule, strength
from fold_lightning.regularizer.soft import soft_bits, soft_folding

Known = WeakKeyDictionary[nn.Module, tuple[Any, ModelStructure]]


class FoldingRegularizer(nn.Module):
    """Regularizer towards more folding of the network's input space, by a term that is differentiable in the weights.

    The term is ``weight * schedule(progress) * (1 - soft chi)``, where soft chi is the mean `soft_folding` of random segments
    between inputs of the batch, which connect different classes if there are labels. Chi itself is piecewise constant in the
    weights. "The Space Between" (Lewandowski et al. 2025) outlines such a term, strongest early in training; the formula and
    its defaults are this project's own, chosen by their effect on the exact chi after training.

    `push` adds the term's gradient to the task's, in every step, scaled to ``share * weight * schedule(progress)`` times the
    length of the task's gradient. It recomputes the term's gradient only in every n-th step. So one share suits every
    activation, optimizer and scale of the loss, and there are no spikes in every n-th step, which would disturb Adam's second
    moments or be clipped away. Over the first `warm_steps` steps the share rises from 0. Calling the regularizer returns the
    term itself, for a loss.

    The points of all segments go through one forward pass. It runs in evaluation mode, with gradients, in the model's dtype and
    autocast context, up to the last layer that counts; modes, buffers (batch norm's statistics) and random states are not
    changed. Segments depend on `seed` and the number of earlier draws, which `state_dict` keeps together with the progress; in
    evaluation mode (`regularizer.eval()`) the same segments are drawn again. With a weight of 0 there is no pass.

    `FoldingMonitor(regularize=True)` does the following for any LightningModule. Without it::

        regularizer = FoldingRegularizer()
        for step, (inputs, labels) in enumerate(batches):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            regularizer.progress = step / num_steps
            regularizer.push(model, inputs, labels)  # before gradients are clipped
            optimizer.step()

    Args:
        weight: Weight of the term, and a factor of the push; below 0 it discourages folding.
        share: Length of the push at weight 1, divided by that of the task's gradient; above 0. With None, `FoldingMonitor` adds
            the term to the loss instead, as it does if gradients are sharded (FSDP, DeepSpeed).
        warm_steps: Number of first steps over which the push rises to its full length. In a training of less than 100 steps,
            take all of them: with 20 of 79 steps, a GELU network lost 7 points of accuracy, with 80 none.
        schedule: "cosine" or "linear" (both fall from the whole weight to 0), "constant", or a function that returns a factor
            of the weight from the progress in [0, 1].
        until: Share of the training after which a named schedule is 0, in (0, 1].
        until_epoch: Epoch at which the schedule ends, instead of `until`; only with `FoldingMonitor`, which knows the epochs.
        every_n_steps: `push` recomputes the term's gradient in every n-th step, which costs less and folds as much. If
            `FoldingMonitor` adds the term to the loss, it does so in every n-th step, multiplied by n. Calls are not affected.
        num_segments: Number S of segments per batch; few are enough, because each step draws others.
        num_points: Number T of equidistant points per segment, including its ends; at least 3, because 2 can't turn back.
        temperature: Temperature t of `soft_bits`, in standard deviations of the layer, and of `soft_folding`; above 0.
        damping: Damping D of `soft_folding`: a length added to each walk's, so that turning back raises soft chi more than
            staying near the start; 0 costs accuracy, and counts rounding differences between equal inputs as folding.
        between: Segments connect inputs of different "classes", of the "same" class, or "any"; without labels, any.
        layers: Layers whose bits count: a name, a glob pattern or several of them; None counts every activation.
        seed: Seed by which segments are drawn.

    Attributes:
        progress: Share of the training that has passed, in [0, 1], for the schedule; set by `FoldingMonitor`, or by the user
            without it.
        draws: Index of the next draw of segments, which depends on it and the seed. A call in training mode increments it;
            `FoldingMonitor` sets it by the step.
        soft_chi: The soft chi of the last term, a tensor without gradient; None before the first.
        num_skipped: Number of terms that `push` or `FoldingMonitor` left out, because they failed or were not finite, or their
            gradients were not.

    Raises:
        ValueError: If a number is out of range, or a name unknown.
        TypeError: If a number is of another type, a count no integer, or `layers` are neither names nor patterns.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> regularizer = FoldingRegularizer(weight=0.5, schedule="constant")
        >>> term = regularizer(model, torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> term.backward()
        >>> bool(term == 0.5 * (1 - regularizer.soft_chi)), model[0].weight.grad.shape
        (True, torch.Size([8, 4]))
    """

    soft_chi: Tensor | None

    def __init__(
        self,
        weight: float = 1.0,
        *,
        share: float | None = 0.5,
        warm_steps: int = 20,
        schedule: str | Callable[[float], float] = "cosine",
        until: float = 1.0,
        until_epoch: int | None = None,
        every_n_steps: int = 8,
        num_segments: int = 8,
        num_points: int = 8,
        temperature: float = 0.125,
        damping: float = 8.0,
        between: Between = "classes",
        layers: str | list[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_arguments(locals())
        self.weight = float(weight)
        self.share = None if share is None else float(share)
        self.warm_steps = warm_steps
        self.schedule: Schedule = schedule
        self.until = float(until)
        self.until_epoch = until_epoch
        self.every_n_steps = every_n_steps
        self.num_segments = num_segments
        self.num_points = num_points
        self.temperature = float(temperature)
        self.damping = float(damping)
        self.between: Between = between
        self.layers = layers
        self.seed = seed
        self.draws = 0
        self.soft_chi = None
        self.num_skipped = 0
        self._progress = 0.0
        self._held = HeldGradient()
        self._known: Known = WeakKeyDictionary()

    @property
    def progress(self) -> float:
        """Share of the training that has passed, in [0, 1]."""
        return self._progress

    @progress.setter
    def progress(self, value: float) -> None:
        if not 0 <= value <= 1:  # NaN too
            raise ValueError(f"`progress` must lie in [0, 1], got {value!r}: it is the share of the training that has passed.")
        self._progress = float(value)

    @property
    def current_weight(self) -> float:
        """Scheduled weight at the current progress."""
        return self.weight * strength(self.schedule, self.progress, self.until) if self.weight else 0.0

    def forward(self, model: nn.Module, inputs: Tensor, labels: Tensor | None = None, *, forward: Any = None) -> Tensor:
        """Return the term of a batch.

        Args:
            model: The network.
            inputs: Floating-point inputs (B, ...), B at least 1, on the model's device and in its dtype.
            labels: Class labels, integers (B,), negative where an input has none; None if there are none.
            forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.

        Returns:
            A tensor () with gradients, finite if the pre-activations are; 0 if the current weight is.

        Raises:
            ValueError: For an empty batch, for labels of another shape, and for the errors of `activation_codes`, at the first
                call with a model.
            TypeError: For inputs that are not a floating-point tensor, or labels that are not integers.
        """
        check_batch(inputs, labels)
        weight = self.current_weight
        if weight == 0:
            return torch.zeros((), device=inputs.device, requires_grad=True)
        points = self._points(inputs, labels)
        layers = pre_activations(model, self._inspect(model, inputs, forward), points, forward)
        bits = soft_bits(layers, self.temperature).unflatten(0, (self.num_segments, self.num_points))
        chi = soft_folding(bits, self.temperature, self.damping).mean()
        self.soft_chi = chi.detach()
        return weight * (1 - chi)

    def push(self, model: nn.Module, inputs: Tensor, labels: Tensor | None = None, *, forward: Any = None) -> None:
        """Add the push to the gradients of the model's parameters, after the task's backward pass.

        Call it in every step, before gradients are clipped, and before or after they are unscaled. Parameters that are frozen
        or have no gradient are not changed. Use one regularizer per model. All processes of a `DistributedDataParallel` must
        call it, and push by the mean of their terms' gradients.

        Args:
            model: As in a call.
            inputs: As in a call.
            labels: As in a call.
            forward: As in a call.

        Raises:
            ValueError: If `share` is None, and as in a call.
            TypeError: As in a call.

        Example:
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> inputs, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
            >>> nn.functional.cross_entropy(model(inputs), labels).backward()
            >>> task = [parameter.grad.clone() for parameter in model[:3].parameters()]  # no bit depends on the last layer
            >>> FoldingRegularizer(share=0.5, warm_steps=0).push(model, inputs, labels)
            >>> pushes = [parameter.grad - before for parameter, before in zip(model.parameters(), task)]
            >>> length = lambda tensors: torch.cat([tensor.flatten() for tensor in tensors]).norm()
            >>> round(float(length(pushes) / length(task)), 3)
            0.5
        """
        if self.share is None:
            raise ValueError("`push` needs a `share`, got None: its length is this share of the task's gradient.")
        check_batch(inputs, labels)
        parameters, average = list(model.parameters()), None
        if isinstance(model, DistributedDataParallel):
            model, average = model.module, mean_over(model.process_group)
        weight = self.current_weight
        if weight and self._held.steps % self.every_n_steps == 0:
            with torch.enable_grad():
                term = self(model, inputs, labels, forward=forward)
                length = self._held.renew(term / weight, parameters, average)
            self.num_skipped += not math.isfinite(length)
        self._held.push(parameters, self.share * weight, self.warm_steps)

    def check(self, model: nn.Module, inputs: Tensor, labels: Tensor | None = None, *, forward: Any = None) -> None:
        """Raise the errors that a call would raise for the batch, the model or the schedule, at any weight; draw no segments."""
        for tenth in range(11):
            strength(self.schedule, tenth / 10, self.until)
        check_batch(inputs, labels)
        self._inspect(model, inputs, forward)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state for `state_dict`: progress, number of draws, number of terms left out, and held gradient."""
        state = {"progress": self.progress, "draws": self.draws, "num_skipped": self.num_skipped}
        return state | {"held": self._held.state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state from `get_extra_state`."""
        self.progress, self.draws, self.num_skipped = state["progress"], state["draws"], state["num_skipped"]
        if "held" in state:  # an older version's state has none
            self._held.restore(state["held"])

    def extra_repr(self) -> str:
        """Return the main arguments, for the `repr`."""
        return f"weight={self.weight:g}, share={self.share}, schedule={self.schedule!r}, temperature={self.temperature:g}"

    def forget(self) -> None:
        """Inspect models again at their next call, because they may change between trainings."""
        self._known = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_known"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.forget()  # copies inspect their model again

    def _points(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Draw new segments, and return equidistant points (S * T, ...) on them."""
        # A CPU generator uses only the lowest 32 bits of its seed: the factor spreads seeds over them.
        generator = torch.Generator().manual_seed((self.seed * 2_654_435_761 + self.draws) % 2**32)
        self.draws += self.training
        sides = draw_input_pairs(len(inputs), labels, self.num_segments, self.between, generator)
        start, end = (inputs[side.to(inputs.device)].unsqueeze(1) for side in sides)
        t = torch.linspace(0, 1, self.num_points, device=inputs.device, dtype=inputs.dtype)
        return torch.lerp(start, end, t.view(-1, *[1] * (inputs.dim() - 1))).flatten(0, 1)

    def _inspect(self, model: nn.Module, inputs: Tensor, forward: Any) -> ModelStructure:
        """Return the structure of a model, which is inspected once."""
        known = self._known.get(model)
        if known is None or known[0] is not forward:
            check_inputs(inputs)
            with evaluate_on_replica(model, inputs, forward) as replica:
                known = self._known[model] = (forward, inspect(replica, inputs.detach(), self.layers))
        return known[1]

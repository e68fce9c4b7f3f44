"""The regularizer: a term that rewards folding, and its push on the gradient of a task."""

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
from fold_lightning.regularizer.pairs import Between, draw_pairs
from fold_lightning.regularizer.schedules import Schedule, strength
from fold_lightning.regularizer.soft import soft_bits, soft_folding

Known = WeakKeyDictionary[nn.Module, tuple[Any, ModelStructure]]


class FoldingRegularizer(nn.Module):
    """A push towards more folding of the network's input space, by a term that is differentiable in its weights.

    The term is ``weight * schedule(progress) * (1 - soft chi)``, where soft chi is the mean `soft_folding` of random segments between
    inputs of the batch, between different classes where labels are there. Chi itself is piecewise constant in the weights. "The
    Space Between" (Lewandowski et al. 2025) outlines such a term, strongest early in training; the formula and its defaults are this
    project's own, chosen by what they do to the exact chi after training.

    `push` lets it act. In every n-th step it takes the term's gradient anew and scales it to length 1; in every step it adds that,
    ``share * weight * schedule(progress)`` times as long as the task's gradient, to the task's. So the same share acts on every
    activation, optimizer and scale of the loss, and no spike in every n-th step upsets Adam's second moments or is clipped away. Over
    the first `warm_steps` steps the share rises from 0. A call gives the term itself, for a loss.

    One forward pass takes the points of all segments. It runs in evaluation mode, with gradients, in the model's dtype and autocast
    context, up to the last layer that counts; modes, buffers (batch norm's statistics) and random states are as before.
    Segments are drawn by a generator of its own from `seed` and the number of terms that were drawn before, which its `state_dict`
    keeps with the progress; in evaluation mode (`regularizer.eval()`) the same ones come again. A weight of 0 makes no pass at all.

    `FoldingMonitor(regularize=True)` does the following for any LightningModule. By hand::

        regularizer = FoldingRegularizer()
        for step, (inputs, labels) in enumerate(batches):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            regularizer.progress = step / num_steps
            regularizer.push(model, inputs, labels)  # before gradients are clipped
            optimizer.step()

    Args:
        weight: Of the term, and a factor of the push; below 0 it discourages folding, and 0 makes no pass at all.
        share: Length of the push at weight 1 over that of the task's gradient; above 0. None lets the flag add the term to the loss
            instead, as it does where gradients are sharded (FSDP, DeepSpeed).
        warm_steps: Number of the first steps over which the push rises to its length. Take all of a training of less than a hundred:
            with 20 of 79 steps, a GELU network lost 7 points of accuracy, with 80 none.
        schedule: "cosine", "linear" (from the whole weight to none) or "constant"; or a function of the progress in [0, 1] that
            returns a factor of the weight.
        until: The share of the training after which a named schedule is 0, in (0, 1].
        until_epoch: The epoch at which the schedule ends instead; needs `FoldingMonitor`, which knows the epochs.
        every_n_steps: `push` takes the term's gradient anew in every n-th step, for that costs less and folds as well. Where the flag
            adds the term to the loss, it does so in every n-th step, n-fold. It changes nothing of a call.
        num_segments: S, segments in a batch; few are enough, for each step draws others.
        num_points: T, equidistant points on each, its ends among them; at least 3, for 2 cannot turn back.
        temperature: t, of soft bits in spreads of their layer, and of what else `soft_folding` softens. Above 0.
        damping: How much longer walks are taken to be, in `soft_folding`, so that it pays to turn back rather than to stay near; 0
            is known to cost accuracy, and takes what rounding makes of equal inputs for folding.
        between: Segments go between inputs of different "classes", of the "same" class, or "any". Without labels, any.
        layers: Whose bits count: a layer's name, a glob pattern or several of them; None counts every activation.
        seed: Of the choice of segments.

    Attributes:
        progress: How much of the training has passed, in [0, 1]; drives the schedule. `FoldingMonitor` sets it, otherwise you.
        draws: The number of the next term's draw; the seed and it say which segments it takes. A call in training mode counts
            it up, and `FoldingMonitor` sets it by the step.
        soft_chi: The soft chi of the last term, a tensor without gradient; None before the first.
        num_skipped: How many terms were left out, by `push` or `FoldingMonitor`, because they or their gradients were not finite.

    Raises:
        ValueError: If a number is out of range, or a name unknown.
        TypeError: If a count is no integer, or `layers` are neither names nor patterns.

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
        """Weight by the schedule at the present progress."""
        return self.weight * strength(self.schedule, self.progress, self.until) if self.weight else 0.0

    def forward(self, model: nn.Module, inputs: Tensor, labels: Tensor | None = None, *, forward: Any = None) -> Tensor:
        """Return the term of a batch.

        Args:
            model: The network, wherever its activations are.
            inputs: Floating-point inputs (B, ...), B at least 1, where the model is and in the dtype that it takes.
            labels: Class labels, integers (B,), negative where an input has none; None if there are none.
            forward: How to call the model: a callable of `(model, inputs)` or of `(inputs)`, or the name of a method or submodule.

        Returns:
            A tensor (), with gradients, finite where the pre-activations are; 0 where the present weight is.

        Raises:
            ValueError: For an empty batch, for labels of another shape, and what `activation_codes` raises at the first call with
                a model.
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
        """Add the push of a step to the gradients of the model's parameters, after the task's backward pass.

        Call it in every step, before gradients are clipped; it does not matter whether they are still scaled. Parameters that are
        frozen or have no gradient stay as they are. It pushes one model; take another regularizer for another. Of a
        `DistributedDataParallel` all processes call it, and push by the mean of their terms' gradients.

        Args:
            model: As of a call.
            inputs: As of a call.
            labels: As of a call.
            forward: As of a call.

        Raises:
            ValueError: If `share` is None, and as of a call.
            TypeError: As of a call.

        Example:
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> inputs, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
            >>> nn.functional.cross_entropy(model(inputs), labels).backward()
            >>> task = [parameter.grad.clone() for parameter in model[:3].parameters()]  # the last layer's has no bits behind it
            >>> FoldingRegularizer(share=0.5, warm_steps=0).push(model, inputs, labels)
            >>> pushes = [parameter.grad - before for parameter, before in zip(model.parameters(), task)]
            >>> length = lambda tensors: torch.cat([tensor.flatten() for tensor in tensors]).norm()
            >>> round(float(length(pushes) / length(task)), 3)
            0.5
        """
        if self.share is None:
            raise ValueError("`push` needs a `share`, got None: its length is that share of the task's gradient.")
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
        """Raise what a call would raise for the model or the schedule, whatever the weight; draw no segments."""
        for tenth in range(11):
            strength(self.schedule, tenth / 10, self.until)
        check_batch(inputs, labels)
        self._inspect(model, inputs, forward)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` keeps: the progress, and the held gradient."""
        state = {"progress": self.progress, "draws": self.draws, "num_skipped": self.num_skipped}
        return state | {"held": self._held.state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.progress, self.draws, self.num_skipped = state["progress"], state["draws"], state["num_skipped"]
        if "held" in state:  # that of an older version has none
            self._held.restore(state["held"])

    def extra_repr(self) -> str:
        """Return the arguments that matter most, for the `repr`."""
        return f"weight={self.weight:g}, share={self.share}, schedule={self.schedule!r}, temperature={self.temperature:g}"

    def forget(self) -> None:
        """Inspect the model anew at the next call: it may be altered between trainings."""
        self._known = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_known"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.forget()  # copies look at their model anew

    def _points(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Return equidistant points (S * T, ...) on segments that no other call has drawn."""
        # A generator on the CPU sees the lowest 32 bits of its seed alone: seeds start far apart among them.
        generator = torch.Generator().manual_seed((self.seed * 2_654_435_761 + self.draws) % 2**32)
        self.draws += self.training
        sides = draw_pairs(len(inputs), labels, self.num_segments, self.between, generator)
        start, end = (inputs[side.to(inputs.device)].unsqueeze(1) for side in sides)
        t = torch.linspace(0, 1, self.num_points, device=inputs.device, dtype=inputs.dtype)
        return torch.lerp(start, end, t.view(-1, *[1] * (inputs.dim() - 1))).flatten(0, 1)

    def _inspect(self, model: nn.Module, inputs: Tensor, forward: Any) -> ModelStructure:
        """Return the structure of the model, inspected once."""
        known = self._known.get(model)
        if known is None or known[0] is not forward:
            check_inputs(inputs)
            with evaluate_on_replica(model, inputs, forward) as replica:
                known = self._known[model] = (forward, inspect(replica, inputs.detach(), self.layers))
        return known[1]

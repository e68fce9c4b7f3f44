"""The held gradient: the term's gradient, kept for some steps, and added to the task's at a share of its length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn

Average = Callable[[Tensor], Tensor]

GRADIENT_SCALE = 2.0**10
"""Factor of the term while it is differentiated, so that float16 gradients do not underflow; scaling to length 1 takes it away."""


class HeldGradient:
    """Direction in which the term falls, of length 1, that pushes parameters for some steps.

    Computed anew in every n-th step only, it costs little, and added in every one, it gives the optimizer no spikes.

    Attributes:
        steps: Number of steps that were pushed before.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._direction: list[Tensor | None] | None = None  # in the order of the parameters

    def renew(self, term: Tensor | None, parameters: Iterable[nn.Parameter], average: Average | None = None) -> bool:
        """Hold the gradient of a term; keep what was held where it has none that is finite.

        Args:
            term: Number with gradients, or None where this process has none.
            parameters: Parameters to push.
            average: Mean of a tensor over processes, which all call this at once; None for a single process.

        Returns:
            Whether a gradient is finite and not 0 everywhere.
        """
        every = list(parameters)
        trained = [parameter for parameter in every if parameter.requires_grad]
        found = self._gradients(term, trained)
        if average is not None and trained:
            found = _averaged(found, trained, average)
        length = _length([gradient for gradient in found if gradient is not None])
        if length is None or not bool(length.isfinite() & (length > 0)):
            return False
        by_parameter = {id(p): None if g is None else g / length.to(g) for p, g in zip(trained, found, strict=True)}
        self._direction = [by_parameter.get(id(parameter)) for parameter in every]
        return True

    @staticmethod
    def _gradients(term: Tensor | None, trained: list[nn.Parameter]) -> list[Tensor | None]:
        if term is None or not term.requires_grad or not trained:
            return [None] * len(trained)
        return list(torch.autograd.grad(GRADIENT_SCALE * term, trained, allow_unused=True))

    @torch.no_grad()
    def push(self, parameters: Iterable[nn.Parameter], share: float, warm_steps: int) -> None:
        """Add the held gradient to those of the parameters.

        Args:
            parameters: Parameters as of `renew`, after the task's backward pass; those without a gradient are left out.
            share: Length of what is added over that of the task's gradient, both over the parameters that have both; below 0 it
                points the other way.
            warm_steps: Number of the first steps over which the share rises from 0.
        """
        share *= min(1.0, (self.steps + 1) / max(1, warm_steps))
        self.steps += 1
        if self._direction is None or share == 0:
            return
        gradients = [parameter.grad for parameter in parameters]
        for number, (gradient, held) in enumerate(zip(gradients, self._direction, strict=False)):
            if gradient is not None and held is not None:
                self._direction[number] = held.to(gradient)  # from a checkpoint it may come on another device
        pairs = [
            (gradient, held)
            for gradient, held in zip(gradients, self._direction, strict=False)  # an optimizer may have got more since
            if gradient is not None and held is not None and gradient.layout == torch.strided
        ]
        task = _length([gradient for gradient, _ in pairs])
        if task is None:
            return
        # A gradient that overflowed stays what it is, and a scaler of gradients finds it.
        length = share * torch.where(task.isfinite(), task, 0.0)
        by_device: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for gradient, held in pairs:
            by_device.setdefault(gradient.device, []).append((gradient, held))
        for device, on_device in by_device.items():
            scaled = torch._foreach_mul([held for _, held in on_device], length.to(device))
            torch._foreach_add_([gradient for gradient, _ in on_device], scaled)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a run goes on bit for bit."""
        direction = self._direction
        held = None if direction is None else [None if one is None else one.detach().clone() for one in direction]
        return {"steps": self.steps, "direction": held}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps, self._direction = state["steps"], state["direction"]


def mean_over(group: Any) -> Average:
    """Return the mean of a tensor over a group of processes, as a function that all of them call."""

    def average(tensor: Tensor) -> Tensor:
        distributed.all_reduce(tensor, group=group)
        return tensor / distributed.get_world_size(group)

    return average


def _length(tensors: list[Tensor]) -> Tensor | None:
    """Return the Euclidean length () of tensors taken together, in float32 at least; None of no tensor."""
    if not tensors:
        return None
    norms = [norm if norm.dtype == torch.float64 else norm.float() for norm in torch._foreach_norm(tensors)]
    length: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]))
    return length


def _averaged(gradients: list[Tensor | None], trained: list[nn.Parameter], average: Average) -> list[Tensor | None]:
    """Return the mean of gradients over processes; one that has none has zeros, as has one whose gradients are not finite."""
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients, strict=True)]
    flat = torch.cat([gradient.flatten() for gradient in whole])
    flat = average(torch.where(flat.isfinite().all(), flat, 0.0))
    parts = flat.split([gradient.numel() for gradient in whole])
    return [part.view_as(gradient).to(gradient.dtype) for part, gradient in zip(parts, whole, strict=True)]

"""The held gradient: the term's gradient, reused for some steps and added to the task's, scaled to a share of its length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, distributed, nn

Average = Callable[[Tensor], Tensor]

GRADIENT_SCALE = 2.0**10
"""Factor of the term for its backward pass, so that float16 gradients do not underflow; it cancels when gradients are scaled to
length 1."""


class HeldGradient:
    """Gradient of the term, scaled to length 1, that pushes parameters for some steps.

    It is cheap, because it is recomputed only in every n-th step, and causes no spikes in the optimizer, because it is added in
    every step.

    Attributes:
        steps: Number of steps that have been pushed.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._direction: list[Tensor | None] | None = None  # in the order of the parameters

    def renew(self, term: Tensor | None, parameters: Iterable[nn.Parameter], average: Average | None = None) -> float:
        """Hold the gradient of a term, scaled to length 1; keep the previous one if the length is 0 or not finite.

        Args:
            term: Differentiable scalar, or None if this process has none.
            parameters: Parameters to push.
            average: Function that returns the mean of a tensor over processes, which must all call `renew`; None for a single
                process.

        Returns:
            Length of the gradient.
        """
        every = list(parameters)
        trained = [parameter for parameter in every if parameter.requires_grad]
        found = self._gradients(term, trained)
        if average is not None and trained:
            found = _averaged(found, trained, average)
        reached = {id(p): gradient for p, gradient in zip(trained, found, strict=True) if gradient is not None}
        lengths = _lengths(list(reached.values())).tolist() if reached else []
        length = math.hypot(*lengths)
        if length == 0 or not math.isfinite(length):
            return length / GRADIENT_SCALE
        # Averages have zeros for parameters that the term does not reach; these are not pushed.
        pushed = {key: gradient / length for (key, gradient), own in zip(reached.items(), lengths, strict=True) if own > 0}
        self._direction = [pushed.get(id(parameter)) for parameter in every]
        return length / GRADIENT_SCALE

    @staticmethod
    def _gradients(term: Tensor | None, trained: list[nn.Parameter]) -> list[Tensor | None]:
        if term is None or not term.requires_grad or not trained:
            return [None] * len(trained)
        found = torch.autograd.grad(GRADIENT_SCALE * term, trained, allow_unused=True)
        return [gradient if _is_dense(gradient) else None for gradient in found]

    @torch.no_grad()
    def push(self, parameters: Iterable[nn.Parameter], share: float, warm_steps: int) -> None:
        """Add the held gradient to the gradients of the parameters.

        Args:
            parameters: The parameters of `renew`, after the task's backward pass; parameters without a gradient are left out.
            share: Length of the added gradient divided by that of the task's, both over the parameters that have both; a share
                below 0 reverses the direction.
            warm_steps: Number of first steps over which the share rises from 0.
        """
        share *= min(1.0, (self.steps + 1) / max(1, warm_steps))
        self.steps += 1
        if self._direction is None or share == 0:
            return
        pairs: list[tuple[Tensor, Tensor]] = []
        for number, (parameter, held) in enumerate(
            zip(parameters, self._direction, strict=False)
        ):  # parameters may have been added since
            if held is not None and _is_dense(parameter.grad):
                held = self._direction[number] = held.to(parameter.grad)  # a checkpoint may have restored it on another device
                pairs.append((parameter.grad, held))
        if not pairs:
            return
        task = torch.linalg.vector_norm(_lengths([gradient for gradient, _ in pairs]))
        # A gradient that overflowed is not pushed, so that a gradient scaler detects it.
        length = share * torch.where(task.isfinite(), task, 0.0)
        for device in dict.fromkeys(gradient.device for gradient, _ in pairs):
            gradients, directions = zip(*(pair for pair in pairs if pair[0].device == device), strict=True)
            torch._foreach_add_(gradients, torch._foreach_mul(directions, length.to(device)))

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, from which a run resumes bit for bit."""
        return {"steps": self.steps, "direction": None if self._direction is None else list(self._direction)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        direction = state["direction"]
        self.steps, self._direction = state["steps"], None if direction is None else list(direction)


def mean_over(group: Any) -> Average:
    """Return a function that averages a tensor over a group of processes, all of which must call it."""

    def average(tensor: Tensor) -> Tensor:
        distributed.all_reduce(tensor, group=group)
        return tensor / distributed.get_world_size(group)

    return average


def _is_dense(gradient: Tensor | None) -> TypeGuard[Tensor]:
    """Return whether there is a gradient that is not sparse, as an embedding's may be."""
    return gradient is not None and gradient.layout == torch.strided


def _lengths(tensors: list[Tensor]) -> Tensor:
    """Return the Euclidean length of each of n tensors, (n,), n at least 1, in float32 or float64."""
    norms = [norm if norm.dtype == torch.float64 else norm.float() for norm in torch._foreach_norm(tensors)]
    return torch.stack([norm.to(norms[0]) for norm in norms])


def _averaged(gradients: list[Tensor | None], trained: list[nn.Parameter], average: Average) -> list[Tensor | None]:
    """Average gradients over processes; missing ones count as 0, as do all of a process that has a non-finite one."""
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients, strict=True)]
    flat = torch.cat([gradient.flatten() for gradient in whole])
    flat = average(torch.where(flat.isfinite().all(), flat, 0.0))
    parts = flat.split([gradient.numel() for gradient in whole])
    return [part.view_as(gradient).to(gradient.dtype) for part, gradient in zip(parts, whole, strict=True)]

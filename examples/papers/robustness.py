"""How well a classifier does on images that were disturbed, and the controls that a claim about it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import FoldingRegularizer
from fold_lightning.regularizer import HeldGradient


def with_noise(images: Tensor, size: float, seed: int = 0) -> Tensor:
    """The images with Gaussian noise of that standard deviation."""
    return images + size * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def attacked(net: nn.Module, images: Tensor, labels: Tensor, size: float, steps: int = 20) -> Tensor:
    """The images after projected gradient descent on each pixel by at most `size`, within [0, 1]."""
    moved = images.clone()
    for _ in range(steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(moved), labels), moved)
        moved = moved.detach() + size / 8 * gradient.sign()
        moved = (images + (moved - images).clamp(-size, size)).clamp(0, 1)
    return moved


class RandomDirections(FoldingRegularizer):
    """A push as long as the regularizer's on the same parameters, and as often renewed, in random directions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held = _RandomGradient(self.seed)


class _RandomGradient(HeldGradient):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def renew(self, *arguments: Any) -> float:
        length = super().renew(*arguments)
        found = self._direction or []
        drawn = [None if one is None else torch.randn(one.shape, generator=self._generator) for one in found]
        total = torch.cat([one.flatten() for one in drawn if one is not None]).norm()
        self._direction = [None if one is None else one / total for one in drawn]
        return length

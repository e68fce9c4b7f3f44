"""Small networks of common kinds: fully connected, convolutional, residual, and a vision transformer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""Name that `build` takes -> activation; `build` also takes "swiglu"."""

MODELS = ("mlp", "cnn", "resnet", "vit")


class SwiGLU(nn.Module):
    """A linear layer with gated outputs: silu(gate) * value."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * self.value(x)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    """Self-attention over tokens (B, T, d)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Patches(nn.Module):
    """Tokens (B, T, d) of an image (B, 1, s, s): a class token, then the patches with position embeddings."""

    def __init__(self, side: int, patch: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.head = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return torch.cat([self.head.expand(len(x), -1, -1), tokens], dim=1)


class First(nn.Module):
    """Selection of the first token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def build(model: str, activation: str, side: int, depth: int, width: int) -> nn.Sequential:
    """Return a classifier of flattened images (B, side * side) into ten classes.

    Args:
        model: One of `MODELS`.
        activation: One of `ACTIVATIONS`, or "swiglu" (for "mlp" and "vit").
        side: Pixels along a side of the image.
        depth: Hidden layers, or blocks.
        width: Units of a layer; "cnn" and "resnet" have an eighth of this number of channels.
    """
    if activation == "swiglu" and model not in ("mlp", "vit"):
        raise ValueError("swiglu goes with mlp and vit: a gate needs two linear layers.")
    image = nn.Unflatten(1, (1, side, side))
    channels = max(4, width // 8)
    if model == "mlp":
        layers = [_hidden(inputs, outputs, activation) for inputs, outputs in pairwise([side * side, *[width] * depth])]
        return nn.Sequential(*(module for layer in layers for module in layer), nn.Linear(width, 10))
    if model == "vit":
        blocks = [block for _ in range(depth) for block in _transformer_block(width, activation)]
        return nn.Sequential(
            image, Patches(side, side // 4, width), *blocks, nn.LayerNorm(width), First(), nn.Linear(width, 10)
        )
    convolutions = [nn.Conv2d(1, channels, 3, padding=1), ACTIVATIONS[activation](), nn.MaxPool2d(2)]
    for _ in range(depth - 1):
        body = [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), ACTIVATIONS[activation]()]
        convolutions += [Residual(*body, nn.Conv2d(channels, channels, 3, padding=1))] if model == "resnet" else body
    return nn.Sequential(image, *convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def lenet(side: int) -> nn.Sequential:
    """Return LeNet-5 for flattened grey images, with ReLU and max pooling."""
    rest = ((side - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * rest**2, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def convolutions(side: int, activation: str, depth: int = 3, channels: int = 16) -> nn.Sequential:
    """Return convolutions at full resolution for flattened grey images, with average pooling to 7 x 7 at the end."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    for inputs in (1, *[channels] * (depth - 1)):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49 * channels, 10))


def pooled(side: int, *channels: int, hidden: int) -> nn.Sequential:
    """Return convolutions, each with max pooling, of given numbers of channels, and a hidden layer, for flattened grey images."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    for inputs, outputs in pairwise((1, *channels)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features = channels[-1] * (side >> len(channels)) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def resnet(side: int, blocks: int) -> nn.Sequential:
    """Return a residual network for flattened grey images: stages of 16, 32 and 64 channels with `blocks` blocks (1: ResNet-8)."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        for block in range(blocks):
            layers += [BasicBlock(outputs if block else inputs, outputs), nn.ReLU()]
    return nn.Sequential(nn.Unflatten(1, (1, side, side)), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg16(side: int) -> nn.Sequential:
    """Return VGG16 with batch norm for flattened grey images, then two hidden layers of 512 units ("classifier")."""
    layers: list[nn.Module] = []
    channels, pixels = 1, side
    for stage in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for wide in stage:
            layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            channels = wide
        if pixels > 1:
            layers.append(nn.MaxPool2d(2))
            pixels //= 2
    return _with_classifier(nn.Sequential(nn.Unflatten(1, (1, side, side)), *layers), 512 * pixels**2)


def resnet18(side: int) -> nn.Sequential:
    """Return ResNet-18 for small flattened grey images, then two hidden layers of 512 units ("classifier")."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for wide in (64, 128, 256, 512):
        for _ in range(2):
            layers += [BasicBlock(channels, wide), nn.ReLU()]
            channels = wide
    body = nn.Sequential(nn.Unflatten(1, (1, side, side)), *layers, nn.AdaptiveAvgPool2d(1))
    return _with_classifier(body, 512)


class BasicBlock(nn.Module):
    """Two convolutions and a skip connection; halves the image if the number of channels grows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)),
        )
        skip = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.skip = nn.Identity() if stride == 1 else nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


def _with_classifier(body: nn.Module, features: int) -> nn.Sequential:
    classifier = nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return nn.Sequential(OrderedDict(body=body, flatten=nn.Flatten(), classifier=classifier))


def _hidden(inputs: int, outputs: int, activation: str) -> list[nn.Module]:
    if activation == "swiglu":
        return [SwiGLU(inputs, outputs)]
    return [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]


def _transformer_block(width: int, activation: str) -> list[nn.Module]:
    feed_forward = [*_hidden(width, 2 * width, activation), nn.Linear(2 * width, width)]
    return [Residual(nn.LayerNorm(width), Attention(width, 2)), Residual(nn.LayerNorm(width), *feed_forward)]

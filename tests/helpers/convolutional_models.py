"""Random convolutional networks of all operations that the kinks engine has a rule for, and a few more."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Skip(nn.Module):
    """Sum (or difference) of the result of a body and a projection of its input."""

    def __init__(self, body: nn.Module, projection: nn.Module, *, in_place: bool, subtracts: bool) -> None:
        super().__init__()
        self.body, self.projection = body, projection
        self.in_place, self.subtracts = in_place, subtracts

    def forward(self, x: Tensor) -> Tensor:
        """Return the body's result combined with the projected input."""
        y = self.body(x)
        if self.subtracts:
            return y - self.projection(x)
        if self.in_place:
            y += self.projection(x)
            return y
        return torch.add(self.projection(x), y, alpha=0.5)


class Branches(nn.Module):
    """Concatenation of the channels of several bodies' results."""

    def __init__(self, *bodies: nn.Module) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated results."""
        return torch.cat([body(x) for body in self.bodies], dim=1)


class Functional(nn.Module):
    """A function as a module."""

    def __init__(self, function: object, text: str) -> None:
        super().__init__()
        self.function, self.text = function, text

    def extra_repr(self) -> str:
        """Return the text that describes the function."""
        return self.text

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x)


class RandomConvolutional:
    """A random convolutional network.

    Args:
        seed: Random seed.
        dims: Dimensions of the planes, 1 or 2; random by default.

    Attributes:
        network: The network, in evaluation mode.
        shape: Shape of its inputs.
    """

    def __init__(self, seed: int, dims: int | None = None) -> None:
        self._draw = random.Random(seed)
        torch.manual_seed(seed)
        self._dims = dims or self._draw.choice([1, 2, 2, 2])
        self._sides = [self._draw.randint(5, 13 if self._dims == 2 else 40) for _ in range(self._dims)]
        self._channels = self._draw.choice([1, 1, 2, 3])
        self.shape = (self._channels, *self._sides)
        modules: list[nn.Module] = [self._convolution()]
        for _ in range(self._draw.randint(1, 4)):
            modules += self._block()
        self.network = nn.Sequential(*modules, *self._head()).eval()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2)):
                    tensor.uniform_(low, high)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)

    def inputs(self, count: int) -> Tensor:
        """Return random inputs, some of which are partly 0."""
        x = torch.randn(count, *self.shape)
        if self._draw.random() < 0.5:
            x[..., : self._sides[-1] // 2] = 0.0
        return x

    def _of(self, name: str) -> type[nn.Module]:
        return getattr(nn, f"{name}{self._dims}d")

    def _block(self) -> list[nn.Module]:
        kind = self._draw.choice(["plain", "plain", "skip", "branches", "pool", "resample"])
        if kind == "skip":
            return [self._skip(), self._activation()]
        if kind == "branches":
            return [self._branches(), self._activation()]
        if kind == "pool" and min(self._sides) > 2:
            return [self._activation(), self._pool()]
        if kind == "resample" and max(self._sides) < 16:
            return [self._activation(), *self._resample()]
        return [self._activation(), self._convolution(), *self._norm()]

    def _activation(self) -> nn.Module:
        draw, in_place = self._draw, self._draw.random() < 0.3
        return draw.choice(
            [
                nn.ReLU(inplace=in_place),
                nn.ReLU(),
                Functional(torch.relu, "relu"),
                Functional(lambda x: x.clamp(min=0), "clamp at 0"),
                nn.LeakyReLU(0.1, inplace=in_place),
                nn.PReLU(self._channels, init=0.3),
                nn.Hardtanh(-0.5, 0.7),
                nn.ReLU6(),
                nn.Softshrink(0.2),
                Functional(lambda x: x.abs(), "abs"),
                nn.Sequential(nn.ReLU(), Functional(lambda x: x.clamp(-1, 0.8), "clamp")),
            ]
        )

    def _convolution(self, channels: int | None = None, *, keeps: bool = False) -> nn.Module:
        draw = self._draw
        kernel, stride, padding, dilation = [], [], [], []
        for number, side in enumerate(self._sides):
            while True:
                k, s, d = draw.randint(1, 5), 1 if keeps else draw.choice([1, 1, 1, 2, 3]), draw.choice([1, 1, 1, 2])
                k = k | 1 if keeps else k
                p = d * (k - 1) // 2 if keeps else draw.randint(0, 3)
                out = (side + 2 * p - d * (k - 1) - 1) // s + 1
                if 1 <= out <= 40:
                    break
            for values, value in ((kernel, k), (stride, s), (padding, p), (dilation, d)):
                values.append(value)
            self._sides[number] = out
        out_channels = channels or draw.randint(1, 5)
        groups = 1
        if draw.random() < 0.3:
            groups = draw.choice([g for g in range(1, self._channels + 1) if self._channels % g == 0])
            if channels is None:
                out_channels = groups * draw.randint(1, 3)
            elif channels % groups:
                groups = 1
        conv = self._of("Conv")(
            self._channels,
            out_channels,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            bias=draw.random() < 0.8,
        )
        self._channels = out_channels
        return conv

    def _norm(self) -> list[nn.Module]:
        return [self._of("BatchNorm")(self._channels)] if self._draw.random() < 0.5 else []

    def _skip(self) -> nn.Module:
        before, sides = self._channels, list(self._sides)
        first = self._convolution(keeps=True)
        body = nn.Sequential(
            self._activation_of(before), first, self._activation(), self._convolution(before, keeps=True), *self._norm()
        )
        projection = nn.Identity()
        if self._draw.random() < 0.3:
            projection = self._of("Conv")(before, self._channels, 1)
        self._sides = sides
        in_place = self._draw.random() < 0.3
        return Skip(body, projection, in_place=in_place, subtracts=self._draw.random() < 0.2)

    def _activation_of(self, channels: int) -> nn.Module:
        """Return an activation for a number of channels that does not work in place."""
        return self._draw.choice([nn.ReLU(), nn.PReLU(channels), nn.Identity()])

    def _branches(self) -> nn.Module:
        before, sides = self._channels, list(self._sides)
        bodies, channels = [], 0
        for number in range(self._draw.randint(1, 3)):
            self._channels, self._sides = before, list(sides)
            if number == 2:
                bodies.append(nn.Identity())
            else:
                bodies.append(nn.Sequential(self._convolution(keeps=True), *self._norm()))
            channels += self._channels
        self._channels = channels
        return Branches(*bodies)

    def _pool(self) -> nn.Module:
        draw = self._draw
        kind = draw.choice(["max", "max", "average", "adaptive max", "adaptive average"])
        if kind.startswith("adaptive"):
            self._sides = [draw.randint(1, side) for side in self._sides]
            return self._of("AdaptiveMaxPool" if kind.endswith("max") else "AdaptiveAvgPool")(tuple(self._sides))
        kernel = draw.randint(1, min(3, *self._sides))
        stride, padding, ceil = draw.randint(1, 3), draw.randint(0, kernel // 2), draw.random() < 0.3
        if kind == "max":
            pool = self._of("MaxPool")(kernel, stride, padding, 1, ceil_mode=ceil)
        else:
            pool = self._of("AvgPool")(kernel, stride, padding, ceil, draw.random() < 0.5)
        self._sides = list(pool(torch.zeros(1, self._channels, *self._sides)).shape[2:])
        return pool

    def _resample(self) -> list[nn.Module]:
        kind = self._draw.choice(["nearest", "linear", "shuffle", "pad", "flip"])
        if kind == "shuffle" and self._dims == 2:
            before, self._channels = self._channels, 2
            self._sides = [2 * side for side in self._sides]
            return [nn.Conv2d(before, 8, 1), nn.PixelShuffle(2)]
        if kind == "pad":
            self._sides = [side + 2 for side in self._sides]
            mode = self._draw.choice(["constant", "reflect", "replicate"])
            return [Functional(lambda x: F.pad(x, [1] * (2 * self._dims), mode=mode), f"pad {mode}")]
        if kind == "flip":
            return [Functional(lambda x: x.flip(-1) * 0.5 + 0.1, "flip")]
        mode = "nearest" if kind != "linear" else {1: "linear", 2: "bilinear"}[self._dims]
        self._sides = [2 * side for side in self._sides]
        return [nn.Upsample(scale_factor=2, mode=mode)]

    def _head(self) -> list[nn.Module]:
        size = self._channels
        modules: list[nn.Module] = [self._activation()]
        if self._draw.random() < 0.3:
            modules.append(Functional(lambda x: x.mean(dim=tuple(range(2, x.dim()))), "mean"))
        else:
            size *= torch.Size(self._sides).numel()
            modules.append(self._draw.choice([nn.Flatten(), Functional(lambda x: x.view(x.size(0), -1), "view")]))
        if self._draw.random() < 0.8:
            modules += [nn.Linear(size, 10), nn.ReLU(), nn.Linear(10, 3)]
            if self._draw.random() < 0.4:
                modules.append(Functional(torch.relu, "relu"))
        return modules


TIES = ("quarters", "no biases", "black", "through the origin", "duplicates", "max pooling")
"""Kinds of `integer_convolutional`."""


def integer_convolutional(seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a small network with weights in quarters, and integer segments with many ties, touches and cancellations."""
    kind, generator = TIES[seed % len(TIES)], torch.Generator().manual_seed(seed)

    def quarters(like: Tensor, scale: int) -> Tensor:
        return torch.randint(-scale, scale + 1, like.shape, generator=generator).double() / 4

    padding = seed // len(TIES) % 2
    side = 5 if kind == "max pooling" else 4
    first, second = nn.Conv2d(1, 2, 2, padding=padding), nn.Conv2d(2, 2, 2, stride=1 + padding)
    pools: list[nn.Module] = [nn.MaxPool2d(2)] if kind == "max pooling" else []
    body = nn.Sequential(first, nn.ReLU(), *pools, second, nn.ReLU(), nn.Flatten()).double()
    size = body(torch.zeros(1, 1, side, side).double()).shape[1]
    model = nn.Sequential(*body, nn.Linear(size, 3).double(), nn.ReLU())
    for name, parameter in model.named_parameters():
        parameter.data = quarters(parameter, 4 if name.endswith("bias") else 6)
        if kind in ("no biases", "through the origin", "black") and name.endswith("bias"):
            parameter.data.zero_()
        if kind == "duplicates":
            parameter.data[1] = parameter.data[0]
    start, end = (torch.randint(-3, 4, (2, 1, side, side), generator=generator).double() for _ in range(2))
    if kind == "black":
        start[:], end[..., :2] = 0, 0
    if kind == "through the origin":
        end = torch.stack([-start[0], -2 * start[1]])
    return model, start, end

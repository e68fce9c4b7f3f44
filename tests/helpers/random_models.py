"""Random networks from the parts that users build with, small enough to train in milliseconds.

Every activation is a module of torch or a `Bend`, so that `blackbox.Twin` can record its pre-activations.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


class Draw(random.Random):
    """Random choices from a seed, with a record of the choices."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.notes: list[str] = []

    def pick(self, what: str, *options: Any) -> Any:
        """Return one of the options; an option that is given twice is twice as likely."""
        chosen = self.choice(options)
        self.notes.append(f"{what}={getattr(chosen, '__name__', chosen)}")
        return chosen

    def happens(self, what: str, probability: float) -> bool:
        """Return True with a probability."""
        chosen = self.random() < probability
        if chosen:
            self.notes.append(what)
        return chosen


LINEAR_MODULES: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "LeakyReLU in place": lambda: nn.LeakyReLU(0.3, inplace=True),
    "PReLU": nn.PReLU,
    "RReLU": nn.RReLU,
    "ReLU6": nn.ReLU6,
    "Hardtanh": lambda: nn.Hardtanh(-0.5, 0.7),
    "Hardtanh in place": lambda: nn.Hardtanh(-0.2, 0.9, inplace=True),
    "Hardsigmoid": nn.Hardsigmoid,
    "Softshrink": lambda: nn.Softshrink(0.2),
}


class Clip(torch.autograd.Function):
    """A custom ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


def _scattered(x: Tensor, reduce: str) -> Tensor:
    """Replace each feature by the reduction over the features of even, or of odd, index."""
    index = (torch.arange(x.shape[1]) % 2).expand(len(x), -1)
    return x.new_full((len(x), 2), -9.0).scatter_reduce(1, index, x, reduce).gather(1, index)


CURVED_MODULES: dict[str, Callable[[], nn.Module]] = {
    **{cls.__name__: cls for cls in (nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.Softplus, nn.Mish, nn.Sigmoid, nn.SELU, nn.CELU)},
    **{cls.__name__: cls for cls in (nn.Softsign, nn.Hardswish, nn.LogSigmoid)},
    "SiLU in place": lambda: nn.SiLU(inplace=True),
}

LINEAR_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "abs": torch.abs,
    "x.abs_()": lambda x: x.abs_(),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, -1.0, 0.5),
    "F.softshrink": F.softshrink,
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_min_": lambda x: x.clamp_min_(0.0),
    "maximum of zeros": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "masked": lambda x: x * (x > 0),
    "masked by floats": lambda x: x * (x > 0).float(),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "autograd function": lambda x: Clip.apply(x),
}

CURVED_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.gelu": F.gelu,
    "F.gelu(tanh)": lambda x: F.gelu(x, approximate="tanh"),
    "x.tanh_()": lambda x: x.tanh_(),
    "F.silu": F.silu,
    "sigmoid": torch.sigmoid,
    "F.elu in place": lambda x: F.elu(x, inplace=True),
    "F.softplus": F.softplus,
}

UNCOUNTED: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(-1.0, 1.0),
    "clamp_": lambda x: (2 * x).clamp_(min=-0.3),
    "where, leaky": lambda x: torch.where(x > 0, x, 0.1 * x),
    "minimum": lambda x: torch.minimum(x, 0.3 - x),
    "max pairs": lambda x: torch.stack([x, -2 * x]).max(0).values,
    "top 2": lambda x: x - x.topk(min(2, x.shape[1]), 1).values.sum(1, keepdim=True),
    "median": lambda x: x - x.median(1, keepdim=True).values,
    "scatter_reduce": lambda x: x - _scattered(x, "amax"),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "max of halves": lambda x: torch.stack([x, x.flip(1)]).amax(0),
    "sort": lambda x: x.sort(1).values,
}
"""Functions with kinks that have no bits."""

THRESHOLDS = {"F.relu6": (0.0, 6.0), "F.hardtanh": (-1.0, 0.5), "F.softshrink": (-0.5, 0.5)}


class Bend(nn.Module):
    """An activation or other function by its name in the tables above; `note` gets its input and thresholds."""

    note: Callable[[Tensor, tuple[float, ...]], None] | None = None

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.counts = name not in UNCOUNTED
        self.thresholds = THRESHOLDS.get(name, (0.0,))

    def forward(self, x: Tensor) -> Tensor:
        if self.note is not None and self.counts:
            self.note(x, self.thresholds)
        return (LINEAR_FUNCTIONS | CURVED_FUNCTIONS | UNCOUNTED)[self.name](x)


class Skip(nn.Module):
    """x + body(x), or the concatenation of both."""

    def __init__(self, body: nn.Module, concatenates: bool = False) -> None:
        super().__init__()
        self.body, self.concatenates = body, concatenates

    def forward(self, x: Tensor) -> Tensor:
        if self.concatenates:
            return torch.cat([x, self.body(x)], dim=1)
        return x + self.body(x)


class Twice(nn.Module):
    """A body that is called twice."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.body(x))


class Checkpointed(nn.Module):
    """A body with gradient checkpointing."""

    def __init__(self, body: nn.Module, always: bool) -> None:
        super().__init__()
        self.body, self.always = body, always

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not self.always:
            return self.body(x)
        with set_checkpoint_early_stop(False):  # early stop would skip an RReLU at the end before it has set its slopes
            return checkpoint(self.body, x, use_reentrant=False)


class Random(nn.Module):
    """A part that draws random numbers: in training only, or always, so that it is not a function of its input."""

    def __init__(self, source: str, always: bool = False) -> None:
        super().__init__()
        self.source, self.always = source, always
        self.own = torch.Generator().manual_seed(0) if source == "own" else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not self.always:
            return x
        if self.source == "python":
            return x * (0.9 if random.random() < 0.3 else 1.0)
        if self.source == "numpy":
            return x + float(np.random.uniform(-0.1, 0.1))
        return x + 0.1 * torch.randn(x.shape, generator=self.own).to(x)


class Stateful(nn.Module):
    """A part that counts its calls in every kind of state; in training its output depends on the count."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, {"half": 0.0}
        self.shapes: list[tuple[int, ...]] = []
        self.register_buffer("seen", torch.zeros(()))
        self.latest: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.shapes.append(tuple(x.shape))
        self.last["half"] = self.calls / 2
        self.latest = x.detach()
        self.seen.mul_(0.9).add_(0.1 * x.detach().mean().to(self.seen))
        return x * (1 + 0.01 * (self.calls % 7)) if self.training else x


class Frozen(nn.Sequential):
    """A part without gradients that is always in evaluation mode."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__(*body)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


HOOK_CALLS = {"observed": 0}


def observe(module: nn.Module, args: Any, output: Any) -> None:
    HOOK_CALLS["observed"] += 1


class Hooked(nn.Module):
    """The identity with a hook that counts calls, and one that changes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(observe)
        self.register_forward_hook(_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x


def _scale(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 1.5 * output


class GraphConvolution(nn.Module):
    """Sum of each feature and half of its neighbour in a ring, by a scatter over edges."""

    def forward(self, x: Tensor) -> Tensor:
        source = torch.arange(x.shape[1])
        target = source.roll(1).expand(len(x), -1)
        return x + 0.5 * torch.zeros_like(x).scatter_add(1, target, x[:, source])


class Spectral(nn.Module):
    """Learned filter of the frequencies of a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(width // 2 + 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x) * torch.view_as_complex(self.filter).to(
            torch.complex128 if x.dtype == torch.float64 else None
        )
        return torch.fft.irfft(spectrum, n=x.shape[1])


class Gated(nn.Module):
    """A part whose output is read from an attribute that another method set from the input."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.gate, self.activation = nn.Linear(width, width), activation
        self.open: Tensor | None = None

    def _set(self, x: Tensor) -> None:
        self.open = self.activation(self.gate(x))

    def forward(self, x: Tensor) -> Tensor:
        self._set(x)
        opened, self.open = self.open, None
        assert opened is not None
        return x + opened


class Attention(nn.Module):
    """A transformer layer over a vector that is cut into tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width // 2, 1, 6, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(1, (2, -1))).flatten(1)


class Recurrent(nn.LSTM):
    """A fused LSTM over a vector's elements."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None])[0][:, -1]


class Centred(nn.Module):
    """Difference from the batch mean, which mixes the inputs of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Rescaled(nn.Module):
    """Scaling by the batch's extremes, which mixes the inputs of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.min()) / (x.max() - x.min() + 1.0)


class Routed(nn.Module):
    """Two experts, each for some inputs of a batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out, first = torch.zeros_like(x), x.sum(1) > 0
        for expert, rows in zip(self.experts, (first, ~first), strict=True):
            out[rows] = expert(x[rows])
        return out


class Exits(nn.Module):
    """A body that is skipped if the mean of the batch is positive."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else self.body(x)


VARIES = "vary with its inputs"

REFUSED = {
    "no activation": "has no activation",
    "random always": "draws random numbers",
    "mixes the batch": "mixes the inputs of a batch",
    "rescales the batch": "mixes the inputs of a batch",
    "routes rows": VARIES,
    "exits early": VARIES,
    "recurrent": "fused recurrent layer",
}
"""Kind of network that cannot be measured -> text that the error must contain."""


class RandomNetwork:
    """A random network.

    Attributes:
        net: The network; it takes inputs (B, *shape) and returns (B, outputs).
        refusal: Text of the error with which it must be refused; None if it can be measured.
        has_twin: Whether `blackbox.Twin` can compute its codes.
    """

    def __init__(self, draw: Draw, shape: tuple[int, ...], outputs: int, *, may_be_refused: bool = True) -> None:
        self._draw = draw
        self.has_twin = True
        kind = draw.pick("network", *REFUSED) if may_be_refused and draw.happens("refused", 0.06) else None
        self.refusal = None if kind is None else REFUSED[kind]
        self._kind = draw.pick("activations", *["linear"] * 5, "shared", "shared", "any", "curved")
        self._shared = nn.ReLU(inplace=draw.random() < 0.3)
        if kind == "no activation":
            width = int(np.prod(shape))
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(width, 5), nn.Dropout(0.1), nn.Linear(5, outputs))
            return
        layers, width = self._front(shape)
        layers += self._refused(kind, width)
        for _ in range(draw.pick("depth", 1, 1, 2, 2, 3, 4)):
            block, width = self._block(width)
            layers.append(block)
        if kind is None and draw.happens("compiled", 0.01):
            layers[-1] = torch.compile(layers[-1], backend="eager")
        self.net = nn.Sequential(*layers, *self._oddities(width), nn.Linear(width, outputs))

    def _activation(self) -> nn.Module:
        if self._kind == "shared":
            return self._shared
        kind = self._kind if self._kind != "any" else self._draw.choice(["linear", "curved"])
        modules, functions = {
            "linear": (LINEAR_MODULES, LINEAR_FUNCTIONS),
            "curved": (CURVED_MODULES, CURVED_FUNCTIONS),
        }[kind]
        name = self._draw.pick("with", *["ReLU", "F.relu"] * (kind == "linear"), *modules, *functions)
        return modules[name]() if name in modules else Bend(name)

    def _front(self, shape: tuple[int, ...]) -> tuple[list[nn.Module], int]:
        """Return the first layers, convolutions for images and sequences, then flattening; and the width."""
        layers: list[nn.Module] = []
        if len(shape) > 1:
            for _ in range(self._draw.pick("convolutions", 1, 1, 2)):
                layers += self._convolution(_shape_behind(layers, shape))
        layers.append(nn.Flatten())
        return layers, _shape_behind(layers, shape)[0]

    def _convolution(self, shape: tuple[int, ...]) -> list[nn.Module]:
        draw, channels = self._draw, self._draw.randint(2, 4)
        conv, norm, pools = {
            2: (nn.Conv1d, nn.BatchNorm1d, (nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveMaxPool1d(3))),
            3: (nn.Conv2d, nn.BatchNorm2d, (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(2))),
        }[len(shape)]
        layers = [conv(shape[0], channels, 3, padding=1)]
        layers += [norm(channels)] if draw.happens("batch norm", 0.4) else []
        layers += [nn.GroupNorm(1, channels)] if draw.happens("group norm", 0.06) else []
        layers.append(self._activation())
        if shape[-1] >= 4 and draw.happens("pools", 0.7):
            layers.append(draw.pick("with", *pools))
        return layers

    def _block(self, width: int) -> tuple[nn.Module, int]:
        draw = self._draw
        kind = draw.pick("block", "plain", "plain", "plain", "residual", "concatenating", "tied", "checkpointed", "frozen")
        new = width if kind in ("residual", "tied") else draw.randint(3, 10)
        body = nn.Sequential(self._linear(width, new), *self._norm(new), self._activation(), *self._dropout())
        if kind == "residual":
            return Skip(body), width
        if kind == "concatenating":
            return Skip(body, concatenates=True), width + new
        if kind == "tied":
            return Twice(body), width
        if kind == "checkpointed":
            return Checkpointed(body, always=draw.random() < 0.5), new
        return (Frozen(*body) if kind == "frozen" else body), new

    def _linear(self, width: int, new: int) -> nn.Module:
        linear = nn.Linear(width, new, bias=not self._draw.happens("no bias", 0.1))
        if self._draw.happens("weight norm", 0.03):
            return weight_norm(linear)
        return spectral_norm(linear) if self._draw.happens("spectral norm", 0.03) else linear

    def _norm(self, width: int) -> list[nn.Module]:
        name = self._draw.pick("norm", *[None] * 13, *["batch"] * 4, "layer", "group")
        norms = {"batch": nn.BatchNorm1d(width), "layer": nn.LayerNorm(width), "group": nn.GroupNorm(1, width)}
        return [] if name is None else [norms[name]]

    def _dropout(self) -> list[nn.Module]:
        return [nn.Dropout(0.2)] if self._draw.happens("dropout", 0.25) else []

    def _oddities(self, width: int) -> list[nn.Module]:
        """Return random parts that keep the width."""
        draw = self._draw
        found: list[nn.Module] = []
        if draw.happens("random in training", 0.2):
            found.append(Random(draw.pick("from", "python", "numpy", "torch", "own")))
        if draw.happens("stateful", 0.2):
            found.append(Stateful())
        if draw.happens("uncounted", 0.2):
            found += [Bend(draw.pick("with", *UNCOUNTED)), nn.Linear(width, width), self._activation()]
        if draw.happens("hooked", 0.2):
            found.append(Hooked())
        if draw.happens("graph convolution", 0.1):
            found += [GraphConvolution(), nn.Linear(width, width), self._activation()]
        if draw.happens("spectral", 0.1):
            found += [Spectral(width), nn.Linear(width, width), self._activation()]
        if draw.happens("gated", 0.1):
            found += [Gated(width, self._activation()), nn.Linear(width, width), self._activation()]
        if width % 2 == 0 and draw.happens("attention", 0.04):
            found.append(Attention(width))
            self.has_twin = False  # the twin can't record its activation
        return [nn.Sequential(*found)]

    def _refused(self, kind: str | None, width: int) -> list[nn.Module]:
        if kind == "random always":
            return [Random(self._draw.pick("from", "torch", "numpy"), always=True)]
        refused = {"mixes the batch": Centred, "rescales the batch": Rescaled}
        refused |= {
            "recurrent": lambda: Recurrent(width),
            "routes rows": lambda: Routed(width),
            "exits early": lambda: Exits(width),
        }
        return [refused[kind]()] if kind in refused else []


def _shape_behind(layers: list[nn.Module], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one input after some layers."""
    front = nn.Sequential(*layers).eval()
    shape = tuple(front(torch.zeros(1, *shape)).shape[1:])
    front.train()
    return shape

"""Metrics of codes, which must all have the same units and layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from fold_lightning.activations import ActivationCodes
from fold_lightning.codes import check_bits
from fold_lightning.metrics.gathered import GatheredMetric


@dataclass(frozen=True)
class Layout:
    """The units of codes and the layers that they belong to.

    Attributes:
        num_units: N.
        layers: Layer name -> its columns, as start, stop and step; empty for bits that have no layers.
    """

    num_units: int
    layers: dict[str, tuple[int, int, int]]

    @classmethod
    def of(cls, codes: ActivationCodes | Tensor) -> Layout:
        """Return the layout of codes, after checking them."""
        bits, layers = bits_of(codes), codes.layers if isinstance(codes, ActivationCodes) else {}
        check_bits(bits)
        return cls(bits.shape[1], {name: columns.indices(bits.shape[1]) for name, columns in layers.items()})

    @classmethod
    def decoded(cls, line: str) -> Layout:
        """Return the layout that a line of JSON describes."""
        num_units, layers = json.loads(line)
        return cls(num_units, {name: tuple(columns) for name, columns in layers.items()})

    def encoded(self) -> Tensor:
        """Return the layout as a line of JSON, uint8 (length,)."""
        return torch.tensor(list(f"{json.dumps([self.num_units, self.layers])}\n".encode()), dtype=torch.uint8)

    def columns(self) -> dict[str, slice]:
        """Return the columns of each layer."""
        return {name: slice(*columns) for name, columns in self.layers.items()}

    def __str__(self) -> str:
        """Return the numbers of units, overall and by layer, for error messages."""
        return f"{self.num_units} units in {[f'{name} ({len(range(*columns))})' for name, columns in self.layers.items()]}"


class CodeMetric(GatheredMetric):
    """Base class of the metrics of codes; all codes of one metric have the same units and layers."""

    layouts: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_list("layouts", torch.empty(0, dtype=torch.uint8))
        self._unit_counts: list[str] = []

    def add_unit_counts(self, name: str, default: Tensor) -> None:
        """Add a state (..., N) that is summed over processes; its default, zeros (..., 1), broadcasts before N is known."""
        self.add_state(name, default=default, dist_reduce_fx="sum")
        self._unit_counts.append(name)

    def layout(self) -> Layout | None:
        """Return the layout of all codes seen, None if there are none.

        Raises:
            ValueError: If the layouts of some processes differ.
        """
        lines = list(dict.fromkeys(bytes(self.joined("layouts").tolist()).decode().splitlines()))
        if len(lines) > 1:
            raise _different(*map(Layout.decoded, lines))
        return Layout.decoded(lines[0]) if lines else None

    def check_layout(self, codes: ActivationCodes | Tensor) -> Layout:
        """Return the layout of codes, after checking that it equals the layout of the codes seen before."""
        layout, known = Layout.of(codes), self.layout()
        if known is not None and known != layout:
            raise ValueError(
                f"Codes must have the same units and layers as those before, got {layout} after {known}: "
                "use a metric for each choice of `layers`."
            )
        return layout

    def remember(self, layout: Layout) -> None:
        """Store the layout of the codes that are added."""
        if not self.layouts:
            self.layouts.append(layout.encoded().to(self.home))

    def compact(self) -> None:
        """Drop duplicates from the states, after other states were added to them."""
        self.layouts = self.layouts[:1]

    def forward(self, codes: ActivationCodes | Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a batch alone, and add the batch as `update` does."""
        self.check_layout(codes)  # before torchmetrics resets the states and calls `update`
        value = super().forward(codes, *args, **kwargs)
        self.compact()
        return value

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the states of another metric of the same class and arguments, or states ``{name: state}``.

        Raises:
            ValueError: If the metric has another class or other arguments, or has seen codes with other units or layers.
        """
        states = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        known = self.layout()
        for line in states.get("layouts", []) if isinstance(states, dict) else []:
            layout = Layout.decoded(bytes(line.tolist()).decode())
            if known is not None and layout != known:
                raise _different(known, layout)
        super().merge_state(incoming_state)
        self.compact()

    def sync(self, dist_sync_fn: Any = None, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes.

        Raises:
            ValueError: If the numbers of units differ between processes.
        """
        gather = dist_sync_fn or gather_all_tensors
        counts = [getattr(self, name) for name in self._unit_counts]

        def gather_counts(tensor: Tensor, group: Any = None) -> list[Tensor]:
            parts: list[Tensor] = gather(tensor, group=group)
            if not any(tensor is count for count in counts):
                return parts
            widths = {part.shape[-1] for part in parts} - {1}  # a process that has seen no codes has width 1
            if len(widths) > 1:
                raise _different(*(f"{width} units" for width in sorted(widths)))
            return [part.expand(*part.shape[:-1], *(widths or {1})) for part in parts]

        super().sync(gather_counts, *args, **kwargs)


def bits_of(codes: ActivationCodes | Tensor) -> Tensor:
    """Return the bits of codes, bool (B, N)."""
    return codes.bits if isinstance(codes, ActivationCodes) else codes


def _different(*layouts: Layout | str) -> ValueError:
    return ValueError(
        f"Codes that are counted together must have the same units and layers, got {' and '.join(map(str, layouts))}: "
        "use a metric for each choice of `layers`, and the same choice in every process."
    )

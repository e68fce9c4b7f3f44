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
        layers: Layer name -> its columns, as first, end and step; empty for bits that have no layers.
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
        """Return the layout of a line of JSON."""
        num_units, layers = json.loads(line)
        return cls(num_units, {name: tuple(columns) for name, columns in layers.items()})

    def encoded(self) -> Tensor:
        """Return the layout as a line of JSON, uint8 (length,)."""
        return torch.tensor(list(f"{json.dumps([self.num_units, self.layers])}\n".encode()), dtype=torch.uint8)

    def columns(self) -> dict[str, slice]:
        """Return the columns of each layer."""
        return {name: slice(*columns) for name, columns in self.layers.items()}

    def __str__(self) -> str:
        """Return the numbers of units, for error messages."""
        return f"{self.num_units} units in {[f'{name} ({len(range(*columns))})' for name, columns in self.layers.items()]}"


class CodeMetric(GatheredMetric):
    """Base of the metrics of codes: all codes that one of them sees have the same units and layers."""

    layouts: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_list("layouts", torch.empty(0, dtype=torch.uint8))
        self._unit_counts: list[str] = []

    def add_unit_counts(self, name: str, default: Tensor) -> None:
        """Add a state (..., N) that processes sum; its default is zeros (..., 1), which broadcast before N is known."""
        self.add_state(name, default=default, dist_reduce_fx="sum")
        self._unit_counts.append(name)

    def layout(self) -> Layout | None:
        """Return the layout of all codes seen, None if there are none.

        Raises:
            ValueError: If those of some processes differ.
        """
        lines = list(dict.fromkeys(bytes(self.joined("layouts").tolist()).decode().splitlines()))
        if len(lines) > 1:
            raise _different(*map(Layout.decoded, lines))
        return Layout.decoded(lines[0]) if lines else None

    def check_layout(self, codes: ActivationCodes | Tensor) -> Layout:
        """Return the layout of codes, after checking that it is the one of those before."""
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
        """Drop what is twice in the states after states were added to them."""
        self.layouts = self.layouts[:1]

    def forward(self, codes: ActivationCodes | Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a batch alone, and add the batch as `update` does."""
        self.check_layout(codes)  # torchmetrics empties the states before it calls `update`
        value = super().forward(codes, *args, **kwargs)
        self.compact()
        return value

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another metric of this class and these arguments has seen, or its states ``{name: state}``.

        Raises:
            ValueError: If it is a metric of another class or other arguments, or has seen codes of other units or layers.
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
            ValueError: If the codes of some processes have other units.
        """
        gather = dist_sync_fn or gather_all_tensors
        counts = [getattr(self, name) for name in self._unit_counts]

        def gather_counts(tensor: Tensor, group: Any = None) -> list[Tensor]:
            parts: list[Tensor] = gather(tensor, group=group)
            if not any(tensor is count for count in counts):
                return parts
            widths = {part.shape[-1] for part in parts} - {1}  # 1 of a process that has seen nothing
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

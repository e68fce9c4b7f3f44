"""Shares of dead, always active and active units, as a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fold_lightning.activations import ActivationCodes
from fold_lightning.codes import count_active
from fold_lightning.figures import plot_unit_activity
from fold_lightning.metrics.code_metric import CodeMetric, bits_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UnitActivity(CodeMetric):
    """Shares of units that are dead and always active, and the mean share of active units.

    A unit is active on an input if its bit in the code is 1. A unit that no input activates is dead: its ReLU outputs 0 for all
    inputs ("Dying ReLU and Initialization", Lu et al. 2019). A unit that every input activates is linear on them. Both hold
    for the inputs seen; other inputs may activate a dead unit. The state is the number of inputs that activate
    each unit, 8 bytes; processes and metrics with the same units and layers merge by addition, so the value is that of one
    process.

    Activations with two thresholds, such as ReLU6, have two bits a unit, and "unit" means a bit here: the low bit is active
    above the first kink, the high bit above the second.

    `plot()` draws the shares of each layer, if the codes have layers.

    Args:
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from fold_lightning import UnitActivity
        >>> activity = UnitActivity()
        >>> activity.update(torch.tensor([[True, False, True, False], [True, False, False, False]]))
        >>> {name: value.item() for name, value in activity.compute().items()}
        {'dead': 0.5, 'always_active': 0.25, 'active': 0.375}
    """

    plot_upper_bound: float = 1.0

    num_inputs: Tensor
    num_active: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("num_inputs", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_unit_counts("num_active", torch.zeros(1, dtype=torch.int64))

    def update(self, codes: ActivationCodes | Tensor) -> None:
        """Add the codes of B inputs.

        Args:
            codes: Codes as from `activation_codes`, or bits alone, bool (B, N), which have no layers.

        Raises:
            ValueError: If the codes are not (B, N), or have other layers or units than those before.
            TypeError: If the codes are not bool.
        """
        layout, bits = self.check_layout(codes), bits_of(codes)
        self.num_active = self.num_active + count_active(bits).to(self.device)
        self.num_inputs = self.num_inputs + len(bits)
        self.remember(layout)

    def compute(self) -> dict[str, Tensor]:
        """Return the shares of all units, float64 () each.

        Returns:
            "dead", the share of units that no input activates; "always_active", the share that every input activates; "active",
            the mean over units of the share of inputs that activate it. NaN if there are no inputs or no units.
        """
        layout = self.layout()
        return self._shares(slice(layout.num_units if layout else 0))

    def per_layer(self) -> dict[str, dict[str, Tensor]]:
        """Return layer name -> the values of `compute` for the units of that layer; empty if no codes had layers."""
        with self.gathered():
            layout = self.layout()
            return {name: self._shares(columns) for name, columns in (layout.columns() if layout else {}).items()}

    def _figure(self) -> Figure | None:
        per_layer = self.per_layer()
        return plot_unit_activity(per_layer) if per_layer else None

    def _shares(self, columns: slice) -> dict[str, Tensor]:
        active, num_inputs = self.num_active[columns], int(self.num_inputs)
        units = len(active)
        if num_inputs == 0 or units == 0:
            return dict.fromkeys(("dead", "always_active", "active"), active.new_tensor(torch.nan, dtype=torch.float64))
        return {
            "dead": (active == 0).sum().double() / units,
            "always_active": (active == num_inputs).sum().double() / units,
            "active": active.sum().double() / (num_inputs * units),
        }

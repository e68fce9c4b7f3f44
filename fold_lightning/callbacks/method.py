"""The choice between exact walks and equidistant points, by the number of evaluations and not by a clock."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from fold_lightning.callbacks.measures import Sample
from fold_lightning.walks import MAX_COST, exact_costs

TRIED_SEGMENTS = 4
"""Number of segments on which the cost of an exact walk is estimated."""


def choose_method(model: LightningModule, sample: Sample) -> tuple[str, str]:
    """Return "exact" or "uniform", and the reason.

    Args:
        model: The model before training.
        sample: Inputs and segments of a run.
    """
    settings, segments = sample.settings, sample.segments
    if settings.method != "auto":
        return settings.method, "as `method=` says"
    ends = [sample.inputs(model, side[:TRIED_SEGMENTS]) for side in (segments.start, segments.end)]
    costs = exact_costs(model, *ends, layers=settings.layers, forward=sample.probes.model_input.forward)
    is_small = float(costs.double().mean()) <= MAX_COST
    text = f"because a walk evaluates {'no more' if is_small else 'more'} than about {MAX_COST:,} pre-activations"
    return "exact" if is_small else "uniform", text

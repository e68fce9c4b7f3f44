"""Figures: what a notebook or TensorBoard shows of walks. They need matplotlib, the extra `figures`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from fold_lightning.folding import folding_profile
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_walk(walks: Walks, i: int) -> Figure:
    r"""How far segment `i` gets from its first code, and how its folding grows.

    Args:
        walks: S walks.
        i: Which segment.

    Returns:
        A figure that no backend holds; the lower curve is `folding_profile`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    Example:
        >>> there_and_back = torch.tensor([[[False], [True], [False]]])
        >>> figure = plot_walk(Walks.from_codes(there_and_back), 0)
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['Hamming distance\nfrom the start', 'chi so far']
    """
    if not is_available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'fold-lightning[figures]'.")
    from matplotlib.figure import Figure

    codes, chi = walks.codes(i), folding_profile(walks, i)
    distance = (codes != codes[0]).sum(1)
    steps = torch.unique_consecutive(walks.position[walks.segment == i % walks.num_segments])
    edges = torch.cat([steps.new_zeros(1), steps, steps.new_ones(1)]).cpu().numpy()
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.stairs(distance.cpu().numpy(), edges, baseline=None, color="tab:blue")
    upper.set_ylabel("Hamming distance\nfrom the start")
    upper.set_title(f"{len(codes):,} regions, chi = {chi[-1]:.3f}")
    lower.stairs(chi.cpu().numpy(), edges, baseline=None, color="tab:orange")
    lower.set_ylabel("chi so far")
    lower.set_xlabel("t along the segment")
    lower.set_xlim(0, 1)
    lower.set_ylim(0, 1)
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return figure

"""How much a trained network folds between the classes of its test data."""

from __future__ import annotations

import torch
from experiment import Split
from report import Row
from torch import nn

from fold_lightning import class_segments, global_folding, space_folding, stream_walks


def measure_folding(net: nn.Module, test: Split, per_pair: int, asymmetry: bool = False) -> Row:
    """Return chi, Phi_N and regions over equally many segments of each ordered pair of classes, the same for every network.

    Args:
        net: The network.
        test: Inputs and labels.
        per_pair: Segments from each class to each other one.
        asymmetry: Whether to compare with the way back too: the mean difference of chi, and the segments where one of both is 0.
    """
    inputs, labels = test
    start, end = class_segments(labels, per_pair=per_pair)
    chi, back, regions = [], [], 0
    for walks in stream_walks(net, inputs[start], inputs[end], batch_size=512):
        chi.append(space_folding(walks))
        regions += int(walks.num_regions().sum())
        if asymmetry:
            back.append(space_folding(walks.reversed()))
    found = torch.cat(chi)
    folds = found > 0
    row: Row = {
        "chi": found.mean().item(),
        "chi_of_folding": found[folds].median().item() if folds.any() else 0.0,
        "fraction": folds.double().mean().item(),
        "phi": global_folding(found, labels[start], labels[end], int(labels.max()) + 1)[0].item(),
        "regions": regions / len(start),
    }
    if asymmetry:
        turned = torch.cat(back)
        row |= {"asymmetry": (found - turned).abs().mean().item(), "folds_one_way": int((folds != (turned > 0)).sum())}
    return row

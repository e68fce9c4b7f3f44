"""One measurement without a fit: the numbers of a trained model."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_module
from torch import nn
from torch.utils.data import DataLoader

from fold_lightning.activations.evaluation import preserved_random_state, undisturbed
from fold_lightning.callbacks.monitor import FoldingMonitor
from fold_lightning.callbacks.session import Session
from fold_lightning.lightning_packages import in_both_packages
from fold_lightning.probes import HookCopy, batch_transfer, device_of


def measure(model: nn.Module, data: Any, **arguments: Any) -> dict[str, float]:
    """Measure a trained model once, and return what `FoldingMonitor` would log of it in ``trainer.validate``.

    The sample is the monitor's, read as a validation step would get it. The model, its mode and all random states stay as they were.

    Args:
        model: Any module, such as a LightningModule; where it is, it is measured.
        data: Inputs (B, ...), a pair of inputs and class labels, a map-style data set, a data loader or another iterable of batches,
            or a data module, whose validation loader is taken. Items of a data set and of a loader that is read by index are drawn by
            the seed; of inputs that are given all may be ends of segments, and codes and regions are those of a draw; of batches
            that pass they are the first ones.
        arguments: Arguments of `FoldingMonitor`, such as ``method="exact"`` or ``segments_per_pair=10``; those of its schedule and
            its figures change nothing.

    Returns:
        Tag -> value, as listed in `FoldingMonitor`, "monitor/seconds" included.

    Raises:
        ValueError: If an argument is out of range, the model does not take the inputs, or can't be measured.
        TypeError: If the data are of no kind that is understood, or an argument is of another kind.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> values = measure(model, (torch.randn(50, 2), torch.arange(50) % 2), num_segments=10)
        >>> values["folding/exact"], 0 <= values["folding/chi_mean"] < 1, values["faces/bound"]
        (1.0, True, 4.0)
    """
    if arguments.get("probes") is not None:
        raise TypeError("`measure` takes its inputs from `data`: pass them there, without `probes=`.")
    is_loaded = isinstance(data, (DataLoader, *in_both_packages(LightningDataModule))) or (
        isinstance(data, Iterable) and not hasattr(data, "__getitem__")
    )
    settings = FoldingMonitor(**arguments | {"probes": None if is_loaded else data, "figures": False}).settings
    trainer = _idle_trainer(device_of(model))
    module = cast(LightningModule, model)  # of which measuring asks nothing that another module lacks
    session = Session(settings, trainer)
    loaders = _loaders(trainer, data) if is_loaded else None
    session.begin(trainer, module, loaders)
    if session.sample is None:
        _pass_batches(session, trainer, module, loaders)
    return session.measure(trainer, module, step=0, is_first=True)


def _idle_trainer(device: torch.device) -> Trainer:
    """Return a Trainer that runs nothing: its strategy, precision and limits say how a batch is read."""
    log = rank_zero_module.log  # which tells what hardware a new Trainer finds
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        return Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    finally:
        log.setLevel(level)


def _loaders(trainer: Trainer, data: Any) -> Any:
    """Return a data loader, or those of the validation of a data module, which the Trainer then has."""
    if not isinstance(data, in_both_packages(LightningDataModule)):
        return data
    module = cast(LightningDataModule, data)
    trainer.datamodule = module  # type: ignore[attr-defined]
    module.prepare_data()
    module.setup("validate")
    return module.val_dataloader()


def _pass_batches(session: Session, trainer: Trainer, model: LightningModule, loaders: Any) -> None:
    """Let batches of a stream pass until there are enough."""
    hooks = HookCopy(model, trainer.strategy.root_device)
    loader = loaders[0] if isinstance(loaders, (list, tuple)) else loaders
    generators = [generator] if (generator := getattr(loader, "generator", None)) is not None else []
    with undisturbed(), preserved_random_state(*generators):
        transfer = batch_transfer(trainer, model, hooks)
        for batch in loader:
            session.collect(trainer, model, transfer(batch))
            if session.is_full:
                break
    if not session.take_passed(trainer, model):
        raise ValueError("The data hold no batch to measure: give a loader that yields some.")

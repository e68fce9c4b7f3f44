"""One measurement of a trained model, without a fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from inspect import signature
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_module
from torch import nn

from fold_lightning.activations.evaluation import preserved_random_state, undisturbed
from fold_lightning.callbacks.measured_data import module_loaders, split_data
from fold_lightning.callbacks.monitor import FoldingMonitor
from fold_lightning.callbacks.session import Session
from fold_lightning.lightning_packages import in_both_packages
from fold_lightning.probes import HookCopy, batch_transfer, device_of, flat_loaders


def measure(model: nn.Module, data: Any, **arguments: Any) -> dict[str, float]:
    """Measure a trained model once, and return the values that `FoldingMonitor` would log in ``trainer.validate``.

    The sample is drawn as `FoldingMonitor` draws it, and batches are read as a validation step gets them. The model, its mode and
    all random states are left unchanged.

    Args:
        model: Any module, such as a LightningModule; it is measured on its own device.
        data: Tensors or NumPy arrays: inputs (B, ...), a pair of inputs and class labels, a dict of columns with one row per
            input, a map-style data set, a data loader or another iterable of batches, or a data module (its validation loader,
            else test, else training). A list holds batches if the model takes its first element as a batch, else items. Items
            that can be read by index (of a data set, dict, list or loader) are drawn by the seed; from other batches the first
            items are taken. Segments run between any of the given inputs; codes and regions are those of a random draw of them.
            Inputs with NaN or infinite values, and those of another shape than the first, are left out; a message has their number.
        arguments: Arguments of `FoldingMonitor`, such as ``method="exact"`` or ``segments_per_pair=10``; those of the schedule
            and of figures have no effect.

    Returns:
        Tag -> value, as listed in `FoldingMonitor`, "monitor/seconds" included.

    Raises:
        ValueError: If an argument is out of range, the data hold fewer than two inputs, or the model does not take them, can't be
            measured, or is on the meta device.
        TypeError: If the data are of an unknown kind, an argument has the wrong type, or there is no argument of that name.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> values = measure(model, (torch.randn(50, 2), torch.arange(50) % 2), num_segments=10)
        >>> values["folding/exact"], 0 <= values["folding/chi_mean"] < 1, values["faces/bound"]
        (1.0, True, 4.0)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an `nn.Module`, got {type(model).__name__}: wrap a function with `forward=`.")
    if device_of(model).type == "meta":
        raise ValueError(
            "`model` has its weights on the meta device, which holds no values: load them first, as with "
            "`model.to_empty(device='cpu')` and `model.load_state_dict(...)`."
        )
    _check_arguments(arguments)
    settings = FoldingMonitor(**arguments | {"figures": False}).settings
    trainer = _idle_trainer(device_of(model))
    probes = None
    if isinstance(data, in_both_packages(LightningDataModule)):
        loaders = module_loaders(trainer, data)
    else:
        choice = {"batch_to_inputs": settings.batch_to_inputs, "forward": settings.forward}
        probes, loaders = split_data(model, data, choice)
    module = cast(LightningModule, model)  # measuring uses only what every module has
    session = Session(replace(settings, probes=probes), trainer)
    session.begin(trainer, module, loaders)
    if session.sample is None:
        _pass_batches(session, trainer, module, loaders)
    return session.measure(trainer, module, step=0, is_first=True)


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise for arguments that `FoldingMonitor` does not take, and for `probes`, which `data` replaces."""
    if arguments.get("probes") is not None:
        raise TypeError("`measure` takes its inputs from `data`: pass them there, without `probes=`.")
    known = [name for name in signature(FoldingMonitor).parameters if name != "probes"]
    for name in arguments.keys() - {*known, "probes"}:
        near = get_close_matches(name, known, 1)
        advice = f"did you mean `{near[0]}=`?" if near else f"it takes {', '.join(known)}."
        raise TypeError(f"`measure` takes the arguments of `FoldingMonitor`, got `{name}=`: {advice}")


def _idle_trainer(device: torch.device) -> Trainer:
    """Return a Trainer that runs nothing: its strategy, precision and limits determine how batches are read."""
    log = rank_zero_module.log  # a new Trainer logs the hardware that it finds
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


def _pass_batches(session: Session, trainer: Trainer, model: LightningModule, loaders: Any) -> None:
    """Collect batches of a stream until there are enough."""
    hooks = HookCopy(model, trainer.strategy.root_device)
    loader = flat_loaders(loaders)[0]
    generators = [generator] if (generator := getattr(loader, "generator", None)) is not None else []
    with undisturbed(), preserved_random_state(*generators):
        transfer = batch_transfer(trainer, model, hooks)
        for batch in loader:
            session.collect(trainer, model, transfer(batch))
            if session.is_full:
                break
    if not session.draw_from_stream(trainer, model):
        raise ValueError(
            "`data` must yield at least one batch, got none: pass a loader with batches, and not a generator that was read before."
        )

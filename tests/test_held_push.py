"""The regularizer's push under a real Trainer: what it does to gradients, wherever they come from."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.model_parallel import ModelParallelStrategy
from lightning_utilities.core.imports import RequirementCache
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fold_lightning import FoldingMonitor, FoldingRegularizer
from fold_lightning.callbacks import held_push
from fold_lightning.callbacks.regularization import BATCHES_OF_A_STEP
from helpers.regularization import TAGS, Plain, Scalars, each_step, monitor, ordered, state
from helpers.training import Model, data, fit


def regularizer(**options: Any) -> FoldingRegularizer:
    return FoldingRegularizer(**({"every_n_steps": 2, "warm_steps": 3} | options))


class Manual(Plain):
    """Optimizes by hand, with one optimizer, or one for the first layer and one for the rest."""

    def __init__(self, num_optimizers: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.num_optimizers = num_optimizers

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        if self.num_optimizers == 1:
            return super().configure_optimizers()
        return [torch.optim.Adam(self.net[:2].parameters(), 1e-2), torch.optim.Adam(self.net[2:].parameters(), 1e-2)]


class Adversarial(Plain):
    """Trains a network and its critic by turns, each frozen while the other is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for sign, optimizer in zip((1, -1), self.optimizers(), strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(sign * self.critic(self(batch[0])).tanh().square().mean())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 1e-2) for part in (self.net, self.critic)]


class Gradients(Callback):
    """Keeps the gradients of each optimizer's parameters, before or after the push by its place in the list of callbacks."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.seen.append([p.grad.clone() for p in parameters if p.grad is not None])


def pushes(tmp_path: Path, flag: FoldingRegularizer, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """The task's gradient of each step and what was added, over the parameters that were pushed."""
    before, after = Gradients(), Gradients()
    fit(tmp_path, before, monitor(flag), after, **options)
    found = []
    for task, pushed in zip(before.seen, after.seen, strict=True):
        changed = [(a, b - a) for a, b in zip(task, pushed, strict=True) if not torch.equal(a, b)]
        found.append(tuple(torch.cat([part.flatten() for part in side]) for side in zip(*changed, strict=True)))
    return found


def in_a_loop(flag: FoldingRegularizer | None, *, accumulate: int = 1, clip: float | None = None) -> Plain:
    """Trains as the Trainer below, in a bare loop."""
    network = Plain()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    batches = list(ordered()[0]) * 2
    steps = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    for step, parts in enumerate(steps):
        optimizer.zero_grad()
        for inputs, labels in parts:
            (F.cross_entropy(network(inputs), labels) / accumulate).backward()
        if flag is not None:
            flag.progress, flag.draws = step / len(steps), step * BATCHES_OF_A_STEP
            flag.push(network, *parts[-1])
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
    return network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "options", "loop"),
    [
        (Plain, {}, {}),
        (Plain, {"gradient_clip_val": 0.1}, {"clip": 0.1}),
        (Plain, {"accumulate_grad_batches": 3}, {"accumulate": 3}),
        (Manual, {}, {}),
    ],
    ids=["plain", "clipped", "accumulated", "manual"],
)
def test_a_trainer_trains_as_a_loop_that_pushes_by_hand(tmp_path: Path, how: Any, options: Any, loop: Any) -> None:
    trainer = fit(tmp_path, monitor(regularizer()), model=how(), given=ordered(), max_epochs=2, **options)
    pushed, plain = in_a_loop(regularizer(), **loop), in_a_loop(None, **loop)
    found = state(trainer)
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in pushed.state_dict().items())
    assert not torch.allclose(found["net.0.weight"], plain.net[0].weight, atol=1e-3), "and this test would see a difference"


@pytest.mark.parametrize("num_optimizers", [1, 2])
def test_each_optimizers_gradient_gets_its_share_which_rises(tmp_path: Path, num_optimizers: int) -> None:
    flag = regularizer(schedule="constant", share=0.25)
    found = pushes(tmp_path, flag, model=Manual(num_optimizers), given=ordered(), max_epochs=1)
    assert len(found) == 6 * num_optimizers
    for number, (task, push) in enumerate(found):
        share = 0.25 * min(1.0, (number // num_optimizers + 1) / 3)
        assert push.norm() / task.norm() == pytest.approx(share, rel=1e-4)
    directions = [push / push.norm() for _, push in found[::num_optimizers]]
    assert all(torch.allclose(directions[i], directions[i + 1], atol=1e-5) for i in (0, 2, 4)), "held for two steps"
    assert not any(torch.allclose(directions[i], directions[i + 1], atol=1e-2) for i in (1, 3))


def test_an_optimizer_that_the_term_does_not_reach_is_left_alone(tmp_path: Path) -> None:
    before, after = Gradients(), Gradients()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has no effect")
        fit(tmp_path, before, monitor(regularizer()), after, model=Adversarial(), given=ordered(), max_epochs=1)
    same = [torch.equal(a[0], b[0]) for a, b in zip(before.seen, after.seen, strict=True)]
    assert same == [False, True] * 6


@pytest.mark.slow
def test_the_schedule_of_two_optimizers_ends_with_the_training(tmp_path: Path) -> None:
    logger, flag = Scalars(), regularizer(schedule="linear", every_n_steps=1)
    fit(tmp_path, monitor(flag), model=Manual(2), given=ordered(), max_epochs=2, logger=logger)
    assert [values["regularizer/weight"] for _, values in logger.said] == pytest.approx([1 - i / 12 for i in range(12)])
    logger = Scalars()
    fit(tmp_path, monitor(flag), model=Manual(2), given=ordered(), max_epochs=9, max_steps=8, logger=logger)
    assert [values["regularizer/weight"] for _, values in logger.said] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_scaled_gradients_are_pushed_once_they_are_unscaled(tmp_path: Path) -> None:
    constant = {"schedule": "constant", "warm_steps": 0}
    full = pushes(tmp_path, regularizer(**constant), model=Plain(), given=ordered(), max_epochs=1)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    half = pushes(tmp_path, regularizer(**constant), model=Plain(), given=ordered(), max_epochs=1, plugins=[plugin])
    for task, push in half:
        assert push.norm() / task.norm() == pytest.approx(0.5, rel=1e-3)
    assert half[0][0].norm() == pytest.approx(full[0][0].norm().item(), rel=0.01), "the task's, without the scale"
    assert F.cosine_similarity(half[0][1], full[0][1], dim=0) > 0.995, "float16 gradients of the term do not underflow"


def test_a_gradient_that_overflows_is_left_to_the_scaler(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**40))
    trainer = fit(tmp_path, monitor(each_step()), model=Plain(), given=ordered(), max_epochs=1, plugins=[plugin])
    assert all(torch.equal(value, Plain().state_dict()[name]) for name, value in state(trainer).items()), "all steps skipped"


class Resumed(Plain):
    def train_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "when",
    [
        {"save_on_train_epoch_end": True},
        pytest.param(
            {"every_n_train_steps": 6},
            marks=pytest.mark.skipif(not RequirementCache("lightning>=2.5"), reason="Lightning 2.4 counts a step too many"),
        ),
    ],
    ids=["epoch's end", "last batch"],
)
def test_a_run_that_goes_on_between_two_terms_holds_the_same_gradient(tmp_path: Path, when: dict[str, Any]) -> None:
    def run(path: Path | None = None, *, forgets: bool = False) -> dict[str, Tensor]:
        ours = monitor(regularizer(every_n_steps=4))
        if forgets:
            ours.load_state_dict = lambda state: None  # type: ignore[method-assign]
        kept = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **when)
        options = {"max_epochs": 2, "logger": Scalars(), "accelerator": "cpu", "enable_progress_bar": False}
        trainer = Trainer(default_root_dir=tmp_path, callbacks=[ours, kept], enable_model_summary=False, **options)
        trainer.fit(Plain(), *ordered(), ckpt_path=path)
        assert trainer.global_step == 12
        return state(trainer)

    whole = run()
    resumed, forgotten = run(tmp_path / "step=6.ckpt"), run(tmp_path / "step=6.ckpt", forgets=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], forgotten[name]) for name in whole)


def test_a_layer_that_is_unfrozen_later_is_pushed_from_the_next_term_on(tmp_path: Path) -> None:
    class Unfreezes(BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)

    class Head(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 1e-2)

    before, after = Gradients(), Gradients()
    options = {"model": Head(), "given": ordered(), "max_epochs": 2, "limit_train_batches": 5}
    fit(tmp_path, Unfreezes(), before, monitor(regularizer(every_n_steps=4)), after, **options)
    changed = [
        [not torch.equal(a, b) for a, b in zip(task, pushed, strict=True)]
        for task, pushed in zip(before.seen, after.seen, strict=True)
    ]
    assert changed[:5] == [[True, True, False, False]] * 5  # of the second layer; no bits are behind the last
    assert changed[5:8] == [[True, True, False, False, False, False]] * 3, "the gradient held is that of before"
    assert changed[8:] == [[True, True, False, False, True, True]] * 2


@pytest.mark.slow
def test_the_loss_is_the_tasks_alone_and_the_term_is_logged(tmp_path: Path) -> None:
    logger, flag = Scalars(), FoldingRegularizer(0.5, schedule="linear", every_n_steps=2)
    network = Plain()
    assert "training_step" not in vars(network)
    fit(tmp_path, monitor(flag), model=network, given=ordered(), max_epochs=2, logger=logger)
    assert [step for step, _ in logger.said] == list(range(12)) and all(set(values) == TAGS for _, values in logger.said)
    for step, (_, values) in enumerate(logger.said):
        assert values["regularizer/weight"] == pytest.approx(0.5 * (1 - step // 2 * 2 / 12))
        term = values["regularizer/weight"] * (1 - values["regularizer/soft_chi"])
        assert values["regularizer/term"] == pytest.approx(term, rel=1e-5)


def test_a_gradient_that_is_not_finite_is_left_out_and_the_held_one_stays(tmp_path: Path) -> None:
    class Spoils(nn.Module):
        """Passes numbers on, and gradients that are no numbers while it is evaluated and told to."""

        is_on = False

        def forward(self, x: Tensor) -> Tensor:
            if self.is_on and not self.training and x.requires_grad:
                x = x * 1.0
                x.register_hook(lambda gradient: gradient * torch.nan)
            return x

    class Spoiled(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.net.insert(2, Spoils())

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.net[2].is_on = batch_idx >= 4

    flag = regularizer()
    with pytest.warns(UserWarning, match="left out of a step. Its gradient is not finite"):
        found = pushes(tmp_path, flag, model=Spoiled(), given=ordered(), max_epochs=1)
    assert flag.num_skipped == 1
    third, last = (push / push.norm() for _, push in (found[3], found[5]))
    assert torch.allclose(third, last, atol=1e-5)


def test_gradients_that_are_sharded_get_the_term_in_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = {cls: object.__new__(cls) for cls in (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, DeepSpeedStrategy)}
    strategies[ModelParallelStrategy] = object.__new__(ModelParallelStrategy)
    whole = [cls for cls, one in strategies.items() if held_push.has_whole_gradients(SimpleNamespace(strategy=one))]
    assert whole == [SingleDeviceStrategy, DDPStrategy]
    monkeypatch.setattr("fold_lightning.callbacks.monitor.has_whole_gradients", lambda trainer: False)
    said = []
    monkeypatch.setattr("fold_lightning.callbacks.monitor.rank_zero_info", said.append)
    wrapped = []

    class Looks(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            wrapped.append("training_step" in vars(pl_module))

    fit(tmp_path, monitor(True), Looks(), model=Plain(), max_epochs=1)
    assert (
        all(wrapped)
        and wrapped
        and said == ["Gradients are sharded, so the folding regularizer adds its term to the loss: `share` does nothing."]
    )


def test_a_monitor_that_only_regularizes_keeps_its_gradient_too(tmp_path: Path) -> None:
    only = FoldingMonitor(regularize=True, folding=False, codes=False, units=False, faces=False)
    fit(tmp_path, only, model=Model(), max_epochs=1)
    kept = only.state_dict()["regularization"]["held"][0]
    assert kept["steps"] == 3 and kept["direction"] is not None

"""The flag under a real Trainer: what it logs, refuses and leaves as it was, and the term in the loss; its push: test_held_push."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fold_lightning import FoldingMonitor, FoldingRegularizer
from helpers.regularization import TAGS, Losses, Plain, Scalars, each_step, in_loss, monitor, ordered, state
from helpers.training import Model, Recorder, data, fit


def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.mark.slow
def test_one_flag_makes_the_network_fold_more(tmp_path: Path) -> None:
    folded = []
    for regularize in (False, 1.0, -1.0):
        trainer = fit(
            tmp_path,
            FoldingMonitor(regularize=regularize, max_overhead=None, every_n_epochs=30, measure_at_start=False, figures=False),
            model=Plain(32, 32, 32),
            given=ordered(),
            max_epochs=30,
        )
        folded.append(trainer.callback_metrics["folding/chi_mean"].item())
    plain, more, less = folded
    assert more > 1.5 * plain > 1.5 * 1.5 * less > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_the_term_of_the_batch_is_added_to_the_loss(tmp_path: Path, form: str) -> None:
    seen = []

    class Returns(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if form == "tensor" else {"loss": loss, "size": len(batch[0])}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(outputs)

    runs = []
    for flag in (False, in_loss(0.5), in_loss(0.5, every_n_steps=2)):
        losses, network = Losses(), Returns()
        fit(tmp_path, monitor(flag), losses, model=network, given=ordered(), max_epochs=1, limit_train_batches=2)
        runs.append(losses.losses)
    network = Returns()
    inputs, labels = (part[:10] for part in data().tensors)
    expected = each_step(0.5)(network, inputs, labels).item()
    plain, each, second = runs
    assert each[0] == pytest.approx(plain[0] + expected) and 0.3 < expected < 0.5
    assert second[0] == pytest.approx(plain[0] + 2 * expected), "every second step, twice as much"
    assert all(form == "tensor" or output["size"] == 10 for output in seen)


@pytest.mark.slow
def test_only_every_nth_step_has_a_term(tmp_path: Path) -> None:
    runs = []
    for flag in (0.0, in_loss(0.5, every_n_steps=3)):
        losses = Losses()
        network = Plain()
        network.configure_optimizers = lambda network=network: torch.optim.SGD(network.parameters(), 0.0)
        fit(tmp_path, monitor(flag), losses, model=network, given=ordered(), max_epochs=2)
        runs.append(losses.losses)
    added = [with_term - plain for plain, with_term in zip(*runs, strict=True)]
    assert [abs(value) > 0.3 for value in added] == [step % 3 == 0 for step in range(12)]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_accumulated_batches_share_the_term_as_they_share_the_loss(tmp_path: Path, accumulate: int) -> None:
    losses, network, regularizer = Losses(), Plain(), in_loss(2.0, every_n_steps=2)
    network.training_step = lambda batch, batch_idx: 0.0 * network(batch[0]).sum()
    given = (DataLoader(data(60), batch_size=10), None)
    fit(
        tmp_path,
        monitor(regularizer),
        losses,
        model=network,
        given=given,
        max_epochs=1,
        accumulate_grad_batches=accumulate,
    )
    steps = 6 // accumulate
    assert len(losses.gradients) == steps
    expected, batches = torch.zeros(16, 5), [tuple(part[i : i + 10] for part in data(60).tensors) for i in range(0, 60, 10)]
    twin = Plain()
    for number, batch in enumerate(batches[:accumulate]):
        again = each_step(2.0)
        again.draws = number
        twin.zero_grad()
        again(twin, *batch).backward()
        expected += 2 * twin.net[0].weight.grad / accumulate
    assert torch.allclose(losses.gradients[0], expected, rtol=1e-4, atol=1e-7) and bool((expected != 0).any())
    assert not bool((losses.gradients[1] != 0).any()), "the second step has no term"


def test_gradients_are_clipped_with_the_term_in_them(tmp_path: Path) -> None:
    losses = Losses()
    norms: list[float] = []

    class Norms(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if gradients:
                norms.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])).item())

    fit(tmp_path, monitor(each_step(100.0)), losses, Norms(), model=model(), given=ordered(), gradient_clip_val=0.01)
    assert norms and all(norm <= 0.01001 for norm in norms)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, None])
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path: Path, precision: Any, share: float | None) -> None:
    regularizer = each_step(1.0, share=share)
    logger = Scalars()
    how: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # which a Trainer refuses on a CPU, though torch does not
        how = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}
    trainer = fit(tmp_path, monitor(regularizer), model=model(), logger=logger, **how)
    assert regularizer.num_skipped == 0 and all(p.isfinite().all() for p in trainer.lightning_module.parameters())
    plain = fit(tmp_path, monitor(each_step(1.0)), model=model(), logger=(full := Scalars()))
    assert plain is not None
    assert logger.said[0][1]["regularizer/soft_chi"] == pytest.approx(full.said[0][1]["regularizer/soft_chi"], abs=0.02)


@pytest.mark.slow
def test_what_it_logs(tmp_path: Path) -> None:
    logger = Scalars()
    regularizer = FoldingRegularizer(0.5, schedule="linear", every_n_steps=2)
    fit(tmp_path, monitor(regularizer), model=model(), given=ordered(), max_epochs=2, logger=logger)
    assert [step for step, _ in logger.said] == list(range(12)), "between terms the last one stands"
    assert all(set(values) == TAGS for _, values in logger.said)
    weights = [values["regularizer/weight"] for _, values in logger.said]
    assert weights == pytest.approx([0.5 * (1 - step // 2 * 2 / 12) for step in range(12)])
    for _, values in logger.said:
        assert values["regularizer/term"] == pytest.approx(
            values["regularizer/weight"] * (1 - values["regularizer/soft_chi"]), rel=1e-5
        )


@pytest.mark.slow
def test_the_exact_folding_stands_beside_it_also_with_few_logged_steps(tmp_path: Path) -> None:
    logger = Recorder()
    both = Scalars()
    fit(tmp_path, monitor(True), model=model(), given=ordered(), max_epochs=3, logger=[logger, both], log_every_n_steps=5)
    assert logger.said and [step for step, _ in both.said] == [4, 9, 14]


@pytest.mark.slow
def test_without_the_flag_nothing_is_logged_and_nothing_wrapped(tmp_path: Path) -> None:
    class Looks(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert "training_step" not in vars(pl_module)

    logger = Scalars()
    assert monitor(False).regularizer is None
    fit(tmp_path, monitor(False), Looks(), logger=logger)
    assert not logger.said


@pytest.mark.slow
@pytest.mark.parametrize("regularize", [0, 0.0, FoldingRegularizer(0.0)])
def test_weight_0_trains_bit_for_bit_as_without(tmp_path: Path, regularize: Any) -> None:
    runs = []
    for callbacks in ([], [monitor(regularize)], [monitor(each_step(0.1))]):
        runs.append(state(fit(tmp_path, *callbacks, model=model())) | {"random": torch.get_rng_state()})
    plain, zero, some = runs
    assert all(torch.equal(plain[name], zero[name]) for name in plain)
    assert not torch.equal(plain["net.0.weight"], some["net.0.weight"])


@pytest.mark.slow
def test_batch_norm_moves_as_without_it(tmp_path: Path) -> None:
    class Still(Model):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.0)

    runs = []
    for callbacks in ([], [monitor(each_step())]):
        torch.manual_seed(0)
        runs.append(state(fit(tmp_path, *callbacks, model=Still(), given=ordered())))
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert runs[0]["net.1.num_batches_tracked"] == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_returns_none_adds_nothing(tmp_path: Path) -> None:
    class Skips(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx < 5 else super().training_step(batch, batch_idx)

    losses = Losses()
    fit(tmp_path, monitor(each_step()), losses, model=Skips(), given=ordered(), max_epochs=1)
    assert len(losses.losses) == 1


class Interrupts(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, *_: Any) -> None:
        raise self.error


@pytest.mark.slow
def test_the_modules_own_step_is_given_back(tmp_path: Path) -> None:
    network = model()
    own = network.training_step.__func__
    fit(tmp_path, monitor(in_loss()), model=network)
    assert "training_step" not in vars(network) and network.training_step.__func__ is own
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, monitor(in_loss()), Interrupts(RuntimeError("on purpose")), model=network)
    assert "training_step" not in vars(network) and network.training_step.__func__ is own
    with pytest.raises(SystemExit):
        fit(tmp_path, monitor(in_loss()), Interrupts(KeyboardInterrupt()), model=network)
    assert "training_step" not in vars(network)


@pytest.mark.slow
def test_a_step_that_the_user_set_on_the_instance_comes_back_too(tmp_path: Path) -> None:
    network = model()
    network.training_step = step = lambda batch, batch_idx: F.cross_entropy(network(batch[0]), batch[1])
    callback = monitor(in_loss())
    for _ in range(2):
        fit(tmp_path, callback, model=network)
        assert network.training_step is step


@pytest.mark.slow
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    def run(**options: Any) -> dict[str, Tensor]:
        network = Plain()
        regularizer = in_loss(1.0, every_n_steps=2, until_epoch=4)
        trainer = Trainer(
            default_root_dir=tmp_path,
            callbacks=[monitor(regularizer), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)],
            logger=Scalars(),
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            **{key: value for key, value in options.items() if key != "ckpt_path"},
        )
        trainer.fit(network, *ordered(), ckpt_path=options.get("ckpt_path"))
        return state(trainer)

    whole = run(max_epochs=2)
    resumed = run(max_epochs=2, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_a_schedule_can_end_at_an_epoch(tmp_path: Path) -> None:
    logger = Scalars()
    regularizer = FoldingRegularizer(1.0, schedule="linear", until_epoch=2, every_n_steps=1)
    fit(tmp_path, monitor(regularizer), model=model(), given=ordered(), max_epochs=3, logger=logger)
    assert [values["regularizer/weight"] for _, values in logger.said] == [1.0] * 6 + [0.5] * 6 + [0.0] * 6


@pytest.mark.slow
def test_a_term_that_is_not_finite_is_left_out_counted_and_said_once(tmp_path: Path) -> None:
    inputs, labels = data().tensors
    inputs = inputs.clone()
    inputs[15:35] = torch.nan

    class Tolerant(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step([batch[0].nan_to_num(), batch[1]], batch_idx)

    given = (DataLoader(TensorDataset(inputs, labels), batch_size=10), DataLoader(data(40, 1), batch_size=20))
    regularizer = each_step(1.0, num_segments=60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(tmp_path, monitor(regularizer), model=Tolerant(), given=given, max_epochs=2)
    assert regularizer.num_skipped == 6
    assert sum("term is left out of a step. It is not finite" in str(warning.message) for warning in caught) == 1
    assert all(bool(p.isfinite().all()) for p in trainer.lightning_module.parameters())


@pytest.mark.slow
def test_a_batch_of_another_form_costs_its_term_and_not_the_run(tmp_path: Path) -> None:
    class Mixed(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch if isinstance(batch, list) else batch.pair, batch_idx)

    class Odd:
        def __init__(self, pair: Any) -> None:
            self.pair = pair

    batches = [list(batch) if number != 2 else Odd(batch) for number, batch in enumerate(ordered()[0])]
    given = DataLoader(batches, batch_size=None)
    regularizer = each_step(1.0)
    with pytest.warns(UserWarning, match="term is left out of a step. .*Training goes on"):
        trainer = fit(tmp_path, monitor(regularizer), model=Mixed(), given=(given, ordered()[1]), max_epochs=2)
    assert regularizer.num_skipped == 2 and trainer.global_step == 2 * len(batches)


@pytest.mark.slow
def test_a_rare_term_in_the_loss_is_warned_of_where_gradients_are_clipped(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="adds its term every 8th step, times 8: clipping removes most of it"):
        fit(tmp_path, monitor(FoldingRegularizer(share=None)), model=model(), given=ordered(), gradient_clip_val=0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*clipping removes")
        for regularizer in (FoldingRegularizer(), in_loss(every_n_steps=2)):
            fit(tmp_path, monitor(regularizer), model=model(), given=ordered(), gradient_clip_val=0.5, max_epochs=1)


def test_a_line_search_is_warned_of(tmp_path: Path) -> None:
    class Searches(Model):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), max_iter=2)

    with pytest.warns(UserWarning, match="LBFGS evaluates the loss several times"):
        fit(tmp_path, monitor(True), model=Searches(), given=ordered())


def test_it_may_regularize_and_measure_nothing(tmp_path: Path) -> None:
    logger = Scalars()
    fit(
        tmp_path,
        FoldingMonitor(regularize=True, folding=False, codes=False, units=False, faces=False),
        model=model(),
        logger=logger,
    )
    assert logger.said and all(set(values) == TAGS for _, values in logger.said)


@pytest.mark.slow
def test_copies_keep_a_step_that_the_user_set_on_the_instance(tmp_path: Path) -> None:
    module = model()
    module.training_step = functools.partial(type(module).training_step, module)

    class Copies(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            self.copied = copy.deepcopy(pl_module)

    copies = Copies()
    fit(tmp_path, monitor(in_loss()), copies, model=module, given=ordered())
    step = copies.copied.training_step
    assert isinstance(step, functools.partial) and step.args == (copies.copied,)


def test_manual_optimization_has_no_loss_to_add_a_term_to(tmp_path: Path) -> None:
    class Manual(Model):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(
        MisconfigurationException, match="optimizes manually.*`loss = loss \\+ regularizer\\(self, inputs, labels\\)`"
    ):
        fit(tmp_path, monitor(in_loss()), model=Manual())


class NeverTrains(Model):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("training began")


def test_a_first_batch_without_usable_inputs_is_refused(tmp_path: Path) -> None:
    tokens = DataLoader(TensorDataset(torch.ones(20, 5).long(), torch.arange(20)), batch_size=10)
    probes = {"probes": torch.randn(8, 5), "codes": False}
    by_hand = r"Or push a part of the model by hand: .*`regularizer\.push\(part, inputs, labels\)`"
    with pytest.raises(MisconfigurationException, match=f"can't use the first batch. No inputs found.*{by_hand}"):
        fit(tmp_path, monitor(True, **probes), model=NeverTrains(), given=(tokens, None))

    class Linear(NeverTrains):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)

    with pytest.raises(MisconfigurationException, match="first batch.*matches no activation") as mistyped:
        fit(tmp_path, monitor(each_step(layers="head"), **probes), model=Linear())
    assert "by hand" not in str(mistyped.value), "the model's form is not the cause"
    broken = DataLoader(TensorDataset(torch.full((20, 5), torch.nan), torch.arange(20) % 3), batch_size=10)
    with pytest.raises(MisconfigurationException, match="first batch") as not_finite:
        fit(tmp_path, monitor(True, **probes), model=NeverTrains(), given=(broken, None))
    assert "by hand" not in str(not_finite.value)

    class Recurrent(NeverTrains):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.LSTM(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)[0]

    measures = {"folding": False, "codes": False, "units": False, "faces": False}
    with pytest.raises(MisconfigurationException, match=f"LSTM \\('net'\\) is a fused recurrent layer.*{by_hand}"):
        fit(tmp_path, monitor(True, **measures), model=Recurrent())
    with pytest.raises(MisconfigurationException, match="first batch.*matches no activation"):
        fit(tmp_path, monitor(each_step(0.0, layers="head"), **probes), model=Linear())


def test_two_monitors_do_not_both_regularize(tmp_path: Path) -> None:
    network = model()
    with pytest.raises(MisconfigurationException, match="Two callbacks regularize this module"):
        fit(tmp_path, monitor(True), monitor(True, folding=False, codes=False, units=False, faces=False), model=network)
    assert "training_step" not in vars(network)


@pytest.mark.slow
def test_a_schedule_needs_an_end(tmp_path: Path) -> None:
    endless = {"max_epochs": -1, "max_time": {"seconds": 1}}
    with pytest.raises(MisconfigurationException, match="has neither `max_epochs` nor `max_steps`"):
        fit(tmp_path, monitor(True), model=NeverTrains(), **endless)
    logger = Scalars()
    fit(tmp_path, monitor(each_step()), model=model(), logger=logger, **endless)
    assert logger.said[0][1]["regularizer/weight"] == 1


def test_what_is_no_regularizer_is_refused() -> None:
    with pytest.raises(TypeError, match="`regularize` must be a bool, a weight, or a `FoldingRegularizer`, got 'yes'"):
        FoldingMonitor(regularize="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got the class itself: write `FoldingRegularizer\(\)`"):
        FoldingMonitor(regularize=FoldingRegularizer)  # type: ignore[arg-type]
    assert FoldingMonitor(regularize=0.25, layers="net.*", seed=3).regularizer.weight == 0.25
    assert FoldingMonitor(regularize=True, layers="net.*", seed=3).regularizer.layers == "net.*"


def test_inputs_and_network_are_those_that_the_monitor_is_told_of(tmp_path: Path) -> None:
    class Packed(Model):
        forward = LightningModule.forward

        def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:
            return batch["both"][:, :5], batch["both"][:, 5].long()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = self.unpack(batch)
            return F.cross_entropy(self.net(x), y)

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    x, y = data().tensors
    rows = DataLoader([{"both": row} for row in torch.cat([x, y[:, None].float()], 1)], batch_size=10)
    logger, network = Scalars(), Packed()
    flag = monitor(each_step(), batch_to_inputs=network.unpack, forward="net")
    fit(tmp_path, flag, model=network, given=(rows, rows), logger=logger)
    assert len(logger.said) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "weight"),
    [
        (["--trainer.callbacks.regularize=true"], 1.0),
        (["--trainer.callbacks.regularize=0.25"], 0.25),
        (["--trainer.callbacks.regularize=false"], None),
        (
            [
                "--trainer.callbacks.regularize=fold_lightning.FoldingRegularizer",
                "--trainer.callbacks.regularize.weight=-0.5",
                "--trainer.callbacks.regularize.schedule=linear",
            ],
            -0.5,
        ),
    ],
)
def test_the_command_line(arguments: list[str], weight: float | None) -> None:
    cli = LightningCLI(
        Model, run=False, save_config_callback=None, args=["--trainer.callbacks+=fold_lightning.FoldingMonitor", *arguments]
    )
    (found,) = [c for c in cli.trainer.callbacks if isinstance(c, FoldingMonitor)]
    assert (found.regularizer and found.regularizer.weight) == weight


class Endless(IterableDataset[Any]):
    """A stream of a length that it does not tell."""

    def __iter__(self) -> Any:
        return zip(*data(60).tensors, strict=True)


@pytest.mark.slow
def test_a_stream_fades_the_term_over_its_epochs(tmp_path: Path) -> None:
    scalars = Scalars()
    stream = DataLoader(Endless(), batch_size=20)
    fit(
        tmp_path,
        FoldingMonitor(regularize=FoldingRegularizer(every_n_steps=1), measure_at_start=False),
        given=(stream, DataLoader(data(40, 1), 20)),
        logger=scalars,
        max_epochs=4,
    )
    weights = [said["regularizer/weight"] for _, said in scalars.said]
    assert weights[:3] == [1.0] * 3 and weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 4 and 0 < weights[-1] < 0.2


class Copier(Callback):
    """Copies the module in the middle of a training, and trains a step of the copies."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        before = [parameter.grad for parameter in pl_module.parameters()]
        self.copies = [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))]
        for other in self.copies:
            other._trainer, other.log = None, lambda *_, **__: None  # type: ignore[method-assign]
            other.zero_grad()
            other.training_step(data(20).tensors, 0).backward()
            assert all(parameter.grad is not None for parameter in other.parameters())
        assert all(a is b for a, b in zip(before, (p.grad for p in pl_module.parameters()), strict=True))


@pytest.mark.slow
def test_a_copy_of_the_module_trains_itself(tmp_path: Path) -> None:
    copier = Copier()
    fit(tmp_path, FoldingMonitor(regularize=in_loss()), copier, max_epochs=1)
    for other in copier.copies:
        del other.log
        fit(tmp_path, FoldingMonitor(regularize=in_loss()), model=other, max_epochs=1)


class Popping(Model):
    """Takes its batch apart."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labels = batch.pop("labels")
        return F.cross_entropy(self(batch.pop("inputs")), labels)


@pytest.mark.parametrize("share", [0.5, None])
def test_a_step_may_take_its_batch_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None) -> None:
    seen = []
    forward = FoldingRegularizer.forward
    monkeypatch.setattr(
        FoldingRegularizer,
        "forward",
        lambda self, m, x, y=None, **k: (seen.append(y is not None), forward(self, m, x, y, **k))[1],
    )
    loader = DataLoader([{"inputs": x, "labels": y} for x, y in zip(*data(60).tensors, strict=True)], batch_size=20)
    regularizer = FoldingRegularizer(every_n_steps=1, share=share)
    monitor = FoldingMonitor(regularize=regularizer, probes=data(40, 1).tensors)
    fit(tmp_path, monitor, model=Popping(), given=(loader, DataLoader(data(40, 1), 20)), max_epochs=1)
    assert len(seen) >= 3 and all(seen)


def test_a_term_that_pushes_nothing_is_told(tmp_path: Path) -> None:
    model = Model()
    model.net[:6].requires_grad_(False)
    with pytest.warns(UserWarning, match="depends on no trained weight, so it has no effect"):
        fit(tmp_path, FoldingMonitor(regularize=True), model=model, max_epochs=1)

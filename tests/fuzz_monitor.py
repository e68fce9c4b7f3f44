"""Trains random models under random Trainers, each twice from one seed, without and with the monitor, and compares all there is.

python tests/fuzz_monitor.py --runs 300            # seeds 0 to 299; exits with 1 if anything is wrong
python tests/fuzz_monitor.py --only 17             # one of them again, with what was drawn
python tests/fuzz_monitor.py --runs 0 --models 2000  # without a Trainer: walks, codes and faces beside a twin alone
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from fold_lightning import FoldingMonitor, activation_codes, activation_regions, face_counts, segment_walks
from helpers.integers import Integers, units_by_step
from helpers.random_models import HOOK_CALLS, Draw, RandomNetwork
from helpers.random_tasks import SHAPES, Loaders, Subject, Task
from helpers.random_trainers import Measured, Recorder, Settings, Witness, checkpoints, monitor_arguments
from helpers.training import MONITOR_PREFIXES

OF_NO_MODEL = {"training", "note", "name"}
"""Attributes of modules that are not compared by value."""


class Training:
    """One training, drawn by a seed.

    Attributes:
        draw: With notes of what was drawn.
        error: What it raised; None if nothing.
        warned: What the monitor warned of.
        measures: What was logged last, of the monitor's tags.
    """

    def __init__(self, seed: int, folder: Path, *, monitored: bool) -> None:
        torch.compiler.reset()
        seed_everything(seed, verbose=False)
        self.seed, self.draw = seed, (draw := Draw(seed))
        self.task = Task(draw)
        self.loaders = Loaders(draw, self.task)
        self.subject = Subject(draw, self.task, self.loaders.is_pair)
        self.settings = Settings(draw, self.task, self.loaders, self.subject)
        self.witness, self.measured = Witness(), Measured()
        self.error: Exception | None = None
        self.warned: list[str] = []
        self.measures: dict[str, float] = {}
        callbacks = self._callbacks(folder, monitored)
        self.logger = self.settings.loggers(folder)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "accelerator": "cpu"}
        self._given = {"callbacks": callbacks, "logger": self.logger, "default_root_dir": folder, **quiet}

    def _callbacks(self, folder: Path, monitored: bool) -> list[Any]:
        draw, settings = self.draw, self.settings
        callbacks = settings.callbacks()
        place = draw.randint(0, len(callbacks))
        skips = {"check_val_every_n_epoch", "max_steps"} & {*settings.options}
        usual = "val_loss" if settings.validates and not skips else "loss"
        checkpoint = draw.pick("checkpoint by", None, None, usual, "a measure")
        self.arguments = monitor_arguments(draw, self.task, settings)
        walked = "folding/chi_mean" if self.arguments["method"] == "uniform" else "folding/regions"
        measure = walked if self.arguments["folding"] else "codes/distinct"
        if checkpoint == "a measure":
            can = self.arguments["folding"] or self.arguments["codes"]
            checkpoint = measure if monitored and can else usual
        if monitored:
            callbacks[place:place] = [FoldingMonitor(**self.arguments), self.measured]
        return [self.witness, *callbacks, checkpoints(folder, checkpoint)]

    def run(self) -> Training:
        """Trains; what is raised is kept."""
        before = HOOK_CALLS["observed"]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.trainer = Trainer(**self.settings.options, **self._given)
                self._fit()
            except Exception as error:
                self.error = error
        self.hook_calls = HOOK_CALLS["observed"] - before
        said = [str(warning.message) for warning in caught]
        self.warned = [message for message in said if "FoldingMonitor" in message]
        return self

    def _fit(self) -> None:
        self.trainer.fit(self.subject, self.loaders.train, self.loaders.val)
        if self.settings.fits_twice:
            self.trainer.fit_loop.max_epochs += 1
            self.trainer.fit(self.subject, self.loaders.train, self.loaders.val)
        metrics = self.trainer.callback_metrics
        self.measures = {tag: float(value) for tag, value in metrics.items() if tag.startswith(MONITOR_PREFIXES)}
        if self.settings.validates_after:
            self.trainer.validate(self.subject, self.loaders.val, verbose=False)

    def state(self) -> dict[str, Any]:
        """All that a training leaves behind."""
        trainer, subject, net = self.trainer, self.subject, self.subject.net
        loggers = self.logger if isinstance(self.logger, list) else [self.logger]
        metrics = {tag: v for tag, v in trainer.callback_metrics.items() if not tag.startswith(MONITOR_PREFIXES)}
        return {
            "random states of Python": random.getstate(),
            "random states of NumPy": np.random.get_state(),
            "random states of torch": torch.get_rng_state(),
            "random states of loaders": self.loaders.generators,
            "random states of data sets": [samples.own.bit_generator.state for samples in self.loaders.samples],
            "weights": dict(net.named_parameters()),
            "buffers": dict(net.named_buffers()),
            "gradients": {name: p.grad for name, p in net.named_parameters()},
            "optimizer states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "losses": self.witness.losses,
            "batches": self.witness.batches,
            "modes": [(m.training, [p.requires_grad for p in m.parameters()]) for m in subject.modules()],
            "calls of hooks": self.hook_calls,
            "attributes": {name: _attributes(module) for name, module in net.named_modules()},
            "logged values": (metrics, [logger.said for logger in loggers if isinstance(logger, Recorder)]),
            "progress": (trainer.global_step, trainer.current_epoch, trainer.should_stop),
        }

    def had_to_measure(self) -> bool:
        """Whether an epoch ended after which there is something to log, and no warning says why not."""
        batches = self.trainer.num_val_batches  # none, where the first validation is yet to come
        validates = self.trainer.enable_validation and (not batches or sum(batches) > 0)
        ended = self.witness.ends["validation" if validates else "training"] > 0
        return ended and not any("could not measure everything" in message for message in self.warned)

    def may_be_refused(self) -> list[str]:
        """What an error at the start may say."""
        task, settings, arguments = self.task, self.settings, self.arguments
        found = [self.subject.refusal] if self.subject.refusal else []
        found += ["the Trainer has no logger"] * (settings.logger == "none")
        found += ["(and more with `method='exact'`)"] * (arguments["method"] != "exact")
        unpackable = (task.needs_unpacking and not task.is_unpacked) or self.loaders.is_pair
        if unpackable and "probes" not in arguments:
            # The last two are of a target that comes first, and can't be told from inputs.
            found += ["Pass `batch_to_inputs=`", "forward pass refused a batch", "must be an integer from 1 to the inputs'"]
        subspace = arguments["face_subspace"]
        features = int(np.prod(task.shape))
        found += ["must be an integer from 1 to the inputs'"] * (isinstance(subspace, int) and subspace > features)
        return found


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name[0] != "_" and name not in OF_NO_MODEL}


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal to the bit, tensors and random states within them too."""
    if isinstance(a, Tensor):
        alike = isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype
        return alike and torch.equal(a.detach().nan_to_num(nan=7.0), b.detach().nan_to_num(nan=7.0))
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if dataclasses.is_dataclass(a):
        a, b = vars(a), vars(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a is b or a == b or a != a or callable(a)


class Fuzz:
    """Runs, and counts.

    Attributes:
        counts: What happened how often.
        failures: Of each seed that fails, what is wrong and what was drawn.
    """

    def __init__(self, *, says_all: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: dict[int, list[str]] = {}
        self.seconds: dict[int, float] = {}
        self.says_all = says_all

    def run(self, seed: int) -> None:
        """One seed: a training without the monitor, one with it, and their comparison."""
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            without = Training(seed, Path(folder) / "without", monitored=False).run()
            if without.error is not None:
                self._count("runs that fail without the monitor", seed, without, None)
                return
            expected = without.state()
            monitored = Training(seed, Path(folder) / "with", monitored=True).run()
            self.counts["runs"] += 1
            wrong = self._compare(expected, monitored)
            again = Training(seed, Path(folder) / "again", monitored=False).run().state() if wrong else expected
        self.seconds[seed] = time.perf_counter() - begin
        if not all(same(expected[what], again[what]) for what in expected):
            self.counts["runs that differ from themselves without the monitor"] += 1
            print(f"\nseed {seed} differs from itself without the monitor", flush=True)
        elif wrong:
            self.failures[seed] = [*wrong, f"drawn: {', '.join(monitored.draw.notes)}", f"monitor: {monitored.arguments}"]
            print(f"\nseed {seed}:", *self.failures[seed], sep="\n    ", flush=True)

    def _count(self, what: str, seed: int, training: Training, _: Any) -> None:
        self.counts[what] += 1
        print(
            f"\nseed {seed} fails without the monitor: {type(training.error).__name__}: {str(training.error)[:300]}", flush=True
        )
        if self.says_all:
            print(", ".join(training.draw.notes))
            traceback.print_exception(training.error, file=sys.stdout)

    def _compare(self, expected: dict[str, Any], monitored: Training) -> list[str]:
        if monitored.error is not None:
            return self._judge_error(monitored)
        wrong = []
        state = monitored.state()
        for what in expected:
            if not same(expected[what], state[what]):
                self.counts[f"differences: {what}"] += 1
                wrong.append(f"{what} differ")
        self.counts["measured" if monitored.measures else "logged nothing"] += 1
        if not monitored.measures and monitored.had_to_measure():
            self.counts["logged nothing without need"] += 1
            wrong.append("logged nothing")
        if monitored.warned:
            self.counts["warned"] += 1
            wrong += self._judge_warnings(monitored)
        return wrong + self._integers(monitored)

    def _judge_error(self, monitored: Training) -> list[str]:
        text = f"{type(monitored.error).__name__}: {monitored.error}"
        trace = "".join(traceback.format_exception(monitored.error)[-4:])
        if monitored.witness.losses and monitored.witness.has_begun:
            self.counts["crashes of training"] += 1
            return [f"crash: {text}", trace]
        if any(re.search(re.escape(reason), text) for reason in monitored.may_be_refused()):
            self.counts["refused at the start"] += 1
            return []
        self.counts["refused without need"] += 1
        return [f"refused without need: {text}", trace]

    def _judge_warnings(self, monitored: Training) -> list[str]:
        """A measurement may fail where the network can't be measured, or where it has diverged."""
        failed = [message for message in monitored.warned if "could not measure everything" in message]
        reasons = [*monitored.may_be_refused(), "diverged"]
        unexpected = [message for message in failed if not any(reason in message for reason in reasons)]
        self.counts["could not measure everything once"] += bool(failed)
        self.counts["failed measurements without need"] += bool(unexpected)
        return unexpected

    def _integers(self, monitored: Training) -> list[str]:
        net = monitored.subject.net
        finite = all(bool(p.isfinite().all()) for p in net.state_dict().values())
        if not monitored.subject.has_twin or not finite or monitored.subject.refusal:
            self.counts["networks without a twin"] += 1
            return []
        integers = Integers(net).compare(monitored.loaders.samples[-1].x)
        integers.wrong += logged_wrong(monitored, integers)
        self.counts.update(integers.counts)
        self.counts["wrong integers"] += len(integers.wrong)
        return integers.wrong


def logged_wrong(monitored: Training, integers: Integers) -> list[str]:
    """Which of the scalars that were logged last are not those of public functions on the final weights."""
    arguments, measures, weights = monitored.arguments, monitored.measures, monitored.measured.weights
    unchanged = weights is not None and same(weights, dict(monitored.subject.state_dict()))
    if (
        "probes" not in arguments
        or arguments["every_n_epochs"] != 1
        or arguments["max_overhead"] is not None
        or not unchanged
        or not measures
    ):
        return []
    if all(np.isnan(value) for value in measures.values()):  # measured when training had ended, which callbacks do not find
        return []
    expected = expected_scalars(monitored.subject, arguments)
    integers.counts["logged scalars"] += len(expected)
    return [
        f"logged {tag} {measures.get(tag)} is not {value}"
        for tag, value in expected.items()
        if abs(measures.get(tag, np.nan) - value) > 1e-5 * abs(value) or tag not in measures
    ]


def expected_scalars(subject: LightningModule, arguments: dict[str, Any]) -> dict[str, float]:
    """Scalars of probes of one's own, which do not depend on the choice of segments."""
    how = {"layers": arguments["layers"], "forward": arguments.get("forward")}
    inputs = arguments["probes"][0] if isinstance(arguments["probes"], tuple) else arguments["probes"]
    found: dict[str, float] = {}
    drawn = inputs[torch.randperm(len(inputs), generator=torch.Generator().manual_seed(arguments["seed"]))]
    if arguments["codes"]:
        codes = activation_codes(subject, drawn[: arguments["num_inputs"]], **how)
        found["codes/distinct"] = len(codes.bits.unique(dim=0))
        found |= {f"codes/layer/{name}": len(codes.bits[:, part].unique(dim=0)) for name, part in codes.layers.items()}
    if arguments["folding"] and arguments["method"] != "uniform" and len(inputs) == 2:  # from one to the other, and back
        walks = segment_walks(subject, inputs[:1], inputs[1:], **how)
        found["folding/regions"] = len(units_by_step(walks, 0)) + 1
    if arguments["faces"] and arguments["face_subspace"] in (1, 2, "whole"):
        subspace = None if arguments["face_subspace"] == "whole" else arguments["face_subspace"]
        with contextlib.suppress(ValueError):  # no polytopes
            regions = activation_regions(
                subject, drawn[: arguments["num_regions"]], subspace=subspace, seed=arguments["seed"], **how
            )
            found["faces/mean"] = float(face_counts(regions).double().mean())
    return found


def compare_model(seed: int, counts: Counter[str]) -> list[str]:
    """A random network, trained a little by hand, beside its twin."""
    torch.manual_seed(seed)
    draw = Draw(seed)
    shape = draw.pick("shape", *SHAPES)
    network = RandomNetwork(draw, shape, 2, may_be_refused=False)
    if not network.has_twin:
        return []
    x = torch.randn(24, *shape)
    optimizer = torch.optim.Adam([p for p in network.net.parameters() if p.requires_grad], 0.03)
    for _ in range(draw.pick("steps", 0, 5, 20)):
        optimizer.zero_grad()
        (network.net(x) - x.flatten(1)[:, :2].sin()).square().mean().backward()
        optimizer.step()
    integers = Integers(network.net).compare(draw.pick("scale", 1.0, 1.0, 0.1, 10.0) * x, segments=4)
    counts.update(integers.counts)
    counts["networks"] += 1
    counts["wrong integers"] += len(integers.wrong)
    return [*integers.wrong, f"drawn: {', '.join(draw.notes)}"] if integers.wrong else []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lightning says nothing."""
    names = (
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators.cuda",
    )
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    for logger, _ in before:
        logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def table(counts: Counter[str]) -> str:
    """The counts, one a line; those that must be 0 stand there all the same."""
    must = (
        "crashes of training",
        "refused without need",
        "failed measurements without need",
        "logged nothing without need",
        "wrong integers",
    )
    return "\n".join(f"{counts[name]:7d}  {name}" for name in sorted({*counts, *must}))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="trainings, each with and without the monitor")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--only", type=int, help="this seed alone")
    parser.add_argument("--models", type=int, default=0, help="networks to compare without a Trainer")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    fuzz = Fuzz(says_all=options.only is not None)
    seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.runs)
    with quiet():
        for seed in seeds:
            fuzz.run(seed)
            print(f"\r{sum(fuzz.counts[name] for name in ('runs',))} runs, {len(fuzz.failures)} fail", end="", flush=True)
        for seed in range(options.seed, options.seed + options.models):
            if wrong := compare_model(seed, fuzz.counts):
                fuzz.failures[seed] = wrong
                print(f"\nmodel {seed}:", *wrong, sep="\n    ", flush=True)
            print(f"\r{fuzz.counts['networks']} networks, {len(fuzz.failures)} fail", end="", flush=True)
    print(f"\n{table(fuzz.counts)}")
    slowest = sorted(fuzz.seconds, key=fuzz.seconds.__getitem__)[:-4:-1]
    print("slowest:", ", ".join(f"seed {seed} {fuzz.seconds[seed]:.0f} s" for seed in slowest))
    print(f"seeds that fail: {sorted(fuzz.failures) or 'none'}")
    return int(bool(fuzz.failures))


if __name__ == "__main__":
    sys.exit(main())

"""Several processes measure together: the values are those of one, and none waits for another for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fold_lightning.callbacks.regularization import BATCHES_OF_A_STEP
from helpers.processes import run_script
from helpers.regularization import Plain, each_step
from helpers.regularize_in_processes import STEPS, regularizer
from helpers.training import CODES, TAGS, Recorder, data, fit, loaders, watch

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def in_two_processes(script: str) -> dict[str, Any]:
    done = run_script(script, count=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"errors": done.stderr}


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What two processes logged in each scenario."""
    return in_two_processes("strategies_in_processes.py")


@pytest.fixture(scope="module")
def pushed() -> dict[str, Any]:
    """What came of a few steps with the regularizer in two processes."""
    return in_two_processes("regularize_in_processes.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, dict[str, float]]]:
    """What one process logs of the same network and inputs."""
    from helpers.strategies_in_processes import Still
    from helpers.strategies_in_processes import watch as whole

    torch.manual_seed(0)
    trainer = fit(
        tmp_path_factory.mktemp("alone"),
        whole(),
        model=_seeded(Still),
        given=(DataLoader(data(), batch_size=20), DataLoader(data(90, 1), batch_size=20)),
        logger=Recorder(),
    )
    return trainer.logger.said


def _seeded(model: Any) -> Any:
    from lightning.pytorch import seed_everything

    seed_everything(0, verbose=False)
    return model()


@pytest.mark.parametrize("scenario", ["plain", "unused", "without_validation"])
def test_two_processes_share_the_work_and_log_what_one_does(said: Any, alone: Any, scenario: str) -> None:
    two = said[scenario]
    assert len(two) == len(alone) == 3
    if scenario != "plain":  # other weights, or other inputs: but all of it is there
        assert all(set(values) == set(alone[0][1]) for _, values in two)
        return
    for (_, one), (_, shared) in zip(alone, two, strict=True):
        assert one.keys() == shared.keys()
        assert {tag: shared[tag] for tag in one if tag != "monitor/seconds"} == {
            tag: one[tag] for tag in one if tag != "monitor/seconds"
        }


def test_a_stream_that_all_processes_read_whole_is_shared_too(said: Any, tmp_path: Path) -> None:
    from helpers.strategies_in_processes import Still, Whole
    from helpers.strategies_in_processes import watch as whole

    given = (DataLoader(data(), batch_size=20), DataLoader(Whole(), batch_size=20))
    one = fit(tmp_path, whole(), model=_seeded(Still), given=given, logger=Recorder(), num_sanity_val_steps=0).logger.said
    assert len(one) == len(said["stream"]) == 2
    for (_, alone), (_, shared) in zip(one, said["stream"], strict=True):
        assert alone.keys() == shared.keys()
        for tag in alone.keys() - {"monitor/seconds"}:
            assert shared[tag] == pytest.approx(alone[tag], rel=1e-6), tag


def test_processes_with_different_numbers_of_batches_end_together(said: Any) -> None:
    assert set(said["uneven"][-1][1]) >= CODES
    assert set(said["nothing_passes"][-1][1]) >= CODES


def test_labels_that_one_process_lacks_are_no_reason_to_wait(said: Any) -> None:
    assert set(said["labels_in_one_process"][-1][1]) >= TAGS - {"codes/distinct_correct"}


def test_early_stopping_stops_all_processes_at_once(said: Any) -> None:
    assert len(said["early_stopping"]) == 3  # before training, the first value, and one that is no better


def test_what_one_process_fails_to_measure_none_logs(said: Any) -> None:
    measured = said["fails_in_one_process"]
    assert [step for step, values in measured if "folding/chi_mean" in values] == [0, 5, 8]
    assert [step for step, values in measured if "codes/distinct" in values] == [0, 2, 5, 8]  # what did not fail goes on
    assert (
        "Process 1: FoldingMonitor could not measure everything at epoch 0: out of memory in the second process"
        in said["errors"]
    )


def test_what_cannot_be_measured_is_refused_in_all_processes(said: Any) -> None:
    assert "has no activation" in said["no activations"]
    assert "another process failed" in said["fails at the start in one process"]
    assert "sharded" in said["sharded"] and "DDP" in said["sharded"]


def test_fsdp_and_sharded_deepspeed_are_refused_by_name(tmp_path: Path) -> None:
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from fold_lightning.callbacks.distributed import check_not_sharded

    class FSDPStrategy: ...

    class DeepSpeedStrategy:
        zero_stage_3 = True

    for strategy in (FSDPStrategy(), DeepSpeedStrategy()):
        with pytest.raises(MisconfigurationException, match=f"sharded.*{type(strategy).__name__}.*DDP"):
            check_not_sharded(strategy, torch.nn.Linear(2, 2))
    DeepSpeedStrategy.zero_stage_3 = False
    check_not_sharded(DeepSpeedStrategy(), torch.nn.Linear(2, 2))
    assert len(fit(tmp_path, watch(num_segments=2), given=loaders(), max_epochs=1).logger.said) == 2


def pushed_in_two_processes(every_n_steps: int, *, only_first: bool) -> Tensor:
    """The first weight after what two processes do, in one loop."""
    network, held = Plain(), regularizer(every_n_steps)
    parameters = list(network.parameters())
    direction = [torch.zeros_like(p) for p in parameters]
    for step in range(STEPS):
        shares = [[part[rank::2][10 * step : 10 * step + 10] for part in data(60).tensors] for rank in range(2)]
        if step % every_n_steps == 0:
            terms = []
            for share in shares if step == 0 or not only_first else shares[:1]:
                held.draws = step * BATCHES_OF_A_STEP
                terms.append(held(network, *share))
            found = torch.autograd.grad(sum(terms), parameters, allow_unused=True)
            length = torch.cat([g.flatten() for g in found if g is not None]).norm()
            direction = [None if g is None else g / length for g in found]
        loss = sum(F.cross_entropy(network(x), y) for x, y in shares) / 2
        task = torch.autograd.grad(loss, parameters)
        length = torch.cat([g.flatten() for g, d in zip(task, direction, strict=True) if d is not None]).norm()
        with torch.no_grad():
            for parameter, gradient, push in zip(parameters, task, direction, strict=True):
                share = 0.5 * min(1.0, (step + 1) / 2)
                parameter -= 0.1 * (gradient if push is None else gradient + share * length * push)
    return network.net[0].weight


@pytest.mark.parametrize("what", ["push", "odd", "by_hand"])
def test_two_processes_push_the_same_by_the_mean_of_their_gradients(pushed: dict[str, Any], what: str) -> None:
    found = pushed[what]
    first, second = (torch.tensor(weights) for weights in found["weights"])
    expected = pushed_in_two_processes(1 if what == "odd" else 2, only_first=what == "odd")
    assert torch.equal(first, second) and torch.allclose(first, expected, atol=1e-6)
    if what == "odd":
        assert found["skipped"] == [0, 2], "and the first process did not wait in vain"


def test_two_processes_share_the_gradients_of_their_terms_in_the_loss(pushed: dict[str, Any]) -> None:
    found = torch.tensor(pushed["loss"])
    network, inputs = Plain(), data(40).tensors
    expected = []
    for rank in range(2):  # the sampler gives every second input to each process
        network.zero_grad()
        each_step(3.0)(network, *(part[rank::2][:10] for part in inputs)).backward()
        expected.append(network.net[0].weight.grad.clone())
    assert not torch.allclose(expected[0], expected[1])
    assert torch.allclose(found, (expected[0] + expected[1]) / 2, rtol=1e-4, atol=1e-7)

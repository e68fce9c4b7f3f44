"""Several processes measure together: the values are those of one, and none waits for another for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.processes import run_script
from helpers.training import CODES, TAGS, Recorder, data, fit, loaders, watch


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What two processes logged in each scenario."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29617")
    done = run_script("strategies_in_processes.py", launcher=launcher, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"errors": done.stderr}


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
    assert "Process 1: FoldingMonitor could not measure all at epoch 0: out of memory in the second process" in said["errors"]


def test_what_cannot_be_measured_is_refused_in_all_processes(said: Any) -> None:
    assert "meets no activation" in said["no activations"]
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

"""What all tests share."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # for there is a process for each core
torch.set_warn_always(True)  # so that no test depends on which one met a warning first

SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""What Lightning's `seed_everything` leaves behind."""


@pytest.fixture(autouse=True)
def _start_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every test in the same state, whatever tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    for name in SEED_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that start processes first: they take longest, and one worker that has them all imports Lightning for them once."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)

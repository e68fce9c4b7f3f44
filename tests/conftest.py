"""What all tests share."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)  # for there is a process for each core


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

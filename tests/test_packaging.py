"""The files that describe the package agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import fold_lightning

ROOT = Path(fold_lightning.__file__).parents[1]


def test_the_oldest_versions_are_those_that_pyproject_allows() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    requirements = text[: text.index("\ndocs = [")]  # of the build too
    floors = dict(re.findall(r'"([a-z-]+)(?:\[\w+\])?>=([\d.]+)', requirements))
    oldest = dict(re.findall(r"^([a-z-]+)==([\d.]+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    # Lightning requires the other of its packages in any version.
    assert oldest.pop("pytorch-lightning") == oldest["lightning"]
    assert floors.keys() == oldest.keys() and len(floors) > 10
    for name, floor in floors.items():
        assert oldest[name] == floor or oldest[name].startswith(f"{floor}."), name

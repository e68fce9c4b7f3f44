"""The order of the modules: each imports only modules to its left."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import fold_lightning
from fold_lightning.callbacks.measures import PREFIXES, Measure
from fold_lightning.tensorboard_tab.plugin import CURVES

ORDER = [
    "_checks",
    "_progress",
    "_tables",
    "_tensors",
    "lightning_packages",
    "codes",
    "fingerprints",
    "activations",
    "walks",
    "folding",
    "regions",
    "faces",
    "shapes",
    "region_graphs",
    "slice_maps",
    "figures",
    "metrics",
    "regularizer",
    "probes",
    "callbacks",
    "callback_factory",
    "tensorboard_tab",
]
ROOT = Path(fold_lightning.__file__).parent


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("fold_lightning.")}
    return found & set(ORDER)


def test_every_module_has_its_place() -> None:
    modules = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_modules_to_its_left(module: str) -> None:
    files = [ROOT / f"{module}.py"] if (ROOT / f"{module}.py").exists() else sorted((ROOT / module).rglob("*.py"))
    allowed = set(ORDER[: ORDER.index(module)]) | {module}
    for file in files:
        assert imports(file) <= allowed, f"{file.name} imports {imports(file) - allowed}"


def test_folding_sees_no_network_and_only_activations_intercepts() -> None:
    assert not any("Module" in file.read_text() for file in (ROOT / "folding").glob("*.py"))
    for file in ROOT.rglob("*.py"):
        if file.parent.name != "activations":
            assert "TorchFunctionMode" not in file.read_text(), f"{file} intercepts"


def constants(file: Path) -> Iterator[str]:
    """Yield the names of the constants that a module assigns, without those of type variables."""
    for node in ast.parse(file.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if "TypeVar" not in ast.unparse(node):
            yield from (
                name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name) and name.id.isupper()
            )


def test_tags_of_measures_begin_as_those_that_the_folding_tab_shows() -> None:
    assert (*PREFIXES, "regularizer/", "monitor/") == CURVES
    with pytest.raises(ValueError, match="Tags of Entropy must begin with one of folding/.*, got entropy/mean"):
        type("Entropy", (Measure,), {"tags": {"entropy/mean": "Mean entropy.", "codes/entropy": "Entropy."}})


def test_the_name_of_a_constant_stands_for_one_thing() -> None:
    places = defaultdict(list)
    for file in ROOT.rglob("*.py"):
        for name in constants(file):
            places[name].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


BANNED = re.compile(r"(What|Which|Whose|Whether|Where|Those|That|Of|How|Who|When|If|As|So|Such|The same)\b")
"""Openings of a docstring that has to be decoded: noun clauses, and references to a sentence before."""


@pytest.mark.parametrize("module", ORDER)
def test_docstrings_begin_with_a_verb_or_a_noun(module: str) -> None:
    files = [ROOT / f"{module}.py"] if (ROOT / f"{module}.py").exists() else sorted((ROOT / module).rglob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                assert not BANNED.match(text), f"{file}: {text.splitlines()[0]}"


@pytest.mark.slow
def test_importing_the_package_needs_no_matplotlib() -> None:
    for file in ROOT.rglob("*.py"):
        top = [node for node in ast.parse(file.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("matplotlib" in ast.unparse(node) for node in top), file

"""The code blocks of README and documentation run, in order, and links of theirs lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fold_lightning
from fold_lightning.activations import registry
from helpers.processes import run_code

ROOT = Path(fold_lightning.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]


class Model(pl.LightningModule):
    """What the pages call "your own" model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Identity()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return loader()


def loader() -> DataLoader[Any]:
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(60, 4), torch.arange(60) % 3), batch_size=20)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pl.Trainer, "__init__", _short(pl.Trainer.__init__))
    for table in ("_TABLE", "_BY_MODULE"):  # what a page registers
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    torch.manual_seed(0)
    batch = next(iter(loader()))
    names: dict[str, Any] = {"model": Model(), "datamodule": Data(), "loader": loader(), "inputs": batch[0], "labels": batch[1]}
    names |= {name: getattr(fold_lightning, name) for name in ("FoldingMonitor", "FoldingRegularizer")}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.slow
@pytest.mark.processes
def test_a_measure_is_one_file_and_one_line(tmp_path: Path) -> None:
    guide = ROOT / "docs" / "extending.md"
    [code] = [block for block in blocks(guide, "python") if "class CrowdingMeasure" in block]
    [test] = [block for block in blocks(guide, "python") if "def test_crowding" in block]
    [line] = re.findall(r'`("crowding:CrowdingMeasure",)`', guide.read_text())
    shutil.copytree(ROOT / "fold_lightning", tmp_path / "fold_lightning", ignore=shutil.ignore_patterns("__pycache__"))
    measures = tmp_path / "fold_lightning" / "callbacks" / "measures"
    (measures / "crowding.py").write_text(code)
    listed, last = (measures / "__init__.py").read_text(), '"slice:SliceMeasure",'
    assert last in listed
    (measures / "__init__.py").write_text(listed.replace(last, last + line))
    call = "test_crowding_is_the_share_of_the_most_frequent_code()\nprint(measure.__code__.co_filename)"
    done = run_code(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{test}\n{call}")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def _short(init: Any) -> Any:
    quiet = {"max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lambda self, *args, **kwargs: init(self, *args, **(quiet | kwargs))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


RESULT = re.compile(r"\[[^\]]*\]\(([^)#\s]*results/\w+\.md)\)$")
"""Link to a page that a command wrote, at the end of a row, or in the header for all rows."""

FIGURE = re.compile(r"(?<![\w.,-])[+-]?\d[\d,]*(?:\.\d+)?|(?<=-)\d[\d,]*(?:\.\d+)?")


def tables(text: str) -> list[list[list[str]]]:
    """Return the rows of each table, the header first."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()] for table in found]
    return [[header, *body] for header, _, *body in rows]


def page_of(header: list[str], row: list[str]) -> str | None:
    """Return the page of results that the row, or the header, links to."""
    found = next(filter(None, map(RESULT.search, (row[-1], *header))), None)
    return None if found is None else found[1]


def unlinked(text: str) -> list[str]:
    """Return rows with a figure, of the form 1.2, that say no page of results."""
    rows = [(header, row) for header, *body in tables(text) for row in body if re.search(r"\d\.\d", " ".join(row))]
    return [" | ".join(row) for header, row in rows if page_of(header, row) is None]


def misquoted(text: str, folder: Path) -> list[str]:
    """Return what stands in a table with a link to a page of results, and not in one line of that page.

    A cell holds parts between semicolons. The line has all figures of a part, and its label: the words before a colon, or
    else the row's first cell.
    """
    wrong = []
    for header, *body in tables(text):
        for first, *cells in body:
            page = page_of(header, cells)
            if page is None:
                continue
            lines = (folder / page).read_text().splitlines()
            for part in "; ".join(RESULT.sub("", cell) for cell in cells).split("; "):
                label, _, figures = part.rpartition(": ")
                wanted = set(FIGURE.findall(figures))
                fits = [line for line in lines if (label or first).lower() in line.lower()]
                if wanted and not any(wanted <= set(FIGURE.findall(line)) for line in fits):
                    wrong.append(f"{first} | {part}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_in_tables_are_those_that_commands_wrote(page: Path) -> None:
    if page.parent.name != "results":
        assert misquoted(page.read_text(), page.parent) == []


@pytest.mark.parametrize("page", ["README.md", "docs/regularizer.md"])
def test_each_row_of_figures_has_its_page(page: str) -> None:
    text = (ROOT / page).read_text()
    linked = [row for header, *body in tables(text) for row in body if page_of(header, row)]
    assert unlinked(text) == [] and len(linked) >= 2


def test_the_summary_of_results_holds_no_figure() -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / "results.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"\d", text)


def test_a_figure_that_no_command_wrote_is_found(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    page = "| network | chi |\n| --- | --- |\n| relu | 0.1 -> 0.2 |\n| gelu | -0.3 ± 1,000 |\n"
    (tmp_path / "results" / "some.md").write_text(page)
    rows = {
        "| ReLU | 0.1 -> 0.2; gelu: -0.3 | [some](results/some.md) |": [],
        "| ReLU | 0.1 -> 0.3 | [some](results/some.md) |": ["ReLU | 0.1 -> 0.3"],
        "| ReLU | 0.2; relu: 1,000 | [some](results/some.md) |": ["ReLU | relu: 1,000"],
        "| GELU | 0.3 | [some](results/some.md) |": ["GELU | 0.3"],
        "| tanh | 0.1 | [some](results/some.md) |": ["tanh | 0.1"],
        "| tanh | 0.1 | nothing |": [],
    }
    for row, wrong in rows.items():
        text = f"| a | b | c |\n| --- | --- | --- |\n{row}\n"
        assert misquoted(text, tmp_path) == wrong
        assert unlinked(text) == (["tanh | 0.1 | nothing"] if "nothing" in row else [])
    assert misquoted("| [some](results/some.md) | a |\n| --- | --- |\n| relu | 0.4 |\n", tmp_path) == ["relu | 0.4"]


def test_each_paper_takes_few_lines() -> None:
    experiments = blocks(ROOT / "docs" / "papers.md", "python")[1:]  # after the data and the training, which are the user's
    assert len(experiments) == 4 and all(len(block.split("\n")) <= 26 for block in experiments)


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 100

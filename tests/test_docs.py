"""The code blocks of README and documentation run, in order, and links of theirs lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fold_lightning
from fold_lightning.activations import registry
from fold_lightning.callbacks import measure_set

ROOT = Path(fold_lightning.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_generated" not in page.parts and "_build" not in page.parts]


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
    for table in ("_TABLE", "_MODULES"):  # what a page registers
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    torch.manual_seed(0)
    batch = next(iter(loader()))
    names: dict[str, Any] = {"model": Model(), "datamodule": Data(), "loader": loader(), "inputs": batch[0], "labels": batch[1]}
    names |= {name: getattr(fold_lightning, name) for name in ("FoldingMonitor", "FoldingRegularizer")}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    if page.stem == "extending":
        monkeypatch.setattr(measure_set, "MEASURES", (*measure_set.MEASURES, names["EntropyMeasure"]))
        values = fold_lightning.measure(Model(), loader())
        assert 0 < values["units/entropy"] <= 1 and {"units/entropy/encoder.1", "units/entropy/encoder.3"} <= values.keys()


def _short(init: Any) -> Any:
    quiet = {"max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lambda self, *args, **kwargs: init(self, *args, **(quiet | kwargs))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_each_paper_takes_few_lines() -> None:
    experiments = blocks(ROOT / "docs" / "papers.md", "python")[1:]  # after the data and the training, which are the user's
    assert len(experiments) == 4 and all(len(block.split("\n")) <= 26 for block in experiments)


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 100

"""Options, cells that are kept, and training of the papers' experiments."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from idx import load_images
from options import output_folder, positive
from pages import is_first, markdown, write_text
from report import Finding, Row, Table, write_csv

Split = tuple[Tensor, Tensor]
"""Images float32 (B, pixels) and labels int64 (B,)."""


@dataclass(frozen=True)
class Part:
    """One kind of cell of an experiment.

    Attributes:
        name: Name of its files.
        measure: Function from a cell's settings to its numbers, which JSON can hold.
        settings: The settings of each cell.
    """

    name: str
    measure: Callable[..., Row]
    settings: Sequence[Row]


class Experiment:
    """Options of a paper's script, and the folder that keeps its finished cells.

    Args:
        file: The script.
        doc: Its docstring, shown by `--help`.
        sizes: Settings of "smallest", "default" and "paper".
    """

    def __init__(self, file: str, doc: str, sizes: dict[str, Any]) -> None:
        self.name = Path(file).stem
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
        parser.add_argument(
            "--output-dir", type=output_folder, default=f"papers/{self.name}", help="finished cells, table, figure and logs"
        )
        parser.add_argument("--seeds", type=positive, default=5, help="trainings of each setting")
        size = parser.add_mutually_exclusive_group()
        size.add_argument("--paper-size", dest="size", action="store_const", const="paper", help="the paper's size: hours")
        size.add_argument(
            "--smallest", dest="size", action="store_const", const="smallest", help="a test of the script: seconds"
        )
        parser.add_argument("--threads", type=positive, default=1, help="more hardly help networks as small as the default's")
        for name, value in (("accelerator", "cpu"), ("strategy", "auto"), ("devices", "1")):
            parser.add_argument(f"--{name}", default=value, help=f"of Lightning's Trainer; {value} by default")
        parser.set_defaults(size="default")
        self.options = parser.parse_args()
        self.size = sizes[self.options.size]
        self.seeds = range(self.options.seeds)
        self.folder: Path = self.options.output_dir
        torch.set_num_threads(self.options.threads)
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self._check_folder()

    def load(self, num_images: int, num_test: int = 2000) -> tuple[Split, Split]:
        """Return at most so many training and test images with their labels."""
        try:
            train, test = load_images(self.options.data_dir)
        except (FileNotFoundError, ValueError) as error:
            sys.exit(f"{self.name}.py: {error}")
        return (train[0][:num_images], train[1][:num_images]), (test[0][:num_test], test[1][:num_test])

    def run(self, parts: Sequence[Part]) -> dict[str, list[Row]]:
        """Measure every cell that is not finished, and return the rows of each part.

        A finished cell is one file, written at once: a run that was stopped goes on after its last finished cell.
        """
        rows: dict[str, list[Row]] = {part.name: [] for part in parts}
        plan = [(part, setting) for part in parts for setting in part.settings]
        for part, setting in tqdm(plan, desc=self.name, unit=" cells", disable=None if is_first() else True):
            label = "-".join([part.name, *(f"{key}={value}" for key, value in setting.items())]).replace("/", "_")
            file = self.folder / "cells" / f"{label}.json"
            if not file.exists():
                self._label = label
                if is_first():
                    shutil.rmtree(self.folder / "tensorboard" / label, ignore_errors=True)
                seed_everything(setting.get("seed", 0), verbose=False)
                found = part.measure(**setting)
                self._keep(file, found)
            else:
                found = _read(file)
            rows[part.name].append(setting | found)
        return rows

    def fit(
        self,
        net: nn.Module,
        train: Split,
        test: Split,
        *,
        epochs: int,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        rate: float = 3e-3,
        batch_size: int = 128,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        callbacks: Sequence[Callback] = (),
    ) -> nn.Module:
        """Train with Lightning by the options' strategy, log to TensorBoard, and return the network on the CPU.

        Args:
            net: A network of a batch of inputs.
            train: Inputs and targets.
            test: Inputs and targets whose loss and accuracy are logged.
            epochs: Most epochs.
            optimizer: Class of the optimizer.
            rate: Its learning rate.
            batch_size: Inputs in a step of one process.
            loss: Function of outputs and targets.
            callbacks: Callbacks of the Trainer.
        """
        how = {"lr": rate, "fused": True}
        trainer = Trainer(
            max_epochs=epochs,
            accelerator=self.options.accelerator,
            strategy=self.options.strategy,
            devices=int(self.options.devices) if self.options.devices.lstrip("-").isdigit() else self.options.devices,
            logger=TensorBoardLogger(self.folder / "tensorboard", name="", version=self._label),
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        loaders = [
            DataLoader(Batches(*split), size, shuffle=split is train, collate_fn=tuple)
            for split, size in ((train, batch_size), (test, 2000))
        ]
        trainer.fit(Task(net, loss, optimizer, how), *loaders)
        return net.cpu().eval()

    def save(self, file: Path, tensors: Any) -> None:
        """Write tensors to a file at once; each process writes the same, so that none waits for another."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.environ.get('LOCAL_RANK', '0')}.part")
        torch.save(tensors, part)
        os.replace(part, file)

    def write(
        self,
        title: str,
        parts: dict[str, list[Row]],
        tables: Iterable[Table],
        findings: Iterable[Finding],
        draw: Callable[[Any], None],
        note: str = "",
    ) -> None:
        """Write the Markdown table, a CSV file for each part, and the figure.

        Args:
            title: Heading of the Markdown file.
            parts: Rows of each part, as from `run`.
            tables: Tables to show.
            findings: What the paper reports, beside what was found.
            draw: Function that draws on a matplotlib figure.
            note: A paragraph on what was run.
        """
        if not is_first():
            return
        for name, rows in parts.items():
            write_csv(self.folder / f"{name}.csv", rows)
        blocks = [f"# {title}", note, self._how(), f"![]({self.name}.png)"]
        for table in tables:
            blocks += [f"## {table.title}", table.text, markdown(table.header, table.rows)]
        header = ("the paper", "here", "verdict", "why, if known")
        blocks += ["## What the paper reports", markdown(header, [finding.cells() for finding in findings])]
        text = "\n\n".join(block for block in blocks if block) + "\n"
        write_text(self.folder / f"{self.name}.md", text)
        print(text)
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            print("The figure needs matplotlib: pip install 'fold-lightning[figures]'.")
            return
        figure = Figure(layout="constrained")
        draw(figure)
        figure.savefig(self.folder / f"{self.name}.png", dpi=110)
        print(
            f"See {self.folder / self.name}.md, .png, the .csv files, and: tensorboard --logdir {self.folder / 'tensorboard'}"
        )

    def _how(self) -> str:
        """Return the command that gives these tables, and what it ran with."""
        data = " --data-dir FOLDER" if self.options.data_dir else ""
        size = {"default": "", "paper": " --paper-size", "smallest": " --smallest"}[self.options.size]
        seeds = "" if self.options.seeds == 5 else f" --seeds {self.options.seeds}"
        what = "MNIST's format from a folder" if self.options.data_dir else "scikit-learn's digits"
        command = f"```bash\npython examples/papers/{self.name}.py{data}{size}{seeds}\n```"
        sizes = ", ".join(f"{name} {value}" for name, value in vars(self.size).items())
        return (
            f"{command}\n\nData: {what}; seeds: {len(self.seeds)}; torch {torch.__version__.partition('+')[0]}. "
            f"Values are means ± standard deviations over seeds.\n\nSettings: {sizes}."
        )

    def _keep(self, file: Path, found: Row) -> None:
        if not is_first():
            return
        numbers = {f"result/{key}": value for key, value in found.items() if isinstance(value, (int, float)) and value == value}
        logger = TensorBoardLogger(self.folder / "tensorboard", name="", version=self._label)
        logger.log_metrics(numbers, step=0)
        logger.finalize("success")
        write_text(file, json.dumps(found))

    def _check_folder(self) -> None:
        """Refuse to mix the cells of other settings into one folder."""
        settings = {"size": self.options.size, "data": str(self.options.data_dir and self.options.data_dir.resolve())}
        settings |= {"settings": repr(self.size)}
        file = self.folder / "settings.json"
        known = _read(file) if file.exists() else settings
        if known != settings:
            changed = ", ".join(
                f"{key} was {known.get(key)}, now {settings[key]}" for key in settings if known.get(key) != settings[key]
            )
            sys.exit(f"{self.name}.py: {self.folder} holds other results ({changed}): take another --output-dir, or delete it.")
        if is_first():
            write_text(file, json.dumps(settings))


class Batches(Dataset[Any]):
    """Inputs and targets that are indexed by the batch, which takes less time than item by item."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self._tensors = inputs, targets

    def __len__(self) -> int:
        return len(self._tensors[0])

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        return [tensor[rows] for tensor in self._tensors]


class Task(LightningModule):
    """A network and how it is trained.

    Args:
        net: The network.
        loss: Function of outputs and targets.
        optimizer: Class of the optimizer.
        how: Its arguments.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: type[torch.optim.Optimizer],
        how: dict[str, Any],
    ) -> None:
        super().__init__()
        self.net, self._loss, self._optimizer, self._how = net, loss, optimizer, how

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Split, batch_idx: int) -> Tensor:
        loss = self._loss(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Split, batch_idx: int) -> None:
        outputs = self(batch[0])
        self.log("val/loss", self._loss(outputs, batch[1]), sync_dist=True)
        if not batch[1].is_floating_point():
            self.log("val/accuracy", (outputs.argmax(1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._optimizer(self.parameters(), **self._how)


def accuracy(net: nn.Module, split: Split) -> float:
    """Return the share of inputs that are classified correctly."""
    with torch.no_grad():
        return (net(split[0]).argmax(1) == split[1]).double().mean().item()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError:
        sys.exit(f"{file} is damaged: delete it; what it held is done again.")

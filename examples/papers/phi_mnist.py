"""Phi_N, the folding of a trained network between classes, over very many paths.

    python examples/papers/phi_mnist.py [--data-dir FOLDER] [--paths 256] [--out phi] [--strategy auto] [--devices 1]

Paths are straight segments between test inputs of different classes, `--paths` for each ordered pair. Each is drawn by its
number, so the result depends neither on the number of processes nor on interruptions: run the command again, and it goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from digits import Classifier
from idx import load_images
from models import build
from options import output_folder, positive
from pages import is_first, write_text

from fold_lightning import GlobalFolding, segment_walks

BLOCK = 64
"""Paths of one pair that are drawn and walked together."""

SAVE_EVERY = 20.0
"""Seconds."""

NOTHING = -1
"""A block without paths, for a process that would have none: each must have something to do."""


class Paths:
    """Paths between inputs of different classes, each determined by its block's number.

    Args:
        images: (B, ...).
        labels: int64 (B,), classes from 0 on.
        per_pair: Paths for each ordered pair of different classes.
        seed: Of their choice.
    """

    def __init__(self, images: Tensor, labels: Tensor, per_pair: int, seed: int) -> None:
        self.num_classes = int(labels.max()) + 1
        self._members = [images[labels == c] for c in range(self.num_classes)]
        classes = [c for c in range(self.num_classes) if len(self._members[c])]
        self._pairs = [(a, b) for a in classes for b in classes if a != b]
        self._per_pair, self._seed = per_pair, seed
        self.num_blocks = len(self._pairs) * -(-per_pair // BLOCK)
        self.per_block = len(self._pairs) * per_pair / self.num_blocks

    def block(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Start and end (S, ...) and their classes (S,). Blocks go round the pairs, so a part of them is balanced too."""
        turn, pair = divmod(number, len(self._pairs))
        count = min(BLOCK, self._per_pair - turn * BLOCK)
        generator = torch.Generator().manual_seed(self._seed * 2**32 + number)
        ends = []
        for c in self._pairs[pair]:
            chosen = torch.randint(len(self._members[c]), (count,), generator=generator)
            ends.append((self._members[c][chosen], torch.full((count,), c)))
        (start, start_class), (end, end_class) = ends
        return start, end, start_class, end_class


class Study(LightningModule):
    """Walks blocks of paths as a Trainer's prediction: each process takes its share of those not yet done.

    Args:
        net: The trained network.
        paths: What to walk.
        folder: Where finished blocks and the result are kept.
        within: As of `GlobalFolding`.
        across: As of `GlobalFolding`.
    """

    def __init__(self, net: nn.Module, paths: Paths, folder: Path, within: Any, across: Any) -> None:
        super().__init__()
        self.net, self.paths, self.folder = net, paths, folder
        self.folding = GlobalFolding(paths.num_classes, within, across)
        self.done: list[int] = []
        self.walked = 0

    def setup(self, stage: str) -> None:
        # All processes must agree on what is left, so one looks.
        files = sorted(self.folder.glob("part-*.pt")) if self.trainer.is_global_zero else []
        finished = [load(file) for file in files]
        self.before = [part["state"] for part in finished]
        blocks = [block for part in finished for block in part["blocks"]]
        known, self.run = self.trainer.strategy.broadcast((blocks, len(files)))
        left = sorted(set(range(self.paths.num_blocks)) - set(known))
        self.left = left + [NOTHING] * (self.trainer.world_size - len(left))
        if known and self.trainer.is_global_zero:
            print(f"Going on: {len(known):,} of {self.paths.num_blocks:,} blocks are done.")

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.left, batch_size=1)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        self.began = self.saved = time.perf_counter()

    def predict_step(self, batch: Tensor, batch_idx: int) -> None:
        for number in batch.tolist():
            if number == NOTHING:
                continue
            start, end, start_class, end_class = self.paths.block(number)
            walks = segment_walks(self.net, start.to(self.device), end.to(self.device))
            self.folding.update(walks, start_class, end_class)
            self.walked += len(start)
            self.done.append(number)
        if time.perf_counter() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes what this process has done, all or nothing."""
        self.saved = time.perf_counter()
        # An interrupt may fall between a block's update and its entry as done: then what was saved last stands.
        if not self.done or int(self.folding.segments.sum()) != self.walked:
            return
        part = self.folder / f"part-{self.run}-{self.global_rank}.pt"
        torch.save({"blocks": self.done, "state": self.folding.metric_state}, part.with_suffix(".tmp"))
        os.replace(part.with_suffix(".tmp"), part)

    def on_predict_end(self) -> None:
        self.save()
        seconds = time.perf_counter() - self.began
        for state in self.before:
            self.folding.merge_state(state)
        phi, matrix = self.folding.compute(), self.folding.matrix()
        walked = torch.tensor(self.walked, device=self.device)
        walked = self.trainer.strategy.reduce(walked, reduce_op="sum")
        if self.trainer.is_global_zero:
            report(self.folder, phi, matrix, self.folding, int(walked), seconds)


class Save(Callback):
    """Keeps what is done when something interrupts."""

    def on_exception(self, trainer: Trainer, pl_module: Study, exception: BaseException) -> None:
        pl_module.save()


class PathsBar(TQDMProgressBar):
    """A bar that counts paths, of all processes."""

    def init_predict_tqdm(self) -> Tqdm:
        bar = super().init_predict_tqdm()
        bar.unit, bar.unit_scale = "paths", self.trainer.lightning_module.paths.per_block * self.trainer.world_size
        return bar


def report(folder: Path, phi: Tensor, matrix: Tensor, folding: GlobalFolding, walked: int, seconds: float) -> None:
    """Prints and writes the result."""
    result = {
        "phi": phi.item(),
        "within": folding.within,
        "across": folding.across,
        "matrix": [[None if value != value else value for value in row] for row in matrix.tolist()],
    }
    write_text(folder / "phi.json", json.dumps(result, indent=1))
    print(f"\nPhi_N = {phi.item():.6f} ({folding.across} over pairs of the {folding.within} of each)")
    print("\n".join(" ".join("   -  " if value != value else f"{value:.4f}" for value in row) for row in matrix.tolist()))
    if walked:
        print(f"{walked:,} paths in {seconds:.1f} s: {walked / seconds:,.0f} paths/s")
    try:
        from fold_lightning.figures import plot_folding_matrix

        plot_folding_matrix(matrix).savefig(folder / "phi.png", dpi=120)
    except ModuleNotFoundError:
        return
    print(f"See {folder / 'phi.json'} and {folder / 'phi.png'}")


def load(file: Path) -> Any:
    """A file of tensors, or an end that names it."""
    try:
        return torch.load(file)
    except Exception as error:
        sys.exit(f"phi_mnist.py: {file} is damaged ({type(error).__name__}): delete it; what it held is done again.")


def trained(net: nn.Module, file: Path, train: tuple[Tensor, Tensor], epochs: int) -> nn.Module:
    """The network with the weights of a file; the first process trains it and writes the file if there is none."""
    if is_first() and not file.exists():
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        trainer = Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **quiet)
        trainer.fit(Classifier(net), DataLoader(TensorDataset(*train), batch_size=64, shuffle=True))
        torch.save(net.state_dict(), file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
    while not file.exists():
        time.sleep(1)
    net.load_state_dict(load(file))
    return net


def same_study(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses to mix two studies in one folder."""
    file = folder / "study.json"
    try:
        known = json.loads(file.read_text()) if file.exists() else settings
    except json.JSONDecodeError:
        sys.exit(f"phi_mnist.py: {file} is damaged: delete it if {folder} holds this study, or take another --out.")
    if known != settings:
        changed = ", ".join(
            f"{key} was {known.get(key)!r}, now {value!r}" for key, value in settings.items() if known.get(key) != value
        )
        sys.exit(f"phi_mnist.py: {folder} holds another study ({changed}): take another --out, or delete it.")
    if is_first() and not file.exists():
        write_text(file, json.dumps(settings))  # at once, since other processes may read it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's IDX files; scikit-learn's digits otherwise")
    parser.add_argument("--paths", type=positive, default=256, help="for each ordered pair of classes")
    parser.add_argument("--within", choices=("max", "median", "mean"), default="max", help="over the paths of a pair that fold")
    parser.add_argument("--across", choices=("max", "median", "mean"), default="median", help="over pairs")
    parser.add_argument("--depth", type=positive, default=6, help="hidden layers")
    parser.add_argument("--width", type=positive, default=64, help="units of each")
    parser.add_argument("--epochs", type=positive, default=10, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=output_folder, default="phi", help="folder of the trained network, what is done, and the result"
    )
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--strategy", default="auto", help="any of Lightning's, such as ddp")
    parser.add_argument("--devices", type=positive, default=1)
    arguments = parser.parse_args()
    try:
        train, test = load_images(arguments.data_dir)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"phi_mnist.py: {error}")
    keys = ("paths", "within", "depth", "width", "epochs", "seed")
    same_study(
        arguments.out,
        {key: getattr(arguments, key) for key in keys} | {"data": str(arguments.data_dir and arguments.data_dir.resolve())},
    )
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    seed_everything(arguments.seed, verbose=False)
    net = build("mlp", "relu", int(train[0].shape[1] ** 0.5), arguments.depth, arguments.width)
    net = trained(net, arguments.out / "network.pt", train, arguments.epochs)
    study = Study(net, Paths(*test, arguments.paths, arguments.seed), arguments.out, arguments.within, arguments.across)
    trainer = Trainer(
        accelerator=arguments.accelerator,
        strategy=arguments.strategy,
        devices=arguments.devices,
        callbacks=[PathsBar(), Save()],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.predict(study, return_predictions=False)


if __name__ == "__main__":
    main()

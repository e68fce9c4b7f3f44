"""Images and labels in the IDX format of MNIST and similar data sets, with scikit-learn's bundled digits as the default."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_images(folder: Path | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images and labels from a folder of IDX files, or scikit-learn's digits without one."""
    return (load_split(folder, "train"), load_split(folder, "test")) if folder else load_digits()


def load_training(folder: Path | None) -> tuple[Tensor, Tensor]:
    """Training images and labels of a folder of IDX files; without one 4,096 random ones, as large as MNIST's."""
    return load_split(folder, "train") if folder else (torch.rand(4096, 784), torch.randint(10, (4096,)))


def load_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return images float32 (B, rows * columns) in [0, 1] and labels int64 (B,) from a folder's "train" or "test" files.

    Raises:
        FileNotFoundError: If there is neither a file nor its gzipped form.
        ValueError: If a file is damaged.
    """
    images, labels = (read_idx(_find(folder, name)) for name in FILES[split])
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise ValueError(
            f"Expected images (B, rows, columns) and labels (B,) in {folder}, got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}: the {split} files do not belong together."
        )
    return images.flatten(1).float() / 255, labels.long()


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes in IDX format: two zeros, a type, the number of dimensions, their sizes, the data."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} can't be unpacked ({error}): it is damaged; copy or download it again.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it begins with {data[:4].hex(' ') or 'nothing'}.")
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], dtype=">u4").tolist() if len(data) >= start else []
    if len(data) != start + int(np.prod(shape)) or not shape:
        raise ValueError(
            f"{path} is damaged: its header promises {' x '.join(map(str, shape)) or 'no'} bytes, "
            f"{max(0, len(data) - start)} follow; copy or download it again."
        )
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy())


def load_digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return scikit-learn's digits of 8 x 8 pixels: 1,437 training images with labels, and 360 test images with labels."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "The bundled digits are scikit-learn's: pip install 'fold-lightning[examples]', or pass a folder of IDX files."
        ) from error

    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: `--data-dir` takes one that holds MNIST's four IDX files.")
    for path in (
        folder / name,
        folder / f"{name}.gz",
        folder / "MNIST" / "raw" / name,
        folder / "MNIST" / "raw" / f"{name}.gz",
    ):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder} has neither {name} nor {name}.gz; it holds {sorted(p.name for p in folder.iterdir())[:8]}."
    )

"""Markdown pages of results: each names the command that wrote it and the machine, and is printed as it grows."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from options import output_folder, positive

ROOT = Path(__file__).resolve().parents[1]


class Page:
    """A Markdown page of results, which is printed as it grows.

    As a context manager it writes the whole page at its end, if a folder is given and nothing was raised.

    Args:
        name: Name of the file, without its ending.
        title: Heading.
        folder: Where the file goes; None prints alone.
        command: Command that makes the page; without it, the one that was called.

    Attributes:
        name: As given.
    """

    def __init__(self, name: str, title: str, folder: Path | None, command: str | None = None) -> None:
        self.name = name
        self._file = None if folder is None else folder / f"{name}.md"
        self._lines: list[str] = []
        self._emit(f"# {title}")
        self.add(f"```bash\n{command or called()}\n```", machine())

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._file is not None:
            write_text(self._file, "\n".join(self._lines) + "\n")

    def add(self, *blocks: str) -> None:
        """Add headings, paragraphs or whole tables."""
        for block in blocks:
            self._emit("", block)

    def say(self, text: str) -> None:
        """Add a paragraph, in one line."""
        self.add(" ".join(text.split()))

    def table(self, *header: str) -> None:
        """Begin a table."""
        self.add(markdown(header, []))

    def row(self, *cells: str) -> None:
        """Add a row to the table that was begun last."""
        self._emit(_line(cells))

    def _emit(self, *lines: str) -> None:
        self._lines += lines
        print(*lines, sep="\n", flush=True)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join(map(_line, (header, ["---"] * len(header), *rows)))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write_text(file: Path, text: str) -> None:
    """Write a file at once, so that none is ever half there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, newline="")  # line ends as they are: those of CSV files are their own
    os.replace(part, file)


def is_first() -> bool:
    """Return whether this is the first of the processes that a strategy starts, which writes the files of all."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


def called(*without: str) -> str:
    """Return the command that was called from the repository's root, with FOLDER for that of the data.

    Args:
        without: Options that are left out with their values, as `--output-dir` is.
    """
    script = Path(sys.argv[0]).resolve()
    kept, option = ["python", str(script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name)], ""
    for word in sys.argv[1:]:
        option = word if word.startswith("--") else option
        if option not in ("--output-dir", *without):
            kept.append("FOLDER" if option == "--data-dir" != word else word)
    return shlex.join(kept)


def machine() -> str:
    """Return a sentence on what ran it."""
    cpu = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        names = [line.partition(":")[2].strip() for line in listed.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = torch.get_num_threads()
    load = f", load {os.getloadavg()[0]:.0f} as it began" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} cores, {gpu}; torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}{load}."


def parser(doc: str | None, data: str | None = "random images and labels otherwise") -> argparse.ArgumentParser:
    """Return a parser of the options that every page takes.

    Args:
        doc: Docstring of the script.
        data: What is measured without a folder of data; None where no data are taken.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    if data is not None:
        made.add_argument("--data-dir", type=Path, help=f"folder of MNIST's IDX files; {data}")
    made.add_argument(
        "--output-dir", type=output_folder, help="folder to write the page to, as docs/results; it is always printed"
    )
    made.add_argument("--threads", type=positive, default=1)
    return made


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options of the command line, with torch's threads and seed set."""
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments

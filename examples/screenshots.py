"""Make the README's pictures: the Folding tab of TensorBoard, and the last map of a run.

    python examples/digits.py && python examples/screenshots.py [--log-dir logs] [--out docs/images]

Needs Chromium and `pip install playwright`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from options import output_folder, positive
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MAP = "regions/slice"

SECONDS = 120
"""Seconds that TensorBoard may take to read a log and the tab to draw it."""


def save_tab(log_dir: Path, file: Path, chromium: str, width: int, height: int) -> None:
    """Save a picture of the top of the Folding tab for a folder of runs."""
    from playwright.sync_api import sync_playwright

    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(log_dir), "--host", "127.0.0.1", "--port", "0"])
    address = board.launch()
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(f"{address}#fold_lightning")
        frame = page.wait_for_selector("iframe", timeout=1000 * SECONDS).content_frame()
        frame.wait_for_selector("body[data-drawn]", timeout=1000 * SECONDS)
        frame.wait_for_timeout(2000)  # until lines and cells have stopped moving
        page.screenshot(path=file)
        browser.close()


def save_map(log_dir: Path, file: Path) -> None:
    """Save the last map that a run drew; of several runs, that with the newest log."""
    logs = sorted(log_dir.rglob("*.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise ValueError(f"Expected logs in {log_dir}, got none: train with `python examples/digits.py` first.")
    read = EventAccumulator(str(logs[-1].parent), size_guidance={"images": 0})
    read.Reload()
    if MAP not in read.Tags()["images"]:
        raise ValueError(f"Expected a figure {MAP} in {logs[-1].parent}, got none: train with matplotlib installed.")
    file.write_bytes(read.Images(MAP)[-1].encoded_image_string)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-dir", type=Path, default=Path("logs"))
    parser.add_argument("--out", type=output_folder, default="docs/images")
    parser.add_argument("--width", type=positive, default=1400)
    parser.add_argument("--height", type=positive, default=1890)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("screenshots.py: there is no Chromium; `apt-get install chromium`.")
    try:
        save_map(arguments.log_dir, arguments.out / "map.png")
        save_tab(arguments.log_dir, arguments.out / "tab.png", chromium, arguments.width, arguments.height)
    except (ValueError, ModuleNotFoundError) as error:
        sys.exit(f"screenshots.py: {error}")


if __name__ == "__main__":
    main()

"""The table of the tags that the monitor logs, from the measures themselves."""

from __future__ import annotations

from pathlib import Path

from fold_lightning.callbacks.measures import MEASURES
from fold_lightning.callbacks.session import SECONDS


def write_tag_table(path: Path) -> None:
    """Write a Markdown table of all tags with their descriptions."""
    rows = [(tag, text) for measure in MEASURES for tag, text in measure.tags.items()]
    rows.append((SECONDS, "Time of a measurement in s, without figures."))
    lines = ["| tag | meaning |", "| --- | --- |", *(f"| `{tag}` | {text} |" for tag, text in rows)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")

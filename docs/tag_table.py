"""The page of the tags that the monitor logs, from the measures themselves."""

from __future__ import annotations

from fold_lightning.callbacks.measures import MEASURES
from fold_lightning.callbacks.session import SECONDS


def tag_page() -> str:
    """Return Markdown tables of all tags of curves, and of histograms and figures, with their descriptions."""
    rows = [(tag, text) for measure in MEASURES for tag, text in measure.tags.items()]
    rows.append((SECONDS, "Time of a measurement in s, without figures."))
    pictures = [(tag, text) for measure in MEASURES for tag, text in measure.pictures.items()]
    lines = [
        "# Logged tags",
        "",
        "Every logger gets these:",
        "",
        *_table(rows),
        "",
        "TensorBoard alone gets histograms, and figures where matplotlib is installed:",
        "",
        *_table(pictures),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| tag | meaning |", "| --- | --- |", *(f"| `{tag}` | {text} |" for tag, text in rows)]

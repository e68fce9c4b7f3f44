"""Configuration of the documentation: Markdown by MyST, the reference from docstrings, and the tags from the measures."""

from __future__ import annotations

from importlib import metadata

from fold_lightning.callbacks.measures import MEASURES
from fold_lightning.callbacks.session import OWN_TAGS


def table(tags: dict[str, str]) -> str:
    """Return a Markdown table of tags with their descriptions."""
    return "\n".join(["| tag | meaning |", "| --- | --- |", *(f"| `{tag}` | {text} |" for tag, text in tags.items())])


curves = {tag: text for measure in MEASURES for tag, text in measure.tags.items()}
pictures = {tag: text for measure in MEASURES for tag, text in measure.pictures.items()}

project = "fold_lightning"
copyright = "the authors of fold_lightning"
release = metadata.version("fold-lightning")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["substitution"]
myst_substitutions = {
    "curves": table(curves | OWN_TAGS),
    "pictures": table(pictures),
}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "inherited-members": False, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_use_ivar = True
add_module_names = False
default_role = "code"  # names in docstrings stand in single backticks

html_theme = "furo"
html_title = "fold_lightning"

"""Configuration of the documentation: Markdown by MyST, the reference from docstrings, and the tags from the measures."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from tag_table import tag_page  # noqa: E402

project = "fold_lightning"
copyright = "the authors of fold_lightning"
release = metadata.version("fold-lightning")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

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


def setup(app: Any) -> None:
    """Write what is generated before the pages are read."""
    app.connect("builder-inited", lambda app: (HERE / "tags.md").write_text(tag_page()))

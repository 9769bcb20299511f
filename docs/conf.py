"""Sphinx: `pip install -r docs/requirements.txt`, then `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dbqueue.version import __version__

project = "dbqueue"
author = "dbqueue contributors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "requirements.txt"]
html_theme = "furo"
html_title = f"dbqueue {version}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"


def literal_drawings(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A module's docstring may hold a drawing: show it as it stands."""
    if what == "module":
        lines[:] = ["::", "", *(f"    {line}" for line in lines)]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", literal_drawings)

"""Sphinx's configuration. scripts/site writes the pages and calls it."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(os.environ["CHUNKGRPO_ROOT"])
sys.path[:0] = [str(ROOT / "bindings" / "python"), str(ROOT / "docs" / "site")]

import python_reference  # noqa: E402

project = "chunkgrpo"
author = "the chunkgrpo authors"
copyright = author
version = release = re.search(r'#define CGRPO_VERSION "(.*)"', (ROOT / "include" / "chunkgrpo.h").read_text())[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
myst_heading_anchors = 4
primary_domain = None
highlight_language = "none"
smartquotes = False  # x' is not a quotation
maximum_signature_line_length = 76
toc_object_entries_show_parents = "hide"

autodoc_mock_imports = python_reference.absent(ROOT / "bindings" / "python" / "chunkgrpo")
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in python_reference.ALIASES}
python_display_short_literal_types = True
add_module_names = False

html_theme = "furo"
html_title = f"chunkgrpo {version}"
html_static_path = [str(ROOT / "docs" / "site" / "static")]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def setup(app):
    python_reference.setup(app)

"""The documentation as a site: `make docs` builds it from the repository's Markdown.

The sources are the files that one reads in the repository, at their places, so that their links to
each other work in both. The root of the sources is therefore the repository, and pages are named.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSION = re.search(r'TTFS_VERSION "(.+)"', (ROOT / "cpp/include/ttfs/version.h").read_text())

project = "ttfs_fast"
author = "ttfs_fast developers"
project_copyright = "ttfs_fast developers, MIT license"
version = release = VERSION[1] if VERSION else ""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "bench/**.md",
    "cpp/README.md",
    "examples/**.md",
    "python/ttfs_fast/data/embedded/README.md",
]
exclude_patterns = [".venv", ".nox", ".git", ".*_cache", "build", "dist", "runs"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "native"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"ttfs_fast {version}"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f4e8c", "color-brand-content": "#1f5fb0"},
    "dark_css_variables": {"color-brand-primary": "#8fbaf3", "color-brand-content": "#8fbaf3"},
}

"""
The documents as a site, by Sphinx, MyST and Furo: see ``make docs``.

The sources stay what a forge shows.  What only a site can have is added while it is built: the tree of contents is
read off the lists of ``docs/index.md``, links to files that are no documents lead to the forge, and the reference
pages are followed by what the code itself says.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from commandpages import commands  # noqa: E402 - found by the line above
from operationpages import operations  # noqa: E402

from osqtwist import __version__  # noqa: E402

FORGE = "https://github.com/osqtwist/osqtwist"

project = "osqtwist"
author = "the osqtwist authors"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/**.md"]
# Other folders are not even looked into.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
nitpicky = True
# Two dashes begin an option.
smartquotes = False
myst_heading_anchors = 5
# The README's diagrams and shell sessions have no language, and no colours.
highlight_language = "none"
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"osqtwist {version}"
html_static_path = ["static"]
html_css_files = ["osqtwist.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

APPENDED = {"docs/command": commands, "docs/api": operations}
_LINK = re.compile(r"(?<!!)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def contents(text: str) -> str:
    """The tree of contents: a caption for each heading of the index, a page for each link in its list."""
    trees = []
    for section in text.split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        pages = re.findall(r"^- \[[^]]*\]\(([^)]+)\.md\)", rest, re.M)
        rows = "\n".join("/README" if page == "../README" else f"/docs/{page}" for page in pages)
        rows = rows.replace("/docs/../", "/")
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{rows}\n```\n")
    return "\n" + "\n".join(trees)


def to_forge(document: Path, text: str) -> str:
    """Links to what is no page of the site, such as sources and folders, lead to the forge."""

    def replaced(found: re.Match[str]) -> str:
        target = (document.parent / found[1]).resolve()
        if target.suffix == ".md" and target.is_relative_to(ROOT):
            return found[0]
        if not target.exists():
            return found[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"]({FORGE}/{kind}/main/{target.relative_to(ROOT)}{found[2] or ''})"

    return _LINK.sub(replaced, text)


def prepare(app: Any, docname: str, source: list[str]) -> None:
    """Add to a document what only the site has."""
    text = to_forge(ROOT / f"{docname}.md", source[0])
    if docname == root_doc:
        text += contents(text)
    if docname in APPENDED:
        text += "\n" + APPENDED[docname]()
    source[0] = text


def setup(app: Any) -> None:
    """See Sphinx."""
    app.connect("source-read", prepare)

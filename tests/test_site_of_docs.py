"""The documents as a site."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as make docs does."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", "docs/site"]
    done = subprocess.run(
        [*words, "-d", str(folder / "trees"), ".", str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def text_of(page: Path) -> str:
    """What is read of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_site_is_whole_and_asks_nobody(site: Path) -> None:
    """Built without a warning; every document is there; no page has a browser ask another host for anything."""
    documents = [path.relative_to(ROOT) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]]
    assert [path for path in documents if not (site / path.with_suffix(".html")).exists()] == []
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        asked = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"|<link[^>]*\shref="([^"]*)"', text)
        assert [found for each in asked for found in each if re.match(r"(?:https?:)?//", found)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(\s*['\"]?|@import\s+['\"])(?:https?:)?//", sheet.read_text("utf-8")), sheet.name
    for script in (site / "_static").glob("*.js"):
        assert not re.search(r"(?:fetch|importScripts|import)\(\s*['\"`]https?://", script.read_text("utf-8")), script


@pytest.mark.slow
def test_the_reference_pages_end_with_what_the_code_says(site: Path) -> None:
    """Every command with its options, every operation and type; and search finds words of them."""
    commands, operations = text_of(site / "docs/command.html"), text_of(site / "docs/api.html")
    assert "osqtwist node merge" in commands and "--fingerprint" in commands
    assert "POST /api/v1/queries" in operations and "next_offset of the page before" in operations
    assert "merge" in (site / "searchindex.js").read_text("utf-8")


@pytest.mark.slow
def test_links_to_sources_lead_to_the_forge(site: Path) -> None:
    """And links between documents stay within the site."""
    page = (site / "README.html").read_text("utf-8")
    assert 'href="https://github.com/osqtwist/osqtwist/blob/main/osqtwist/wire.py"' in page
    assert 'href="docs/enrolling.html"' in page

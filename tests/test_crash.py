"""The crash test in short: everything that may be killed is killed, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("leg", ["1", "3"], ids=["append, store spared", "fsync, store killed"])
def test_nothing_acknowledged_is_lost(leg: str) -> None:
    """`make crashtest` runs it for longer, and says how many lines came twice."""
    words = [sys.executable, "-m", "tests.crashtest", "--seconds", "12", "--nodes", "8", "--leg", leg, "--seed", "5"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout

"""The fault matrix in short: a store that dies or forgets, files that are rubbish, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAULTS = ("store killed", "and a worker killed", "restarted empty")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_faults_break_no_promise() -> None:
    """`make faults` makes all of them."""
    words = [sys.executable, "-m", "tests.faults", *(word for name in FAULTS for word in ("--only", name))]
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promises broken: 0; lost: 0; unexpected errors: 0" in done.stdout

"""The table of hostile inputs: each row has a test, and a real server takes all of it and is well afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.attacks import ATTACKS

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "hostile-inputs.md").read_text("utf-8")


@pytest.mark.parametrize("attack", ATTACKS[1:], ids=lambda attack: attack.name)
def test_every_row_has_a_test(attack: object) -> None:
    """One that exists; and the row is in the document."""
    file, _, name = attack.test.partition("::")  # type: ignore[attr-defined]
    assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.M), attack.test  # type: ignore[attr-defined]
    assert f"| {attack.sent} |" in DOCUMENT and f"`{attack.test}`" in DOCUMENT  # type: ignore[attr-defined]


def test_every_test_of_the_document_exists() -> None:
    """Those of rows that no attack makes too."""
    cited = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT)
    assert len(cited) > 35
    for file, name in cited:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.M), (
            f"{file}::{name}"
        )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_is_well_after_all_of_it() -> None:
    """It serves, nothing unexpected is in its log, its memory is what it was, and no attack costs more than seconds."""
    words = [sys.executable, "-m", "bench.hostile", "--quick", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["rows"]) == len(ATTACKS)
    assert found["serves"] and not found["unexpected"]
    assert found["end_mib"] <= 1.1 * found["start_mib"]
    for row in found["rows"]:
        assert row["cpu_ms"] < 5_000 and row["mib"] < 300, row
        assert "still open" not in row["answer"], row

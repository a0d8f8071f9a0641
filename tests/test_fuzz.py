"""Every reader of what others wrote, under any bytes: by Hypothesis, and for a moment guided by coverage."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@functools.cache
def made(name: str) -> tuple[Target, Callable[[bytes], object], tuple[bytes, ...]]:
    target = TARGETS[name]
    return target, target.make(), tuple(target.seeds())


def mutations(seeds: tuple[bytes, ...], words: tuple[bytes, ...], longest: int) -> st.SearchStrategy[bytes]:
    """A seed with some of it replaced, left out, doubled, or with words put in."""
    piece = st.binary(max_size=8) | (st.sampled_from(words) if words else st.nothing())

    @st.composite
    def mutated(draw: Any) -> bytes:
        data: bytes = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, len(data)))
            end = min(len(data), start + draw(st.integers(0, 16)))
            middle = draw(piece) + data[start:end] * draw(st.integers(0, 2))
            data = data[:start] + middle + data[end:]
        return data[:longest]

    return mutated() | st.binary(max_size=64)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    """Nothing but its own refusal comes out of a reader, and it takes no time."""
    target, read, seeds = made(name)
    for seed in seeds:
        target.check(read, seed)

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutations(seeds, tuple(target.words), target.longest))
    def holds(data: bytes) -> None:
        target.check(read, data)

    holds()


@pytest.mark.timeout(120)
def test_a_moment_of_fuzzing_guided_by_coverage(tmp_path: Path) -> None:
    """``make fuzz`` works, and finds nothing in a hundred executions of each target."""
    pytest.importorskip("atheris")
    words = [sys.executable, "-m", "tests.fuzz", "--runs", "100", "--folder", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" executions ") >= len(TARGETS)


@pytest.mark.timeout(60)
def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """A target that raises is a finding, with the bytes that did it and exit status 1."""
    pytest.importorskip("atheris")
    script = (
        "import sys; from tests.fuzz import __main__ as m, targets as t; from tests.fuzz.target import Target, Broken\n"
        "def read(data):\n"
        "    if b'A' in data: raise Broken('there is an A')\n"
        "t.TARGETS.clear(); t.TARGETS['x'] = Target('x', '', lambda: read, lambda: [b'AB'])\n"
        f"sys.argv = ['x', '--runs', '5000', '--folder', {str(tmp_path)!r}]\n"
        "sys.exit(m.main())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FOUND: Broken: there is an A" in done.stdout
    assert [path.read_bytes() for path in (tmp_path / "found").iterdir()] == [b"AB"]

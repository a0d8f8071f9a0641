"""The check for left-overs can fail."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parent / "conftest.py").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("reactor.callLater(5, print)", "delayed calls are left"),
        ("reactor.listenTCP(0, Factory(), interface='127.0.0.1')", "selectables are left"),
        ("fail(ValueError('lost'))", "failures that nobody handled"),
    ],
)
def test_left_overs_fail_a_test(pytester: pytest.Pytester, body: str, complaint: str) -> None:
    """A test that leaves a delayed call, a selectable or a failed Deferred fails."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        textwrap.dedent(
            f"""
            from twisted.internet import reactor
            from twisted.internet.defer import fail
            from twisted.internet.protocol import Factory

            def test_it():
                {body}
            """
        )
    )
    result = pytester.runpytest_subprocess("-p", "no:valkey", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines([f"*{complaint}*"])
    assert result.ret == 1

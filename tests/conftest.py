"""What every test gets: a check that it leaves nothing behind in the reactor; and no skips where none may be."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from tests.examples import examples

# How long examples take says how busy the machine is.
hypothesis.settings.register_profile(
    "ring", max_examples=examples(100), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ring")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Property tests are marked as such: the slow ring runs them too, with all their examples."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("property")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Where TESTS_MUST_NOT_SKIP is set, a skipped test is a failed test: what it needs should have been there."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("TESTS_MUST_NOT_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be: {report.longrepr}"


def _selectables() -> set[Any]:
    found = [*reactor.getReaders(), *reactor.getWriters()]  # type: ignore[attr-defined]
    # The reactor's own wakers appear when it first runs.
    return {each for each in found if not type(each).__module__.startswith("twisted.internet._signals")}


def _pause() -> None:
    """Let the reactor turn a few times."""
    paused: Deferred[None] = Deferred()
    reactor.callLater(0.01, paused.callback, None)  # type: ignore[attr-defined]
    pytest_twisted.blockon(paused)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Fail a test that leaves delayed calls, open selectables or unhandled failures of Deferreds.

    The test may take a moment for connections to close; then what is left is its fault.
    """
    lost: list[str] = []

    def observe(event: LogEvent) -> None:
        if "Unhandled" in str(event.get("log_format", "")) and "Deferred" in str(event.get("log_format", "")):
            lost.append(str(event.get("log_failure") or event.get("debugInfo")))

    calls_before = set(reactor.getDelayedCalls())  # type: ignore[attr-defined]
    selectables_before = _selectables()
    globalLogPublisher.addObserver(observe)
    try:
        yield
        calls: set[Any] = set()
        selectables: set[Any] = set()
        for _ in range(50):
            calls = {call for call in reactor.getDelayedCalls() if call.active()} - calls_before  # type: ignore[attr-defined]
            selectables = _selectables() - selectables_before
            if not calls and not selectables:
                break
            _pause()
        # What a test made is young; a full collection would take longer than most tests.
        gc.collect(1)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not calls, f"delayed calls are left: {calls}"
    assert not selectables, f"selectables are left: {selectables}"
    assert not lost, f"failures that nobody handled: {lost}"

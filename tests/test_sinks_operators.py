"""Sinks as operators see them: the API, the metrics, and warnings that come before the buffer is full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from twisted.logger import LogEvent, globalLogPublisher

from osqtwist.cli.times import Moment
from osqtwist.logbatch import DeadLine
from osqtwist.loginterfaces import SinkReport
from tests.harness import InMemoryServer
from tests.test_log_buffer import attrs_replace
from tests.test_storage import a_batch


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the log said."""
    texts: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("osqtwist.housekeeping"):
            texts.append(str(event["log_format"]).format(**event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


def append(server: InMemoryServer, text: str = "x") -> str:
    batch = a_batch(text, received_at=server.reactor.seconds())
    return str(server.await_(server.stores.logs.append(batch)).batch_id)


def report(server: InMemoryServer, **more: Any) -> None:
    now = server.reactor.seconds()
    fields: dict[str, Any] = {"sink": "a", "kind": "file", "consumer": "one", "state": "running", "at": now}
    server.await_(server.stores.sinks.report(SinkReport(**{**fields, "since": now, **more})))


def row(server: InMemoryServer) -> Any:
    code, answer = server.operate("/api/v1/sinks")
    assert code == 200
    return answer["sinks"][0] if answer["sinks"] else None


def test_a_sink_shows_lag_state_and_trouble(server: InMemoryServer) -> None:
    """Served and behind, waiting, not served any more."""
    assert row(server) is None
    server.await_(server.stores.sinks.ensure("a", True))
    append(server)
    report(server, lines=7, rate=1.5)
    server.turn(8)
    shown = row(server)
    assert (shown["state"], shown["kind"], shown["lag_lines"], shown["lag_seconds"]) == ("running", "file", 1, 8.0)
    assert (shown["lines"], shown["rate"], shown["trouble"], shown["consumers"]) == (7, 1.5, "", ["one"])
    report(server, state="waiting", trouble="no room", failures=3)
    shown = row(server)
    assert (shown["state"], shown["trouble"], shown["failures"]) == ("waiting", "no room", 3)
    # One of two processes gets through.
    report(server, consumer="two")
    assert row(server)["state"] == "running"
    server.turn(25)
    assert row(server)["state"] == "unserved"
    brief = server.operate("/api/v1/status")[1]["sinks"]
    assert brief == {"a": {"state": "unserved", "lag_lines": 1, "lag_seconds": 33.0}}


def test_metrics_of_sinks(server: InMemoryServer) -> None:
    """Set when they are read; a forgotten sink has none."""
    server.await_(server.stores.sinks.ensure("a", True))
    append(server)
    report(server, lines=7)

    def value(name: str) -> float | None:
        code, _, _ = server.finish(server_metrics(server))
        assert code == 200
        return server.metrics.registry.get_sample_value(name, {"sink": "a"})

    assert value("osqtwist_sink_lag_lines") == 1
    assert value("osqtwist_sink_up") == 1
    assert value("osqtwist_sink_lines") == 7
    server.operate("/api/v1/sinks/a/forget", {}, "POST")
    assert value("osqtwist_sink_lag_lines") is None


def server_metrics(server: InMemoryServer) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(server._exchange(server.admin, "GET", "/metrics", None, {}))


def test_levers(server: InMemoryServer) -> None:
    """Pause, resume, replay by time and by batch, dead letters, forget; each says what it did."""
    sinks = server.stores.sinks
    server.await_(sinks.ensure("a", True))
    first = append(server)
    server.turn(10)
    append(server, "second")
    assert server.operate("/api/v1/sinks/a/pause", {}, "POST")[1] == {"sink": "a", "paused": True}
    assert row(server)["state"] == "paused"
    assert server.operate("/api/v1/sinks/a/resume", {}, "POST")[1] == {"sink": "a", "paused": False}
    taken = server.await_(sinks.take("a", "one", 10, 10**6))
    letter = attrs_replace(taken[0].batch, DeadLine(b'{"a":1}', "odd"))
    server.await_(sinks.settle("a", [each.batch_id for each in taken], [letter]))
    assert row(server)["lag_lines"] == 0
    replayed = server.operate("/api/v1/sinks/a/replay", {"after": first}, "POST")[1]
    assert (replayed["sink"], replayed["lines"]) == ("a", 1)
    since = server.reactor.seconds() - 20
    assert server.operate("/api/v1/sinks/a/replay", {"since": since}, "POST")[1]["lines"] == 2
    dead = server.operate("/api/v1/sinks/a/dead")[1]
    assert (dead["sink"], dead["reason"], dead["text"]) == ("a", "odd", '{"a":1}')
    assert server.operate("/api/v1/sinks/a/replay", {"dead": True}, "POST")[1] == {"sink": "a", "dead_letters": 1}
    assert server.await_(sinks.was_asked_again("a")) is True
    assert server.operate("/api/v1/sinks/a/forget", {}, "POST")[1] == {"sink": "a", "forgotten": True}
    assert row(server) is None


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("a/replay", {}, 400),
        ("a/replay", {"since": 1, "dead": True}, 400),
        ("a/replay", {"after": "nonsense"}, 400),
        ("a/replay", {"sinse": 1}, 400),
        ("a/replay", {"since": 1.7e308}, 400),
        ("a/replay", {"since": -1}, 400),
        ("b/replay", {"since": 1}, 404),
        ("b/replay", {"dead": True}, 404),
        ("b/pause", {}, 404),
        ("b/resume", {}, 404),
        ("b/forget", {}, 404),
    ],
)
def test_what_cannot_be_is_refused(server: InMemoryServer, path: str, body: Any, code: int) -> None:
    """With a sentence."""
    server.await_(server.stores.sinks.ensure("a", True))
    found, answer = server.operate(f"/api/v1/sinks/{path}", body, "POST")
    assert (found, answer["status"]) == (code, code)
    assert server.operate("/api/v1/sinks/b/dead")[0] == 404


# -- housekeeping


def test_a_sink_that_falls_behind_is_warned_of_in_time(server: InMemoryServer, said: list[str]) -> None:
    """At half of the budget, once, with what to do; and when it has caught up."""
    sinks = server.stores.sinks
    server.await_(sinks.ensure("a", True))
    report(server, state="waiting", trouble="no room")
    append(server, "x" * 400_000)
    server.turn(6)
    assert said == []
    append(server, "x" * 200_000)
    server.turn(6)
    server.turn(6)
    (warning,) = said
    assert "sink a is waiting and 2 lines (0 MiB) behind (no room)" in warning
    assert "osqtwist sink forget a" in warning
    for stored in server.await_(sinks.take("a", "one", 10, 10**6)):
        server.await_(sinks.settle("a", [stored.batch_id]))
    server.turn(6)
    assert said[-1] == "sink a has caught up"


def test_a_sink_that_nobody_serves_is_warned_of(server: InMemoryServer, said: list[str]) -> None:
    """As soon as it has something to deliver, and every ten minutes."""
    server.await_(server.stores.sinks.ensure("a", True))
    server.turn(30)
    assert said == []
    append(server)
    for _ in range(130):
        server.turn(5)
    assert len(said) == 2
    assert "sink a is unserved and 1 lines" in said[0]


def test_a_full_buffer_is_an_error_in_the_log(server: InMemoryServer, said: list[str]) -> None:
    """And its end is told too."""
    server.await_(server.stores.sinks.ensure("a", True))
    report(server)
    for _ in range(3):
        try:
            append(server, "x" * 450_000)
        except Exception as problem:
            assert "full" in str(problem)
    server.turn(6)
    assert any("the log buffer is full (--log-budget-mib)" in text for text in said)
    assert server.operate("/api/v1/status")[1]["log_buffer"]["shut"] is True
    server.await_(server.stores.sinks.forget("a"))
    server.operate("/api/v1/logs/trim", {"older_than": 0}, "POST")
    append(server)
    server.turn(6)
    assert "the log buffer takes lines again" in said


def test_room_is_made_of_what_every_sink_has(server: InMemoryServer) -> None:
    """Down to half of the budget, without a hand; what is not settled stays."""
    sinks = server.stores.sinks
    server.await_(sinks.ensure("a", True))
    for _ in range(4):
        append(server, "x" * 200_000)
    server.turn(6)
    assert server.await_(server.stores.logs.size()).batches == 4
    taken = server.await_(sinks.take("a", "one", 10, 10**7))
    server.await_(sinks.settle("a", [each.batch_id for each in taken[:3]]))
    server.turn(6)
    assert server.await_(server.stores.logs.size()).batches == 2


def test_housekeeping_survives_the_store(server: InMemoryServer) -> None:
    """It comes round again."""
    server.down()
    server.turn(12)
    server.down(False)
    server.turn(6)


@pytest.mark.parametrize(
    ("text", "ago"), [("2h", 7200), ("30s", 30), ("1d", 86400), ("1.5m", 90), ("1790000000", None)]
)
def test_moments(text: str, ago: float | None) -> None:
    """How long ago, or when."""
    found = Moment(is_past=True).convert(text, None, None)
    assert found == pytest.approx(time.time() - ago if ago is not None else 1790000000.0, abs=5)


def test_a_moment_that_is_none() -> None:
    """Is refused with examples."""
    assert Moment(is_past=True).convert("2026-09-21T14:00+00:00", None, None) == 1789999200.0
    for text in ("soon", "h", "1y", "2026-13-01"):
        with pytest.raises(click.BadParameter, match="is not a time, such as"):
            Moment(is_past=True).convert(text, None, None)

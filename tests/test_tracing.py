"""OpenTelemetry traces: what is in them, what must not be, and that nothing is there when they are off."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from twisted.internet.defer import Deferred

from osqtwist.logevent import LogEvent
from osqtwist.settings import BadSetting, gather
from osqtwist.sinkinterfaces import Outcome, RefusedEvent, SinkUnavailable
from osqtwist.tracing.otel import COMPLAINT_SECONDS, Complaints, OpenTelemetry, endpoint_of
from osqtwist.web.exchange import Exchange
from tests.harness import SECRET, InMemoryServer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced(InMemoryServer):
    """A server in memory, with its spans."""

    def __init__(self, folder: Path) -> None:
        self.exporter = InMemorySpanExporter()
        traces = OpenTelemetry(None, "otel", "server")
        traces.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        super().__init__(folder, traces=traces)
        self.exporter.clear()

    def spans(self) -> list[ReadableSpan]:
        """Those that ended since the last call."""
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    def span(self, name: str) -> ReadableSpan:
        (found,) = [each for each in self.spans() if each.name == name]
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Traced]:
    made = Traced(tmp_path)
    yield made
    made.stop()


def test_a_request_is_a_trace_with_its_store_calls(server: Traced) -> None:
    """Route, outcome, who it was; the store's calls are below it, by the names of the contract."""
    key = server.enroll()
    server.spans()
    server.ask("/log", {"node_key": key, "log_type": "result", "data": [{"a": "1"}, {"a": "2"}]})
    *below, request = server.spans()
    assert request.name == "node log"
    assert request.parent is None
    said = dict(request.attributes or {})
    assert said.pop("osqtwist.node.id") and said.pop("client.address") is not None
    assert said == {
        "osqtwist.route": "log",
        "osqtwist.outcome": "answered",
        "http.response.status_code": 200,
        "osqtwist.node.name": "host-1",
        "osqtwist.lines": 2,
    }
    assert "store logs.append" in {each.name for each in below}
    assert {each.context.trace_id for each in below if each.context} == {request.context and request.context.trace_id}
    assert {each.parent and each.parent.span_id for each in below} == {request.context and request.context.span_id}


def test_a_refused_request_is_no_error_and_a_failed_one_is(server: Traced) -> None:
    """Trouble of the store is marked in its own span and in that of the request."""
    server.ask("/config", {"node_key": "nonsense"})
    span = server.span("node config")
    assert span.status.status_code == StatusCode.UNSET
    assert (span.attributes or {})["osqtwist.reason"] == "node_invalid"
    key = server.enroll()
    server.ask("/config", {"node_key": key})
    server.spans()
    server.down()
    server.ask("/log", {"node_key": key, "log_type": "result", "data": [{"a": "1"}]})
    failed = {each.name: each for each in server.spans() if each.status.status_code == StatusCode.ERROR}
    assert set(failed) == {"store logs.append", "node log"}
    assert (failed["store logs.append"].attributes or {})["error.type"] == "StoreUnavailable"
    assert failed["node log"].status.description == "store_unavailable"


def test_a_held_read_says_how_long_it_was_held(server: Traced) -> None:
    """Reads of two nodes at once do not mix up: each store call is below its own request."""
    keys = [server.enroll("host-1"), server.enroll("host-2")]
    held: list[Deferred[Any]] = [server.begin("/distributed/read", {"node_key": key}) for key in keys]
    server.turn(3)
    server.spans()
    server.issue()
    server.turn(8)
    for each in held:
        server.finish(each)
    spans = server.spans()
    reads = [each for each in spans if each.name == "node distributed_read"]
    assert [(each.attributes or {})["osqtwist.outcome"] for each in reads] == ["work", "work"]
    assert all(float(str((each.attributes or {})["osqtwist.held_seconds"])) >= 3 for each in reads)
    takes = [each.parent for each in spans if each.name == "store queries.take"]
    assert {each and each.span_id for each in takes} == {each.context and each.context.span_id for each in reads}


def test_a_node_that_goes_away_ends_its_span(server: Traced) -> None:
    """With the outcome that its log line has."""
    key = server.enroll()
    reading = server.begin("/distributed/read", {"node_key": key})
    server.turn(1)
    reading.addErrback(lambda _: None)
    reading.cancel()
    server.turn()
    assert (server.span("node distributed_read").attributes or {})["osqtwist.outcome"] == "gone"


def test_what_looks_every_few_seconds_is_no_trace(server: Traced) -> None:
    """Nobody asked for it."""
    server.turn(30)
    assert server.spans() == []


def test_traceparent_counts_from_operators_only(server: Traced) -> None:
    """A known operator's trace goes on; a node's header, or a stranger's, is not looked at."""
    server.operate("/api/v1/nodes", traceparent=PARENT)
    span = server.span("GET /api/v1/nodes")
    assert span.parent is not None and f"{span.parent.span_id:x}" == "b7ad6b7169203331"
    said = dict(span.attributes or {})
    assert said == {
        "http.request.method": "GET",
        "http.route": "/api/v1/nodes",
        "osqtwist.actor": "tester",
        "http.response.status_code": 200,
    }
    assert server.operate("/healthz", traceparent=PARENT)[0] == 200
    assert server.span("GET /healthz").parent is None
    server.ask("/config", {"node_key": server.enroll()}, headers={"traceparent": PARENT})
    assert server.span("node config").parent is None
    server.operator = None
    assert server.operate("/api/v1/nodes", traceparent=PARENT)[0] == 401
    assert not [each for each in server.spans() if each.name.startswith("GET")]


def test_what_an_operator_does_wrong_is_told(server: Traced) -> None:
    """Status and kind; a 404 is no error of the server."""
    assert server.operate("/api/v1/nodes/nobody")[0] == 404
    span = server.span("GET /api/v1/nodes/{node}")
    said = span.attributes or {}
    assert (said["http.response.status_code"], said["error.type"]) == (404, "NoSuchThing")
    assert span.status.status_code == StatusCode.UNSET
    server.down()
    assert server.operate("/api/v1/nodes")[0] == 503
    assert server.span("GET /api/v1/nodes").status.status_code == StatusCode.ERROR


def test_no_secret_is_in_any_span(server: Traced) -> None:
    """Not keys, secrets, tokens, SQL, rows or lines."""
    key = server.enroll()
    query = server.issue("select 'confidential question'")
    server.finish(server.begin("/distributed/read", {"node_key": key}))
    answer = {"node_key": key, "queries": {query.query_id: [{"a": "confidential row"}]}, "statuses": {}}
    server.ask("/distributed/write", answer)
    server.ask("/log", {"node_key": key, "log_type": "result", "data": [{"a": "confidential line"}]})
    server.ask("/config", {"node_key": key + "x"})
    server.ask("/enroll", {"enroll_secret": SECRET + "x", "host_identifier": "h", "platform_type": "9"})
    _, token = server.operate("/api/v1/tokens", {"name": "t"}, "POST")
    server.operate("/api/v1/me", Authorization=f"Bearer {token['token']}")
    text = "".join(each.to_json() for each in server.spans())
    assert "store queries.take" in text and "POST /api/v1/tokens" in text
    for secret in (key, SECRET, token["token"], "confidential"):
        assert secret not in text


EVENTS = [LogEvent(str(number), "node-1", "n", "result", 0.0, b"{}") for number in range(3)]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome(), {"osqtwist.refused": 0, "osqtwist.again": 0}),
        (Outcome((RefusedEvent(0, "x"),), (1,)), {"osqtwist.refused": 1, "osqtwist.again": 1}),
        (SinkUnavailable("down"), {"error.type": "SinkUnavailable"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_delivery_is_a_trace(outcome: Any, said: dict[str, Any]) -> None:
    """How much it was and what came of it."""

    class Sink:
        async def deliver(self, events: Any) -> Any:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    exporter = InMemorySpanExporter()
    traces = OpenTelemetry(None, "otel", "delivery")
    traces.provider.add_span_processor(SimpleSpanProcessor(exporter))
    sink: Any = traces.sink("siem", Sink())  # type: ignore[arg-type]
    if isinstance(outcome, Exception):
        with pytest.raises(SinkUnavailable):
            await sink.deliver(EVENTS)
    else:
        assert await sink.deliver(EVENTS) == outcome
    (span,) = exporter.get_finished_spans()
    assert span.name == "sink siem"
    assert dict(span.attributes or {}) == {"osqtwist.sink": "siem", "osqtwist.lines": 3, "osqtwist.bytes": 6} | said


def test_what_the_sdk_complains_of_is_said_once_in_a_while() -> None:
    """On one line, in the reactor's thread; it complains every second while a collector is away."""
    said: list[str] = []

    class Reactor:
        def callFromThread(self, work: Any, format: str, text: str) -> None:
            said.append(text)

    complaints = Complaints(Reactor())
    for seconds in (0, 1, COMPLAINT_SECONDS - 1, COMPLAINT_SECONDS):
        record = logging.LogRecord("sdk", logging.WARNING, "file", 7, "no answer\n%s", (seconds,), None)
        record.created = 1_790_000_000.0 + seconds
        complaints.handle(record)
    complaints.handle(logging.LogRecord("sdk", logging.WARNING, "file", 8, "queue full", (), None))
    assert said == ["no answer 0", "no answer 300.0", "queue full"]


def test_without_the_option_nothing_is_different(tmp_path: Path) -> None:
    """The same classes, no wrapper around a store: not even a branch."""
    server = InMemoryServer(tmp_path)
    try:
        assert type(server.api.exchange) is Exchange
        assert server.stores.nodes is server.outages["nodes"]
    finally:
        server.stop()


@pytest.mark.slow
def test_without_the_option_nothing_is_imported() -> None:
    """Whoever does not want traces needs no package for them."""
    script = (
        "import sys, osqtwist.launch, osqtwist.delivering, osqtwist.worker;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("value", ["yes", "ftp://host", "http://", "http://user:secret@host", "otel "])
def test_a_wrong_destination_is_one_sentence(value: str) -> None:
    """Credentials do not belong into it: OTEL_EXPORTER_OTLP_HEADERS takes them."""
    with pytest.raises(BadSetting, match=r"--traces is .*; it must be otel, or begin with http"):
        gather({"traces": value}, {})


def test_a_collector_takes_traces_at_its_usual_path() -> None:
    """Unless another is given."""
    assert endpoint_of("http://127.0.0.1:4318") == "http://127.0.0.1:4318/v1/traces"
    assert endpoint_of("http://127.0.0.1:4318/") == "http://127.0.0.1:4318/v1/traces"
    assert endpoint_of("https://host/otlp/v1/traces") == "https://host/otlp/v1/traces"
    assert json.dumps(gather({"traces": "https://host/x"}, {}).traces)

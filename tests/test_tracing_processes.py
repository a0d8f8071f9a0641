"""Traces of the real thing: processes that send OTLP to a real HTTP server, also one that hangs."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.test_delivery_process import post, until
from tests.test_twistd import Start, refused, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    """
    Takes traces.

    :ivar spans: name, trace and part of the server, of each.
    :ivar hangs: whether it answers nothing any more.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: set[tuple[str, str, str]] = set()
        self.authorized: set[str | None] = set()
        self.hangs = threading.Event()
        self.asked_while_hanging = threading.Event()
        self.over = threading.Event()

    def names(self, part: str) -> set[str]:
        return {name for name, _, found in self.spans if found == part}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.hangs.is_set():
            self.server.asked_while_hanging.set()
            self.server.over.wait(60)
            return
        assert self.path == "/v1/traces"
        self.server.authorized.add(self.headers["X-Tenant"])
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert about["service.name"] == "osquery front"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.server.spans.add((span.name, span.trace_id.hex(), about["osqtwist.part"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.over.set()
    made.shutdown()
    made.server_close()
    thread.join()


class OverSocket(http.client.HTTPConnection):
    """To the operators' socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def test_every_process_sends_its_spans_and_a_collector_that_hangs_holds_nobody_up(
    start: Start, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The server, a worker, the delivery process; with the name and headers of the environment."""
    folder = tmp_path_factory.mktemp("t")
    (folder / "settings.toml").write_text('[sink.lines]\nkind = "file"\npath = "lines.jsonl"\n')
    url = f"http://127.0.0.1:{collector.server_port}"
    environment = {
        "OTEL_SERVICE_NAME": "osquery front",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=fleet",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    words = ["--port", "ssl:0", "--settings", "settings.toml", "--traces", url, "--workers", "2"]
    server = start(*words, folder=folder, env=environment)
    post(server, 0)
    admin = OverSocket(folder / "state" / "admin.sock")
    admin.request("GET", "/api/v1/nodes", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    assert "nodes" in json.loads(admin.getresponse().read())
    admin.close()
    until(lambda: "sink lines" in collector.names("delivery"))
    until(lambda: {"node log", "store logs.append"} <= collector.names("worker"))
    until(lambda: ("GET /api/v1/nodes", TRACE, "server") in collector.spans)
    assert collector.authorized == {"fleet"}

    collector.hangs.set()
    post(server, 5)
    assert collector.asked_while_hanging.wait(20)
    began = time.monotonic()
    post(server, 10)
    assert server.ask("/config", {"node_key": ""})["schedule"]
    assert time.monotonic() - began < 5
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15
    assert "Traceback" not in server.text()


def test_packages_that_are_missing_are_named(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In one sentence that says how to get them."""
    folder = tmp_path_factory.mktemp("t")
    (folder / "opentelemetry.py").write_text("")
    server = start("--port", "ssl:0", "--traces", "otel", folder=folder, env={"PYTHONPATH": str(folder)}, wait=False)
    assert refused(server).endswith(": pip install osqtwist[otel]")

"""What operators see of nodes, and do to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import START, InMemoryServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    found = InMemoryServer(tmp_path)
    yield found
    found.stop()


def show(server: InMemoryServer, name: str) -> Any:
    server.turn(3)
    code, found = server.operate(f"/api/v1/nodes/{name}")
    assert code == 200, found
    return found


def test_the_config_that_a_node_has(server: InMemoryServer) -> None:
    """Which one it was answered, whether it said that it has it, and whether there is a newer one."""
    key = server.enroll("h")
    assert show(server, "h")["config"] is None
    server.ask("/config", {"node_key": key})
    assert show(server, "h")["config"]["state"] == "unconfirmed"
    _, body = server.ask("/config", {"node_key": key, "etag": ""})
    config = show(server, "h")["config"]
    assert (config["state"], config["etag"], config["is_newest"]) == ("sent", body["etag"], True)
    now = server.reactor.seconds()
    server.ask("/config", {"node_key": key, "etag": body["etag"]})
    config = show(server, "h")["config"]
    assert (config["state"], config["at"]) == ("confirmed", now)
    server.ask("/log", {"node_key": key, "log_type": "result", "data": []})
    assert show(server, "h")["config"] == config
    server.configuration.replace([])
    assert show(server, "h")["config"]["is_newest"] is False
    _, listed = server.operate("/api/v1/nodes")
    assert listed["nodes"][0]["config"] == {"etag": body["etag"], "state": "confirmed", "at": now}


def test_a_certificate_is_shown_wherever_the_node_is(server: InMemoryServer) -> None:
    """With its issuer, serial, end, kind of key and what it says of tags."""
    server.certificate = "node-1"
    server.ask("/config", {"node_key": ""}, headers={"User-Agent": "osquery/5.23.1"})
    server.turn(3)
    _, listed = server.operate("/api/v1/nodes")
    for found in (listed["nodes"][0], show(server, "node-1")):
        certificate = found["certificate"]
        assert (certificate["issuer"], certificate["serial"], certificate["key_type"]) == ("CN=test CA", "1f", "P-256")
        assert (certificate["not_after"], certificate["tags"]) == (START + 1e6, ["ou:test"])
        assert certificate["days"] == pytest.approx(1e6 / 86400, abs=0.1)
        assert (found["proof"], found["tag_sources"]) == ("certificate", {"ou:test": ["certificate"]})
        # It never enrolled, and so never told its version in any other way.
        assert found["osquery_version"] == "5.23.1"
        assert found["addresses"] == [{"address": found["address"], "at": START}]


def test_store_writes_for_requests_come_together(server: InMemoryServer) -> None:
    """However many requests there are: one write of sightings every two seconds."""
    keys = [server.enroll(f"h{number}") for number in range(5)]
    for key in keys:
        server.ask("/config", {"node_key": key})
    server.turn(3)
    calls = server.outages["nodes"].calls
    calls.clear()
    for _ in range(4):
        for key in keys:
            server.ask("/config", {"node_key": key, "etag": ""})
    server.turn(2)
    assert set(calls) <= {"saw", "revocations"}
    assert calls.count("saw") == 1

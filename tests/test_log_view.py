"""Log lines and the audit trail as operators look through them: which ones an expression or a text means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness import InMemoryServer
from tests.test_storage import a_batch

LINES = [{"name": "pack_web_ports", "columns": {"port": "443"}}, {"name": "users", "columns": {"uid": "0"}}, 7]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    for number, name in enumerate(("web-1", "db-1")):
        batch = a_batch(received_at=made.reactor.seconds() + number, node_name=name, tags=(name[:-2],))
        data = json.dumps([line | {"n": number} if isinstance(line, dict) else line for line in LINES]).encode()
        made.await_(made.stores.logs.append(msgspec.structs.replace(batch, data=data, count=len(LINES))))
    yield made
    made.stop()


def shown(found: Any) -> list[Any]:
    return [(each["name"], each["line"]["name"] if isinstance(each["line"], dict) else None) for each in found]


def test_the_newest_lines_come_first(server: InMemoryServer) -> None:
    """Of whichever node, a part of a batch if need be."""
    code, answer = server.operate("/api/v1/logs/newest?limit=4")
    assert code == 200
    assert shown(answer["lines"]) == [("db-1", None), ("db-1", "users"), ("db-1", "pack_web_ports"), ("web-1", None)]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("name:users", [("db-1", "users"), ("web-1", "users")]),
        ("pack:web and tag:web", [("web-1", "pack_web_ports")]),
        ("node:db-* and not column.port:443", [("db-1", None), ("db-1", "users")]),
        ("log_type:status", []),
    ],
)
def test_an_expression_says_which(server: InMemoryServer, when: str, expected: Any) -> None:
    """The one of sinks and alert rules; a line that is no object has nothing but its batch."""
    words = when.replace(" ", "%20").replace("*", "%2A")
    assert shown(server.operate(f"/api/v1/logs/newest?when={words}")[1]["lines"]) == expected
    code, answer = server.operate(f"/api/v1/logs?from=start&follow=0&when={words}")
    lines = [answer] if isinstance(answer, dict) else answer
    assert code == 200
    assert shown(reversed(lines or [])) == expected


def test_what_is_no_expression_is_refused(server: InMemoryServer) -> None:
    """And says where it goes wrong."""
    for path in ("/api/v1/logs", "/api/v1/logs/newest"):
        code, answer = server.operate(f"{path}?when=nothing:1")
        assert (code, "when:" in answer["detail"]) == (400, True)


def test_the_trail_is_looked_through(server: InMemoryServer) -> None:
    """By a text in any part of an entry, and for what was refused, past any number of others."""
    trail = server.admin_api.trail
    for number in range(1200):
        server.await_(trail.begun("alice", f"POST /api/v1/nodes/n-{number}/tags", ""))
    server.await_(trail.refused("Bob", "POST /api/v1/tokens", "no"))
    server.await_(trail.begun("alice", "POST /api/v1/queries", '{"sql": "select BOB"}'))
    _, answer = server.operate("/api/v1/audit?text=bob")
    assert [each["actor"] for each in answer["entries"]] == ["alice", "Bob"]
    _, answer = server.operate("/api/v1/audit?refused=1")
    assert [each["actor"] for each in answer["entries"]] == ["Bob"]
    _, answer = server.operate("/api/v1/audit?text=n-7/")
    assert [each["number"] for each in answer["entries"]] == [8]
    _, answer = server.operate("/api/v1/audit?text=nodes/&limit=2&offset=3")
    assert [each["number"] for each in answer["entries"]] == [1197, 1196]
    assert answer["next_offset"] == 5

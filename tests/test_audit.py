"""The audit trail: what is written before something is done, and how a change of it shows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from osqtwist.auditentry import NO_ENTRY, AuditEntry, first_break
from osqtwist.storage.memory import MemoryStores
from tests.harness import InMemoryServer
from tests.stores import RealValkey, valkey
from tests.test_twistd import Start, start

__all__ = ["start"]


def an_entry(action: str = "POST /x") -> AuditEntry:
    return AuditEntry(number=0, at=1.5, actor="root", action=action, detail='{"é":1}', outcome="begun")


def a_trail(count: int) -> list[AuditEntry]:
    trail: list[AuditEntry] = []
    for number in range(1, count + 1):
        trail.append(an_entry(f"POST /{number}").chained(number, trail[-1].hash if trail else NO_ENTRY))
    return trail


def test_a_whole_trail_has_no_break() -> None:
    """From its beginning, or from anywhere when it is known what came before."""
    trail = a_trail(5)
    assert first_break(trail, NO_ENTRY) == 0
    assert first_break(trail[2:], trail[1].hash, 2) == 0
    assert first_break(trail[2:]) == 0
    assert first_break([]) == 0


@pytest.mark.parametrize("field", ["at", "actor", "action", "detail", "outcome", "previous", "hash", "number"])
def test_a_change_of_any_field_shows(field: str) -> None:
    """At that entry, or at the next if the hash was made to fit."""
    trail = a_trail(4)
    value: Any = {"at": 9.0, "number": 7}.get(field, "f" * 64)
    changed = msgspec.structs.replace(trail[1], **{field: value})
    assert first_break([trail[0], changed, *trail[2:]], NO_ENTRY) in (2, 7)
    if field == "hash":
        return
    fitting = msgspec.structs.replace(changed, hash=msgspec.structs.replace(changed, hash="").digest())
    assert first_break([trail[0], fitting, *trail[2:]], NO_ENTRY) in (2, 3, 7)


def test_what_is_left_out_or_put_in_or_moved_shows() -> None:
    """Also the first entry."""
    one, two, three, four = a_trail(4)
    for trail in ([one, three, four], [two, three, four], [one, two, two, three], [one, three, two, four]):
        assert first_break(trail, NO_ENTRY)


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def pair(request: pytest.FixtureRequest, server: RealValkey) -> AsyncIterator[tuple[Any, Any]]:
    """The stores of two processes, on the same trail, which is empty."""
    clock: Any = reactor
    one: Any = MemoryStores(clock) if request.param == "memory" else server.stores(reactor)
    await one.ready()
    two: Any = one if request.param == "memory" else type(one.audit)(one._redis, one.audit._key)
    yield one.audit, (two.audit if two is one else two)
    await one.close()


@pytest_twisted.ensureDeferred
async def test_processes_share_one_chain(pair: tuple[Any, Any]) -> None:
    """However their entries fall between each other, also at once."""
    one, two = pair
    assert await one.read(1, 10) == []
    for number in range(3):
        assert (await one.append(an_entry())).number == 2 * number + 1
        assert (await two.append(an_entry())).number == 2 * number + 2
    at_once = [Deferred.fromCoroutine(store.append(an_entry())) for store in (one, two) for _ in range(10)]
    placed = await gatherResults(at_once)
    assert sorted(entry.number for entry in placed) == list(range(7, 27))
    found = await two.read(1, 100)
    assert first_break(found, NO_ENTRY) == 0
    assert len(found) == await one.length() == 26
    assert await one.read(25, 10) == found[24:]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[InMemoryServer]:
    running = InMemoryServer(tmp_path)
    yield running
    running.stop()


def trail_of(served: InMemoryServer) -> list[tuple[str, str, str]]:
    entries = served.operate("/api/v1/audit")[1]["entries"]
    return [(entry["action"], entry["detail"], entry["outcome"]) for entry in reversed(entries)]


def test_changes_are_noted_and_looks_are_not(served: InMemoryServer) -> None:
    """With their body; what was refused says why."""
    served.enroll()
    served.operate("/api/v1/nodes")
    served.operate("/api/v1/nodes/host-1/tags", {"add": ["blue"]}, "POST")
    served.operate("/api/v1/nodes/nobody/revoke", {}, "POST")
    assert trail_of(served) == [
        ("POST /api/v1/nodes/host-1/tags", '{"add":["blue"]}', "begun"),
        ("POST /api/v1/nodes/nobody/revoke", "{}", "begun"),
        ("POST /api/v1/nodes/nobody/revoke", "", "refused: there is no node 'nobody'"),
    ]
    _, found = served.operate("/api/v1/audit/verify")
    assert (found["entries"], found["whole"], found["broken_at"]) == (3, True, None)
    _, lines = served.operate("/api/v1/audit/all")
    assert [line["number"] for line in lines] == [1, 2, 3]
    assert lines[-1]["hash"] == found["newest_hash"]
    entries = served.outages["audit"].store._entries
    entries[1] = msgspec.structs.replace(entries[1], actor="nobody")
    assert served.operate("/api/v1/audit/verify")[1]["broken_at"] == 2


def test_what_cannot_be_noted_is_not_done(served: InMemoryServer) -> None:
    """The store is asked for the note first."""
    served.enroll()
    served.outages["audit"].is_down = True
    code, answer = served.operate("/api/v1/nodes/host-1/revoke", {}, "POST")
    assert (code, answer["type"]) == (503, "service-unavailable")
    assert not served.operate("/api/v1/nodes/host-1")[1]["revoked"]
    served.outages["audit"].is_down = False
    assert trail_of(served) == []


@pytest.mark.slow
def test_the_command_and_who_it_was(start: Start) -> None:
    """The user at the other end of the socket; a trail that was tampered with is found out."""
    running = start()
    running.ask("/config", {"node_key": ""})
    assert running.osqtwist("node", "tag", "node-1.example.com", "blue").returncode == 0
    assert running.osqtwist("node", "revoke", "nobody").returncode == 1
    entries = running.json("audit", "list")
    assert [entry["outcome"][:7] for entry in entries] == ["refused", "begun", "begun"]
    assert {entry["actor"] for entry in entries} == {Path.home().owner()}
    exported = running.osqtwist("audit", "export").stdout.splitlines()
    assert [json.loads(line)["number"] for line in exported] == [1, 2, 3]
    assert running.json("audit", "verify")["whole"]

"""The audit trail as log lines: each entry once, in order, whatever is away meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from osqtwist.auditentry import AuditEntry
from osqtwist.auditstream import AuditStream, line_of
from osqtwist.audittrail import AuditTrail
from osqtwist.interfaces import StoreUnavailable
from osqtwist.loginterfaces import BufferFull
from osqtwist.storage.memory import MemoryStores
from tests.stores import RealValkey, valkey


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def stores(request: pytest.FixtureRequest, server: RealValkey) -> AsyncIterator[Any]:
    clock: Any = reactor
    made: Any = MemoryStores(clock) if request.param == "memory" else server.stores(reactor)
    await made.ready()
    yield made
    await made.close()


async def lines_of(stores: Any) -> list[dict[str, Any]]:
    return [line for stored in await stores.logs.read("", 5000) for line in msgspec.json.decode(stored.batch.data)]


async def numbers_in(stores: Any) -> list[int]:
    return [int(line["columns"]["number"]) for line in await lines_of(stores)]


@pytest_twisted.ensureDeferred
async def test_an_entry_becomes_a_line(stores: Any) -> None:
    """With all that it says, as text, and its hashes."""
    trail = AuditTrail(Clock(), stores)
    await trail.begun("root", "POST /api/v1/nodes/a/revoke", '{"why":"<b>\\n"}')
    await AuditStream(Clock(), stores).go_round()
    (line,) = await lines_of(stores)
    (entry,) = await stores.audit.read(1, 1)
    assert (line["name"], line["action"], line["unixTime"]) == ("osqtwist_audit", "audit", 0)
    assert line["columns"] == {
        "number": "1",
        "actor": "root",
        "action": "POST /api/v1/nodes/a/revoke",
        "detail": '{"why":"<b>\\n"}',
        "outcome": "begun",
        "previous": entry.previous,
        "hash": entry.hash,
    }


@pytest_twisted.ensureDeferred
async def test_each_comes_once_and_in_order(stores: Any) -> None:
    """More than fit into one reading, and those that come later."""
    trail, stream = AuditTrail(Clock(), stores), AuditStream(Clock(), stores)
    await stream.go_round()
    for number in range(130):
        await trail.begun("root", f"POST /{number}", "")
    await stream.go_round()
    await stream.go_round()
    await trail.refused("root", "POST /", "no")
    await stream.go_round()
    assert await numbers_in(stores) == list(range(1, 132))
    assert await stores.audit.streamed() == 131


@pytest_twisted.ensureDeferred
async def test_hosts_do_not_tell_it_twice(stores: Any) -> None:
    """But for the first, if they look at the same moment; and that has the same event id.  Nothing is left out."""
    trail = AuditTrail(Clock(), stores)
    for number in range(20):
        await trail.begun("root", f"POST /{number}", "")
    hosts = [AuditStream(Clock(), stores) for _ in range(3)]
    await gatherResults([Deferred.fromCoroutine(host.go_round()) for host in hosts])
    await hosts[0].go_round()
    numbers = await numbers_in(stores)
    assert list(dict.fromkeys(numbers)) == list(range(1, 21))
    assert len(numbers) <= 22


@pytest_twisted.ensureDeferred
async def test_it_moves_from_where_it_is_alone(stores: Any) -> None:
    """Who looks at an old place is told so."""
    assert await stores.audit.streamed() == 0
    assert not await stores.audit.advance(1, 2)
    assert await stores.audit.advance(0, 1)
    assert not await stores.audit.advance(0, 1)
    assert await stores.audit.streamed() == 1


@attrs.define
class _Troubled:
    """A log buffer that cannot append so many times."""

    buffer: Any
    troubles: list[Exception]

    async def append(self, batch: Any) -> Any:
        if self.troubles:
            raise self.troubles.pop()
        return await self.buffer.append(batch)


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), BufferFull("full")])
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_kept_waits(trouble: Exception) -> None:
    """It is appended once that can be done, and nothing behind it before."""
    clock = Clock()
    stores: Any = MemoryStores(clock)
    await AuditTrail(clock, stores).begun("root", "POST /1", "")
    await AuditTrail(clock, stores).begun("root", "POST /2", "")
    buffer = stores.logs
    stores.logs = _Troubled(buffer, [trouble, trouble])
    stream = AuditStream(clock, stores)
    stream.startService()
    clock.pump([2.1, 2.1])
    assert await buffer.read("", 10) == []
    clock.advance(2.1)
    stores.logs = buffer
    assert await numbers_in(stores) == [1, 2]
    stream.stopService()


def test_the_line_of_an_entry_is_always_the_same() -> None:
    """So that its event id is, whoever makes it: the digest is the hash, which is of this entry alone."""
    blank = AuditEntry(number=0, at=1.5, actor="a", action="b", detail="", outcome="begun")
    entry = blank.chained(3, "f" * 64)
    assert line_of(entry) == line_of(entry)
    assert line_of(entry).digest == entry.hash != line_of(blank.chained(4, "f" * 64)).digest

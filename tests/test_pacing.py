"""Long answers to slow readers: over a real socket, whose buffers fill."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from osqtwist.audittrail import AuditTrail
from osqtwist.interfaces import StoreUnavailable
from osqtwist.liveresults import LiveResults
from osqtwist.operator import Actor, Role
from osqtwist.query import DistributedQuery, QueryResult
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import Target
from osqtwist.web import pacing
from osqtwist.web.admin import AdminAPI
from osqtwist.web.liveresults import ResultOperations
from osqtwist.web.repeats import Repeats
from osqtwist.web.request import PlainRequest
from osqtwist.web.site import QuietSite

RESULTS, SIZE = 100, 100_000
NOW = 2_000_000_000.0
clock: Any = reactor


@attrs.define(eq=False)
class Reader(Protocol):  # type: ignore[misc]
    """Asks once, and reads when it is told to."""

    path: str
    received: int = 0
    last: bytes = b""
    gone: Deferred[None] = attrs.field(factory=Deferred)

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        self.transport.write(f"GET {self.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self.last = (self.last + data)[-16:]

    def connectionLost(self, reason: Any = None) -> None:
        self.gone.callback(None)


class Anybody:
    async def actor_of(self, request: Any) -> Actor:
        return Actor("anybody", Role.VIEWER, "")


@attrs.define
class Scene:
    stores: Any
    socket: Path
    read: list[int] = attrs.field(factory=list)
    is_down: bool = False

    async def reader(self, words: str) -> Reader:
        reader = Reader(f"/api/v1/queries/q1/results{words}")
        await connectProtocol(UNIXClientEndpoint(clock, str(self.socket)), reader)
        return reader

    async def settled(self) -> int:
        """How many results were read from the store, once no more are."""
        for _ in itertools.count():
            before = sum(self.read)
            await deferLater(clock, 0.05)
            if before == sum(self.read) and before:
                return before
        raise AssertionError


@pytest_twisted.async_yield_fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A server with one query that has ten megabytes of results."""
    stores = MemoryStores(clock)
    query = DistributedQuery(query_id="q1", sql="select 1", target=Target(), created_at=0.0, expires_at=NOW)
    await stores.queries.add(query)
    rows = msgspec.Raw(b'[{"a":"' + b"x" * SIZE + b'"}]')
    for number in range(RESULTS):
        await stores.queries.take(f"n{number}", ["q1"], 1.0, 1)
        result = QueryResult(query_id="q1", node_id=f"n{number}", node_name="n", received_at=1.0, rows=rows)
        await stores.queries.add_results([result])
    found = Scene(stores, tmp_path / "s")

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(queries, name)

        async def results(self, *arguments: Any) -> Any:
            if found.is_down:
                raise StoreUnavailable("down")
            page = await queries.results(*arguments)
            found.read.append(len(page))
            return page

    queries, changed = stores.queries, stores
    changed.queries = Counted()  # type: ignore[assignment]
    groups = (ResultOperations(LiveResults(clock, stores)),)
    admin = AdminAPI(groups, Anybody(), AuditTrail(clock, stores), Repeats(stores))
    site = QuietSite(admin.app().resource(), requestFactory=PlainRequest, parsePOSTFormSubmission=False, reactor=clock)
    port = await UNIXServerEndpoint(clock, str(found.socket)).listen(site)
    yield found
    await port.stopListening()


@pytest.mark.parametrize("words", ["", "?follow=1", "?format=json"])
@pytest_twisted.ensureDeferred
async def test_no_more_is_read_from_the_store_than_the_reader_takes(scene: Scene, words: str) -> None:
    """A reader that does not read leaves most of it where it is; once it reads, it gets all."""
    reader = await scene.reader(words)
    assert await scene.settled() < RESULTS // 2
    reader.transport.resumeProducing()  # type: ignore[union-attr]
    while reader.received < RESULTS * SIZE:
        await deferLater(clock, 0.01)
    reader.transport.loseConnection()  # type: ignore[union-attr]
    await reader.gone


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_reader_that_takes_nothing_loses_its_connection(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, and nothing is left behind; it can go on from the last result that it has."""
    monkeypatch.setattr(pacing, "STALL", 0.2)
    reader = await scene.reader("?follow=1")
    await scene.settled()
    await deferLater(clock, 0.3)
    reader.transport.resumeProducing()  # type: ignore[union-attr]
    await reader.gone
    assert reader.received < RESULTS * SIZE
    assert not scene.stores.signals._subscribers["results"]


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_finished_is_not_taken_for_whole(scene: Scene, form: str) -> None:
    """The store goes away in the middle: the connection breaks without the end that HTTP gives an answer."""
    reader = await scene.reader(f"?format={form}")
    await scene.settled()
    scene.is_down = True
    reader.transport.resumeProducing()  # type: ignore[union-attr]
    await reader.gone
    assert reader.received < RESULTS * SIZE
    assert not reader.last.endswith(b"0\r\n\r\n")

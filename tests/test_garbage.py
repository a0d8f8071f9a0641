"""Requests leave no garbage: what is not freed by itself stays, for the looks for cycles are rare."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from osqtwist.assembly import node_site
from osqtwist.garbage import FULL_INTERVAL, RareCollections
from osqtwist.web.site import NodeChannel
from tests.harness import InMemoryServer

# Whole collections take their time.
pytestmark = pytest.mark.slow

_BODY = b'{"node_key":""}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    server = InMemoryServer(tmp_path)
    server.certificate = "node-1"
    yield server
    server.stop()


def request(server: InMemoryServer, path: bytes) -> tuple[NodeChannel, StringTransport]:
    """A connection on which a request has come."""
    api = server.api
    site = node_site(server.reactor, server.settings, api.app().resource(), api.metrics, api.endpoints())
    channel: Any = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (path, len(_BODY), _BODY))
    return channel, transport


def garbage(work: Any) -> int:
    """
    How many objects of this project and of Twisted some work leaves in cycles, after it was done once before.

    Something that another test left to be done may fall in between; what work leaves it leaves each time.
    """
    work()
    gc.collect()
    gc.disable()
    try:
        work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return sum(type(each).__module__.startswith(("osqtwist", "twisted")) for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("path", [b"/config", b"/log", b"/distributed/read"])
def test_an_answered_request_leaves_no_cycle(server: InMemoryServer, path: bytes) -> None:
    """A request that was answered is freed at once, with its connection."""

    def work() -> None:
        channel, transport = request(server, path)
        server.reactor.advance(12)
        assert b"200 OK" in transport.value()
        channel.connectionLost(Failure(ConnectionDone()))
        server.reactor.advance(20)

    assert any(garbage(work) == 0 for _ in range(3))


def test_a_read_whose_node_goes_away_leaves_no_cycle(server: InMemoryServer) -> None:
    """A held read whose node goes away is freed at once, with its connection."""

    def work() -> None:
        channel, transport = request(server, b"/distributed/read")
        assert not transport.value() and len(server.parked) == 1
        # As the reactor's transports do when their connection is lost.
        transport.unregisterProducer()
        channel.connectionLost(Failure(ConnectionDone()))
        assert len(server.parked) == 0
        server.reactor.advance(20)

    assert any(garbage(work) == 0 for _ in range(3))


def test_full_collections_are_rare() -> None:
    """While the service runs Python looks through everything only now and then; afterwards as before."""
    before, clock, looks = gc.get_threshold(), Clock(), []
    service = RareCollections(clock)

    def watch(phase: str, about: dict[str, int]) -> None:
        if phase == "stop" and about["generation"] == 2:
            looks.append(clock.seconds())

    service.startService()
    try:
        assert gc.get_freeze_count() > 10_000
        gc.callbacks.append(watch)
        kept = [[number] for number in range(300_000)]
        assert looks == []
        clock.advance(FULL_INTERVAL)
        assert looks == [FULL_INTERVAL]
        del kept
    finally:
        gc.callbacks.remove(watch)
        service.stopService()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0

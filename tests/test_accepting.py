"""osqtwist.accepting: a herd waits in the kernel's queue."""

from __future__ import annotations

import socket

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol

from osqtwist.accepting import ACCEPTS_AT_ONCE, listen
from tests.test_storage_faults import pause


@pytest_twisted.ensureDeferred
async def test_few_connections_are_accepted_in_a_turn() -> None:
    """Turn after turn the same number, also when there are always more; in the end all are served."""
    accepted: list[Protocol] = []

    class Noted(Protocol):
        def connectionMade(self) -> None:
            accepted.append(self)

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        listening.setblocking(False)
        clients = [socket.create_connection(listening.getsockname(), 5) for _ in range(5 * ACCEPTS_AT_ONCE)]
        port = listen(reactor, listening, Factory.forProtocol(Noted))
        for turn in range(1, 4):
            port.doRead()  # type: ignore[attr-defined]
            assert len(accepted) == turn * ACCEPTS_AT_ONCE
        while len(accepted) < len(clients):
            await pause(0.01)
        await maybeDeferred(port.stopListening)
    for client in clients:
        client.close()
    while any(each.transport.connected for each in accepted if each.transport):  # type: ignore[attr-defined]
        await pause(0.01)

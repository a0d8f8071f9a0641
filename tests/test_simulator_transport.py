"""The simulator's transport, where a request is given up."""

from __future__ import annotations

import socket

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from osqtwist.simulator.transport import Server, Transport
from tests.test_storage_faults import pause


@pytest.mark.parametrize("seconds", [0.0, 0.05], ids=["while it connects", "while it shakes hands"])
@pytest_twisted.ensureDeferred
async def test_a_request_that_is_given_up_is_not_sent_again(seconds: float) -> None:
    """At any moment it is a cancellation, and no connection that broke."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server("localhost", silent.getsockname()[1], "127.0.0.1")
        transport = Transport(reactor, server, SSL.Context(SSL.TLS_CLIENT_METHOD))
        asking = Deferred.fromCoroutine(transport.post("/config", b"{}", []))
        if seconds:
            await pause(seconds)
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking
        assert (transport.counts.connections, transport.counts.resends) == (1, 0)
        await pause(0.05)

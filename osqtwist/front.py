"""
Where nodes come in: the ports of this process, or those of worker processes.

A server opens its front last and shuts it first; in between the services end, which answers held reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger

from osqtwist.namedpeers import NamedPeers
from osqtwist.ports import BoundPort
from osqtwist.proxiedport import listen_plain, listen_tls
from osqtwist.web.site import NodeSite

DRAIN_SECONDS = 8.0
"""How long a stop waits for answers under way.  Held reads are answered at once, so this is for slow networks."""
_DRAIN_STEP = 0.05


class Front(Protocol):
    """Serves nodes."""

    async def open(self) -> None:
        """
        Begin; fires when nodes are served.

        :raise StartFailed: they cannot be.
        """

    async def shut(self) -> None:
        """Take no more connections."""

    async def drain(self) -> None:
        """Fire when what was under way is finished, or has taken too long."""


@attrs.define(eq=False)
class NodePorts:
    """
    The ports of this process.

    :ivar peers: proxies that end TLS, and may connect to plain ports.
    :ivar proxies: those that begin each connection with the PROXY protocol.
    """

    reactor: Any
    ports: Sequence[BoundPort]
    site: NodeSite
    tls: Any
    peers: NamedPeers = NamedPeers()
    proxies: NamedPeers = NamedPeers()
    _listening: list[IListeningPort] = attrs.field(factory=list, init=False)
    _log = Logger()

    async def open(self) -> None:
        """See :class:`Front`."""
        for port in self.ports:
            on_want = self.site.metrics.not_accepted.inc
            if port.is_plain:
                listening = listen_plain(self.reactor, port.socket, self.site, self.peers, self.proxies)
            else:
                listening = listen_tls(self.reactor, port.socket, self.site, self.tls.connection, self.proxies, on_want)
            self._listening.append(listening)

    async def shut(self) -> None:
        """See :class:`Front`."""
        for port in self._listening:
            await maybeDeferred(port.stopListening)
        for bound in self.ports:
            bound.socket.close()

    async def drain(self) -> None:
        """See :class:`Front`."""
        waited = 0.0
        while any(each.is_answering or each.is_arriving for each in self.site.channels) and waited < DRAIN_SECONDS:
            await deferLater(self.reactor, _DRAIN_STEP)
            waited += _DRAIN_STEP
        left = self.site.end_connections(lambda _: True)
        if left and waited >= DRAIN_SECONDS:
            self._log.warn("{left} connections were ended with an answer under way", left=left)

"""
The life of a server: what starts after what, and how it ends.

Start: the embedded store if there is one, the store, the services, then the ports; connections made meanwhile wait
in the kernel.  Stop: no more connections, every held read answered, what is under way finished, the services, the
store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import IO, Any, Protocol

import attrs
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from osqtwist.interfaces import IStores
from osqtwist.ports import BoundPort
from osqtwist.web.site import NodeSite

DRAIN_SECONDS = 8.0
"""How long a stop waits for answers under way.  Held reads are answered at once, so this is for slow networks."""
_DRAIN_STEP = 0.05


class StartFailed(Exception):
    """The server cannot start; one sentence for the operator."""


class EmbeddedStore(Protocol):
    """A store process of our own."""

    async def start(self) -> None:
        """Fire when it answers."""

    async def stop(self) -> None:
        """Fire when it has ended."""


@attrs.define(eq=False)
class Server(Service):
    """
    Everything that runs, in order.

    :ivar services: started in this order once the store is ready, stopped in the reverse.
    :ivar listen_admin: opens the operators' socket.
    :ivar on_ready: called once nodes are served.
    :ivar on_failure: called with a sentence when the start fails; the process should end.
    :ivar lock: what keeps other servers out of the state folder; closed at the very end.
    """

    reactor: Any
    ports: Sequence[BoundPort]
    site: NodeSite
    tls: Any
    stores: IStores
    embedded: EmbeddedStore | None
    services: Sequence[IService]
    listen_admin: Callable[[], Awaitable[IListeningPort]]
    on_ready: Callable[[], None]
    on_failure: Callable[[str], None]
    expected_failures: tuple[type[Exception], ...]
    lock: IO[str]
    _listening: list[IListeningPort] = attrs.field(factory=list, init=False)
    _running: list[IService] = attrs.field(factory=list, init=False)
    _starting: Deferred[None] | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin to start; :attr:`on_ready` or :attr:`on_failure` says how it went."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when nothing is left."""
        super().stopService()
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        try:
            if self.embedded:
                await self.embedded.start()
            await self.stores.ready()
            for service in self.services:
                service.startService()
                self._running.append(service)
            self._listening.append(await self.listen_admin())
            factory: IProtocolFactory = TLSMemoryBIOFactory(self.tls, False, self.site, self.reactor)
            for port in self.ports:
                descriptor, family = port.socket.fileno(), port.socket.family
                self._listening.append(self.reactor.adoptStreamPort(descriptor, family, factory))
        except self.expected_failures as problem:
            self.on_failure(str(problem))
        except Exception as problem:
            if not self.running:
                return
            self._log.failure("the server did not start")
            self.on_failure(f"the server did not start: {problem}")
        else:
            self._starting = None
            self.on_ready()

    async def _stop(self) -> None:
        for port in self._listening:
            await maybeDeferred(port.stopListening)
        for bound in self.ports:
            bound.socket.close()
        # Last started, first stopped; the distributed reads are among the last, so they are answered first.
        for service in reversed(self._running):
            await maybeDeferred(service.stopService)
        await self._drain()
        await self.stores.close()
        if self.embedded:
            await self.embedded.stop()
        self.lock.close()

    async def _drain(self) -> None:
        waited = 0.0
        while any(channel.is_answering for channel in self.site.channels) and waited < DRAIN_SECONDS:
            await deferLater(self.reactor, _DRAIN_STEP)
            waited += _DRAIN_STEP
        left = self.site.end_connections(lambda _: True)
        if left and waited >= DRAIN_SECONDS:
            self._log.warn("{left} connections were ended with an answer under way", left=left)

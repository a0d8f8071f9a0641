"""
The life of a server: what starts after what, and how it ends.

Start: the embedded store if there is one, the store, the services, then the front; connections made meanwhile wait
in the kernel.  Stop: no more connections, every held read answered, what is under way finished, the services, the
store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import IO, Any, Protocol

import attrs
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from osqtwist.front import Front
from osqtwist.interfaces import IStores


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

    :ivar prepare: has to be done once the store is ready, before anything is served.
    :ivar services: started in this order once the store is ready, stopped in the reverse.
    :ivar first_looks: what must be known before nodes are served: who is refused.
    :ivar listen_admin: opens what operators come in by, if anything.
    :ivar on_ready: called once nodes are served.
    :ivar on_failure: called with a sentence when the start fails; the process should end.
    :ivar lock: what keeps other servers out of the state folder; closed at the very end.
    """

    reactor: Any
    front: Front
    stores: IStores
    embedded: EmbeddedStore | None
    services: Sequence[IService]
    on_ready: Callable[[], None]
    on_failure: Callable[[str], object]
    expected_failures: tuple[type[Exception], ...]
    prepare: Sequence[Callable[[], Awaitable[object]]] = ()
    listen_admin: Sequence[Callable[[], Awaitable[IListeningPort]]] = ()
    first_looks: Sequence[Callable[[], Awaitable[None]]] = ()
    lock: IO[str] | None = None
    _admin: list[IListeningPort] = attrs.field(factory=list, init=False)
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
            for work in self.prepare:
                await work()
            for service in self.services:
                service.startService()
                self._running.append(service)
            for look in self.first_looks:
                await look()
            for listen in self.listen_admin:
                self._admin.append(await listen())
            await self.front.open()
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
        for port in self._admin:
            await maybeDeferred(port.stopListening)
        await self.front.shut()
        # Last started, first stopped; the distributed reads are among the last, so they are answered first.
        for service in reversed(self._running):
            await maybeDeferred(service.stopService)
        await self.front.drain()
        await self.stores.close()
        if self.embedded:
            await self.embedded.stop()
        if self.lock:
            self.lock.truncate(0)
            self.lock.close()

"""
What systemd is told of a service of ``Type=notify``: that it is ready, reads files again, stops; and that it lives.

From sd_notify(3) and sd_watchdog_enabled(3): one datagram of ``NAME=VALUE`` lines to the socket that ``NOTIFY_SOCKET``
names; without that nobody wants to know.  Nothing here fails a server: whoever listens may be gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_FEEDS = 3
"""How often the watchdog is fed in the time after which it bites."""


@attrs.frozen
class Notifier:
    """
    Sends words to systemd.

    :ivar address: of its socket; empty if there is none.
    :ivar watchdog: seconds after which it takes silence for death; 0 if it does not look.
    """

    address: str = ""
    watchdog: float = 0.0

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Notifier:
        """From the environment of this process, and out of it, so that no child speaks for us."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        whose = environment.pop("WATCHDOG_PID", "")
        is_ours = not whose or whose == str(os.getpid())
        is_number = microseconds.isascii() and microseconds.isdecimal()
        return cls(address, int(microseconds) / 1e6 if is_ours and is_number and address else 0.0)

    def ready(self, status: str) -> None:
        """The service serves."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Files are being read again; :meth:`ready` is to follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1", "STATUS=answers what is under way")

    def alive(self) -> None:
        """The watchdog may wait once more."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        # An abstract socket begins with a zero byte, which is written as @.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)
            speaker.sendto("\n".join(lines).encode(), address)


@attrs.define(eq=False)
class Watchdog(Service):
    """
    Feeds systemd's watchdog, as long as the reactor turns and calls of the store end.

    A store that fails them, or is away, is no reason to be started again: nodes are served from memory.  One call that
    never ends is, since then others do not either.

    :ivar ping: asks the store; how it ends does not matter.
    """

    clock: IReactorTime
    notifier: Notifier
    ping: Callable[[], Awaitable[object]]
    _loop: LoopingCall | None = attrs.field(default=None, init=False)
    _asking: Deferred[object] | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin, if there is a watchdog."""
        super().startService()
        if self.notifier.watchdog:
            self._loop = LoopingCall(self._look)
            self._loop.clock = self.clock
            self._loop.start(self.notifier.watchdog / _FEEDS)

    def stopService(self) -> None:
        """End; systemd has its own deadline for that."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()
        if self._asking:
            self._asking.cancel()

    def _look(self) -> None:
        if self._asking is not None:
            self._log.warn("the store did not end a call in {seconds:g} s", seconds=self.notifier.watchdog / _FEEDS)
            return
        self._asking = Deferred.fromCoroutine(self._ask())
        self._asking.addErrback(lambda failure: failure.trap(CancelledError))
        if self._asking.called:
            self._asking = None

    async def _ask(self) -> None:
        try:
            await self.ping()
        except CancelledError:
            raise
        except Exception as problem:
            # Others count and tell of that.
            self._log.debug("the store failed: {problem}", problem=problem)
        self._asking = None
        self.notifier.alive()


@attrs.define(eq=False)
class Started(Service):
    """Tells systemd that a service which is ready at once has started, and when it begins to end."""

    reactor: Any
    notifier: Notifier
    status: str

    def startService(self) -> None:
        """Say so."""
        super().startService()
        tell_of_end(self.reactor, self.notifier)
        self.notifier.ready(self.status)


def tell_of_end(reactor: Any, notifier: Notifier) -> None:
    """Tell systemd when the process begins to end, before anything is shut."""
    reactor.addSystemEventTrigger("before", "shutdown", notifier.stopping)

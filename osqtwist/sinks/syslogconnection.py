"""A connection to a syslog receiver: writes as fast as it takes, and knows when it has taken all."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from typing import Any

import attrs
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from osqtwist.sinks.httpsettings import one_line

_CHUNK = 2**16
_FIRST_LOOK = 0.001
_LONGEST_LOOK = 0.05
_GOODBYE_SECONDS = 2.0
# A receiver that dies without a word is noticed after two minutes, also between deliveries.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class ConnectionCut(Exception):
    """The connection is no more; the text says why."""


@implementer(IHandshakeListener, IPullProducer)
@attrs.define(eq=False)
class SyslogConnection(Protocol):
    """
    The sending side of one connection.

    :ivar lost: why the connection is no more; empty while it is there.
    """

    reactor: Any
    tls: bool
    lost: str = attrs.field(default="", init=False)
    _tcp: Any = attrs.field(default=None, init=False)
    _frames: Iterator[bytes] | None = attrs.field(default=None, init=False)
    _ready: Deferred[None] = attrs.field(factory=Deferred, init=False)
    _written: Deferred[None] | None = attrs.field(default=None, init=False)
    _gone: Deferred[None] = attrs.field(factory=Deferred, init=False)

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.protocol.Protocol`."""
        transport: Any = self.transport
        self._tcp = transport.transport if self.tls else transport
        self._tcp.setTcpKeepAlive(True)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                self._tcp.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if not self.tls:
            self._ready.callback(None)

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`."""
        if not self._ready.called:
            self._ready.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.protocol.Protocol`."""
        self.lost = why(reason.value)
        for waiting in (self._ready, self._written):
            if waiting is not None and not waiting.called:
                waiting.errback(ConnectionCut(self.lost))
        self._gone.callback(None)

    async def ready(self, seconds: float) -> None:
        """
        Fire when the receiver has had so many seconds since the handshake to hang up, and has not.

        With TLS 1.3 our handshake is over before the receiver looks at our certificate; rsyslog looks at names after
        the handshake with any version.  TCP acknowledges what is written meanwhile, and nobody ever reads it.

        :raise ConnectionCut: it has.
        """
        await self._ready
        await deferLater(self.reactor, seconds)
        self._check()

    async def send(self, frames: Iterator[bytes]) -> None:
        """
        Write everything and fire when the receiver's TCP has acknowledged it, or where the system does not tell, when
        this side's TCP has it.  At most one chunk of the frames is in memory.  Not bounded in time.

        :raise ConnectionCut: before that.
        """
        self._check()
        self._frames = frames
        self._written = Deferred()
        # A pull producer of the TCP below TLS is asked for more when that has given everything to the system; TLS
        # itself could only say that its buffer is not full.
        self._tcp.registerProducer(self, False)
        await self._written
        pause, empty = _FIRST_LOOK, 0
        # Looks twice: in between the reactor writes what TLS may still hold, and sees whether the connection is lost.
        while empty < 2:
            await deferLater(self.reactor, 0 if empty else pause)
            self._check()
            pause = min(pause * 2, _LONGEST_LOOK)
            empty = 0 if self._unacknowledged() else empty + 1

    def resumeProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IPullProducer`."""
        size, chunk = 0, []
        # Of a connection that TLS wants to close TCP would ask a producer for more forever.
        if self._frames is not None and not self._tcp.disconnecting:
            while size < _CHUNK and (frame := next(self._frames, None)) is not None:
                chunk.append(frame)
                size += len(frame)
        if chunk:
            self.transport.write(b"".join(chunk))  # type: ignore[union-attr]
            return
        self._tcp.unregisterProducer()
        self._frames = None
        if self._written is not None and not self._written.called and not self._tcp.disconnecting:
            self._written.callback(None)

    def stopProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IProducer`; :meth:`connectionLost` follows."""
        self._frames = None

    def abort(self) -> None:
        """Cut the connection, whatever is still to be written."""
        self._frames = None
        if not self.lost and self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    async def end(self) -> None:
        """Say goodbye and fire when the connection is no more; cut it if the receiver does not answer."""
        if self.lost or self.transport is None:
            return
        self.transport.loseConnection()
        late = self.reactor.callLater(_GOODBYE_SECONDS, self.abort)
        try:
            await self._gone
        except CancelledError:
            self.abort()
            raise
        finally:
            if late.active():
                late.cancel()

    def _check(self) -> None:
        if self.lost:
            raise ConnectionCut(self.lost)

    def _unacknowledged(self) -> int:
        """Bytes that the receiver's TCP has not acknowledged."""
        if sys.platform != "linux":
            return 0
        # SIOCOUTQ, which has the same number (tcp(7)).
        answer = fcntl.ioctl(self._tcp.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", answer)[0])


def why(problem: BaseException | None) -> str:
    """Why there is no connection, in a line."""
    while reasons := getattr(problem, "reasons", None):
        problem = reasons[0].value
    if isinstance(problem, SSL.Error):
        said = problem.args[0] if problem.args and isinstance(problem.args[0], list) else []
        return "TLS: " + (", ".join(str(each[-1]) for each in said) or "the connection was cut")
    if isinstance(problem, VerificationError):
        return "TLS: its certificate is for another host"
    if isinstance(problem, ConnectionDone):
        return "it closes the connection"
    return one_line(str(problem)) or type(problem).__name__

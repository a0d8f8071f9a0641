"""
TLS straight on the socket: ports whose connections let OpenSSL read and write by itself.

Twisted's own TLS stands between a socket and a protocol as a second protocol, and carries every byte through two
buffers in memory.  A node makes a connection, with a full handshake, for each request, so what that costs is most of
what a request costs: this does without (see ``docs/speed.md``).
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IListeningPort, IProtocolFactory, ISSLTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

ACCEPTS_AT_ONCE = 8
"""Connections accepted in one turn of the reactor; in each turn whoever has sent something is served too."""
WANT_PAUSE = 0.1
"""Seconds until connections are accepted again, after there was no file descriptor for one."""
_TELL_AGAIN = 60.0
_WANT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
_RECORD = 16384
_THROWN_AWAY = 65536
_RECORDS_A_TURN = 8
"""A peer that sends without end does not keep the reactor from others."""

NewConnection = Callable[[socket.socket], SSL.Connection]

_End = ConnectionDone | ConnectionLost | None


@implementer(ISSLTransport)
class TLSConnection(tcp.Server):
    """
    A connection of a peer, from the handshake to the alert that closes it.

    What a protocol writes while it is given data leaves when it returns, as few records in as few packets as can
    be.  At the end the alert is sent and the socket closed at once.  If there are bytes that nobody has read, or
    probably soon will be, closing would reset the connection and the peer might lose our last ones: then it is shut
    towards the peer, and what still comes is thrown away until the peer closes too.  How long that may last is for
    the protocol to bound.
    """

    _shouldShutdown = False
    _is_shaking_hands = True
    _is_in_turn = False
    _is_lingering = False
    _expects_more = False
    _tls: Any = None
    server: TLSPort

    def __init__(self, skt: socket.socket, protocol: Any, client: Any, server: TLSPort, number: int, reactor: Any):
        super().__init__(skt, protocol, client, server, number, reactor)
        self._tls = server.new_connection(skt)
        self._tls.set_accept_state()

    def getHandle(self) -> SSL.Connection | None:  # type: ignore[override]
        """The OpenSSL connection, to ask for the peer's certificate; nothing once the connection is lost."""
        return self._tls  # type: ignore[no-any-return]

    def getPeerCertificate(self) -> Any:
        """The certificate that the peer showed, if any."""
        return self._tls.get_peer_certificate()

    def doRead(self) -> _End:  # type: ignore[override]
        """Go on with the handshake, or give the protocol what has come."""
        if self.disconnecting:
            return self._throw_away()
        if self._is_shaking_hands:
            end = self._shake_hands()
            if end or self._aborting or self._is_shaking_hands:
                return end
        self._is_in_turn = True
        try:
            end = self._receive()
        finally:
            self._is_in_turn = False
        if end:
            return end
        return self.doWrite() if self._tempDataBuffer or self.disconnecting else None

    def doWrite(self) -> _End:  # type: ignore[override]
        """Send what there is to send; during the handshake it waits."""
        if self._is_shaking_hands and not self.disconnecting:
            self.stopWriting()
            end = self._shake_hands()
            if end or self._aborting or self._is_shaking_hands:
                return end
        return super().doWrite()  # type: ignore[no-any-return]

    def startWriting(self) -> None:
        """Ask the reactor for a chance to write, unless there is one anyway."""
        if not self._is_in_turn and not self._is_lingering:
            super().startWriting()

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        """Write as much as the socket takes."""
        view, sent = memoryview(data), 0
        try:
            while sent < min(len(view), self.SEND_LIMIT):
                sent += self._tls.send(view[sent : sent + _RECORD])
        except (SSL.WantWriteError, SSL.WantReadError):
            pass
        except SSL.Error:
            return CONNECTION_LOST
        if sent < len(view):
            super().startWriting()
        return sent

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write several things as one: a head of HTTP comes in twenty pieces."""
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Send what there is to send, then the alert, and close."""
        if self.connected and not self.disconnecting:
            if self._is_shaking_hands:
                self.abortConnection()
                return
            self.disconnecting = True
            self.startWriting()

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer closed: TLS has no use for half a connection."""
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Let go of everything."""
        super().connectionLost(reason)
        del self._tls

    def _shake_hands(self) -> _End:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return None
        except SSL.WantWriteError:
            super().startWriting()
            return None
        except SSL.Error:
            # OpenSSL has sent an alert that says what it does not like; the peer should get to read it.  In TLS 1.3
            # its request may be on the way already.
            self.disconnecting = self._expects_more = True
            return self._hang_up()
        self._is_shaking_hands = False
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        return None

    def _receive(self) -> _End:
        for _ in range(_RECORDS_A_TURN):
            try:
                data = self._tls.recv(_RECORD)
            except (SSL.WantReadError, SSL.WantWriteError):
                return None
            except SSL.ZeroReturnError:
                self._say_goodbye()
                return CONNECTION_DONE
            except SSL.Error:
                return CONNECTION_LOST
            self.protocol.dataReceived(data)
            # A record that is not full is the last, mostly; and if it is not, the reactor says so.
            self._expects_more = len(data) == _RECORD
            if not self._expects_more or self.disconnecting or self._aborting:
                break
        return None

    def _postLoseConnection(self) -> _End:
        self._say_goodbye()
        return self._hang_up()

    def _say_goodbye(self) -> None:
        # The peer may be gone already, or take nothing any more.
        with contextlib.suppress(SSL.Error):
            self._tls.shutdown()

    def _hang_up(self) -> _End:
        try:
            unread = self.socket.recv(_THROWN_AWAY)
        except BlockingIOError:
            if not self._expects_more:
                return CONNECTION_DONE
        except OSError:
            return CONNECTION_LOST
        else:
            if not unread:
                return CONNECTION_DONE
        self._is_lingering = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self.startReading()
        return None

    def _throw_away(self) -> _End:
        try:
            unread = self.socket.recv(_THROWN_AWAY)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if unread:
            return None
        if self._is_lingering:
            return CONNECTION_DONE
        # It has nothing more to say, but may still be reading what there is to send.
        self.stopReading()
        return None


class TLSPort(tcp.Port):
    """
    A port whose connections are :class:`TLSConnection`; it accepts them no faster than they are served.

    A herd (every node at once, after a restart) is kept in the kernel's queue: a connection that is not accepted yet
    costs nothing, and its handshake deadline does not run.  Were all of them accepted at once, each would get a share
    of the processor so small that most would miss their deadline after the work on them was done.
    """

    transport = TLSConnection  # type: ignore[assignment]
    new_connection: NewConnection
    on_want: Callable[[], object] = staticmethod(lambda: None)
    _log = Logger()
    _type = "TLS"
    _told_at = -math.inf

    def doRead(self) -> None:
        """Accept some of those who wait."""
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno in _WANT:
                    self._wait_for_descriptors(problem)
                    return
                # The peer went away again while it waited.
                continue
            if len(address) == 4 and address[3]:
                address = (socket.getnameinfo(address, _NUMERIC)[0], *address[1:])
            protocol = cast(Any, self.factory).buildProtocol(self._buildAddr(address))
            if protocol is None:
                accepted.close()
                continue
            accepted.setblocking(False)
            number, self.sessionno = self.sessionno, self.sessionno + 1
            protocol.makeConnection(self.transport(accepted, protocol, address, self, number, self.reactor))

    def _wait_for_descriptors(self, problem: OSError) -> None:
        # Twisted's own port would accept them by a descriptor that it keeps for this, and hang up: the peers come again
        # at once.  In the kernel's queue they cost nothing, and are served when others have gone.
        self.stopReading()
        cast(Any, self.reactor).callLater(WANT_PAUSE, self._accept_again)
        self.on_want()
        now = time.monotonic()
        if now - self._told_at >= _TELL_AGAIN:
            self._told_at = now
            self._log.error(
                "connections wait: {problem}; raise the number of open files (ulimit -n, LimitNOFILE=)",
                problem=problem.strerror,
            )

    def _accept_again(self) -> None:
        if self.connected and not self.disconnecting:
            self.startReading()


def listen(
    reactor: Any,
    listening: socket.socket,
    factory: IProtocolFactory,
    new_connection: NewConnection,
    on_want: Callable[[], object] = lambda: None,
) -> IListeningPort:
    """
    Serve a factory's protocols, over TLS, to whoever connects to a listening socket.

    :param new_connection: gives each socket its OpenSSL connection.
    :param on_want: called when connections have to wait for want of file descriptors.
    """
    listening.setblocking(False)
    # What reactor.adoptStreamPort does, but for the class.
    port: TLSPort = TLSPort._fromListeningDescriptor(reactor, listening.fileno(), listening.family, factory)
    port.new_connection = new_connection
    port.on_want = on_want
    port.startListening()
    return port

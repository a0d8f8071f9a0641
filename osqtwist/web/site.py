"""
The node side of HTTP: connections with deadlines, requests with bounds.

osqueryd makes one connection for each request and gives up on it after 16 s in all (tls.cpp), so each phase has a
deadline that bytes trickling in do not move.  What HTTP itself refuses is refused with a JSON error too: an empty
body would be a success to osquery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime, ISSLTransport
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel, datetimeToString
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from osqtwist.metrics import Metrics
from osqtwist.namedpeers import NamedPeers
from osqtwist.web.crowds import Crowds
from osqtwist.web.request import Endpoint, NodeRequest
from osqtwist.wire import refusal


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What one node, or one address, may have of a process.

    :ivar connections_per_address: open connections; of IPv6 addresses, those of a network (/64).  0 stands for three
        quarters of the files that the process may open.
    :ivar held_reads_per_node: distributed reads that are held; the oldest is answered when there is one more.
    :ivar held_reads_per_address: the same, of all nodes of an address; 0 for as many as connections.
    """

    connections_per_address: int = 0
    held_reads_per_node: int = 64
    held_reads_per_address: int = 0


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Seconds that each phase of a connection may last.

    ``handshake``, ``headers`` and ``body`` count from the moment of acceptance, ``answer`` from the end of the
    answer's writing on our side, ``idle`` from the end of one request on a kept connection to the next, ``linger``
    from a refusal that came before the whole request was read.
    """

    handshake: float = 8.0
    headers: float = 10.0
    body: float = 16.0
    answer: float = 10.0
    idle: float = 5.0
    linger: float = 2.0


_MAX_HEADERS = 64
_ARRIVES_WITHIN = 2.0
"""Seconds from acceptance in which a stop waits for a request: a node sends it with its handshake."""
_MAX_HEADER_BYTES = 16384


@implementer(IHandshakeListener)
class NodeChannel(HTTPChannel):
    """
    One connection of a node.

    :ivar accepted_at: clock time of the acceptance; the hold of a distributed read counts from here.
    :ivar caller: who sent its newest request, as proven; nothing before that.
    :ivar passed: what a proxy said with that request (:class:`osqtwist.passedcertificates.Passed`), if one did.
    """

    maxHeaders = _MAX_HEADERS
    totalHeadersSize = _MAX_HEADER_BYTES
    site: NodeSite
    transport: Any
    accepted_at = 0.0
    address = ""
    caller: Any = None
    passed: Any = None
    _phase = "handshake"
    _deadline: IDelayedCall | None = None
    _is_discarding = False
    _has_shaken_hands = False

    def connectionMade(self) -> None:
        """Accept; the first deadline runs from here, before any handshake."""
        super().connectionMade()
        self.accepted_at = self.site.reactor.seconds()
        self.site.metrics.connections.inc()
        self.site.metrics.connections_total.inc()
        self.site.channels[self] = None
        if ISSLTransport.providedBy(self.transport):
            self._expect("handshake", self.site.deadlines.handshake)
        else:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        """The TLS handshake is over; headers are next."""
        self._has_shaken_hands = True
        self._expect("headers", self.site.deadlines.headers)
        self.site.after_handshake(self)

    def comes_from(self, address: str) -> bool:
        """Its proxy says where it really comes from; false if there are too many from there, and it has to end."""
        crowds = self.site.crowds
        crowds.leave(self.address)
        self.address = address if crowds.enter(address) else ""
        if not self.address:
            crowds.enter("")
            self.site.metrics.connections_refused.inc()
        return bool(self.address)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes, unless the answer is already decided."""
        if not self._is_discarding:
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Take a line, unless one before it in the same bytes was refused."""
        if not self._is_discarding:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Take a part of a body, on the same condition."""
        if not self._is_discarding:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that has no end; Twisted would close without a word."""
        self._respondToBadRequestAndDisconnect()

    def allHeadersReceived(self) -> None:
        """Go on to the body, with its own deadline."""
        super().allHeadersReceived()
        if not self._is_discarding:
            self._expect("body", self.site.deadlines.body)

    def allContentReceived(self) -> None:
        """Hand the request over; how long it is handled is not this deadline's business."""
        if self._is_discarding:
            return
        self._expect_nothing()
        super().allContentReceived()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether to keep the connection: only if set so, since osqueryd never uses one twice."""
        is_persistent: bool = super().checkPersistence(request, version)
        if not self.site.keeps_connections:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return False
        return is_persistent

    def requestDone(self, request: Request) -> None:
        """The answer is written on our side; the peer has so long to read it, or to ask again."""
        # This comes first: Twisted now begins the next request if it is here already, with a deadline of its own.
        if self.persistent:
            self.accepted_at = self.site.reactor.seconds()
            self._expect("idle", self.site.deadlines.idle)
        else:
            self._expect("answer", self.site.deadlines.answer)
        super().requestDone(request)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Let go."""
        self._expect_nothing()
        self.site.channels.pop(self, None)
        self.site.crowds.leave(self.address)
        self.site.metrics.connections.dec()
        if not self._has_shaken_hands:
            self.site.metrics.handshakes_failed.inc()
        super().connectionLost(reason)

    @property
    def is_answering(self) -> bool:
        """Whether a request is being handled, or its answer still on the way out."""
        return bool(self.requests) or self._phase in ("answer", "linger")

    @property
    def is_arriving(self) -> bool:
        """Whether it was accepted a moment ago, and its request is probably on the way."""
        return self._phase in ("handshake", "headers", "body") and (
            self.site.reactor.seconds() - self.accepted_at < _ARRIVES_WITHIN
        )

    def refuse(self, code: int, text: str) -> None:
        """
        Answer at once, before the request is whole, and read no more of it.

        The connection lingers a moment: closing it on unread bytes would reset it, and the answer be lost.
        """
        if self._is_discarding:
            return
        kind, body = self.site.refused(code, text, self.path)
        head = (
            f"HTTP/1.1 {code} {RESPONSES.get(code, b'Refused').decode()}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._is_discarding = True
        self.persistent = False
        self.transport.writeSequence([head.encode("ascii"), body])
        self.site.metrics.refused.labels(reason="http").inc()
        self._expect("linger", self.site.deadlines.linger)

    @property
    def path(self) -> bytes:
        """The path of the request that is being read, or nothing."""
        # HTTPChannel knows the path from the first line to the end of the body.
        return bytes(getattr(self, "_path", b"")).partition(b"?")[0]

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted answers malformed HTTP with an empty 400, which osquery would take for success.
        self.refuse(400, "malformed HTTP request")

    def _send100Continue(self) -> None:
        if not self._is_discarding:
            super()._send100Continue()

    def _expect(self, phase: str, seconds: float) -> None:
        self._expect_nothing()
        self._phase = phase
        counts_from_acceptance = phase in ("handshake", "headers", "body")
        # The clock may have been set meanwhile.
        elapsed = max(0.0, self.site.reactor.seconds() - self.accepted_at) if counts_from_acceptance else 0.0
        self._deadline = self.site.reactor.callLater(max(0.0, seconds - elapsed), self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._phase not in ("linger", "idle"):
            self.site.metrics.deadlines.labels(phase=self._phase).inc()
        self.transport.abortConnection()


class QuietSite(Site):
    """A site without an access log in the Web's own format, and without tracebacks in its answers."""

    displayTracebacks = False
    noisy = False

    def startFactory(self) -> None:
        """Twisted would open its log here."""

    def stopFactory(self) -> None:
        """The counterpart."""


class NodeSite(QuietSite):
    """
    The site that nodes talk to.

    :param keeps_connections: whether a connection may carry more than one request.
    :param plain_paths: paths on which a refusal must not be JSON.
    :param crowds: counts connections by address.
    :ivar after_handshake: called with each connection when it has shaken hands; may abort it.
    :ivar proxies: whose connections are other peers', so that they are not counted as theirs.
    :ivar arriving: called with each request of a node before anything is done with it.
    :param endpoints: what answers POST and PUT on these paths, without asking the resource.
    """

    protocol = NodeChannel  # type: ignore[assignment]
    after_handshake: Callable[[NodeChannel], object] = staticmethod(lambda channel: None)
    proxies = NamedPeers()
    arriving: Callable[[Request], object] = staticmethod(lambda request: None)

    def __init__(
        self,
        resource: IResource,
        clock: IReactorTime,
        metrics: Metrics,
        body_limit: Callable[[bytes], int],
        deadlines: Deadlines,
        keeps_connections: bool = False,
        plain_paths: frozenset[bytes] = frozenset(),
        endpoints: Mapping[bytes, Endpoint] | None = None,
        crowds: Crowds | None = None,
    ) -> None:
        # The time-outs are the channel's own; twisted's would move with every byte.
        super().__init__(
            resource,
            requestFactory=NodeRequest,
            parsePOSTFormSubmission=False,
            timeout=None,
            reactor=clock,
        )
        self.metrics = metrics
        self.body_limit = body_limit
        self.deadlines = deadlines
        self.keeps_connections = keeps_connections
        self.plain_paths = plain_paths
        self.endpoints = endpoints or {}
        self.crowds = crowds or Crowds(clock)
        self.channels: dict[NodeChannel, None] = {}
        self._second, self._date = -1, b""

    if TYPE_CHECKING:
        reactor: Any

    def buildProtocol(self, addr: Any) -> Any:
        """
        A channel for a connection; none if its address has too many, which closes it before the handshake.

        A node takes that for a network that fails: it keeps what it has, and comes again.
        """
        address = str(getattr(addr, "host", ""))
        if self.proxies.have(address):
            address = ""
        if not self.crowds.enter(address):
            self.metrics.connections_refused.inc()
            return None
        channel: Any = super().buildProtocol(addr)
        channel.address = address
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 only: under HTTP/2 the peer's certificate is out of reach, and osquery does not speak it."""
        return [b"http/1.1"]

    def refused(self, code: int, text: str, path: bytes) -> tuple[str, bytes]:
        """What whoever is refused before any endpoint is asked is told: media type and body."""
        # Carves take any JSON for success; everything else needs JSON with an error.
        if path in self.plain_paths:
            return "text/plain; charset=utf-8", f"refused: {text}".encode()
        return "application/json", refusal(text)

    def date(self) -> bytes:
        """Now, as HTTP writes it."""
        second = int(self.reactor.seconds())
        if second != self._second:
            self._second, self._date = second, datetimeToString(second)
        return self._date

    def end_connections(self, concerns: Callable[[NodeChannel], bool]) -> int:
        """Abort the open connections that are concerned; answers with how many there were."""
        concerned = [channel for channel in self.channels if concerns(channel)]
        for channel in concerned:
            channel.transport.abortConnection()
        return len(concerned)

    def put_out(self, concerns: Callable[[NodeChannel], bool]) -> None:
        """The same, of those who are refused from now on; it is counted."""
        self.metrics.certificates.put_out.inc(self.end_connections(concerns))

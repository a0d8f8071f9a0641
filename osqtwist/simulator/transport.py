"""
One request over one connection, as osqueryd does it (http_client.cpp, tls.cpp).

Each request is a new TCP connection and a full handshake; the server name is always sent, even an address; the
connection is closed with a FIN and no TLS close_notify.  16 s cover everything, from the first packet to the last
byte, a silent second try after a broken connection included.
"""

from __future__ import annotations

import gzip
import ipaddress
from typing import Any

import attrs
import service_identity.pyopenssl
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectingCancelledError, ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

BUDGET = 16.0
MAX_RESPONSE = 8 * 2**20
_MAX_HEADERS = 8192


class TransportFailed(Exception):
    """No whole answer came: refused, broken off, not HTTP, or too long."""


class TimedOut(TransportFailed):
    """The 16 s were over."""


@attrs.frozen
class Answer:
    """What came back.  The client never looks at the status; tests may."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = 0.0


@attrs.frozen
class Server:
    """
    The server that nodes talk to.

    :ivar name: as in ``tls_hostname``; checked against the server's certificate.
    :ivar address: where to connect; the name's by default.
    """

    name: str
    port: int
    address: str = ""

    @property
    def host_header(self) -> str:
        """What stands in the Host header."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == 443 else f"{name}:{self.port}"


@attrs.define
class Counts:
    """Connections begun and handshakes finished, over all requests."""

    connections: int = 0
    handshakes: int = 0
    resends: int = 0


def client_context(ca_file: str, certificate: Any = None, key: Any = None, version: str = "") -> SSL.Context:
    """
    A context as osqueryd makes it.

    :param certificate: of the node (``cryptography`` object), with its ``key``; ``None`` goes without.
    :param version: ``1.2`` or ``1.3`` only; both by default.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    versions = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
    context.set_min_proto_version(versions.get(version, SSL.TLS1_2_VERSION))
    context.set_max_proto_version(versions.get(version, SSL.TLS1_3_VERSION))
    context.set_verify(SSL.VERIFY_PEER, None)
    context.load_verify_locations(ca_file)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if certificate is not None:
        context.use_certificate(certificate)
        context.use_privatekey(key)
    return context


@attrs.define(eq=False)
class Transport:
    """
    Sends requests to a server, each over a connection of its own.

    :ivar resends: whether a request is sent again at once, one time, after its connection broke.
    """

    reactor: Any
    server: Server
    context: SSL.Context
    counts: Counts = attrs.field(factory=Counts)
    budget: float = BUDGET
    resends: bool = True

    async def post(self, path: str, body: bytes, headers: list[tuple[str, str]]) -> Answer:
        """
        The answer to a POST.

        :param headers: those before ``Host``, in the order of the wire.
        :raise TransportFailed: there is none.
        """
        return await self.request("POST", path, body, headers)

    async def request(self, method: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> Answer:
        """The same, with another method."""
        began = self.reactor.seconds()
        trying = Deferred.fromCoroutine(self._try_twice(_head(method, path, self.server, headers, len(body)) + body))
        over = self.reactor.callLater(self.budget, trying.cancel)
        try:
            answer = await trying
        except CancelledError:
            if over.active():
                raise
            raise TimedOut("timed out") from None
        finally:
            if over.active():
                over.cancel()
        return attrs.evolve(answer, seconds=self.reactor.seconds() - began)

    async def _try_twice(self, request: bytes) -> Answer:
        try:
            return await self._once(request)
        except TransportFailed:
            if not self.resends:
                raise
            self.counts.resends += 1
            return await self._once(request)

    async def _once(self, request: bytes) -> Answer:
        self.counts.connections += 1
        exchange = _Exchange(self.server.name, request, self.counts)
        factory = TLSMemoryBIOFactory(_Creator(self.context, self.server.name), True, _One(exchange), self.reactor)
        address = self.server.address or self.server.name
        endpoint = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        target = "127.0.0.1" if address == "localhost" else address
        connecting = endpoint(self.reactor, target, self.server.port, timeout=self.budget).connect(factory)
        try:
            await connecting
            return await exchange.answer
        except (TransportFailed, CancelledError):
            raise
        except ConnectingCancelledError:
            # What an endpoint makes of it; it must not be taken for a connection that broke, and be made again.
            raise CancelledError from None
        except Exception as problem:
            raise TransportFailed(f"{type(problem).__name__}: {problem}") from None
        finally:
            exchange.close()


def _head(method: str, path: str, server: Server, headers: list[tuple[str, str]], length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Host: {server.host_header}"]
    if method != "GET":
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@attrs.define
class _One(Factory):
    exchange: _Exchange
    noisy = False

    def buildProtocol(self, addr: object) -> _Exchange:
        return self.exchange


@implementer(IOpenSSLClientConnectionCreator)
@attrs.frozen
class _Creator:
    context: SSL.Context
    name: str

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        connection.set_tlsext_host_name(self.name.encode("ascii"))
        return connection


@implementer(IHandshakeListener)
class _Exchange(Protocol):
    """Writes the request when the handshake is over and reads one answer."""

    transport: Any

    def __init__(self, name: str, request: bytes, counts: Counts) -> None:
        self._name = name
        self._request = request
        self._counts = counts
        self._reader = ResponseReader()
        self.answer: Deferred[Answer] = Deferred()

    def handshakeCompleted(self) -> None:
        self._counts.handshakes += 1
        try:
            _check_name(self.transport.getHandle(), self._name)
        except (VerificationError, CertificateError) as problem:
            self._fail(TransportFailed(f"certificate verify failed: {problem}"))
            return
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        try:
            found = self._reader.feed(data)
        except TransportFailed as problem:
            self._fail(problem)
            return
        if found is not None:
            self._finish(found)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        if self.answer.called:
            return
        found = self._reader.end(is_clean=bool(reason.check(ConnectionDone)))
        if found is None:
            self._fail(TransportFailed(f"connection broken off: {reason.getErrorMessage()}"))
        else:
            self._finish(found)

    def close(self) -> None:
        """Send a FIN, and no close_notify."""
        tcp = getattr(self.transport, "transport", None)
        if tcp is not None:
            tcp.loseConnection()

    def _finish(self, answer: Answer) -> None:
        if not self.answer.called:
            self.answer.callback(answer)

    def _fail(self, problem: Exception) -> None:
        if not self.answer.called:
            self.answer.errback(problem)


def _check_name(connection: SSL.Connection, name: str) -> None:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        service_identity.pyopenssl.verify_hostname(connection, name)
    else:
        service_identity.pyopenssl.verify_ip_address(connection, name)


class ResponseReader:
    """Reads one HTTP response: with a length, chunked, or to the end of the connection."""

    def __init__(self) -> None:
        self._data = b""
        self._status = 0
        self._headers: dict[str, str] | None = None
        self._body: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Answer | None:
        """
        Take bytes; answers with the response when it is whole.

        :raise TransportFailed: it is not HTTP, or too long.
        """
        self._data += data
        if self._headers is None and not self._read_head():
            return None
        if self._headers is None:
            return None
        if 100 <= self._status < 200 or self._status == 204:
            return self._whole()
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunks()
        if len(self._data) > MAX_RESPONSE:
            raise TransportFailed("body limit exceeded")
        length = self._headers.get("content-length")
        if length is None:
            return None
        if not length.isdecimal() or int(length) > MAX_RESPONSE:
            raise TransportFailed("body limit exceeded")
        if len(self._data) < int(length):
            return None
        self._body = [self._data[: int(length)]]
        return self._whole()

    def end(self, is_clean: bool) -> Answer | None:
        """The response, if the end of the connection makes it whole: only after a close_notify."""
        if self._headers is None or not is_clean:
            return None
        if "content-length" in self._headers or "transfer-encoding" in self._headers:
            return None
        self._body = [self._data]
        return self._whole()

    def _read_head(self) -> bool:
        head, separator, rest = self._data.partition(b"\r\n\r\n")
        if not separator:
            if len(self._data) > _MAX_HEADERS:
                raise TransportFailed("header limit exceeded")
            return False
        if len(head) > _MAX_HEADERS:
            raise TransportFailed("header limit exceeded")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise TransportFailed("bad version")
        self._status = int(words[1])
        self._headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        self._data = rest
        return True

    def _read_chunks(self) -> Answer | None:
        while True:
            line, separator, rest = self._data.partition(b"\r\n")
            if not separator:
                return None
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                raise TransportFailed("bad chunk") from None
            if size == 0:
                return self._whole() if rest.endswith(b"\r\n") else None
            if len(rest) < size + 2:
                return None
            self._body.append(rest[:size])
            self._size += size
            if self._size > MAX_RESPONSE:
                raise TransportFailed("body limit exceeded")
            self._data = rest[size + 2 :]

    def _whole(self) -> Answer:
        return Answer(self._status, self._headers or {}, b"".join(self._body))


def inflated(answer: Answer) -> bytes:
    """The body of an answer that was asked for with ``--tls_accept_gzip``."""
    if answer.headers.get("content-encoding") != "gzip":
        return answer.body
    try:
        return gzip.decompress(answer.body)
    except (OSError, EOFError) as problem:
        raise TransportFailed(f"bad gzip: {problem}") from None

"""Connections of nodes over real sockets: deadlines, bounds, and what HTTP itself refuses."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import Request

from osqtwist.metrics import Metrics
from osqtwist.tls import ReloadingServerTLS, TLSFiles
from osqtwist.web.site import BodyLimits, Deadlines, NodeSite
from tests.certificates import TestPKI

QUICK = Deadlines(handshake=0.3, headers=0.4, body=0.5, answer=0.4, idle=0.3, linger=0.2)


class Echo(Resource):
    """Answers with the body, or with very much."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        content: Any = request.content
        return b"x" * 30_000_000 if request.path == b"/much" else content.read() or b"nothing"


@attrs.define
class Served:
    port: int
    metrics: Metrics
    context: ssl.SSLContext
    site: NodeSite

    async def call(self, client: Callable[[socket.socket], Any]) -> Any:
        """Run a blocking client, with a socket that has shaken hands, in a thread."""

        def run() -> Any:
            with (
                socket.create_connection(("127.0.0.1", self.port), 5) as raw,
                self.context.wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                return client(connection)

        return await deferToThread(run)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


@pytest_twisted.async_yield_fixture
async def serve(pki: TestPKI) -> AsyncIterator[Callable[..., Served]]:
    ports, sites = [], []

    def begin(deadlines: Deadlines = QUICK, limit: int = 1000, keeps: bool = False) -> Served:
        metrics = Metrics()
        limits = BodyLimits({b"/large": 100_000}, otherwise=limit)
        site = NodeSite(Echo(), reactor, metrics, limits, deadlines, keeps)  # type: ignore[arg-type]
        tls = ReloadingServerTLS(TLSFiles(pki.path("server.pem"), pki.path("server.key"), pki.path("ca.pem")))
        factory = TLSMemoryBIOFactory(tls, False, site, reactor)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        ports.append(port)
        sites.append(site)
        context = ssl.create_default_context(cafile=str(Path(pki.path("ca.pem"))))
        return Served(port.getHost().port, metrics, context, site)

    yield begin
    for port in ports:
        await port.stopListening()
    for site in sites:
        site.end_connections(lambda _: True)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def ask(request: bytes) -> Callable[[socket.socket], bytes]:
    def client(connection: socket.socket) -> bytes:
        connection.sendall(request)
        return read_all(connection)

    return client


def post(body: bytes, path: str = "/", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def error_of(answer: bytes, code: int) -> str:
    """The text of an error that osquery would understand."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % code), head
    found = json.loads(body)
    assert set(found) == {"error"}
    text = found["error"]
    assert isinstance(text, str)
    return text


# -- connections


@pytest_twisted.ensureDeferred
async def test_one_request_and_the_connection_is_closed(serve: Callable[..., Served]) -> None:
    """osqueryd never uses a connection twice; it is told so, in the lower case that it looks for."""
    server = serve()
    answer = await server.call(ask(post(b"hello")))
    assert b"Connection: close\r\n" in answer
    assert answer.endswith(b"hello")
    assert server.count("osqtwist_connections_accepted_total") == 1


@pytest_twisted.ensureDeferred
async def test_kept_connections_carry_more_requests(serve: Callable[..., Served]) -> None:
    """With the setting a connection serves request after request, and ends when it idles."""
    server = serve(keeps=True)

    def client(connection: socket.socket) -> tuple[bytes, bytes, float]:
        connection.sendall(post(b"one"))
        first = connection.recv(1000)
        connection.sendall(post(b"two"))
        second = connection.recv(1000)
        began = time.monotonic()
        assert read_all(connection) == b""
        return first, second, time.monotonic() - began

    first, second, idle = await server.call(client)
    assert first.endswith(b"one") and second.endswith(b"two")
    assert b"Connection" not in first
    assert 0.1 < idle < 2


@pytest_twisted.ensureDeferred
async def test_a_close_without_close_notify_is_no_error(serve: Callable[..., Served]) -> None:
    """osqueryd ends a connection with a bare FIN."""
    server = serve()

    def client(connection: socket.socket) -> None:
        connection.sendall(post(b"x"))
        connection.recv(10)
        connection.shutdown(socket.SHUT_RDWR)

    await server.call(client)


# -- deadlines


@pytest.mark.parametrize("trickle", [b"", b"\x16"])
@pytest_twisted.ensureDeferred
async def test_a_handshake_has_a_deadline(serve: Callable[..., Served], trickle: bytes) -> None:
    """Silence, and bytes that trickle in, end at the same moment."""
    server = serve()

    def client() -> float:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
            raw.settimeout(0.1)
            with contextlib.suppress(OSError):
                while time.monotonic() - began < 4:
                    if trickle:
                        raw.send(trickle)
                    with contextlib.suppress(TimeoutError):
                        if not raw.recv(100):
                            break
        return time.monotonic() - began

    assert 0.2 < await deferToThread(client) < 2
    assert server.count("osqtwist_connection_deadlines_total", phase="handshake") == 1
    assert server.count("osqtwist_handshakes_failed_total") == 1


def trickle(first: bytes) -> Callable[[socket.socket], float]:
    def client(connection: socket.socket) -> float:
        began = time.monotonic()
        connection.settimeout(0.05)
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while time.monotonic() - began < 4:
                connection.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(100):
                        break
        return time.monotonic() - began

    return client


@pytest_twisted.ensureDeferred
async def test_headers_and_body_have_deadlines_that_bytes_do_not_move(serve: Callable[..., Served]) -> None:
    """A byte now and then does not keep a connection."""
    server = serve()
    assert 0.2 < await server.call(trickle(b"POST / HTTP/1.1\r\nX: ")) < 2
    assert 0.3 < await server.call(trickle(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")) < 2
    for phase in ("headers", "body"):
        assert server.count("osqtwist_connection_deadlines_total", phase=phase) == 1


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read_is_let_go(serve: Callable[..., Served]) -> None:
    """An answer that nobody takes ends with the connection, and its memory with it."""
    server = serve()

    def client(connection: socket.socket) -> None:
        connection.sendall(post(b"", "/much"))
        time.sleep(1.2)

    await server.call(client)
    assert server.count("osqtwist_connection_deadlines_total", phase="answer") == 1


# -- bounds


@pytest_twisted.ensureDeferred
async def test_a_body_that_says_it_is_too_long_is_refused_unread(serve: Callable[..., Served]) -> None:
    """413 before a byte of it is there; each path has its own limit."""
    server = serve()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
    assert "over 1000 bytes" in error_of(await server.call(ask(head)), 413)
    assert (await server.call(ask(post(b"y" * 50_000, "/large?x=1")))).endswith(b"y" * 50_000)
    assert "over 100000 bytes" in error_of(await server.call(ask(post(b"y" * 200_000, "/large"))), 413)


@pytest_twisted.ensureDeferred
async def test_a_chunked_body_is_refused_when_it_passes_the_limit(serve: Callable[..., Served]) -> None:
    """Without a length the bytes are counted."""
    server = serve()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"190\r\n" + b"z" * 400 + b"\r\n"
    assert (await server.call(ask(head + chunk + b"0\r\n\r\n"))).endswith(b"z" * 400)
    assert "over 1000 bytes" in error_of(await server.call(ask(head + chunk * 3 + b"0\r\n\r\n")), 413)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"rubbish\r\n\r\n",
        b"POST / HTTP/1.1 x\r\n\r\n",
        b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"a" * 17_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_not_http_is_never_answered_with_success(
    serve: Callable[..., Served], request_bytes: bytes
) -> None:
    """Twisted's own refusal has an empty body, which osquery takes for success; ours is an error, or nothing."""
    answer = await serve().call(ask(request_bytes))
    if answer:
        assert error_of(answer, 400)


@pytest_twisted.ensureDeferred
async def test_connections_are_counted_and_can_be_ended(serve: Callable[..., Served]) -> None:
    """The gauge follows, and an operator's hand reaches open connections."""
    server = serve(Deadlines())

    def client(connection: socket.socket) -> bytes:
        return read_all(connection)

    waiting = server.call(client)
    running = Deferred.fromCoroutine(waiting)
    for _ in range(100):
        if server.count("osqtwist_connections") == 1 and all(
            channel._has_shaken_hands for channel in server.site.channels
        ):
            break
        await deferToThread(time.sleep, 0.02)
    assert server.site.end_connections(lambda _: True) == 1
    assert await running == b""
    assert server.count("osqtwist_connections") == 0

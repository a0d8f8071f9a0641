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
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from osqtwist.metrics import Metrics
from osqtwist.operating import listen_on_socket
from osqtwist.tls import ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles
from osqtwist.tlsport import listen
from osqtwist.web.crowds import Crowds
from osqtwist.web.request import BodyLimits
from osqtwist.web.site import Deadlines, NodeSite
from tests.certificates import TestPKI
from tests.harness import InMemoryServer

# Real sockets, and deadlines that pass.
pytestmark = pytest.mark.slow

QUICK = Deadlines(handshake=0.3, headers=0.4, body=0.5, answer=0.4, idle=0.3, linger=0.2)


class Echo(Resource):
    """Answers with the body; with very much; or late."""

    isLeaf = True

    def render(self, request: Request) -> Any:
        content: Any = request.content
        if request.path == b"/late":
            reactor.callLater(0.6, request.finish)  # type: ignore[attr-defined]
            request.write(b"late")
            return NOT_DONE_YET
        return b"x" * 30_000_000 if request.path == b"/much" else content.read() or b"nothing"


CANCELLED: list[bytes] = []


def shout(request: Request) -> Deferred[bytes]:
    content: Any = request.content
    return succeed(content.read().upper())


def wait(request: Request) -> Deferred[bytes]:
    return Deferred(lambda _: CANCELLED.append(request.path))


ENDPOINTS = {b"/shout": shout, b"/wait": wait, b"/fault": lambda request: fail(RuntimeError("a fault"))}


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
        plain = frozenset({b"/plain"})
        site = NodeSite(Echo(), reactor, metrics, limits, deadlines, keeps, plain, ENDPOINTS)  # type: ignore[arg-type]
        tls = ReloadingServerTLS(TLSFiles(pki.path("server.pem"), pki.path("server.key"), pki.path("ca.pem")))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port: Any = listen(reactor, listening, site, tls.connection)
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


@pytest.mark.slow
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
async def test_a_node_may_end_a_kept_connection(serve: Callable[..., Served]) -> None:
    """Connection: close, or a version that knows no other way, is heeded."""
    server = serve(keeps=True)
    answer = await server.call(ask(post(b"hello", "/", "Connection: close")))
    assert b"\r\nConnection: close\r\n" in answer and answer.endswith(b"hello")
    assert (await server.call(ask(b"GET / HTTP/1.0\r\n\r\n"))).endswith(b"nothing")
    assert server.count("osqtwist_connection_deadlines_total", phase="answer") == 0


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_requests_at_once_on_a_kept_connection_are_answered_in_order(serve: Callable[..., Served]) -> None:
    """The deadline for the next request does not run while that request is being handled, however long it takes."""
    server = serve(keeps=True)
    answer = await server.call(ask(post(b"one") + post(b"", "/late") + post(b"three")))
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.index(b"one") < answer.index(b"late") < answer.index(b"three")


@pytest_twisted.ensureDeferred
async def test_what_follows_the_one_request_is_not_looked_at(serve: Callable[..., Served]) -> None:
    """Without the setting a second request on the connection is not handled."""
    server = serve()
    answer = await server.call(ask(post(b"one") + post(b"two")))
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.endswith(b"one")


@pytest_twisted.ensureDeferred
async def test_rubbish_on_a_kept_connection_is_refused_after_the_answer(serve: Callable[..., Served]) -> None:
    """The good request before it has its answer."""
    server = serve(keeps=True)
    answer = await server.call(ask(post(b"one") + b"rubbish\r\n\r\n" + post(b"three")))
    first, _, second = answer.partition(b"HTTP/1.1 400 ")
    assert first.endswith(b"one")
    assert error_of(b"HTTP/1.1 400 " + second, 400)


@pytest_twisted.ensureDeferred
async def test_a_close_without_close_notify_is_no_error(serve: Callable[..., Served]) -> None:
    """osqueryd ends a connection with a bare FIN."""
    server = serve()

    def client(connection: socket.socket) -> None:
        connection.sendall(post(b"x"))
        connection.recv(10)
        connection.shutdown(socket.SHUT_RDWR)

    await server.call(client)


# -- endpoints


@pytest.mark.parametrize("asked", ["POST /shout", "PUT /shout", "POST /shout?loud=1"])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_answers_its_path(serve: Callable[..., Served], asked: str) -> None:
    """The resource is not asked."""
    answer = await serve().call(ask(post(b"hello").replace(b"POST /", asked.encode(), 1)))
    assert answer.endswith(b"\r\n\r\n5\r\nHELLO\r\n0\r\n\r\n")
    assert b"\r\nDate: " in answer and b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("asked", ["GET /shout", "POST /shout/", "POST /Shout", "POST /sh%6fut", "POST //shout"])
@pytest_twisted.ensureDeferred
async def test_all_else_is_for_the_resource(serve: Callable[..., Served], asked: str) -> None:
    """Other methods and other spellings; it knows better than a table."""
    assert b"hello" in await serve().call(ask(post(b"hello").replace(b"POST /", asked.encode(), 1)))


@pytest_twisted.ensureDeferred
async def test_an_endpoint_is_cancelled_when_the_node_goes(serve: Callable[..., Served]) -> None:
    """Nothing is done for somebody who is not there, and nothing is logged of it."""
    server = serve()
    CANCELLED.clear()
    await server.call(lambda connection: connection.sendall(post(b"", "/wait")))
    for _ in range(100):
        if server.count("osqtwist_connections") == 0:
            break
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    assert CANCELLED == [b"/wait"]


@pytest_twisted.ensureDeferred
async def test_a_fault_of_an_endpoint_is_no_success(serve: Callable[..., Served]) -> None:
    """It should not happen; if it does, the answer is nothing that osquery takes for one."""
    answer = await serve().call(ask(post(b"", "/fault")))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    with pytest.raises(ValueError):
        json.loads(body)


@pytest.mark.parametrize(
    "asked", ["OPTIONS * HTTP/1.1", "POST * HTTP/1.1", "POST /%ff HTTP/1.1", "POST /config/%c3 HTTP/1.1"]
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_path_is_an_error(serve: Callable[..., Served], asked: str) -> None:
    """Twisted would answer the star with 200 and nothing, a success to osquery; Klein what is no UTF-8 with a text."""
    answer = await serve().call(ask(asked.encode("latin-1") + b"\r\nContent-Length: 0\r\n\r\n"))
    assert error_of(answer, 404) == "there is no such route"


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


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_headers_and_body_have_deadlines_that_bytes_do_not_move(serve: Callable[..., Served]) -> None:
    """A byte now and then does not keep a connection."""
    server = serve()
    assert 0.2 < await server.call(trickle(b"POST / HTTP/1.1\r\nX: ")) < 2
    assert 0.3 < await server.call(trickle(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")) < 2
    for phase in ("headers", "body"):
        assert server.count("osqtwist_connection_deadlines_total", phase=phase) == 1


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_silence_after_the_handshake_has_a_deadline(serve: Callable[..., Served]) -> None:
    """A connection without a request is closed without an answer."""
    server = serve()
    assert await server.call(read_all) == b""
    assert server.count("osqtwist_connection_deadlines_total", phase="headers") == 1


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_request_that_is_being_handled_has_no_deadline(serve: Callable[..., Served]) -> None:
    """A distributed read is held longer than any phase may last."""
    assert (await serve().call(ask(post(b"", "/late")))).endswith(b"late\r\n0\r\n\r\n")


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read_is_let_go(serve: Callable[..., Served]) -> None:
    """An answer that nobody takes ends with the connection, and its memory with it."""
    server = serve()

    def client(connection: socket.socket) -> bool:
        connection.sendall(post(b"", "/much"))
        began = time.monotonic()
        while time.monotonic() - began < 4:
            time.sleep(0.02)
            if server.count("osqtwist_connections") == 0:
                return True
        return False

    assert await server.call(client)
    assert server.count("osqtwist_connection_deadlines_total", phase="answer") == 1


@attrs.define
class Wire(StringTransport):
    """Bytes in memory that can be aborted."""

    disconnected_at: float | None = None
    clock: Clock = attrs.field(factory=Clock)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def abortConnection(self) -> None:
        self.disconnected_at = self.clock.seconds()


@pytest.mark.parametrize(
    ("parts", "ended_at"),
    [
        ([(0, b"")], 10),
        ([(9, b"POST / HTTP/1.1\r\n")], 10),
        ([(9, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")], 16),
        ([(9, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"), (15, b"12345678")], 16),
        ([(1, b"rubbish\r\n\r\n"), (2, b"more\r\n\r\n")], 3),
        ([(9, b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n")], 11),
        ([(0, b"POST / HTTP/1.1\r\n\r\n")], 5),
        ([(9, b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n"), (15, b"1")], 20),
        ([(0, b"POST / HTTP/1.1\r\n\r\n"), (4, b"POST / HTTP/1.1\r\n\r\n")], 9),
        ([(0, b"POST / HTTP/1.1\r\n\r\n"), (4, b"POST / HTTP/1.1\r\n")], 5),
        ([(0, b"POST / HTTP/1.1\r\n\r\n"), (4, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")], 16),
        ([(2, b"GET / HTTP/1.0\r\n\r\n")], 12),
    ],
)
def test_every_phase_ends_to_the_second(parts: list[tuple[float, bytes]], ended_at: float) -> None:
    """8 s of handshake, 10 s to the headers, 16 s to the body, all from the acceptance; 10 s to read, 5 s between."""
    clock = Clock()
    site = NodeSite(Echo(), clock, Metrics(), BodyLimits({}, 1000), Deadlines(), keeps_connections=True)  # type: ignore[arg-type]
    channel: Any = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    wire = Wire(clock=clock)
    channel.makeConnection(wire)
    for moment, part in parts:
        clock.pump([0.5] * int((moment - clock.seconds()) * 2))
        channel.dataReceived(part)
    while wire.disconnected_at is None and clock.seconds() < 60:
        clock.advance(0.5)
    assert wire.disconnected_at == ended_at
    channel.connectionLost(Failure(ConnectionDone()))
    assert not clock.getDelayedCalls()
    assert not site.channels


# -- operators


@pytest_twisted.ensureDeferred
async def test_operators_are_refused_in_words_of_their_api(tmp_path: Path) -> None:
    """Also on the admin socket: a body that is too long, and what is no HTTP, is a problem; one of 100 kB is taken."""
    server = InMemoryServer(tmp_path / "server")
    path = tmp_path / "admin.sock"
    port = await listen_on_socket(reactor, path, 0o600, server.admin_api)

    def send(request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(request)
            found = b""
            while b'"status":' not in found and (part := client.recv(65536)):
                found += part
            return found

    def post(size: int) -> bytes:
        body = b'{"rule":"%s","seconds":1}' % (b"x" * size)
        head = b"POST /api/v1/alerts/silences HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
        return send(head % len(body) + body)

    try:
        for answer, code in (
            (await deferToThread(post, 150_000), b"404"),
            (await deferToThread(post, 2**20), b"413"),
            (await deferToThread(send, b"rubbish\r\n\r\n"), b"400"),
        ):
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + code), answer[:500]
            assert b"application/problem+json" in head
            assert b'"status":' + code in body
    finally:
        await port.stopListening()
        server.stop()


# -- bounds


def test_an_address_has_so_many_connections() -> None:
    """Counted by network for IPv6, not at all for unix sockets; one gone makes room; it is said once a minute."""
    clock = Clock()
    crowds = Crowds(clock, 2)
    with capturedLogs() as events:
        assert [crowds.enter("192.0.2.1") for _ in range(4)] == [True, True, False, False]
        assert not crowds.enter("::ffff:192.0.2.1")
        assert crowds.enter("192.0.2.2")
        assert [crowds.enter(f"2001:db8::{number}") for number in range(3)] == [True, True, False]
        assert crowds.enter("2001:db8:0:1::1") and crowds.enter("fe80::1%eth0")
        assert all(crowds.enter("") for _ in range(5))
    assert len(events) == 2
    crowds.leave("192.0.2.1")
    assert crowds.enter("192.0.2.1")
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::2", "fe80::1"):
        crowds.leave(address)
    for _ in range(5):
        crowds.leave("")
    assert crowds._counts == {}


@pytest_twisted.ensureDeferred
async def test_a_crowded_address_is_closed_before_the_handshake(serve: Callable[..., Served]) -> None:
    """What osquery takes for a broken network; it costs no handshake, and ends when one of the others ends."""
    server = serve(Deadlines())
    server.site.crowds.most = 1

    def client(connection: socket.socket) -> str:
        with socket.create_connection(("127.0.0.1", server.port), 5) as raw, contextlib.suppress(ConnectionError):
            assert raw.recv(10) == b""
        return "closed"

    assert await server.call(client) == "closed"
    assert server.count("osqtwist_connections_refused_total") == 1
    for _ in range(100):
        if not server.site.channels:
            break
        await deferToThread(time.sleep, 0.01)
    assert (await server.call(ask(post(b"again")))).endswith(b"again")
    assert server.count("osqtwist_connections_accepted_total") == 2


@pytest_twisted.ensureDeferred
async def test_a_body_that_says_it_is_too_long_is_refused_unread(serve: Callable[..., Served]) -> None:
    """413 before a byte of it is there; each path has its own limit."""
    server = serve()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
    assert "over 1000 bytes" in error_of(await server.call(ask(head)), 413)
    assert (await server.call(ask(post(b"y" * 50_000, "/large?x=1")))).endswith(b"y" * 50_000)
    assert "over 100000 bytes" in error_of(await server.call(ask(post(b"y" * 200_000, "/large"))), 413)


@pytest_twisted.ensureDeferred
async def test_refusals_are_not_json_where_json_means_success(serve: Callable[..., Served]) -> None:
    """A block of a carve that is too large must not look stored."""
    answer = await serve().call(ask(post(b"y" * 5000, "/plain?x=1")))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"text/plain" in head
    assert body.startswith(b"refused: ")


@pytest_twisted.ensureDeferred
async def test_a_chunked_body_is_refused_when_it_passes_the_limit(serve: Callable[..., Served]) -> None:
    """Without a length the bytes are counted."""
    server = serve()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"190\r\n" + b"z" * 400 + b"\r\n"
    assert (await server.call(ask(head + chunk + b"0\r\n\r\n"))).endswith(b"z" * 400)
    assert "over 1000 bytes" in error_of(await server.call(ask(head + chunk * 3 + b"0\r\n\r\n")), 413)


MALFORMED = {
    "no request line": b"rubbish\r\n\r\n",
    "binary": b"\x00\x01\x02\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "four words": b"POST / HTTP/1.1 x\r\n\r\n",
    "no such version": b"GET / HTTP/3.7\r\n\r\n",
    "a request line without end": b"GET /" + b"a" * 20_000,
    "a header without end": b"POST / HTTP/1.1\r\nX: " + b"a" * 17_000,
    "a long header": b"POST / HTTP/1.1\r\nX: " + b"a" * 17_000 + b"\r\n\r\n",
    "long headers": b"POST / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\nY: " + b"a" * 9_000 + b"\r\n\r\n",
    "65 headers": b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 65 + b"\r\n",
    "no colon": b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
    "no colon, then more": b"POST / HTTP/1.1\r\nno colon\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a header": b"POST / HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "length in words": b"POST / HTTP/1.1\r\nContent-Length: five\r\n\r\nhello",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "coding, then more": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nA: b\r\n\r\nhello",
    "two lengths in one": b"POST / HTTP/1.1\r\nContent-Length: 5, 6\r\n\r\nhello",
    "the same length twice": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a length with a sign": b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    "a length with an underscore": b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\nhellohello",
    "a length of other digits": "POST / HTTP/1.1\r\nContent-Length: \u0665\r\n\r\nhello".encode(),
    "chunks and length": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked and no more": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked, with a vertical tab": b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a name with a blank": b"POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
    "a chunk with a sign": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "a chunk in 0x": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "a bare LF after a header": b"POST / HTTP/1.1\r\nA: b\nContent-Length: 5\r\n\r\nhello",
    "a bare CR in a header": b"POST / HTTP/1.1\r\nA: b\rContent-Length: 5\r\n\r\nhello",
    "no chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
}


@pytest_twisted.ensureDeferred
async def test_what_is_not_http_is_an_error_that_osquery_understands(serve: Callable[..., Served]) -> None:
    """Twisted's own refusal has an empty body, which osquery takes for success; ours is JSON, once, and then an end."""
    server = serve()
    calls = [Deferred.fromCoroutine(server.call(ask(request))) for request in MALFORMED.values()]
    answers = await gatherResults(calls, consumeErrors=True)
    whole = b"HTTP/1.1 400 Bad Request\r\n"
    assert {name for name, answer in zip(MALFORMED, answers, strict=True) if not answer.startswith(whole)} == set()
    for answer in answers:
        assert error_of(answer, 400) == "malformed HTTP request"
        assert b"\r\nConnection: close\r\n" in answer
    assert server.count("osqtwist_refusals_total", reason="http") == len(MALFORMED)


@pytest.mark.parametrize(
    ("request_", "code", "what"),
    [
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", 200, b"hello"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, b"hello"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\n 0\r\n\r\nhello", 400, b"malformed"),
        (b"POST / HTTP/1.1\r\nA: b\r\n\tContent-Length: 5\r\n\r\nhello", 200, b"nothing"),
        (b"POST / HTTP/1.1\r\n Content-Length: 5\r\n\r\nhello", 400, b"malformed"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"a" * 20_000 + b"\r\nhello", 400, b"malformed"),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
            400,
            b"malformed",
        ),
        (b"POST http://elsewhere/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"POST /shout%00 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"POST /../shout HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"POST /shout%2f..%2fshout HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"POST /shout\0 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400, b"malformed"),
        (b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 400, b"malformed"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_one_request_is_one_request(
    serve: Callable[..., Served], request_: bytes, code: int, what: bytes
) -> None:
    """Whatever a proxy before us makes of it: there is one answer, of one reading, and no path by another spelling."""
    answer = await serve(keeps=True).call(ask(request_))
    assert answer.startswith(b"HTTP/1.1 %d " % code) and what in answer, answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest_twisted.ensureDeferred
async def test_what_is_just_within_the_bounds_is_served(serve: Callable[..., Served]) -> None:
    """64 headers, 16 kB of them, a body of exactly the limit; one byte more is over it."""
    server = serve()
    assert (await server.call(ask(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 64 + b"\r\n"))).endswith(b"nothing")
    assert (await server.call(ask(b"GET / HTTP/1.1\r\nA: " + b"b" * 16_000 + b"\r\n\r\n"))).endswith(b"nothing")
    assert (await server.call(ask(post(b"y" * 1000)))).endswith(b"\r\n\r\n" + b"y" * 1000)
    assert error_of(await server.call(ask(post(b"y" * 1001))), 413)


@pytest_twisted.ensureDeferred
async def test_nobody_is_told_to_go_on_with_a_body_that_is_refused(serve: Callable[..., Served]) -> None:
    """Expect: 100-continue is answered with either 100 or 413, never with both."""
    server = serve()
    expecting = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    assert b"100 Continue" not in await server.call(ask(expecting % 5000))
    assert (await server.call(ask(expecting % 5 + b"hello"))).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


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

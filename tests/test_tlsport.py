"""TLS straight on the socket: what reaches the peer, and what reaches the protocol, however the bytes come."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from osqtwist.tls import ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles
from osqtwist.tlsport import ACCEPTS_AT_ONCE, listen
from tests.certificates import TestPKI
from tests.test_storage_faults import pause

# Real sockets and handshakes.
pytestmark = pytest.mark.slow

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
MUCH = b"0123456789abcdef" * 200_000


class Conversation(Protocol):
    """Answers lines: ``much``, ``later``, ``count N``, or ends without reading on."""

    received = b""
    lost: Deferred[None]

    def connectionMade(self) -> None:
        self.factory.made.append(self)  # type: ignore[union-attr]
        self.lost = Deferred()

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        self.received += data
        line, _, rest = self.received.partition(b"\n")
        if line == b"much":
            transport.write(MUCH)
            transport.loseConnection()
        elif line == b"later":
            reactor.callLater(0.05, transport.write, b"it is later")  # type: ignore[attr-defined]
            reactor.callLater(0.1, transport.loseConnection)  # type: ignore[attr-defined]
        elif line == b"end":
            transport.write(b"the end")
            transport.loseConnection()
        elif line == b"abort":
            transport.abortConnection()
        elif line.startswith(b"count ") and len(rest) == int(line[6:]):
            transport.writeSequence([hashlib.sha256(rest).hexdigest().encode(), b"\n"])

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


@attrs.define
class Served:
    port: int
    context: ssl.SSLContext
    made: list[Conversation]

    async def call(self, client: Callable[[int], Any]) -> Any:
        """Run a blocking client in a thread."""
        return await deferToThread(client, self.port)

    def talk(self, client: Callable[[ssl.SSLSocket], Any]) -> Callable[[int], Any]:
        """A client that has shaken hands."""

        def run(port: int) -> Any:
            with (
                socket.create_connection(("127.0.0.1", port), 5) as raw,
                self.context.wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                return client(connection)

        return run


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


@pytest_twisted.async_yield_fixture(params=list(VERSIONS))
async def server(pki: TestPKI, request: Any) -> AsyncIterator[Served]:
    files = TLSFiles(pki.path("server.pem"), pki.path("server.key"), pki.path("ca.pem"), client_auth="required")
    factory: Any = Factory.forProtocol(Conversation)
    factory.made = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: Any = listen(reactor, listening, factory, ReloadingServerTLS(files).connection)
    context = ssl.create_default_context(cafile=str(pki.path("ca.pem")))
    context.minimum_version = context.maximum_version = VERSIONS[request.param]
    context.load_cert_chain(*pki.files_of("good"))
    yield Served(port.getHost().port, context, factory.made)
    await port.stopListening()
    for each in factory.made:
        each.transport.abortConnection()


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the alert that closes; an end without it, or a reset, is an error."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest_twisted.ensureDeferred
async def test_an_answer_ends_with_the_alert_and_the_connection(server: Served) -> None:
    """The protocol is told once, and soon."""

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.suppress_ragged_eofs = False
        connection.sendall(b"end\n")
        return read_all(connection)

    assert await server.call(server.talk(client)) == b"the end"
    await server.made[0].lost.addTimeout(2, reactor)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_what_is_written_later_leaves(server: Served) -> None:
    """Writing from elsewhere than dataReceived is as good."""

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"later\n")
        return read_all(connection)

    assert await server.call(server.talk(client)) == b"it is later"


@pytest_twisted.ensureDeferred
async def test_much_reaches_a_peer_that_reads_slowly(server: Served) -> None:
    """More than the kernel takes at once, to the last byte."""

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"much\n")
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
            if len(parts) < 20:
                time.sleep(0.01)
        return b"".join(parts)

    assert await server.call(server.talk(client)) == MUCH


@pytest.mark.parametrize("size", [0, 1, 16384, 1_000_003])
@pytest_twisted.ensureDeferred
async def test_every_byte_is_received(server: Served, size: int) -> None:
    """Many records at once, full and not."""
    body = (b"abcdefg" * (size // 7 + 1))[:size]

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"count %d\n" % size + body)
        return connection.recv(100)

    assert await server.call(server.talk(client)) == hashlib.sha256(body).hexdigest().encode() + b"\n"


@pytest_twisted.ensureDeferred
async def test_bytes_one_by_one(server: Served) -> None:
    """A handshake, and a request, may come in as many pieces as they have bytes."""

    def client(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
            inside = server.context.wrap_bio(come, go, server_hostname="localhost")

            def pump(step: Callable[[], Any]) -> Any:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        for byte in go.read():
                            raw.sendall(bytes([byte]))
                        come.write(raw.recv(65536))

            pump(inside.do_handshake)
            inside.write(b"end\n")
            return bytes(pump(inside.read))

    assert await server.call(client) == b"the end"


@pytest_twisted.ensureDeferred
async def test_closing_on_bytes_that_nobody_read_does_not_reset(server: Served) -> None:
    """The peer gets the whole answer though it goes on sending; what it sends is thrown away."""

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"end\n" + b"x" * 1_000_000)
        time.sleep(0.1)
        return read_all(connection)

    assert await server.call(server.talk(client)) == b"the end"
    await server.made[0].lost.addTimeout(2, reactor)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_a_refused_peer_learns_why(pki: TestPKI, server: Served) -> None:
    """The alert arrives though in TLS 1.3 the request is on its way before the refusal is."""
    server.context.load_cert_chain(*pki.files_of("other CA"))

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"end\n" * 10_000)
        time.sleep(0.1)
        return read_all(connection)

    for _ in range(5):
        with pytest.raises(ssl.SSLError, match="alert unknown ca"):
            await server.call(server.talk(client))
    for each in server.made:
        await each.lost.addTimeout(2, reactor)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_rubbish_is_not_a_handshake(server: Served) -> None:
    """Nothing of it reaches the protocol, and the connection ends."""

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 5) as raw, contextlib.suppress(ConnectionError):
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while raw.recv(100):
                pass

    await server.call(client)
    await server.made[0].lost.addTimeout(2, reactor)  # type: ignore[arg-type]
    assert server.made[0].received == b""


@pytest.mark.parametrize("politely", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_peer_that_goes_is_noticed(server: Served, politely: bool) -> None:
    """With the alert that says so, and without."""

    def client(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"begun")
        while not server.made[0].received:
            time.sleep(0.01)
        if politely:
            connection.unwrap().close()

    await server.call(server.talk(client))
    await server.made[0].lost.addTimeout(2, reactor)  # type: ignore[arg-type]
    assert server.made[0].received == b"begun"


@pytest_twisted.ensureDeferred
async def test_an_abort_resets(server: Served) -> None:
    """No alert, no answer; the protocol is told."""

    def client(connection: ssl.SSLSocket) -> bytes:
        connection.suppress_ragged_eofs = False
        connection.sendall(b"abort\n")
        return read_all(connection)

    with pytest.raises(OSError):
        await server.call(server.talk(client))
    await server.made[0].lost.addTimeout(2, reactor)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_connections_wait_while_there_are_no_file_descriptors(pki: TestPKI) -> None:
    """None is hung up on, no turn of the reactor is spent on them, and they are served when there are some."""
    accepted: list[Protocol] = []
    wants: list[None] = []
    files = TLSFiles(pki.path("server.pem"), pki.path("server.key"), pki.path("ca.pem"))

    class Noted(Protocol):
        def connectionMade(self) -> None:
            accepted.append(self)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = ReloadingServerTLS(files).connection
        port = listen(reactor, listening, Factory.forProtocol(Noted), connection, lambda: wants.append(None))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.create_connection(listening.getsockname(), 5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
        try:
            await pause(0.25)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not accepted
        assert 2 <= len(wants) <= 4
        await pause(0.15)
        assert len(accepted) == 1
        await maybeDeferred(port.stopListening)
    client.close()
    while accepted[0].transport.connected:  # type: ignore[union-attr]
        await pause(0.01)


@pytest_twisted.ensureDeferred
async def test_few_connections_are_accepted_in_a_turn(pki: TestPKI) -> None:
    """Turn after turn the same number, also when there are always more; in the end all are served."""
    accepted: list[Protocol] = []
    files = TLSFiles(pki.path("server.pem"), pki.path("server.key"), pki.path("ca.pem"))

    class Noted(Protocol):
        def connectionMade(self) -> None:
            accepted.append(self)

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        listening.setblocking(False)
        clients = [socket.create_connection(listening.getsockname(), 5) for _ in range(5 * ACCEPTS_AT_ONCE)]
        port = listen(reactor, listening, Factory.forProtocol(Noted), ReloadingServerTLS(files).connection)
        for turn in range(1, 4):
            port.doRead()  # type: ignore[attr-defined]
            assert len(accepted) == turn * ACCEPTS_AT_ONCE
        while len(accepted) < len(clients):
            await pause(0.01)
        await maybeDeferred(port.stopListening)
    for client in clients:
        client.close()
    while any(each.transport.connected for each in accepted if each.transport):  # type: ignore[attr-defined]
        await pause(0.01)

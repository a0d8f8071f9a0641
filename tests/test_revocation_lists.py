"""Revocation lists: which are in force while files come and go, and what becomes of connections that are open."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL
from prometheus_client import generate_latest
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.web.resource import Resource

from osqtwist.metrics import Metrics
from osqtwist.nodeside import count_reload
from osqtwist.pki import Authority, utc_now
from osqtwist.revocationlists import RevocationLists
from osqtwist.tls import ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles, UnusableCredential
from osqtwist.tlsport import listen
from osqtwist.web.eviction import end_revoked
from osqtwist.web.request import BodyLimits
from osqtwist.web.site import Deadlines, NodeSite
from tests.certificates import DAY, TestPKI, renewed_ca

# Real connections, and responders that take their time.
pytestmark = pytest.mark.slow

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
MINUTE = datetime.timedelta(minutes=1)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


def files(pki: TestPKI, lists: Path | None, **more: Any) -> TLSFiles:
    return TLSFiles(pki.path("server.pem"), pki.path("server.key"), more.pop("ca", pki.path("ca.pem")), lists, **more)


def a_list(authority: Authority, *serials: int, age: datetime.timedelta = MINUTE) -> bytes:
    return authority.revocation_list(serials, last_update=utc_now() - age)


def serial(pki: TestPKI, name: str) -> int:
    return pki.nodes[name].certificate.serial_number


def touch(path: Path, content: bytes) -> None:
    """Write a file so that it is seen to have changed."""
    path.write_bytes(content)
    os.utime(path, ns=(1, time.time_ns()))


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_crl(pem).public_bytes(serialization.Encoding.DER)


@attrs.define
class Loaded:
    """TLS of these files, and whether each reading was good."""

    tls: ReloadingServerTLS
    readings: list[bool]

    @classmethod
    def of(cls, named: TLSFiles) -> Loaded:
        readings: list[bool] = []
        return cls(ReloadingServerTLS(named, lambda ok, loaded: readings.append(ok)), readings)

    @property
    def lists(self) -> RevocationLists:
        return self.tls.loaded.lists

    def revokes(self, pki: TestPKI) -> set[str]:
        return {name for name, node in pki.nodes.items() if self.lists.have(node.certificate)}

    def check(self) -> str:
        """Look at the files again; answers with what the log says of it."""
        with capturedLogs() as said:
            self.tls.check()
        return "\n".join(str(each.get("problem") or each.get("warning") or "") for each in said)


# -- files


def test_a_folder_of_lists(pki: TestPKI, tmp_path: Path) -> None:
    """PEM and DER, several CAs; a list that is added, changed or replaced by another name is seen at the next look."""
    both = tmp_path / "both.pem"
    both.write_bytes(pki.path("ca.pem").read_bytes() + pki.path("other-ca.pem").read_bytes())
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "one.pem").write_bytes(a_list(pki.authority, serial(pki, "good"), age=3 * MINUTE))
    (folder / "README").write_bytes(b"not a list")
    (folder / "one.pem.new").write_bytes(b"half of")
    loaded = Loaded.of(files(pki, folder, ca=both))
    assert loaded.revokes(pki) == {"good"}
    assert "has no list of CN=other CA" in loaded.tls.loaded.warnings[0]
    (folder / "two.crl").write_bytes(der(a_list(pki.other, serial(pki, "other CA"))))
    assert loaded.check() == ""
    assert loaded.revokes(pki) == {"good", "other CA"}
    assert loaded.tls.loaded.warnings == ()
    # The newest of each CA counts, whatever its file is called.
    (folder / "a-newer-one.der").write_bytes(der(a_list(pki.authority, serial(pki, "second"), age=2 * MINUTE)))
    assert loaded.check() == ""
    assert loaded.revokes(pki) == {"second", "other CA"}
    assert loaded.readings == [True, True, True]
    assert {row["issuer"]: row["entries"] for row in loaded.lists.rows(time.time())} == {
        "CN=test CA": 1,
        "CN=other CA": 1,
    }


SPOILED: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "empty": lambda one, other: b"",
    "rubbish": lambda one, other: b"rubbish",
    "rubbish in PEM": lambda one, other: b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    "half of the first": lambda one, other: one[:200],
    "the first and half of the second": lambda one, other: one + other[:200],
    "the first alone": lambda one, other: one,
    "the second alone": lambda one, other: other,
    "half of DER": lambda one, other: der(one)[:100],
    "a version that there is not": lambda one, other: der(one).replace(b"\x02\x01\x01", b"\x02\x01\x03", 1),
    "an issuer that is no name": lambda one, other: der(one).replace(b"\x0c\x07test CA", b"\x0c\x07test\xffCA", 1),
    "gone": lambda one, other: None,
}


@pytest.mark.parametrize("name", SPOILED)
def test_no_spoiled_file_takes_a_revocation_back(pki: TestPKI, tmp_path: Path, name: str) -> None:
    """Each list stays in force until there is a newer one of its CA; the log says so, and it is counted."""
    both, path = tmp_path / "both.pem", tmp_path / "crl.pem"
    both.write_bytes(pki.path("ca.pem").read_bytes() + pki.path("other-ca.pem").read_bytes())
    one, other = a_list(pki.authority, serial(pki, "second")), a_list(pki.other, serial(pki, "other CA"))
    path.write_bytes(one + other)
    loaded = Loaded.of(files(pki, path, ca=both))
    assert loaded.revokes(pki) == {"second", "other CA"}
    content = SPOILED[name](one, other)
    if content is None:
        path.unlink()
    else:
        touch(path, content)
    said = loaded.check()
    assert str(path) in said
    assert loaded.revokes(pki) == {"second", "other CA"}
    assert loaded.readings == [True, False]
    newer = a_list(pki.authority, serial(pki, "good"), age=MINUTE / 2)
    touch(path, newer + other)
    assert loaded.check() == ""
    assert loaded.revokes(pki) == {"good", "other CA"}
    assert loaded.readings == [True, False, True]


def test_a_spoiled_list_does_not_hold_up_another(pki: TestPKI, tmp_path: Path) -> None:
    """In a folder each file counts for itself; a certificate that changed at the same time counts too."""
    both = tmp_path / "both.pem"
    both.write_bytes(pki.path("ca.pem").read_bytes() + pki.path("other-ca.pem").read_bytes())
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "one.pem").write_bytes(a_list(pki.authority, serial(pki, "good")))
    (folder / "two.pem").write_bytes(a_list(pki.other))
    loaded = Loaded.of(files(pki, folder, ca=both))
    (folder / "one.pem").write_bytes(b"rubbish")
    (folder / "two.pem").write_bytes(a_list(pki.other, serial(pki, "other CA"), age=MINUTE / 2))
    assert "one.pem" in loaded.check()
    assert loaded.revokes(pki) == {"good", "other CA"}


def test_an_older_list_does_not_replace_a_newer(pki: TestPKI, tmp_path: Path) -> None:
    """A mirror that is behind, or somebody who would like to be let in again."""
    path = tmp_path / "crl.pem"
    path.write_bytes(a_list(pki.authority, serial(pki, "good")))
    loaded = Loaded.of(files(pki, path))
    touch(path, a_list(pki.authority, age=5 * MINUTE))
    assert "older than the one in force" in loaded.check()
    assert loaded.revokes(pki) == {"good"}


def test_a_delta_stands_in_the_place_of_no_list(pki: TestPKI, tmp_path: Path) -> None:
    """It says what has changed since a complete one; some CAs put both into one folder."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "base.pem").write_bytes(a_list(pki.authority, serial(pki, "good")))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(pki.authority.credential.certificate.subject)
        .last_update(utc_now())
        .next_update(utc_now() + DAY)
        .add_extension(x509.CRLNumber(10**12), critical=False)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
    )
    delta = builder.sign(pki.authority.credential.key, hashes.SHA256())
    (folder / "base+.pem").write_bytes(delta.public_bytes(serialization.Encoding.PEM))
    assert Loaded.of(files(pki, folder)).revokes(pki) == {"good"}


def shakes_hands(loaded: Loaded, pki: TestPKI, node: str) -> bool:
    """Whether a node gets through the handshake, over memory."""
    context = ssl.create_default_context(cafile=str(pki.path("ca.pem")))
    context.load_cert_chain(*pki.files_of(node))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    server = SSL.Connection(loaded.tls.loaded.context, None)
    server.set_accept_state()
    is_done = False
    for _ in range(4):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        if flight := outgoing.read():
            server.bio_write(flight)
        try:
            server.do_handshake()
            is_done = True
        except SSL.WantReadError:
            pass
        except SSL.Error:
            return False
        with contextlib.suppress(SSL.Error):
            # It raises when there is nothing.
            incoming.write(server.bio_read(2**16))
    return is_done


def with_place(authority: Authority, *serials: int, **more: Any) -> bytes:
    """A list that says where it is, as step-ca's does."""
    fields = {"only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"}
    point = x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("https://ca.example.com/1.0/crl")],
        relative_name=None,
        only_some_reasons=None,
        **{name: name in more for name in fields},
    )
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.credential.certificate.subject)
        .last_update(utc_now() - MINUTE)
        .next_update(utc_now() + DAY)
        .add_extension(x509.CRLNumber(7), critical=False)
        .add_extension(point, critical=True)
    )
    for number in serials:
        gone = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(utc_now() - MINUTE).build()
        builder = builder.add_revoked_certificate(gone)
    return builder.sign(authority.credential.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_list_that_says_where_it_is_is_that_of_certificates_that_do_not(pki: TestPKI, tmp_path: Path) -> None:
    """OpenSSL would refuse all of them, as of another scope; who is on the list is refused, and nobody else."""
    path = tmp_path / "crl.pem"
    path.write_bytes(with_place(pki.authority, serial(pki, "second")))
    loaded = Loaded.of(files(pki, path, client_auth="required"))
    assert shakes_hands(loaded, pki, "good")
    assert not shakes_hands(loaded, pki, "second")
    assert not shakes_hands(loaded, pki, "expired")


def test_a_list_of_ca_certificates_alone_is_not(pki: TestPKI, tmp_path: Path) -> None:
    """It says nothing of nodes: that nobody says whether they are revoked is no reason to let them in."""
    path = tmp_path / "crl.pem"
    path.write_bytes(with_place(pki.authority, only_contains_ca_certs=True))
    assert not shakes_hands(Loaded.of(files(pki, path, client_auth="required")), pki, "good")


def test_a_ca_that_is_not_trusted_any_more_takes_its_list_along(pki: TestPKI, tmp_path: Path) -> None:
    """Else no list could ever be got rid of."""
    both, path = tmp_path / "both.pem", tmp_path / "crl.pem"
    both.write_bytes(pki.path("ca.pem").read_bytes() + pki.path("other-ca.pem").read_bytes())
    path.write_bytes(a_list(pki.authority) + a_list(pki.other))
    loaded = Loaded.of(files(pki, path, ca=both))
    touch(both, pki.path("ca.pem").read_bytes())
    touch(path, a_list(pki.authority))
    assert loaded.check().strip() == "CN=other CA is trusted no more: open connections of its certificates end"
    assert [each.issuer for each in loaded.lists.lists] == ["CN=test CA"]


def test_two_cas_of_one_name(pki: TestPKI, tmp_path: Path) -> None:
    """A list is of the one that signed it: numbers of the other are not on it."""
    twin = Authority.create("test CA")
    both, path = tmp_path / "both.pem", tmp_path / "crl.pem"
    both.write_bytes(pki.path("ca.pem").read_bytes() + twin.credential.certificate_pem)
    path.write_bytes(a_list(twin, serial(pki, "good")) + a_list(pki.authority, serial(pki, "second")))
    assert Loaded.of(files(pki, path, ca=both)).revokes(pki) == {"second"}


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no revocation list"), (b"\x30\x03abc", "cannot be read"), (None, "No such file")],
)
def test_a_server_does_not_start_without_its_lists(
    pki: TestPKI, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """There is none of before that could stay in force."""
    path = tmp_path / "crl.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableCredential, match=words):
        Loaded.of(files(pki, path))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnusableCredential, match="holds no revocation list"):
        Loaded.of(files(pki, tmp_path / "folder"))


def test_how_long_each_list_is_good_is_a_metric(pki: TestPKI, tmp_path: Path) -> None:
    """In seconds from now, negative once it is late; a list that is gone takes its figure along."""
    both, path = tmp_path / "both.pem", tmp_path / "crl.pem"
    both.write_bytes(pki.path("ca.pem").read_bytes() + pki.path("other-ca.pem").read_bytes())
    late = pki.other.revocation_list([], last_update=utc_now() - 2 * DAY, next_update=utc_now() - DAY)
    path.write_bytes(a_list(pki.authority) + late)
    metrics = Metrics()
    tls = ReloadingServerTLS(files(pki, path, ca=both), lambda ok, loaded: count_reload(metrics, ok, loaded))

    def left(issuer: str) -> float | None:
        return metrics.registry.get_sample_value("osqtwist_crl_seconds_left", {"issuer": issuer})

    assert left("CN=test CA") == pytest.approx(7 * 86400, abs=60)
    assert left("CN=other CA") == pytest.approx(-86400, abs=60)
    assert [(row["issuer"], row["stale"]) for row in tls.loaded.lists.rows(time.time())] == [
        ("CN=other CA", True),
        ("CN=test CA", False),
    ]
    touch(both, pki.path("ca.pem").read_bytes())
    touch(path, a_list(pki.authority))
    tls.check()
    assert left("CN=other CA") is None
    assert b"osqtwist_crl_seconds_left" in generate_latest(metrics.registry)


# -- connections


@attrs.define
class Served:
    """A site over TLS, which is told of lists."""

    tls: ReloadingServerTLS
    site: NodeSite
    port: int
    metrics: Metrics


class Hello(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def render(self, request: Any) -> bytes:
        self.asked += 1
        return b"hello"


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[Callable[[TLSFiles], Served]]:
    ports: list[Any] = []
    made: list[Served] = []

    def begin(named: TLSFiles) -> Served:
        metrics, clock = Metrics(), reactor
        limits = BodyLimits({}, otherwise=1000)
        site = NodeSite(Hello(), clock, metrics, limits, Deadlines(), keeps_connections=True)  # type: ignore[arg-type]
        tls = ReloadingServerTLS(named)
        end_revoked(site, tls)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port: Any = listen(reactor, listening, site, tls.connection)
        ports.append(port)
        made.append(Served(tls, site, port.getHost().port, metrics))
        return made[-1]

    yield begin
    for port in ports:
        await port.stopListening()
    for each in made:
        each.site.end_connections(lambda _: True)


def context(pki: TestPKI, node: str, version: str = "") -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(pki.path("ca.pem")))
    if version:
        found.minimum_version = found.maximum_version = VERSIONS[version]
    found.load_cert_chain(*pki.files_of(node))
    return found


def connect(port: int, found: ssl.SSLContext, **more: Any) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), 5)
    return found.wrap_socket(raw, server_hostname="localhost", **more)


def ask(connection: ssl.SSLSocket) -> bytes:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(1000)


def is_open(connection: ssl.SSLSocket, wait: float) -> bool:
    """Whether the server has not closed a connection within a time."""
    connection.settimeout(wait)
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_new_list_ends_open_connections(
    tmp_path: Path, serve: Callable[[TLSFiles], Served], version: str
) -> None:
    """Of those whom it revokes, used before or not; of nobody else; and none is made again."""
    own = TestPKI.mint(tmp_path)
    server = serve(files(own, own.path("crl.pem")))
    with contextlib.ExitStack() as stack:
        opened = {}
        for name in ("good", "second"):
            for used in (True, False):
                connection = await deferToThread(connect, server.port, context(own, name, version))
                opened[name, used] = stack.enter_context(connection)
                if used:
                    assert b"hello" in await deferToThread(ask, connection)
        own.revoke("revoked", "second")
        server.tls.check()
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        for (name, _), connection in opened.items():
            assert await deferToThread(is_open, connection, 0.3) == (name == "good")
        assert b"hello" in await deferToThread(ask, opened["good", True])

    def again() -> bytes:
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            connect(server.port, context(own, "second", version)) as connection,
        ):
            return ask(connection)
        return b""

    assert not await deferToThread(again)
    assert server.metrics.registry.get_sample_value("osqtwist_connections_put_out_total") == 2


@pytest_twisted.ensureDeferred
async def test_a_ca_that_is_taken_out_ends_open_connections(
    tmp_path: Path, serve: Callable[[TLSFiles], Served]
) -> None:
    """Of its certificates, used before or not, and of no other's; one that is renewed is the same CA."""
    own = TestPKI.mint(tmp_path)
    both, other = tmp_path / "both.pem", own.path("other-ca.pem").read_bytes()
    touch(both, own.path("ca.pem").read_bytes() + other)
    server = serve(files(own, None, ca=both))
    found = {"own": context(own, "good"), "other": context(own, "other CA")}
    with contextlib.ExitStack() as stack:
        opened = {}
        for name in ("own", "other"):
            for used in (True, False):
                opened[name, used] = stack.enter_context(await deferToThread(connect, server.port, found[name]))
                if used:
                    assert b"hello" in await deferToThread(ask, opened[name, used])
        touch(both, other + renewed_ca(own.authority))
        server.tls.check()
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        for connection in opened.values():
            assert await deferToThread(is_open, connection, 0.1)
        touch(both, renewed_ca(own.authority))
        server.tls.check()
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        for (name, _), connection in opened.items():
            assert await deferToThread(is_open, connection, 0.3) == (name == "own")
    assert server.metrics.registry.get_sample_value("osqtwist_connections_put_out_total") == 2


class Slowly:
    """A client that shakes hands step by step."""

    def __init__(self, port: int, found: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = found.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()

    def send(self) -> None:
        self.socket.sendall(self.outgoing.read())

    def finish(self) -> bytes:
        """Shake hands, ask something, and answer with what comes back."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if self.outgoing.pending:
                    self.send()
                self.incoming.write(self.socket.recv(65536))
        self.tls.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.send()
        found = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := self.socket.recv(65536):
                self.incoming.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    found += self.tls.read(65536)
                    break
        return found


@pytest.mark.parametrize(("node", "said"), [("good", b"HTTP/1.1 200"), ("second", b"")])
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_has_begun_is_no_way_in(
    tmp_path: Path, serve: Callable[[TLSFiles], Served], node: str, said: bytes
) -> None:
    """It goes on with the list that it began with; so the new one is looked at when it is over."""
    own = TestPKI.mint(tmp_path)
    server = serve(files(own, own.path("crl.pem")))
    client = Slowly(server.port, context(own, node))
    with contextlib.closing(client.socket):
        client.send()
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        own.revoke("revoked", "second")
        server.tls.check()
        assert (await deferToThread(client.finish))[:12] == said
        assert server.site.resource.asked == bool(said)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_session_is_no_way_in(tmp_path: Path, serve: Callable[[TLSFiles], Served], version: str) -> None:
    """A client that offers the session of before is refused like any other once it is revoked."""
    own = TestPKI.mint(tmp_path)
    server = serve(files(own, own.path("crl.pem")))
    found = context(own, "second", version)

    def first() -> Any:
        with connect(server.port, found) as connection:
            assert b"hello" in ask(connection)
            return connection.session

    session = await deferToThread(first)
    assert session is not None

    def again() -> bytes:
        try:
            with connect(server.port, found, session=session) as connection:
                assert not connection.session_reused
                return ask(connection)
        except (ssl.SSLError, ConnectionError):
            return b"refused"

    assert b"hello" in await deferToThread(again)
    own.revoke("revoked", "second")
    server.tls.check()
    assert await deferToThread(again) in (b"refused", b"")

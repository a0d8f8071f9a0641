"""TLS towards nodes, over real sockets: who gets in, and what happens when files change."""

from __future__ import annotations

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
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs

from osqtwist.identity import IdentityCache, IdentityRule, UnidentifiedCertificate
from osqtwist.pki import Authority
from osqtwist.tls import CredentialWatch, PeerIdentities, ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles, UnusableCredential
from osqtwist.tlsport import listen
from tests.certificates import DAY, TestPKI, plain_authority

# Real handshakes.
pytestmark = pytest.mark.slow

REFUSED = "refused"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


def files(pki: TestPKI, **more: Any) -> TLSFiles:
    fields: dict[str, Any] = {
        "cert": pki.path("server.pem"),
        "key": pki.path("server.key"),
        "client_ca": pki.path("ca.pem"),
        "client_crl": pki.path("crl.pem"),
    }
    return TLSFiles(**{**fields, **more})


class SayWho(Protocol):
    """Answers each line with the identity of whoever sent it."""

    def dataReceived(self, data: bytes) -> None:
        try:
            who = PeerIdentities(IdentityCache((IdentityRule(),))).of(self)
            answer = who.value if who else "nobody"
        except UnidentifiedCertificate as problem:
            answer = str(problem)
        self.transport.write(answer.encode() + b"\n")  # type: ignore[union-attr]


@attrs.define
class Served:
    """A listening server."""

    tls: ReloadingServerTLS
    port: int

    async def call(self, client: Callable[[int], Any]) -> Any:
        """Run a blocking client in a thread."""
        return await deferToThread(client, self.port)


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[Callable[..., Served]]:
    """Starts servers."""
    ports = []

    def begin(settings: TLSFiles, **more: Any) -> Served:
        tls = ReloadingServerTLS(settings, **more)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port: Any = listen(reactor, listening, Factory.forProtocol(SayWho), tls.connection)
        ports.append(port)
        return Served(tls, port.getHost().port)

    yield begin
    for port in ports:
        await port.stopListening()


def context(pki: TestPKI, node: str | None, version: str = "") -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(pki.path("ca.pem")))
    if version:
        found.minimum_version = found.maximum_version = VERSIONS[version]
    if node:
        found.load_cert_chain(*pki.files_of(node))
    return found


def connect(port: int, found: ssl.SSLContext, **more: Any) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), 5)
    try:
        return found.wrap_socket(raw, server_hostname="localhost", **more)
    except BaseException:
        raw.close()
        raise


def ask(found: ssl.SSLContext) -> Callable[[int], str]:
    """A client that says who the server takes it for, or that it was refused."""

    def client(port: int) -> str:
        try:
            with connect(port, found) as connection:
                return say(connection)
        except (ssl.SSLError, ConnectionError):
            # In TLS 1.3 the client learns of the refusal at its first read.
            return REFUSED

    return client


def say(connection: ssl.SSLSocket) -> str:
    connection.sendall(b"who?\n")
    return connection.recv(100).decode().strip() or REFUSED


MATRIX = {
    # client:           required, optional
    "good": ("node-1", "node-1"),
    "second": ("node-2", "node-2"),
    "other CA": (REFUSED, REFUSED),
    "expired": (REFUSED, REFUSED),
    "revoked": (REFUSED, REFUSED),
    "wrong key usage": (REFUSED, REFUSED),
    "": (REFUSED, "nobody"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client_auth", ["required", "optional"])
@pytest_twisted.ensureDeferred
async def test_matrix(pki: TestPKI, serve: Callable[..., Served], client_auth: str, version: str) -> None:
    """Who gets in, and as whom."""
    server = serve(files(pki, client_auth=client_auth))
    column = ("required", "optional").index(client_auth)
    seen = {node: await server.call(ask(context(pki, node or None, version))) for node in MATRIX}
    assert seen == {node: row[column] for node, row in MATRIX.items()}


@pytest_twisted.ensureDeferred
async def test_nobody_is_asked_for_a_certificate_with_none(pki: TestPKI, serve: Callable[..., Served]) -> None:
    """With client_auth none every certificate is ignored."""
    server = serve(files(pki, client_auth="none"))
    for node in ("good", "other CA", None):
        assert await server.call(ask(context(pki, node))) == "nobody"


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_the_matrix_with_rsa(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """RSA-2048 for server and nodes does as well."""
    rsa = TestPKI.mint(tmp_path, "RSA-2048")
    server = serve(files(rsa, client_auth="required"))
    for version in VERSIONS:
        assert await server.call(ask(context(rsa, "good", version))) == "node-1"
        assert await server.call(ask(context(rsa, "revoked", version))) == REFUSED


@pytest_twisted.ensureDeferred
async def test_old_versions_are_refused(pki: TestPKI, serve: Callable[..., Served]) -> None:
    """TLS 1.1 is not spoken, and it is the server that says so."""
    server = serve(files(pki))
    old = context(pki, "good")
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        await server.call(lambda port: connect(port, old))


@pytest_twisted.ensureDeferred
async def test_a_node_cannot_renegotiate(pki: TestPKI, serve: Callable[..., Served]) -> None:
    """In TLS 1.2 it could change its certificate in the middle of a connection, or keep the server busy."""
    server = serve(files(pki))

    def client(port: int) -> None:
        own = SSL.Context(SSL.TLS_CLIENT_METHOD)
        own.set_max_proto_version(SSL.TLS1_2_VERSION)
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.settimeout(None)
            connection = SSL.Connection(own, raw)
            connection.set_connect_state()
            connection.do_handshake()
            connection.renegotiate()
            connection.do_handshake()

    with pytest.raises(SSL.Error, match="no renegotiation"):
        await server.call(client)


@pytest_twisted.ensureDeferred
async def test_http2_is_never_negotiated(pki: TestPKI, serve: Callable[..., Served]) -> None:
    """Whoever offers h2 and http/1.1 gets http/1.1."""
    server = serve(files(pki))
    offering = context(pki, "good")
    offering.set_alpn_protocols(["h2", "http/1.1"])

    def client(port: int) -> str | None:
        with connect(port, offering) as connection:
            return connection.selected_alpn_protocol()

    assert await server.call(client) == "http/1.1"


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_no_session_is_resumed(pki: TestPKI, serve: Callable[..., Served], version: str) -> None:
    """A resumed session would not be verified again, so there is none; OpenSSL left to itself would have one."""
    server = serve(files(pki))
    found = context(pki, "good", version)

    def client(port: int) -> bool | None:
        with connect(port, found) as first:
            # In TLS 1.3 the session comes with the first bytes read.
            assert say(first) == "node-1"
            with connect(port, found, session=first.session) as second:
                assert say(second) == "node-1"
                return second.session_reused

    assert await server.call(client) is False
    careless = serve(files(pki))
    careless.tls.loaded.context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    assert await careless.call(client) is True


# -- files that change


@pytest_twisted.ensureDeferred
async def test_a_reload_serves_new_connections_and_drops_none(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """The open connection goes on with the certificate it began with; a new one gets the new."""
    own = TestPKI.mint(tmp_path)
    server = serve(files(own))
    found = context(own, "good")
    opened = await server.call(lambda port: connect(port, found))
    with opened:
        assert await deferToThread(say, opened) == "node-1"
        before = opened.getpeercert(True)
        own.write("server", own.authority.issue("localhost", "server", dns=["localhost"], addresses=["127.0.0.1"]))
        server.tls.check()
        assert await deferToThread(say, opened) == "node-1"

        def client(port: int) -> Any:
            with connect(port, found) as connection:
                return connection.getpeercert(True)

        assert await server.call(client) != before


@pytest_twisted.ensureDeferred
async def test_a_revocation_counts_from_the_next_look(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """A new revocation list is read when its file changes."""
    own = TestPKI.mint(tmp_path)
    server = serve(files(own))
    assert await server.call(ask(context(own, "second"))) == "node-2"
    own.revoke("revoked", "second")
    server.tls.check()
    assert await server.call(ask(context(own, "second"))) == REFUSED
    assert await server.call(ask(context(own, "good"))) == "node-1"


@pytest_twisted.ensureDeferred
async def test_a_bad_reload_changes_nothing(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """Rubbish in any of the files keeps the last good state, and is counted."""
    own = TestPKI.mint(tmp_path)
    reloads: list[bool] = []
    server = serve(files(own), on_reload=lambda ok, loaded: reloads.append(ok))
    for name in ("server.pem", "server.key", "ca.pem", "crl.pem"):
        good = own.path(name).read_bytes()
        own.path(name).write_bytes(b"rubbish")
        server.tls.check()
        assert await server.call(ask(trusting(own))) == "nobody"
        own.path(name).write_bytes(good)
        os.utime(own.path(name), ns=(1, time.time_ns()))
        server.tls.check()
    assert reloads == [True, *[False, True] * 4]


SUBTLE = {
    "the CA flag is two bytes long": (b"\x01\x01\xff", b"\x01\x02\xff"),
    "it begins at no time": (b"\x17\r", b"\x17\x0c"),
}


@pytest.mark.parametrize("name", SUBTLE)
def test_a_ca_that_is_nearly_right_changes_nothing(tmp_path: Path, name: str) -> None:
    """cryptography and OpenSSL read a certificate part by part: whichever fails, the watch goes on."""
    own = TestPKI.mint(tmp_path)
    reloads: list[bool] = []
    tls = ReloadingServerTLS(files(own), lambda ok, loaded: reloads.append(ok))
    good = own.authority.credential.certificate.public_bytes(serialization.Encoding.DER)
    bad = good.replace(*SUBTLE[name], 1)
    assert bad != good
    own.path("ca.pem").write_text(ssl.DER_cert_to_PEM_cert(bad))
    with capturedLogs() as events:
        tls.check()
    assert reloads == [True, False]
    assert str(own.path("ca.pem")) in " ".join(str(event.get("problem")) for event in events)


def test_files_that_are_rubbish_from_the_start_are_replaced_by_what_was_last_good(tmp_path: Path) -> None:
    """For a worker that is started again; the file at fault is told of, and a good one is used once it is there."""
    own = TestPKI.mint(tmp_path)
    twistd = ReloadingServerTLS(files(own))
    good = {name: own.path(name).read_bytes() for name in ("server.pem", "server.key", "ca.pem")}
    for name in good:
        own.path(name).write_text("rubbish")
    twistd.check()
    assert {path: twistd.good[path] for path in map(own.path, good)} == {own.path(name): good[name] for name in good}
    with pytest.raises(UnusableCredential):
        ReloadingServerTLS(files(own))
    reloads: list[bool] = []
    with capturedLogs() as events:
        worker = ReloadingServerTLS(files(own), lambda ok, loaded: reloads.append(ok), spare=twistd.good)
    assert str(own.path("")) in " ".join(str(event.get("problem")) for event in events)
    assert worker.loaded.not_after == twistd.loaded.not_after
    assert worker.good == twistd.good
    for name, content in good.items():
        own.path(name).write_bytes(content)
    worker.check()
    assert reloads == [False, True]


def trusting(own: TestPKI) -> ssl.SSLContext:
    """A client that does not need the files."""
    return ssl.create_default_context(cadata=own.authority.credential.certificate_pem.decode())


def test_the_watch_looks_twice_a_second(tmp_path: Path) -> None:
    """A change is seen at the next look, and only then read."""
    own = TestPKI.mint(tmp_path)
    seen: list[bool] = []
    tls = ReloadingServerTLS(files(own), lambda ok, loaded: seen.append(ok))
    clock = Clock()
    watch = CredentialWatch(clock, tls)
    watch.startService()
    clock.advance(0.5)
    assert seen == [True]
    own.revoke("revoked", "good")
    clock.advance(0.5)
    assert seen == [True, True]
    watch.stopService()
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_stale_list_is_a_decision(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """accept: what it revokes stays revoked and nobody else is locked out; refuse: all that it is about are."""
    own = TestPKI.mint(tmp_path)
    own.revoke("revoked", next_update=datetime.datetime.now(datetime.UTC) - DAY)
    for stale_crl, good in (("accept", "node-1"), ("refuse", REFUSED)):
        server = serve(files(own, stale_crl=stale_crl))
        ((_, warning),) = server.tls.loaded.lists.warnings(server.tls.files, time.time())
        assert "past its next update" in warning
        for version in VERSIONS:
            assert await server.call(ask(context(own, "good", version))) == good
            assert await server.call(ask(context(own, "revoked", version))) == REFUSED
            assert await server.call(ask(context(own, "other CA", version))) == REFUSED
            assert await server.call(ask(context(own, "expired", version))) == REFUSED


@pytest.mark.parametrize(("stale_crl", "fate"), [("accept", "it stays in force"), ("refuse", "refused")])
def test_a_list_that_becomes_stale_is_never_a_surprise(tmp_path: Path, stale_crl: str, fate: str) -> None:
    """No file changes, but time passes: it is said before, when it is so, and again every hour."""
    own = TestPKI.mint(tmp_path)
    own.revoke("revoked", next_update=datetime.datetime.now(datetime.UTC) + 10 * DAY)
    now = [time.time()]
    tls = ReloadingServerTLS(files(own, stale_crl=stale_crl), now=lambda: now[0])
    with capturedLogs() as said:
        now[0] += 8.5 * 86400
        tls.check()
        assert not said
        now[0] += 86400
        for _ in range(3):
            tls.check()
        assert len(said) == 1 and "has its next update in 12.0 h" in said[0]["warning"] and fate in said[0]["warning"]
        now[0] += 86400
        for _ in range(3):
            tls.check()
        assert len(said) == 2 and "past its next update by 12.0 h" in said[1]["warning"] and fate in said[1]["warning"]
        now[0] += 3600
        tls.check()
        assert len(said) == 3


@pytest_twisted.ensureDeferred
async def test_a_ca_without_a_list_is_not_locked_out(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """Two CAs at once and a list of one of them: the other's nodes are served, and a warning says so."""
    own = TestPKI.mint(tmp_path)
    both = own.path("ca.pem").read_bytes() + own.path("other-ca.pem").read_bytes()
    own.path("both.pem").write_bytes(both)
    server = serve(files(own, client_ca=own.path("both.pem")))
    assert "other CA" in server.tls.loaded.warnings[0]
    for version in VERSIONS:
        assert await server.call(ask(context(own, "other CA", version))) == "node-1"
        assert await server.call(ask(context(own, "revoked", version))) == REFUSED
        assert await server.call(ask(context(own, "expired", version))) == REFUSED
        assert await server.call(ask(context(own, "wrong key usage", version))) == REFUSED


# -- what cannot be used


def encrypted(own: TestPKI) -> bytes:
    return own.server.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


def dated(own: TestPKI, begin: int, end: int) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    made = own.authority.issue(
        "localhost", "server", key=own.server.key, not_before=now + begin * DAY, not_after=now + end * DAY
    )
    return made.certificate_pem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("server.pem", None, ["--cert", "No such file"]),
        ("server.pem", b"x", ["--cert", "no certificate in PEM"]),
        ("server.pem", lambda own: dated(own, -30, -1), ["--cert", "expired on"]),
        ("server.pem", lambda own: dated(own, 1, 30), ["--cert", "not valid before"]),
        ("server.key", None, ["--key", "No such file"]),
        ("server.key", b"x", ["--key", "no private key"]),
        ("server.key", encrypted, ["--key", "encrypted"]),
        ("server.key", lambda own: own.nodes["good"].key_pem, ["--key", "not the key of --cert"]),
        ("ca.pem", None, ["--client-ca", "No such file"]),
        ("ca.pem", b"", ["--client-ca", "no certificate"]),
        ("ca.pem", lambda own: own.server.certificate_pem, ["--client-ca", "CN=localhost", "not a CA"]),
        ("crl.pem", None, ["--client-crl", "No such file"]),
        ("crl.pem", b"x", ["--client-crl", "no revocation list"]),
        (
            "crl.pem",
            b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            ["--client-crl", "cannot be read"],
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: Any, words: list[str]) -> None:
    """One sentence names the option, the file and the reason."""
    own = TestPKI.mint(tmp_path)
    path = own.path(name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(own) if callable(content) else content)
    with pytest.raises(UnusableCredential) as caught:
        ReloadingServerTLS(files(own))
    for word in [*words, str(path)]:
        assert word in str(caught.value)


def test_a_certificate_about_to_expire_is_warned_of(tmp_path: Path) -> None:
    """Two weeks before its end."""
    own = TestPKI.mint(tmp_path)
    own.path("server.pem").write_bytes(dated(own, -1, 10))
    (warning,) = ReloadingServerTLS(files(own)).loaded.warnings
    assert "--cert" in warning and "expires on" in warning


@pytest_twisted.ensureDeferred
async def test_a_chain_with_an_intermediate_is_sent(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """--cert may hold the chain: clients that know only the root verify it."""
    own = TestPKI.mint(tmp_path)
    chain = own.server.certificate_pem + Authority.create("unrelated").credential.certificate_pem
    own.path("server.pem").write_bytes(chain)
    server = serve(files(own))
    assert await server.call(ask(context(own, "good"))) == "node-1"


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest_twisted.ensureDeferred
async def test_what_is_between_certificate_and_root_is_found(
    tmp_path: Path, serve: Callable[..., Served], depth: int
) -> None:
    """--cert without its chain will do where --client-ca has it; the root is for clients to have."""
    own = TestPKI.mint(tmp_path)
    authorities = [plain_authority("root")]
    for number in range(depth):
        authorities.append(plain_authority(f"intermediate {number}", by=authorities[-1]))
    own.write("server", authorities[-1].issue("localhost", "server", dns=["localhost"]))
    own.path("root.pem").write_bytes(authorities[0].credential.certificate_pem)
    every = [own.authority, *authorities]
    own.path("cas.pem").write_bytes(b"".join(each.credential.certificate_pem for each in every))
    server = serve(files(own, client_ca=own.path("cas.pem"), client_crl=None))
    found = ssl.create_default_context(cafile=str(own.path("root.pem")))
    found.load_cert_chain(*own.files_of("good"))
    assert await server.call(ask(found)) == "node-1"

    def client(port: int) -> int:
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.settimeout(None)
            connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
            connection.set_connect_state()
            connection.do_handshake()
            return len(connection.get_peer_cert_chain() or [])

    optional = serve(files(own, client_ca=own.path("cas.pem"), client_crl=None, client_auth="optional"))
    assert await optional.call(client) == 1 + depth

"""The CA for fleets: what OpenSSL and a server make of its certificates, who can read what, and what a crash leaves."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import shlex
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from osqtwist.cafolder import CAFolder
from osqtwist.certificateauthority import AlreadyRevoked, CertificateAuthority, OutlivesAuthority, UnknownCertificate
from osqtwist.certificaterequest import (
    CertificateRefused,
    LeafRequest,
    UnfitName,
    UnfitRequest,
    alternative_name,
    checked_name,
    file_name,
    key_of_request,
    purpose_of,
)
from osqtwist.cli.main import main
from osqtwist.credentialfiles import CredentialFiles, load_certificate
from osqtwist.identity import IdentityCache, IdentityRule, identify
from osqtwist.pki import Authority, PublicKey, UnusablePKI, development_pki, new_key
from osqtwist.tap import Options
from osqtwist.tls import PeerIdentities, ReloadingServerTLS, load
from osqtwist.tlsfiles import TLSFiles
from osqtwist.tlsport import listen

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


def run(*words: str | Path) -> Result:
    """The command, as an operator types it."""
    return CliRunner().invoke(main, ["pki", *map(str, words)], catch_exceptions=False)


def done(*words: str | Path) -> dict[str, Any]:
    """The command, which must succeed, and what it says."""
    result = CliRunner().invoke(main, ["--json", "pki", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def openssl(*words: str | Path) -> str:
    """OpenSSL's own word: all that it prints, and its exit status if that is not 0."""
    found = subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    return found.stdout + found.stderr + (f"\nstatus {found.returncode}" if found.returncode else "")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_pair(certificate: Path, key: Path) -> bool:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    return load_certificate(certificate).public_key() == private.public_key()


@attrs.define
class Moment:
    """A clock that stands until it is moved."""

    at: datetime.datetime = NOW

    def __call__(self) -> datetime.datetime:
        return self.at


@attrs.define
class Fleet:
    """A CA made by commands, with one of each."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, key_type: str = "p256") -> Fleet:
        made = ("--key-type", key_type, "--dir", folder)
        done("init", folder, "--key-type", key_type)
        done("server", "localhost", "127.0.0.1", *made)
        done("node", "node-1", *made)
        done("node", "node-2", *made)
        done("operator", "alice", *made)
        done("crl", "--dir", folder)
        return cls(folder)

    def pem(self, name: str) -> Path:
        return next(self.folder.glob(f"*/{name}.pem"))

    def key(self, name: str) -> Path:
        return next(self.folder.glob(f"*/{name}.key"))

    @property
    def tls(self) -> TLSFiles:
        return TLSFiles(
            self.pem("localhost"),
            self.key("localhost"),
            self.folder / "ca.pem",
            self.folder / "crl.pem",
            client_auth="required",
        )


@pytest.fixture(scope="module", params=["p256", "p384", "rsa2048"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.make(tmp_path_factory.mktemp("fleet") / "ca", request.param)


@pytest.fixture
def clock() -> Moment:
    return Moment()


@pytest.fixture
def authority(tmp_path: Path, clock: Moment) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", "test CA", now=clock)


def public_key() -> PublicKey:
    return new_key().public_key()


# -- what OpenSSL says


@pytest.mark.parametrize(("name", "purpose"), [("localhost", "server"), ("node-1", "client"), ("alice", "client")])
def test_a_certificate_is_good_for_its_purpose_and_no_other(fleet: Fleet, name: str, purpose: str) -> None:
    """OpenSSL, at its strictest, accepts a node as a client only and a server as a server only."""
    for asked in ("server", "client"):
        said = openssl(
            *("verify", "-x509_strict", "-check_ss_sig", "-purpose", f"ssl{asked}", "-CAfile"),
            *(fleet.folder / "ca.pem", fleet.pem(name)),
        )
        assert said.endswith(": OK\n") if asked == purpose else re.search("(unsuitable|unsupported).*purpose", said)


def test_what_a_certificate_says(fleet: Fleet) -> None:
    """As OpenSSL prints it: the extensions, and which of them are critical."""
    authority = openssl("x509", "-noout", "-text", "-in", fleet.folder / "ca.pem")
    assert re.search(r"Basic Constraints: critical\s+CA:TRUE, pathlen:0\n", authority)
    assert re.search(r"Key Usage: critical\s+Certificate Sign, CRL Sign\n", authority)
    (identifier,) = re.findall(r"Subject Key Identifier:\s+([0-9A-F:]+)\n", authority)
    for name, usage in (("localhost", "Server"), ("node-1", "Client"), ("alice", "Client")):
        text = openssl("x509", "-noout", "-text", "-in", fleet.pem(name))
        assert re.search(r"Basic Constraints: critical\s+CA:FALSE\n", text)
        assert re.search(r"X509v3 Key Usage: critical\s+Digital Signature\n", text)
        assert re.search(rf"Extended Key Usage:\s+TLS Web {usage} Authentication\n", text)
        assert re.search(rf"Authority Key Identifier:\s+(keyid:)?{identifier}\n", text)
        assert "Subject Key Identifier" in text
    assert "DNS:localhost, IP Address:127.0.0.1\n" in openssl(
        "x509", "-noout", "-ext", "subjectAltName", "-in", fleet.pem("localhost")
    )
    assert "subject=CN = alice, OU = operator\n" in openssl("x509", "-noout", "-subject", "-in", fleet.pem("alice"))


def test_a_leaf_cannot_be_a_ca(fleet: Fleet, tmp_path: Path) -> None:
    """What a node signs with its own key is worth nothing."""
    signed = Authority.load(fleet.pem("node-1"), fleet.key("node-1")).issue("node-9", "node")
    signed.write(tmp_path / "x.pem", tmp_path / "x.key")
    said = openssl("verify", "-CAfile", fleet.folder / "ca.pem", "-untrusted", fleet.pem("node-1"), tmp_path / "x.pem")
    assert "invalid CA certificate" in said


def test_openssl_heeds_the_revocation_list(tmp_path: Path) -> None:
    """Before, after, with its reason; and the others are not touched."""
    fleet = Fleet.make(tmp_path / "ca")

    def verdict(name: str) -> str:
        files = ("-CAfile", fleet.folder / "ca.pem", "-CRLfile", fleet.folder / "crl.pem", fleet.pem(name))
        return openssl("verify", "-x509_strict", "-crl_check", "-purpose", "sslclient", *files)

    assert verdict("node-1").endswith(": OK\n")
    done("revoke", fleet.pem("node-1"), "--reason", "keyCompromise", "--dir", fleet.folder)
    assert verdict("node-1").endswith(": OK\n")
    done("crl", "--dir", fleet.folder)
    assert "certificate revoked" in verdict("node-1")
    assert verdict("node-2").endswith(": OK\n")
    text = openssl("crl", "-noout", "-text", "-in", fleet.folder / "crl.pem")
    assert re.search(r"CRL Reason Code:\s+Key Compromise\n", text)
    assert "Authority Key Identifier" in text


# -- what a server does with them


class SayWho(Protocol):
    """Answers each line with the identity of whoever sent it."""

    def dataReceived(self, data: bytes) -> None:
        who = PeerIdentities(IdentityCache((IdentityRule(),))).of(self)
        self.transport.write((who.value if who else "nobody").encode() + b"\n")  # type: ignore[union-attr]


async def met(files: TLSFiles, trust: Path, credential: tuple[Path, Path]) -> str:
    """Whom a server with these files takes a client with this credential for."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: Any = listen(reactor, listening, Factory.forProtocol(SayWho), ReloadingServerTLS(files).connection)

    def ask() -> str:
        context = ssl.create_default_context(cafile=str(trust))
        context.load_cert_chain(*credential)
        try:
            with (
                socket.create_connection(("127.0.0.1", port.getHost().port), 5) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                connection.sendall(b"who?\n")
                return connection.recv(100).decode().strip() or "refused"
        except ssl.SSLCertVerificationError:
            return "refuses"
        except (ssl.SSLError, ConnectionError):
            return "refused"

    try:
        return str(await deferToThread(ask))
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_handshake(fleet: Fleet) -> None:
    """Nodes get in by name; a server's certificate gets nobody in, and a node's makes no server."""
    trust = fleet.folder / "ca.pem"
    for name, seen in (("node-1", "node-1"), ("alice", "alice"), ("localhost", "refused")):
        assert await met(fleet.tls, trust, (fleet.pem(name), fleet.key(name))) == seen
    posing = attrs.evolve(fleet.tls, cert=fleet.pem("node-2"), key=fleet.key("node-2"))
    assert await met(posing, trust, (fleet.pem("node-1"), fleet.key("node-1"))) == "refuses"


@pytest_twisted.ensureDeferred
async def test_a_revoked_node_is_out_and_its_renewal_is_not(tmp_path: Path) -> None:
    """The old certificate and the new are good together, until one of them is revoked."""
    fleet = Fleet.make(tmp_path / "ca")
    trust, new = fleet.folder / "ca.pem", (fleet.pem("node-1"), fleet.key("node-1"))
    done("renew", fleet.pem("node-1"), "--dir", fleet.folder)
    old = (fleet.pem("node-1").with_suffix(".pem.previous"), fleet.key("node-1").with_suffix(".key.previous"))
    for credential in (old, new):
        assert await met(fleet.tls, trust, credential) == "node-1"
    done("revoke", old[0], "--reason", "superseded", "--dir", fleet.folder)
    done("crl", "--dir", fleet.folder)
    assert await met(fleet.tls, trust, old) == "refused"
    assert await met(fleet.tls, trust, new) == "node-1"


@pytest_twisted.ensureDeferred
async def test_two_cas_at_once(tmp_path: Path) -> None:
    """With both in the bundles, nodes and servers of either meet; revocations of either count; no warning is due."""
    old, new = Fleet.make(tmp_path / "ca"), Fleet.make(tmp_path / "ca-2")
    done("revoke", new.pem("node-2"), "--dir", new.folder)
    done("crl", "--dir", new.folder)
    trust, lists = tmp_path / "trust.pem", tmp_path / "revoked.pem"
    assert run("bundle", old.folder, new.folder, "-o", trust).exit_code == 0
    assert run("bundle", old.folder, new.folder, "--crl", "-o", lists).exit_code == 0
    for server in (old, new):
        files = attrs.evolve(server.tls, client_ca=trust, client_crl=lists)
        assert load(files, datetime.datetime.now(datetime.UTC).timestamp()).warnings == ()
        for node in (old, new):
            assert await met(files, trust, (node.pem("node-1"), node.key("node-1"))) == "node-1"
        assert await met(files, trust, (old.pem("node-2"), old.key("node-2"))) == "node-2"
        assert await met(files, trust, (new.pem("node-2"), new.key("node-2"))) == "refused"
    assert await met(old.tls, trust, (new.pem("node-1"), new.key("node-1"))) == "refused"


# -- issuing


def test_dates_and_serial_numbers(authority: CertificateAuthority, clock: Moment) -> None:
    """It begins a little before now; the number is positive, random, and no longer than RFC 5280 allows."""
    made = [authority.issue(LeafRequest.node("x"), public_key(), 30) for _ in range(20)]
    for each in made:
        assert each.not_valid_before_utc == NOW - datetime.timedelta(minutes=5)
        assert each.not_valid_after_utc == NOW + 30 * DAY
        assert 0 < each.serial_number < 2**159
    assert len({each.serial_number for each in made}) == 20
    assert max(each.serial_number.bit_length() for each in made) > 128


def test_no_certificate_outlives_the_ca(tmp_path: Path, clock: Moment) -> None:
    """Not when it is issued and not when it is renewed; the error says what would do, and that does."""
    authority = CertificateAuthority.create(tmp_path / "ca", "short CA", days=100, now=clock)
    made = authority.issue(LeafRequest.node("x"), public_key(), 100)
    assert made.not_valid_after_utc == authority.certificate.not_valid_after_utc
    clock.at += 10 * DAY
    for ask in (
        lambda: authority.issue(LeafRequest.node("x"), public_key(), 91),
        lambda: authority.renew(made),
        lambda: authority.issue(LeafRequest.node("x"), public_key(), 10**8),
    ):
        with pytest.raises(OutlivesAuthority, match=r"CN=short CA, which ends on 2030-04-11: ask for at most 90 days"):
            ask()
    assert authority.renew(made, days=90).not_valid_after_utc == authority.certificate.not_valid_after_utc
    clock.at += 90 * DAY
    with pytest.raises(OutlivesAuthority, match="CN=short CA ended on 2030-04-11: make a new CA"):
        authority.issue(LeafRequest.node("x"), public_key(), 1)
    clock.at -= 200 * DAY
    with pytest.raises(OutlivesAuthority, match="begins in the future"):
        authority.issue(LeafRequest.node("x"), public_key(), 1)
    assert len(authority.list()) == 2


def test_a_certificate_is_recorded_before_it_is_handed_out(authority: CertificateAuthority) -> None:
    """So one that is in somebody's hands, but got lost here, can be revoked by its number."""
    made = authority.issue(LeafRequest.operator("alice", "viewer"), public_key(), 30)
    assert authority.find(f"{made.serial_number:X}") == made
    assert purpose_of(made) == ("operator", "viewer")
    with pytest.raises(UnknownCertificate, match="issued no certificate with the serial number 1234"):
        authority.find("1234")
    for text in ("", "x", "../ca", "-1", "f" * 41):
        with pytest.raises(UnknownCertificate, match="neither a file nor a serial number"):
            authority.find(text)


# -- names

HOSTILE = st.text(st.characters(), max_size=80)


@given(HOSTILE)
@example("..")
@example("a\0b")
@example("e\u0301")
@example("\u212b" * 30)
@example("-rf")
@example("a/../../b")
@example("\ud800")
def test_a_name_is_refused_or_is_the_identity(name: str) -> None:
    """Whatever is typed: a sentence, or a certificate with that identity, and a file in its place."""
    try:
        request = LeafRequest.node(name)
    except UnfitName as problem:
        assert "\n" not in str(problem) and str(problem).isprintable()
        return
    assert 0 < len(request.name.encode()) <= 64
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in request.name)
    signed = AUTHORITY.issue(request.name, "node", key=KEY).certificate
    assert identify(signed, (IdentityRule(),)).value == request.name
    path = CredentialFiles.named(Path("folder"), request.name).certificate
    assert path.parent == Path("folder") and path.name == f"{file_name(request.name)}.pem"
    assert re.fullmatch(r"[A-Za-z0-9_@+=,%][A-Za-z0-9_@+=,%.~-]*", file_name(request.name))


@given(HOSTILE, HOSTILE)
@example("a", "A")
@example("%41", "A")
def test_two_names_have_two_files(one: str, other: str) -> None:
    """No node's files are taken for another's."""
    if one and other and one.isprintable() and other.isprintable():
        assert (file_name(one) == file_name(other)) == (one == other)


@given(st.sampled_from(["", "DNS:", "ip:", "URI:x:"]), st.one_of(HOSTILE, st.text("ab1.:*/_-%", max_size=40)))
@example("DNS:", "*.example.com")
@example("", "fe80::1%eth0")
@example("", "1.2.3.999")
@example("DNS:", "a..b")
@example("IP:", "::1")
@example("", "spiffe://example.com/a b")
def test_an_alternative_name_is_refused_or_can_stand_there(kind: str, text: str) -> None:
    """And a node's is never a wildcard."""
    try:
        found = alternative_name(kind + text)
    except UnfitName as problem:
        assert str(problem).isprintable()
        return
    assert "*" not in str(found.value) or isinstance(found, x509.UniformResourceIdentifier)
    assert x509.SubjectAlternativeName([found]).public_bytes()
    assert text.lower() in kind.lower() + str(found.value).lower() or isinstance(found, x509.IPAddress)


AUTHORITY, KEY = Authority.create("test CA"), new_key()


def test_alternative_names_are_what_they_look_like() -> None:
    """Or what the word before them says."""
    request = LeafRequest.server(
        ["osq.example.com", "*.example.com", "192.0.2.1", "::1"], ["DNS:a.test", "ip:10.0.0.1", "spiffe://x/y"]
    )
    assert [type(each).__name__ for each in request.alternatives] == [
        *("DNSName", "DNSName", "IPAddress", "IPAddress", "DNSName", "IPAddress", "UniformResourceIdentifier")
    ]
    assert request.name == "osq.example.com"
    assert len(LeafRequest.server(["a.test", "a.test"], ["a.test"]).alternatives) == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: checked_name(""), "must not be empty"),
        (lambda: checked_name("a\0"), r"'a\\x00' has control characters"),
        (lambda: checked_name(" a"), "blanks at an end"),
        (lambda: checked_name("a" * 65), "longer than the 64 bytes"),
        (lambda: checked_name("ä" * 33), "longer than the 64 bytes"),
        (lambda: LeafRequest.server([]), "at least one name"),
        (lambda: LeafRequest.server(["my server"]), "'my server' is not a DNS name"),
        (lambda: LeafRequest.server(["*"]), "not a DNS name"),
        (lambda: LeafRequest.server(["*.com"]), "not a DNS name"),
        (lambda: LeafRequest.server(["a.*.com"]), "not a DNS name"),
        (lambda: LeafRequest.server(["bücher.example"]), "in ASCII"),
        (lambda: LeafRequest.node("x", ["*.example.com"]), "or is a wildcard"),
        (lambda: LeafRequest.node("x", ["IP:1.2.3"]), "not an IP address"),
        (lambda: LeafRequest.node("x", ["URI:nothing"]), "not a URI"),
        (lambda: LeafRequest.operator("x", "root"), "'root' is not a role: they are viewer, operator, admin"),
    ],
)
def test_names_that_are_refused(make: Callable[[], object], reason: str) -> None:
    """Each with a sentence that shows the name."""
    with pytest.raises(UnfitName, match=reason):
        make()


# -- requests


def csr(key: Any, *extensions: x509.ExtensionType, digest: Any = hashes.SHA256()) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
    for each in extensions:
        builder = builder.add_extension(each, True)
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)


def test_only_the_key_is_taken_from_a_request(tmp_path: Path) -> None:
    """Neither the name that it asks for, nor the right to sign, nor another purpose or name."""
    done("init", tmp_path / "ca")
    key = new_key()
    wishes = (
        x509.BasicConstraints(True, None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName([x509.DNSName("osq.example.com")]),
    )
    (tmp_path / "x.csr").write_bytes(csr(key, *wishes))
    said = done("node", "node-1", "--csr", tmp_path / "x.csr", "--dir", tmp_path / "ca")
    assert said["key"] is None
    made = load_certificate(Path(said["certificate"]))
    assert made.public_key() == key.public_key()
    assert made.subject.rfc4514_string() == "CN=node-1"
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert purpose_of(made) == ("node", "")
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_request_by_openssl_is_taken_in_both_forms(tmp_path: Path) -> None:
    """PEM and DER, EC and RSA."""
    for kind in ("rsa:2048", "ec:/dev/null"):
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384") if kind[0] == "e" else ("-newkey", kind)
        for form in ("PEM", "DER"):
            openssl(
                *("req", "-new", *new, "-nodes", "-subj", "/CN=x", "-outform", form),
                *("-keyout", tmp_path / "x.key", "-out", tmp_path / "x.csr"),
            )
            private = serialization.load_pem_private_key((tmp_path / "x.key").read_bytes(), None)
            assert key_of_request((tmp_path / "x.csr").read_bytes()) == private.public_key()


def forged() -> bytes:
    """A request with somebody else's public key in it."""
    own, other = new_key(), new_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = x509.load_pem_x509_csr(csr(own)).public_bytes(serialization.Encoding.DER)
    return der.replace(own.public_key().public_bytes(*form), other.public_key().public_bytes(*form))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (forged, "not signed by its own key"),
        (lambda: b"rubbish", "cannot be read"),
        (lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nrubbish", "cannot be read"),
        (lambda: b"x" * 70000, "longer than 65536 bytes"),
        (lambda: csr(rsa.generate_private_key(65537, 1024)), "the key must be"),
        (lambda: csr(rsa.generate_private_key(3, 2048)), "the key must be"),
        (lambda: csr(ec.generate_private_key(ec.SECP256K1())), "the key must be"),
        (lambda: csr(ed25519.Ed25519PrivateKey.generate(), digest=None), "the key must be"),
    ],
)
def test_a_request_that_is_refused(make: Callable[[], bytes], reason: str) -> None:
    """Each for its own reason."""
    with pytest.raises(UnfitRequest, match=reason):
        key_of_request(make())


@given(st.binary(max_size=300))
def test_no_request_ends_in_a_traceback(data: bytes) -> None:
    """Rubbish is refused, whatever it is."""
    with pytest.raises(UnfitRequest):
        key_of_request(data)


def test_the_key_of_the_ca_gets_no_certificate(authority: CertificateAuthority) -> None:
    """Whoever asks for one has the CA's key, which nobody should, or made a mistake."""
    with pytest.raises(CertificateRefused, match="that of the CA itself"):
        authority.issue(LeafRequest.node("x"), authority.certificate.public_key(), 1)  # type: ignore[arg-type]


# -- renewing


def test_a_renewal_says_what_the_old_one_says(authority: CertificateAuthority, clock: Moment) -> None:
    """Subject, extensions and lifetime; number, key and dates are new."""
    old = authority.issue(LeafRequest.server(["a.test", "10.0.0.1"]), public_key(), 50)
    clock.at += 40 * DAY
    key = public_key()
    new = authority.renew(old, key)
    assert new.subject == old.subject and new.serial_number != old.serial_number
    assert new.public_key() == key
    assert new.not_valid_after_utc == clock.at + 50 * DAY
    identifiers = (x509.SubjectKeyIdentifier.oid,)
    of_old = {each.oid: each for each in old.extensions if each.oid not in identifiers}
    assert {each.oid: each for each in new.extensions if each.oid not in identifiers} == of_old
    kept = authority.renew(old, days=7)
    assert kept.public_key() == old.public_key() and kept.not_valid_after_utc == clock.at + 7 * DAY
    assert [each.status(clock.at) for each in authority.list()] == ["valid"] * 3


def test_what_is_not_renewed(authority: CertificateAuthority, tmp_path: Path) -> None:
    """A revoked certificate, another CA's, one that another CA of the same name made, the CA's own."""
    made = authority.issue(LeafRequest.node("x"), public_key(), 30)
    authority.revoke(made)
    with pytest.raises(AlreadyRevoked, match=r"was revoked on 2030-01-01 12:00 UTC: it is not renewed"):
        authority.renew(made)
    for name in ("other CA", "test CA"):
        foreign = Authority.create(name).issue("x", "node").certificate
        for refused in (authority.renew, authority.revoke):
            with pytest.raises(UnknownCertificate, match="CN=x was not issued by CN=test CA"):
                refused(foreign)
    for refused in (authority.renew, authority.revoke):
        with pytest.raises(UnknownCertificate, match="that of CN=test CA itself"):
            refused(authority.certificate)


def test_renewing_in_place_keeps_the_old_pair(tmp_path: Path) -> None:
    """The files stay where the server looks for them; the old ones are beside them, and no key is readable."""
    folder = Fleet.make(tmp_path / "ca").folder
    pem, key = folder / "servers/localhost.pem", folder / "servers/localhost.key"
    before = pem.read_bytes(), key.read_bytes()
    done("renew", pem, "--dir", folder)
    previous = folder / "servers/localhost.pem.previous", folder / "servers/localhost.key.previous"
    assert tuple(path.read_bytes() for path in previous) == before
    assert key.read_bytes() != before[1] and is_pair(pem, key)
    assert mode(key) == mode(previous[1]) == 0o600
    kept = key.read_bytes()
    done("renew", pem, "--keep-key", "--dir", folder)
    assert key.read_bytes() == kept and is_pair(pem, key)


def test_renewing_elsewhere_and_by_number(tmp_path: Path) -> None:
    """With --out nothing that is there changes; a number or its record means the file that was handed out."""
    folder = Fleet.make(tmp_path / "ca").folder
    pem = folder / "nodes/node-1.pem"
    before = pem.read_bytes()
    said = done("renew", pem, "--out", tmp_path / "new", "--dir", folder)
    assert pem.read_bytes() == before
    assert is_pair(tmp_path / "new/node-1.pem", tmp_path / "new/node-1.key")
    assert "is there already" in run("renew", pem, "--out", tmp_path / "new", "--dir", folder).output
    serial = f"{load_certificate(pem).serial_number:x}"
    record = folder / "issued" / f"{serial}.pem"
    for text in (said["serial"], folder / "issued" / f"{said['serial']}.pem"):
        assert "does not hold that certificate" in run("renew", text, "--dir", folder).output
    assert done("renew", record, "--dir", folder)["certificate"] == str(pem)
    assert record.read_bytes() == before
    assert len(list((folder / "issued").iterdir())) == 6


def test_renewing_what_has_its_key_elsewhere(tmp_path: Path) -> None:
    """No key is made behind the back of the node that has it."""
    folder, request = tmp_path / "ca", tmp_path / "x.csr"
    done("init", folder)
    request.write_bytes(csr(new_key()))
    pem = Path(done("node", "x", "--csr", request, "--dir", folder)["certificate"])
    refused = run("renew", pem, "--dir", folder)
    assert refused.exit_code == 1 and "give --keep-key, or --csr" in refused.output
    done("renew", pem, "--keep-key", "--dir", folder)
    key = new_key()
    request.write_bytes(csr(key))
    done("renew", pem, "--csr", request, "--dir", folder)
    assert load_certificate(pem).public_key() == key.public_key()
    done("renew", pem, "--csr", request, "--out", tmp_path / "new", "--dir", folder)
    assert run("renew", pem, "--csr", request, "--keep-key", "--dir", folder).exit_code == 2
    done("node", "y", "--dir", folder)
    assert "give --out" in run("renew", folder / "nodes/y.pem", "--csr", request, "--dir", folder).output


# -- revoking


def test_revoking_twice_changes_nothing(authority: CertificateAuthority, clock: Moment) -> None:
    """The first moment and reason count."""
    made = authority.issue(LeafRequest.node("x"), public_key(), 30)
    authority.revoke(made, "keyCompromise")
    clock.at += DAY
    with pytest.raises(AlreadyRevoked, match=r"2030-01-01 12:00 UTC: nothing is changed"):
        authority.revoke(made)
    (found,) = authority.list()
    assert found.revocation and (found.revocation.at, found.revocation.reason) == (NOW, "keyCompromise")
    with pytest.raises(CertificateRefused, match="'because' is not a reason"):
        authority.revoke(made, "because")


def test_the_number_of_lists_only_grows(authority: CertificateAuthority, clock: Moment) -> None:
    """Within a second, with a clock that goes back, and when the last list was lost."""

    def number() -> int:
        found = authority.crl(7)
        assert found.next_update_utc == clock.at + 7 * DAY
        assert CAFolder(authority.folder.path).newest_crl() == found
        return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    numbers = [number(), number()]
    clock.at -= 5 * DAY
    numbers += [number(), number()]
    clock.at += 6 * DAY
    authority.folder.crl.unlink()
    numbers.append(number())
    assert numbers == sorted(set(numbers))
    authority.folder.crl.write_bytes(b"rubbish")
    with pytest.raises(UnusablePKI, match=r"crl\.pem holds no revocation list in PEM"):
        number()


def test_a_revoked_certificate_stays_on_the_list(authority: CertificateAuthority, clock: Moment) -> None:
    """Past its end too: a server whose clock is wrong would let it in again."""
    made = [authority.issue(LeafRequest.node(f"x{number}"), public_key(), 30) for number in range(3)]
    for each in made[:2]:
        authority.revoke(each)
    clock.at += 60 * DAY
    assert {each.serial_number for each in authority.crl()} == {each.serial_number for each in made[:2]}


# -- the list


def test_what_needs_renewal(authority: CertificateAuthority, clock: Moment) -> None:
    """Neither what was renewed, nor what is revoked, nor what has ended; by the time of the clock."""
    made = {name: authority.issue(LeafRequest.node(name), public_key(), 30) for name in ("due", "renewed", "revoked")}
    authority.issue(LeafRequest.node("later"), public_key(), 90)
    authority.issue(LeafRequest.node("ended"), public_key(), 5)
    # The same name for another purpose renews nothing.
    authority.issue(LeafRequest.operator("due"), public_key(), 90)
    clock.at += 20 * DAY
    authority.renew(made["renewed"])
    authority.revoke(made["revoked"])
    assert [each.name for each in authority.expiring(9)] == []
    assert [each.name for each in authority.expiring(10)] == ["due"]
    assert [each.name for each in authority.list() if each.status(clock.at) == "expired"] == ["ended"]
    assert [each.name for each in authority.list() if each.renewed] == ["renewed"]


def test_the_list_for_people_and_programs(tmp_path: Path) -> None:
    """A table, or every field as JSON; without the key, so whoever watches does not need it."""
    fleet = Fleet.make(tmp_path / "ca")
    done("revoke", fleet.pem("node-2"), "--dir", fleet.folder)
    (fleet.folder / "ca.key").unlink()
    rows = json.loads(run("list", "--json", "--dir", fleet.folder).stdout)
    assert {(row["name"], row["purpose"], row["role"], row["status"]) for row in rows} == {
        ("localhost", "server", "", "valid"),
        ("node-1", "node", "", "valid"),
        ("node-2", "node", "", "revoked"),
        ("alice", "operator", "operator", "valid"),
    }
    table = run("list", "--dir", fleet.folder).stdout
    assert all(row["serial"] in table for row in rows)
    assert run("list", "--expiring", 364, "--json", "--dir", fleet.folder).stdout == "[]\n"
    assert len(json.loads(run("list", "--expiring", 366, "--json", "--dir", fleet.folder).stdout)) == 3


# -- who can read what


def test_nothing_secret_is_readable_by_others(tmp_path: Path) -> None:
    """With umask 0: keys are 0600 and folders 0700."""
    before = os.umask(0)
    try:
        folder = Fleet.make(tmp_path / "deep/ca").folder
        done("renew", folder / "nodes/node-1.pem", "--dir", folder)
        done("node", "x", "--out", tmp_path / "out", "--dir", folder)
    finally:
        os.umask(before)
    keys = [*folder.rglob("*.key*"), tmp_path / "out/x.key"]
    assert len(keys) == 7
    assert {mode(path) for path in keys} == {0o600}
    assert {mode(path) for path in (folder, tmp_path / "out", *folder.iterdir()) if path.is_dir()} == {0o700}
    secret = [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert set(secret) == set(keys) - {tmp_path / "out/x.key"}


def test_a_key_has_its_mode_before_it_has_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first byte; and its name only when it is whole."""
    folder, seen = tmp_path / "ca", []
    real = os.fdopen

    # A stand-in for fdopen is the only place to look at a file before anything is in it.
    def look(descriptor: int, *more: Any, **named: Any) -> Any:
        found = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if ".key" in path.name:
            seen.append((stat.S_IMODE(found.st_mode), found.st_size, path.name.endswith(".new")))
        return real(descriptor, *more, **named)

    monkeypatch.setattr(os, "fdopen", look)
    before = os.umask(0)
    try:
        done("init", folder)
        done("node", "x", "--dir", folder)
        done("renew", folder / "nodes/x.pem", "--dir", folder)
    finally:
        os.umask(before)
    assert seen == [(0o600, 0, True)] * 4


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o606])
def test_a_ca_key_that_others_can_read_is_not_used(tmp_path: Path, bits: int) -> None:
    """Neither for certificates nor for lists; the sentence says what to do, and nothing was recorded or written."""
    folder = tmp_path / "ca"
    done("init", folder)
    (folder / "ca.key").chmod(bits)
    for words in (("node", "x"), ("crl",)):
        refused = run(*words, "--dir", folder)
        assert refused.exit_code == 1
        assert f"{folder}/ca.key can be read by others (its mode is {bits:04o}): chmod 600 it" in refused.output
    assert not (folder / "issued").exists() and not (folder / "crl.pem").exists()
    assert not list(folder.glob("nodes/*"))
    (folder / "ca.key").chmod(0o600)
    done("node", "x", "--dir", folder)


def test_a_passphrase(tmp_path: Path) -> None:
    """The key is encrypted in its file; signing needs the passphrase, and nothing else does."""
    folder, good, bad = tmp_path / "ca", tmp_path / "good", tmp_path / "bad"
    for path, text in ((good, "correct horse\n"), (bad, "wrong\n")):
        path.write_text(text)
        path.chmod(0o600)
    done("init", folder, "--passphrase-file", good)
    assert (folder / "ca.key").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "status" not in openssl("pkey", "-noout", "-in", folder / "ca.key", "-passin", f"file:{good}")
    assert "ca.key is encrypted: give --passphrase-file" in run("node", "x", "--dir", folder).output
    assert "is the passphrase the right one?" in run("crl", "--passphrase-file", bad, "--dir", folder).output
    assert not list(folder.glob("nodes/*"))
    done("node", "x", "--passphrase-file", good, "--dir", folder)
    done("revoke", folder / "nodes/x.pem", "--dir", folder)
    done("crl", "--passphrase-file", good, "--dir", folder)
    good.chmod(0o644)
    assert "good can be read by others" in run("crl", "--passphrase-file", good, "--dir", folder).output
    bad.write_bytes(b"\n")
    assert "a passphrase has 1 to 1023 bytes" in run("crl", "--passphrase-file", bad, "--dir", folder).output
    assert "horse" not in repr(CertificateAuthority.open(folder, b"correct horse"))


# -- crashes and company

CRASHING = """
    import os, sys
    from osqtwist.cli.main import main

    # Ends at the n-th step that changes the disk, as kill -9 does; says which n was the last that mattered.
    for number in range(1, 200):
        child = os.fork()
        if child == 0:
            left = [number]
            def counted(real):
                def step(*arguments, **named):
                    left[0] -= 1
                    if not left[0]:
                        os._exit(9)
                    return real(*arguments, **named)
                return step
            for name in ("fsync", "replace", "link", "unlink", "mkdir"):
                setattr(os, name, counted(getattr(os, name)))
            words = [word.replace("N", str(number)) for word in sys.argv[1:]]
            try:
                main(["pki", *words])
            finally:
                sys.stdout.flush()
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 9:
            print(number, file=sys.stderr)
            break
"""


def crash(*words: str | Path) -> int:
    """Run a command once for each step at which it can crash; N in its words is the number of the step."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CRASHING), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=ROOT,
    )
    assert found.stderr.splitlines()[-1].isdigit(), found.stderr
    return int(found.stderr.splitlines()[-1])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A CA in a folder whose path has no N in it."""
    with tempfile.TemporaryDirectory(prefix="ca-", dir="/tmp") as name:
        path = Path(name.replace("N", "n"))
        path.mkdir(exist_ok=True)
        done("init", path / "ca")
        yield path / "ca"


def test_a_crash_while_issuing(folder: Path) -> None:
    """Whatever was handed out is recorded, no key is half or readable, and the CA goes on."""
    steps = crash("node", "nN", "--dir", folder)
    assert steps > 8
    recorded = {path.name for path in (folder / "issued").glob("*.pem")}
    for path in (folder / "nodes").glob("*.pem"):
        assert f"{load_certificate(path).serial_number:x}.pem" in recorded
    for path in folder.rglob("*.key"):
        assert mode(path) == 0o600
        serialization.load_pem_private_key(path.read_bytes(), None)
    assert len(recorded) > len(list((folder / "nodes").glob("*.pem"))) > 1
    assert len(CertificateAuthority.open(folder).list()) == len(recorded)
    for number in range(1, steps):
        again = run("node", f"n{number}", "--dir", folder)
        assert again.exit_code == 0 or "is there already" in again.output


def test_a_crash_while_renewing(folder: Path) -> None:
    """A certificate with its key is always there, new or old, and the next renewal sets all right."""
    nodes = folder / "nodes"
    for number in range(1, 30):
        done("node", f"n{number}", "--dir", folder)
        # What is in the place of the previous ones may be torn apart, if the current ones are not.
        done("renew", nodes / f"n{number}.pem", "--dir", folder)
    steps = crash("renew", nodes / "nN.pem", "--dir", folder)
    assert 10 < steps < 30
    torn = 0
    for number in range(1, steps + 1):
        pem, key = nodes / f"n{number}.pem", nodes / f"n{number}.key"
        if not is_pair(pem, key):
            torn += 1
            assert is_pair(nodes / f"n{number}.pem.previous", nodes / f"n{number}.key.previous")
        done("renew", pem, "--dir", folder)
        assert is_pair(pem, key)
        assert is_pair(nodes / f"n{number}.pem.previous", nodes / f"n{number}.key.previous")
    assert torn


def test_a_crash_while_revoking_and_listing(folder: Path) -> None:
    """A certificate is revoked or it is not; the list is the old or the new; both commands work afterwards."""
    for number in range(1, 15):
        done("node", f"n{number}", "--dir", folder)
    assert 3 < crash("revoke", folder / "nodes/nN.pem", "--dir", folder) < 15
    revoked = {each.serial for each in CertificateAuthority.open(folder).list() if each.revocation}
    assert revoked
    first = done("crl", "--dir", folder)
    assert first["revoked"] == len(revoked)
    assert crash("crl", "--dir", folder) > 3
    newest = CAFolder(folder).newest_crl()
    assert newest and len(newest) == len(revoked)
    assert done("crl", "--dir", folder)["number"] > first["number"]


def test_a_crash_while_making_a_ca(folder: Path) -> None:
    """There is a whole CA or there is none, and its key was never readable."""
    steps = crash("init", folder.parent / "caN")
    assert steps > 4
    whole = 0
    for number in range(1, steps + 1):
        path = folder.parent / f"ca{number}"
        for key in path.glob("*.key*"):
            assert mode(key) == 0o600
        if run("node", "x", "--dir", path).exit_code == 0:
            whole += 1
        else:
            assert not (path / "ca.pem").exists()
            again = run("init", path)
            assert again.exit_code == 0 or f"{path} is not empty (it holds ca.key" in again.output
    assert 0 < whole < steps


BUSY = """
    import sys
    from click.testing import CliRunner
    from osqtwist.cli.main import main

    folder, own = sys.argv[1:]
    sys.stdin.readline()
    for number in range(15):
        for name in (f"{own}-{number}", f"both-{number}"):
            print(name, CliRunner().invoke(main, ["pki", "node", name, "--dir", folder]).exit_code)
        assert CliRunner().invoke(main, ["pki", "crl", "--dir", folder]).exit_code == 0
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """All that is asked for is issued and recorded; a name that both ask for goes to one of them, with its own key."""
    folder = tmp_path / "ca"
    done("init", folder)
    busy = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(BUSY), str(folder), own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for own in ("one", "two")
    ]
    for each in busy:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [line for each in busy for line in each.communicate(timeout=50)[0].splitlines()]
    assert [each.returncode for each in busy] == [0, 0]
    expected = [f"{own}-{number} 0" for own in ("one", "two") for number in range(15)]
    expected += [f"both-{number} {status}" for number in range(15) for status in (0, 1)]
    assert sorted(said) == sorted(expected)
    files = list((folder / "nodes").glob("*.pem"))
    assert len(files) == 45
    assert all(is_pair(path, path.with_suffix(".key")) for path in files)
    recorded = {each.serial for each in CertificateAuthority.open(folder).list()}
    assert {f"{load_certificate(path).serial_number:x}" for path in files} <= recorded
    assert not list(folder.rglob("*.new"))


def test_whoever_comes_second_waits(authority: CertificateAuthority) -> None:
    """Between threads too, which an API would have."""
    with (authority.folder.path / "lock").open() as other:
        with authority.folder.locked(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- the command


def test_a_ca_is_never_overwritten(tmp_path: Path) -> None:
    """Nor made among other files."""
    done("init", tmp_path / "ca")
    before = (tmp_path / "ca/ca.key").read_bytes()
    again = run("init", tmp_path / "ca")
    assert again.exit_code == 1 and "holds a CA already" in again.output
    assert (tmp_path / "ca/ca.key").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter").touch()
    assert "full is not empty (it holds letter)" in run("init", tmp_path / "full").output
    (tmp_path / "empty").mkdir(mode=0o755)
    done("init", tmp_path / "empty")
    assert mode(tmp_path / "empty") == 0o700


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """Neither a certificate nor a key nor a dangling link, and nothing is issued in vain."""
    folder = tmp_path / "ca"
    done("init", folder)
    done("node", "x", "--dir", folder)
    for name in ("x.pem", "x.key"):
        refused = run("node", "x", "--dir", folder)
        assert refused.exit_code == 1
        assert f"nodes/{name} is there already: renew it, move it away, or give --out" in refused.output
        (folder / "nodes" / name).unlink()
    (folder / "nodes/x.key").symlink_to(tmp_path / "elsewhere")
    assert "is there already" in run("node", "x", "--dir", folder).output
    assert not (tmp_path / "elsewhere").exists()
    assert len(list((folder / "issued").iterdir())) == 1


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    """Files that are missing or rubbish, names that are not fit: exit status 1 and no traceback."""
    done("init", tmp_path / "ca")
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    there = ("--dir", tmp_path / "ca")
    for words, sentence in (
        (("node", "x", "--dir", tmp_path / "none"), "none/ca.pem: No such file or directory"),
        (("node", "x\ty", *there), r"'x\ty' has control characters"),
        (("node", "x", "--csr", tmp_path / "none", *there), "none: No such file or directory"),
        (("node", "x", "--csr", tmp_path / "rubbish", *there), "request cannot be read"),
        (("server", "not a name", *there), "is not a DNS name"),
        (("renew", tmp_path / "rubbish", *there), "rubbish holds no certificate"),
        (("renew", tmp_path / "ca/ca.pem", *there), "that of CN=osqtwist CA"),
        (("revoke", "zz", *there), "'zz' is neither a file nor a serial number"),
        (("revoke", "12:34", *there), "issued no certificate with the serial number 12:34"),
        (("bundle", tmp_path / "ca", "--crl"), "crl.pem is not there: osqtwist pki crl"),
        (("bundle", tmp_path / "none"), "none/ca.pem: No such file"),
        (("show", tmp_path / "rubbish"), "rubbish holds no certificate"),
        (("init", tmp_path / "rubbish/ca"), "rubbish"),
    ):
        result = run(*words)
        assert result.exit_code == 1, words
        assert sentence in result.output and result.output.startswith("Error: "), result.output
        assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "ca/issued").exists()


def test_a_ca_without_a_name_has_one_of_its_own(tmp_path: Path) -> None:
    """So two of them can be told apart."""
    names = [done("init", tmp_path / name, "--days", 10)["name"] for name in ("a", "b")]
    assert names[0] != names[1] and all(re.fullmatch("CN=osqtwist CA [0-9a-f]{8}", name) for name in names)
    assert done("init", tmp_path / "c", "--name", "Büro")["name"] == "CN=Büro"
    assert "control characters" in run("init", tmp_path / "d", "--name", "a\0").output
    assert not (tmp_path / "d").exists()


def test_a_bundle_is_plain_pem(tmp_path: Path) -> None:
    """Each CA once, on the terminal or in a file that everybody may read."""
    for name in ("a", "b"):
        done("init", tmp_path / name)
    text = run("bundle", tmp_path / "a", tmp_path / "b", tmp_path / "a").stdout
    names = [each.subject for each in x509.load_pem_x509_certificates(text.encode())]
    assert names == [CertificateAuthority.open(tmp_path / name).certificate.subject for name in ("a", "b")]
    assert run("bundle", "--dir", tmp_path / "a", "-o", tmp_path / "trust.pem").stdout == ""
    assert text.startswith((tmp_path / "trust.pem").read_text())
    assert mode(tmp_path / "trust.pem") & 0o044


def test_what_a_certificate_shows(tmp_path: Path) -> None:
    """Purpose, role, and the identity that it would be."""
    fleet = Fleet.make(tmp_path / "ca")
    said = done("show", fleet.pem("alice"))
    assert (said["purpose"], said["role"], said["identity"]) == ("operator", "operator", "alice")
    assert done("show", fleet.folder / "ca.pem")["purpose"] == ""


def test_the_development_pki_is_a_ca_of_the_same_kind(tmp_path: Path) -> None:
    """It issues, and what it was made with can be renewed and revoked."""
    made = development_pki(tmp_path / "certs")
    there = ("--dir", made.folder)
    done("node", "node-2", *there)
    done("renew", made.certificate("server"), *there)
    assert is_pair(made.certificate("server"), made.key("server"))
    done("revoke", made.certificate("node"), *there)
    assert done("crl", *there)["revoked"] == 1
    assert development_pki(made.folder) == made


# -- the manual


def commands() -> list[str]:
    """Every command of the manual."""
    text = (ROOT / "docs/pki.md").read_text("utf-8")
    blocks = re.findall(r"<!-- run -->\n```sh\n(.*?)```", text, re.S)
    assert len(blocks) == text.count("```sh") == text.count("```") / 2
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_every_command_of_the_manual_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page; the server's options load."""
    monkeypatch.chdir(tmp_path)
    programs = []
    for line in commands():
        program, *words = shlex.split(line)
        programs.append(program)
        if program == "osqtwist":
            result = CliRunner().invoke(main, words, catch_exceptions=False)
            assert result.exit_code == 0, f"{line}: {result.output}"
        elif program == "openssl":
            assert "status" not in openssl(*words), line
        else:
            assert (program, words.pop(0)) == ("twistd", "osqtwist")
            options = Options()
            options.parseOptions(words)
            given = options.given
            files = {name: Path(given[name]) for name in ("cert", "key", "client_ca", "client_crl")}
            tls = TLSFiles(**files, client_auth=given["client_auth"])
            assert load(tls, datetime.datetime.now(datetime.UTC).timestamp()).warnings == ()
    assert set(programs) == {"osqtwist", "openssl", "twistd"}
    shown = {words.split()[2] for words in commands() if words.startswith("osqtwist pki")}
    assert shown >= set(main.every_command()["pki"].commands) - {"show"}  # type: ignore[attr-defined]


def test_every_command_in_the_text_is_one() -> None:
    """Those in the middle of a sentence too."""
    text = (ROOT / "docs/pki.md").read_text("utf-8")
    named = set(re.findall(r"`osqtwist pki ([a-z]+)", text))
    assert named and named <= set(main.every_command()["pki"].commands)  # type: ignore[attr-defined]

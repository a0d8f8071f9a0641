"""What proxies say of connections and certificates, and what of it is believed."""

from __future__ import annotations

import base64
import contextlib
import datetime
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.certificatechecks import CertificateRefused
from osqtwist.identity import IdentityCache, IdentityRule
from osqtwist.namedpeers import BadPeer, NamedPeers
from osqtwist.passedcertificates import Verification
from osqtwist.passedheaders import BadPassedHeaders, certificate_in, last_address, names_a_certificate
from osqtwist.pki import Authority
from osqtwist.proxyprotocol import FIXED, SIGNATURE, BadProxyHeader, Source, rest_length, source_of
from osqtwist.settings import BadSetting, gather
from osqtwist.tls import ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles
from tests.certificates import DAY, TestPKI
from tests.harness import InMemoryServer

AUTHORITY = Authority.create("test CA", "P-256")
NODE = AUTHORITY.issue("node-1", "node").certificate
PEM = NODE.public_bytes(Encoding.PEM).decode()
DER = base64.b64encode(NODE.public_bytes(Encoding.DER)).decode()
NGINX, LEAF = quote(PEM, safe=""), quote(PEM, safe="+=/")
ENVOY = f"By=spiffe://x/y;Hash={NODE.fingerprint(hashes.SHA256()).hex()}"


def passed(family: Any, *headers: tuple[str, str]) -> x509.Certificate | None:
    def values(name: str) -> Sequence[str]:
        return [text for each, text in headers if each.lower() == name.lower()]

    return certificate_in(family, values)


VERIFY, CERT, XFCC, AMAZON = (
    "X-SSL-Client-Verify",
    "X-SSL-Client-Cert",
    "X-Forwarded-Client-Cert",
    "X-Amzn-Mtls-Clientcert-Leaf",
)


@pytest.mark.parametrize(
    ("family", "headers"),
    [
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, NGINX)]),
        ("ssl-client", [(VERIFY, "0"), (CERT, DER)]),
        ("xfcc", [(XFCC, f'{ENVOY};Cert="{NGINX}";Subject="CN=a,O=\\"b;c\\"";URI=')]),
        ("xfcc", [(XFCC, f"Cert={NGINX}")]),
        ("amzn-mtls", [(AMAZON, LEAF)]),
    ],
)
def test_a_certificate_that_is_passed(family: Any, headers: list[tuple[str, str]]) -> None:
    """As nginx, HAProxy, Envoy and Amazon write it."""
    assert passed(family, *headers) == NODE


@pytest.mark.parametrize(
    ("family", "headers"),
    [
        ("ssl-client", [(VERIFY, "NONE")]),
        ("ssl-client", [(VERIFY, "NONE"), (CERT, "")]),
        ("ssl-client", [(VERIFY, "0"), (CERT, "")]),
        ("xfcc", []),
        ("amzn-mtls", []),
        # Those of another family are the node's own words.
        ("xfcc", [(VERIFY, "SUCCESS"), (CERT, NGINX)]),
        ("none", [(VERIFY, "SUCCESS"), (CERT, NGINX), (XFCC, f"Cert={NGINX}"), (AMAZON, LEAF)]),
    ],
)
def test_no_certificate_is_passed(family: Any, headers: list[tuple[str, str]]) -> None:
    """Which is no reason to refuse anybody yet."""
    assert passed(family, *headers) is None


@pytest.mark.parametrize(
    ("family", "headers", "words"),
    [
        ("ssl-client", [], "does not say X-SSL-Client-Verify"),
        ("ssl-client", [(CERT, NGINX)], "does not say X-SSL-Client-Verify"),
        ("ssl-client", [(VERIFY, ""), (CERT, NGINX)], "does not say X-SSL-Client-Verify"),
        ("ssl-client", [(VERIFY, "FAILED:certificate has expired"), (CERT, NGINX)], "FAILED:certificate has expired"),
        ("ssl-client", [(VERIFY, "NONE"), (CERT, NGINX)], "is NONE, and yet"),
        ("ssl-client", [(VERIFY, "SUCCESS")], "there is no X-SSL-Client-Cert"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (VERIFY, "SUCCESS"), (CERT, NGINX)], "is there 2 times"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, NGINX), (CERT, NGINX)], "is there 2 times"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, NGINX + NGINX)], "holds 2 certificates"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, DER + "AAAA")], "no certificate that can be read"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, "é")], "no certificate that can be read"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, "-----BEGIN%FF")], "no certificate that can be read"),
        ("ssl-client", [(VERIFY, "SUCCESS"), (CERT, "CN=node-1")], "no certificate that can be read"),
        ("xfcc", [(XFCC, ENVOY)], "has no Cert"),
        ("xfcc", [(XFCC, f"Cert={NGINX},Cert={NGINX}")], "of several hops"),
        ("xfcc", [(XFCC, f"Cert={NGINX};cert={NGINX}")], "has cert twice"),
        ("xfcc", [(XFCC, f"Cert={NGINX}"), (XFCC, "By=x")], "is there 2 times"),
        ("xfcc", [(XFCC, f"Cert={NGINX};Hash={'0' * 64}")], "is not that of its Cert"),
        ("xfcc", [(XFCC, f'Cert="{NGINX}')], "ends within quotes"),
        ("amzn-mtls", [("X-Amzn-Mtls-Clientcert", LEAF)], "unverified"),
        ("amzn-mtls", [(AMAZON, LEAF), (AMAZON, LEAF)], "is there 2 times"),
    ],
)
def test_what_cannot_be_believed(family: Any, headers: list[tuple[str, str]], words: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadPassedHeaders, match=words):
        passed(family, *headers)


@given(st.sampled_from(["ssl-client", "xfcc", "amzn-mtls"]), st.text(st.characters(max_codepoint=255)))
def test_any_text_is_a_certificate_or_refused(family: Any, text: str) -> None:
    """Whatever a header holds."""
    with contextlib.suppress(BadPassedHeaders):
        assert passed(family, (VERIFY, "SUCCESS"), (CERT, text), (XFCC, text), (AMAZON, text)) is None


def test_the_address_that_our_own_proxy_has_seen() -> None:
    """The last; those before it are what others said."""

    def last(*values: str) -> str:
        return last_address("X", lambda name: values)

    assert last("192.0.2.66, 192.0.2.1") == "192.0.2.1"
    assert last("192.0.2.66", "192.0.2.1:4711") == "192.0.2.1"
    assert last("2001:db8::1") == "2001:db8::1"
    assert last("[2001:db8::1]:4711") == "2001:db8::1"
    assert last() == ""


def test_names_of_peers() -> None:
    """Addresses, networks, and whoever can open a unix socket."""
    peers = NamedPeers.parse(["192.0.2.7", "10.0.0.0/8", "2001:db8::/32"])
    for host in ("192.0.2.7", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5"):
        assert peers.have(host), host
    for host in ("192.0.2.8", "::1", "", "x", "::ffff:192.0.2.8", "fe80::1%eth0"):
        assert not peers.have(host), host
    assert NamedPeers.parse(["unix"]).have("")
    assert not NamedPeers()
    for text in ("10.0.0.1/8", "example.com", ""):
        with pytest.raises(BadPeer, match="neither an address nor a network"):
            NamedPeers.parse([text])


# -- the PROXY protocol


def header(command: int, family: int, body: bytes) -> tuple[bytes, bytes]:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)), body


def test_where_a_connection_comes_from() -> None:
    """Over IPv4, over IPv6, with more behind the addresses, and where the proxy speaks for itself."""
    four = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 4711, 443)
    six = bytes.fromhex("20010db8" + "0" * 23 + "1") + bytes(16) + struct.pack("!HH", 4711, 443)
    for command, family, body, expected in (
        (0x21, 0x11, four, Source("192.0.2.1", 4711)),
        (0x21, 0x11, four + b"\x04\0\x03abc", Source("192.0.2.1", 4711)),
        (0x21, 0x21, six, Source("2001:db8::1", 4711)),
        (0x20, 0x00, b"", None),
        (0x20, 0x11, four, None),
        (0x21, 0x00, b"xyz", None),
    ):
        fixed, rest = header(command, family, body)
        assert rest_length(fixed) == len(body)
        assert source_of(fixed, rest) == expected


@pytest.mark.parametrize(
    ("fixed", "rest", "words"),
    [
        (b"PROXY TCP4 1.2.3", b"", "does not begin"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03abcde", b"", "does not begin"),
        (SIGNATURE + b"\x31\x11\0\x0c", b"", "version and command"),
        (SIGNATURE + b"\x22\x11\0\x0c", b"", "version and command"),
        (SIGNATURE + b"\x21\x11\xff\xff", b"", "long"),
        (SIGNATURE + b"\x21\x31\0\x0c", bytes(12), "family"),
        (SIGNATURE + b"\x21\x11\0\x0b", bytes(11), "cut short"),
        (SIGNATURE + b"\x21\x21\0\x0c", bytes(12), "cut short"),
    ],
)
def test_what_is_no_header(fixed: bytes, rest: bytes, words: str) -> None:
    """The connection ends."""
    with pytest.raises(BadProxyHeader, match=words):
        rest_length(fixed)
        source_of(fixed, rest)


@given(st.binary(min_size=FIXED, max_size=FIXED), st.binary(max_size=80))
def test_any_bytes_are_a_header_or_refused(fixed: bytes, rest: bytes) -> None:
    """Whatever comes."""
    for start in (fixed, SIGNATURE + fixed[12:]):
        with contextlib.suppress(BadProxyHeader):
            rest_length(start)
            source_of(start, rest)


# -- certificates that were shown to somebody else


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


def verification(pki: TestPKI, **files: Any) -> Verification:
    return Verification(ReloadingServerTLS(TLSFiles(None, None, pki.path("ca.pem"), **files)))


def test_a_passed_certificate_is_verified_as_a_handshake_would(pki: TestPKI) -> None:
    """Other CAs, expired, revoked, not for clients; and one is good."""
    look = verification(pki, client_crl=pki.path("crl.pem"))
    problems = {name: look.problem_with(each.certificate) for name, each in pki.nodes.items()}
    assert problems["good"] == problems["second"] == ""
    assert look.chain_of(pki.nodes["good"].certificate)[-1] == pki.authority.credential.certificate
    assert "unable to get local issuer" in problems["other CA"]
    assert problems["expired"] == "it expired"
    assert "revoked" in problems["revoked"]
    assert problems["wrong key usage"] == "it is not for clients"
    look.now = pki.nodes["good"].certificate.not_valid_after_utc.timestamp
    assert look.problem_with(pki.nodes["good"].certificate) == "it expired", "a good verdict does not outlive it"


@pytest.mark.parametrize(("stale", "expected"), [("accept", ""), ("refuse", "CRL has expired")])
def test_a_list_past_its_time_means_what_is_set(tmp_path: Path, stale: str, expected: str) -> None:
    """And whoever is on it is refused in any case."""
    pki = TestPKI.mint(tmp_path)
    pki.revoke("revoked", next_update=datetime.datetime.now(datetime.UTC) - DAY)
    look = verification(pki, client_crl=pki.path("crl.pem"), stale_crl=stale)
    assert expected.lower() in look.problem_with(pki.nodes["good"].certificate).lower()
    assert bool(look.problem_with(pki.nodes["good"].certificate)) == bool(expected)
    assert look.problem_with(pki.nodes["revoked"].certificate)


def test_a_new_list_counts_for_verdicts_of_before(tmp_path: Path) -> None:
    """As soon as it is read."""
    pki = TestPKI.mint(tmp_path)
    look = verification(pki, client_crl=pki.path("crl.pem"))
    assert look.problem_with(pki.nodes["second"].certificate) == ""
    pki.revoke("revoked", "second")
    look.tls.check()
    assert "revoked" in look.problem_with(pki.nodes["second"].certificate)


def test_a_good_verdict_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute; a bad one each time, since it may be a matter of time."""
    pki = TestPKI.mint(tmp_path)
    look, certificate = verification(pki), pki.nodes["good"].certificate
    looked: list[x509.Certificate] = []
    really = Verification._look

    def noted(self: Verification, each: x509.Certificate) -> str:
        looked.append(each)
        return really(self, each)

    monkeypatch.setattr(Verification, "_look", noted)
    start = time.time()
    for later, expected in ((0, 1), (59, 1), (61, 2), (62, 2), (122, 3)):
        look.now = lambda later=later: start + later
        assert look.problem_with(certificate) == ""
        assert len(looked) == expected
    for _ in range(2):
        assert look.problem_with(pki.nodes["other CA"].certificate)
    assert len(looked) == 5


def test_who_was_refused_is_ended_and_stops_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose proxy says what cannot be believed is open still when others are put out."""

    def of(said: object, visitor: object) -> None:
        raise CertificateRefused("it expired")

    monkeypatch.setattr("tests.harness._Said.of", of)
    server = InMemoryServer(tmp_path)
    channel: Any = SimpleNamespace(caller=None, transport=None, passed=None)
    assert server.api.is_out(channel)
    server.stop()


def test_an_identity_is_of_the_same_rules(pki: TestPKI) -> None:
    """The bytes that are passed are those that a handshake shows."""
    encoded = pki.nodes["good"].certificate.public_bytes(Encoding.DER)
    assert IdentityCache((IdentityRule("subject.O"),)).identify(encoded).value == "Example"


# -- settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('port = ["tcp:8080"]', r"--port tcp:8080 is without TLS.*\[trusted_proxy\]"),
        ('port = ["unix:/x"]', "--port unix:/x is without TLS"),
        ('proxy_protocol = ["example.com"]', "--proxy-protocol: 'example.com' is neither"),
        ("[trusted_proxy]\npeers = []", "trusted_proxy.peers is empty"),
        ('[trusted_proxy]\npeers = ["10.0.0.1/8"]', "trusted_proxy.peers: '10.0.0.1/8' is neither"),
        ('[trusted_proxy]\npeers = ["::1"]\nheaders = "all"', "trusted_proxy"),
        ('[trusted_proxy]\npeer = ["::1"]', "trusted_proxy"),
        ('client_auth = "required"\n[trusted_proxy]\npeers = ["::1"]\nheaders = "none"', "no certificate could come"),
        ('port = ["tcp:8080"]\n[trusted_proxy]\npeers = ["::1"]', "--client-ca is not given"),
        (
            'port = ["tcp:1"]\nclient_ca = "x"\nadmin_port = "ssl:2"\n[trusted_proxy]\npeers = ["::1"]',
            "--admin-port is given, but --admin-cert is not",
        ),
    ],
)
def test_settings_that_would_be_a_mistake(tmp_path: Path, text: str, words: str) -> None:
    """One sentence says which."""
    path = tmp_path / "o.toml"
    path.write_text(text)
    with pytest.raises(BadSetting, match=words):
        gather({}, {}, str(path))


def test_behind_a_proxy_there_is_no_certificate_of_ours(tmp_path: Path) -> None:
    """It is the proxy's."""
    path = tmp_path / "o.toml"
    path.write_text('port = ["tcp:8080"]\nclient_ca = "ca.pem"\n[trusted_proxy]\npeers = ["::1"]\n')
    settings = gather({}, {}, str(path))
    assert settings.is_plain
    assert not settings.makes_development_set_up


def test_which_headers_name_a_certificate() -> None:
    """Whoever is no proxy and sends one is told, rather than wondered at."""
    assert names_a_certificate(lambda name: ["x"] if name == XFCC else []) == XFCC
    assert names_a_certificate(lambda name: []) == ""

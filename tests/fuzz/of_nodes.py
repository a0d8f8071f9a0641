"""Targets: what nodes send, and what they show."""

from __future__ import annotations

import atexit
import base64
import contextlib
import gzip
import hashlib
import ipaddress
import json
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from osqtwist import wire
from osqtwist.assembly import node_site
from osqtwist.certificaterequest import UnfitRequest, key_of_request
from osqtwist.identity import SOURCES, IdentityCache, IdentityRule, TagRule, UnidentifiedCertificate
from osqtwist.nodekey import CertificateMissing, InvalidNodeKey, NodeKeys, SigningKey, WrongCertificate
from osqtwist.ocspanswer import BadAnswer, Issuer, Question, read_answer, responders_of
from osqtwist.passedheaders import BadPassedHeaders, certificate_in, last_address, names_a_certificate
from osqtwist.pki import Authority
from osqtwist.proxyprotocol import FIXED, SIGNATURE, BadProxyHeader, rest_length, source_of
from osqtwist.revocationlists import read_lists
from osqtwist.tls import load
from osqtwist.tlsfiles import TLSFiles, UnusableCredential
from osqtwist.web.exchange import BodyTooLarge, inflate
from tests.fuzz.target import Broken, Target, text_of
from tests.harness import SECRET, START, InMemoryServer

_SERVER_LASTS = 500
_LIMIT = 20_000


class _Wire(StringTransport):
    """Bytes in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False

    def abortConnection(self) -> None:
        self.is_over = True

    def loseConnection(self) -> None:
        self.is_over = True


class Connections:
    """A server in memory behind real HTTP; made anew now and then, so that what it keeps does not grow for ever."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="osqfuzz-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.left = 0

    def begin(self) -> None:
        """Have a new one."""
        self.left = _SERVER_LASTS
        self.server = server = InMemoryServer(self.folder, max_log_body_mib=1, request_log=False)
        app = server.api.app()
        self.site = node_site(server.reactor, server.settings, app.resource(), server.metrics, server.api.endpoints())
        server.certificate = None
        self.key = server.enroll()
        query = server.issue("select 1")
        code, answer = server.ask("/carver/start", self._carve())
        assert code == 200, answer
        self.words = {
            b"@KEY@": self.key.encode(),
            b"@SECRET@": SECRET.encode(),
            b"@QUERY@": query.query_id.encode(),
            b"@SESSION@": answer["session_id"].encode(),
        }

    def _carve(self) -> dict[str, Any]:
        return {"node_key": self.key, "block_count": 2, "block_size": 4, "carve_size": 8, "carve_id": "c"}

    def answer(self, data: bytes) -> bytes:
        """What comes of some bytes of HTTP, once the node has waited as long as it would."""
        if not self.left:
            self.begin()
        self.left -= 1
        incidents = self.server.metrics.incidents._value.get()
        for word, value in self.words.items():
            data = data.replace(word, value)
        channel: Any = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        wire_ = _Wire()
        channel.makeConnection(wire_)
        for start in range(0, len(data), 1500):
            if not wire_.is_over:
                channel.dataReceived(data[start : start + 1500])
        self.server.turn()
        for _ in range(3):
            if not wire_.is_over:
                self.server.turn(6)
        channel.connectionLost(Failure(ConnectionDone()))
        self.server.turn()
        if self.site.channels:
            raise Broken("a connection is kept that is gone")
        if self.server.metrics.incidents._value.get() != incidents:
            raise Broken("an incident: " + repr(wire_.value()[:300]))
        return wire_.value()


def _answers(data: bytes) -> list[tuple[int, bytes]]:
    """The answers in what a server said: code and body of each."""
    found = []
    while data:
        head, blank, rest = data.partition(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        if not (blank and line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))):
            raise Broken(f"this is no answer: {data[:200]!r}")
        code = int(line.split()[1])
        names = {name.strip().lower(): value.strip() for name, _, value in (each.partition(b":") for each in headers)}
        if code == 100:
            data = rest
            continue
        if b"content-length" in names:
            length = int(names[b"content-length"])
            body, data = rest[:length], rest[length:]
        elif names.get(b"transfer-encoding") == b"chunked":
            body, data = _unchunked(rest)
        else:
            body, data = rest, b""
        found.append((code, body))
    return found


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    found = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        found, data = found + data[:length], data[length + 2 :]
        if not length:
            return found, data


def _check_answers(path: bytes | None, said: bytes, is_head: bool = False) -> None:
    for code, body in _answers(said):
        if not body and not is_head:
            raise Broken(f"{code} with an empty body: osquery takes that for success")
        if code == 500:
            raise Broken(f"nobody expected that: {body!r}")
        try:
            value = json.loads(body) if body else {"error": ""}
        except ValueError:
            if code == 200 or path not in (b"/carver/continue", None):
                raise Broken(f"no JSON: {body[:200]!r}") from None
            continue
        if code >= 400 and path == b"/carver/continue":
            raise Broken(f"a refused block is answered with JSON: {body[:200]!r}")
        if code >= 400 and not (isinstance(value, dict) and isinstance(value.get("error"), str)):
            raise Broken(f"{code} without an error: {body[:200]!r}")


def _http() -> Callable[[bytes], None]:
    served = Connections()

    def read(data: bytes) -> None:
        said = served.answer(data)
        # Whoever asks for a block, in whatever spelling, may be answered in text or in JSON.
        _check_answers(None if b"carve" in data else b"/", said, is_head=data.startswith(b"HEAD"))

    return read


def _route(path: str) -> Callable[[], Callable[[bytes], None]]:
    def make() -> Callable[[bytes], None]:
        served = Connections()

        def read(data: bytes) -> None:
            # Lengths are counted after the words are put in.
            if not served.left:
                served.begin()
            for word, value in served.words.items():
                data = data.replace(word, value)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            said = served.answer(head + data)
            if not _answers(said):
                raise Broken("there is no answer")
            _check_answers(path.encode(), said)

        return read

    return make


def _requests() -> Callable[[bytes], None]:
    kinds = [wire.NodeRequest, wire.LogRequest, wire.WriteRequest, wire.CarveStartRequest, wire.CarveBlockRequest]
    ways: list[Callable[[bytes], object]] = [partial(wire.parse, kind) for kind in kinds]
    ways += [wire.parse_log, lambda body: wire.parse_enroll(body, "enroll_secret")]

    def read(data: bytes) -> None:
        for way in ways:
            with contextlib.suppress(wire.MalformedRequest):
                way(data)

    return read


def _lines() -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        for body in (data, b'{"log_type":"result","data":[' + data + b"]}"):
            try:
                request = wire.parse_log(body)
            except wire.MalformedRequest:
                continue
            good, count, dead = wire.sort_lines(request, 1000)
            if count + len(dead) != len(request.data):
                raise Broken("a line is lost or made up")
            if len(json.loads(good)) != count:
                raise Broken("the good lines are not as many as said")
            if request.data:
                wire.post_of(request)

    return read


def _gzip() -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        try:
            found = inflate(data, _LIMIT)
        except (wire.MalformedRequest, BodyTooLarge):
            return
        if len(found) > _LIMIT:
            raise Broken("over the limit")

    return read


def _node_key() -> Callable[[bytes], None]:
    keys = NodeKeys((SigningKey("abcdef", b"s" * 32), SigningKey("000000", b"t" * 32)))
    good = {keys.issue("a" * 20, 1_790_000_000, name) for name in ("", "node-1")}

    def read(data: bytes) -> None:
        for text in (text_of(data), data.decode("latin-1")):
            for name in ("", "node-1"):
                try:
                    keys.verify(text, name)
                except (InvalidNodeKey, CertificateMissing, WrongCertificate):
                    continue
                if text not in good:
                    raise Broken("a key that was never issued is good")

    return read


def _fixed_keys() -> list[bytes]:
    keys = NodeKeys((SigningKey("abcdef", b"s" * 32),))
    return [keys.issue("a" * 20, 1_790_000_000, name).encode() for name in ("", "node-1")]


@cache
def _authority() -> Authority:
    return Authority.create("fuzz CA")


def _certificates() -> list[bytes]:
    authority = _authority()
    found = [authority.credential, authority.issue("node-1", "node"), authority.issue("s", "server", dns=["a.example"])]
    return [each.certificate.public_bytes(serialization.Encoding.DER) for each in found]


def _certificate() -> Callable[[bytes], None]:
    caches = [
        IdentityCache((IdentityRule(source=source),), (TagRule("subject.OU", "ou:"), TagRule("san.dns", "dns:")), 1)
        for source in SOURCES
    ]

    def read(data: bytes) -> None:
        for each in caches:
            try:
                found = each.identify(data)
            except UnidentifiedCertificate:
                continue
            if not found.value.isprintable() or len(found.value) > 255 or not found.value.strip():
                raise Broken(f"this is an identity: {found.value!r}")
        with contextlib.suppress(ValueError, x509.InvalidVersion):
            responders_of(x509.load_der_x509_certificate(data))

    return read


def _ocsp() -> Callable[[bytes], None]:
    authority = _authority()
    question = Question(4711, Issuer.of(authority.credential.certificate), "http://x")

    def read(data: bytes) -> None:
        with contextlib.suppress(BadAnswer):
            read_answer(data, question, b"n" * 16, START)

    return read


def _ocsp_answers() -> list[bytes]:
    import datetime

    authority = _authority()
    now = datetime.datetime.fromtimestamp(START, datetime.UTC)
    certificate, key = authority.credential.certificate, authority.credential.key
    node = authority.issue("node-1", "node").certificate
    made = []
    for status, reason in (
        (ocsp.OCSPCertStatus.GOOD, None),
        (ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.superseded),
    ):
        builder = ocsp.OCSPResponseBuilder().add_response(
            node,
            certificate,
            hashes.SHA1(),
            status,
            now,
            now + datetime.timedelta(hours=1),
            now if reason else None,
            reason,
        )
        signed = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, certificate).sign(key, hashes.SHA256())  # type: ignore[arg-type]
        made.append(signed.public_bytes(serialization.Encoding.DER))
    return made


def _crl() -> Callable[[bytes], None]:
    folder = Path(tempfile.mkdtemp(prefix="osqfuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    authority = _authority()
    path = folder / "crl"
    files = TLSFiles(folder / "c", folder / "k", folder / "ca", path)
    trusted = [authority.credential.certificate]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(UnusableCredential):
            lists = read_lists(files, trusted)
            lists.tolerances(files, trusted)
            lists.rows(START)

    return read


def _crls() -> list[bytes]:
    text = _authority().revocation_list([4711, 4712])
    return [text, x509.load_pem_x509_crl(text).public_bytes(serialization.Encoding.DER)]


def _tls_files() -> Callable[[bytes], None]:
    folder = Path(tempfile.mkdtemp(prefix="osqfuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    authority = _authority()
    files = TLSFiles(folder / "cert", folder / "key", folder / "ca")
    server = authority.issue("localhost", "server", dns=["localhost"])
    server.write(folder / "cert", folder / "key")
    authority.credential.write(folder / "ca", folder / "ca.key")
    good = {name: (folder / name).read_bytes() for name in ("cert", "key", "ca")}

    def read(data: bytes) -> None:
        name = ("cert", "key", "ca")[data[0] % 3] if data else "cert"
        text = data[1:]
        if not text.startswith(b"-----"):
            text = ssl.DER_cert_to_PEM_cert(text).encode()
        (folder / name).write_bytes(text)
        try:
            with contextlib.suppress(UnusableCredential):
                load(files, time.time())
        finally:
            (folder / name).write_bytes(good[name])

    return read


def _tls_seeds() -> list[bytes]:
    authority = _authority()
    server = authority.issue("localhost", "server", dns=["localhost"])
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    key: Any = server.key
    certificates = [b"\0" + server.certificate.public_bytes(each) for each in (der, pem)]
    key_text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return [*certificates, b"\2" + authority.credential.certificate.public_bytes(der), b"\1" + key_text]


def _csr() -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with contextlib.suppress(UnfitRequest):
            key_of_request(data)

    return read


def _csrs() -> list[bytes]:
    key: Any = _authority().credential.key
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return [made.public_bytes(each) for each in (serialization.Encoding.DER, serialization.Encoding.PEM)]


def _proxy_header() -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        try:
            length = rest_length(data[:FIXED]) if len(data) >= FIXED else 0
            if len(data) >= FIXED + length > FIXED:
                source = source_of(data[:FIXED], data[FIXED : FIXED + length])
                if source is not None:
                    ipaddress.ip_address(source.host)
        except BadProxyHeader:
            return

    return read


def _proxy_headers() -> list[bytes]:
    addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + b"\x10\x00\x20\xfb"
    return [
        SIGNATURE + b"\x21\x11\x00\x0c" + addresses,
        SIGNATURE + b"\x21\x21\x00\x24" + bytes(36),
        SIGNATURE + b"\x20\x00\x00\x00",
    ]


def _passed_headers() -> Callable[[bytes], None]:
    """A line for each header, as a proxy passes them."""

    def read(data: bytes) -> None:
        found: dict[str, list[str]] = {}
        for line in data.decode("latin-1").split("\n"):
            name, _, value = line.partition(": ")
            found.setdefault(name.lower(), []).append(value)

        def headers(name: str) -> list[str]:
            return found.get(name.lower(), [])

        names_a_certificate(headers)
        last_address("X-Forwarded-For", headers)
        for family in ("ssl-client", "xfcc", "amzn-mtls", "none"):
            with contextlib.suppress(BadPassedHeaders, UnidentifiedCertificate):
                certificate = certificate_in(family, headers)  # type: ignore[arg-type]
                if certificate is not None:
                    IdentityCache((IdentityRule(),)).identify(certificate.public_bytes(serialization.Encoding.DER))

    return read


def _passed_seeds() -> list[bytes]:
    certificate = _authority().issue("node-1", "node").certificate
    pem = quote(certificate.public_bytes(serialization.Encoding.PEM).decode()).encode()
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER))
    digest = certificate.fingerprint(hashes.SHA256()).hex().encode()
    return [
        b"X-SSL-Client-Verify: SUCCESS\nX-SSL-Client-Cert: " + pem,
        b"X-SSL-Client-Verify: 0\nX-SSL-Client-Cert: " + der,
        b"X-Forwarded-Client-Cert: Hash=" + digest + b';Cert="' + pem + b'";Subject="CN=\\"a"',
        b"X-Amzn-Mtls-Clientcert-Leaf: " + pem + b"\nX-Forwarded-For: 192.0.2.1, [2001:db8::1]:4711",
    ]


def _post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def _http_seeds() -> Sequence[bytes]:
    body = b'{"node_key":"@KEY@"}'
    squeezed = gzip.compress(b'{"node_key":"","log_type":"result","data":[]}')
    return [
        _post("/config", b'{"node_key":""}'),
        _post("/api/v1/osquery/log", squeezed, "Content-Encoding: gzip"),
        _post("/distributed/read?x=1", b"{}", "Authorization: NodeKey @KEY@", "Expect: 100-continue"),
        b"PUT /config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + body + b"\r\n0\r\nA: b\r\n\r\n",
        b"GET /%2e%2e//config HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
    ]


_HTTP_WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b"POST ",
    b"GET ",
    b"HEAD ",
    b" HTTP/1.1",
    b" HTTP/1.0",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Content-Encoding: gzip",
    b"Expect: 100-continue",
    b"Content-Type: application/x-www-form-urlencoded",
    b"Content-Type: multipart/form-data; boundary=x",
    b"Authorization: NodeKey ",
    b"Cookie: a=b",
    b"http://x/config",
    b"/carver/continue",
    b"0\r\n\r\n",
    b"%00",
    b"%2f..",
)
_JSON_WORDS = (b'":"', b'":{', b'":[', b"null", b"true", b"1e999", b"-0", b"NaN", b"\\ud800", b"\\u0000", b"@KEY@")

_ENROLL = json.dumps(
    {
        "enroll_secret": "@SECRET@",
        "host_identifier": "h",
        "platform_type": "9",
        "host_details": {"os_version": {"name": "x", "major": 1}, "osquery_info": {"version": "5.9.1"}},
    }
).encode()
_CONFIG = b'{"node_key":"@KEY@","etag":""}'
_LOG = b'{"node_key":"@KEY@","log_type":"result","data":[{"name":"a","columns":{"x":"1"},"action":"added"}]}'
_STATUS = (
    b'{"node_key":"@KEY@","log_type":"status","data":[{"severity":"2","message":"Error executing x: y","line":"1"}]}'
)
_WRITE = json.dumps(
    {
        "node_key": "@KEY@",
        "queries": {"@QUERY@": [{"one": "1"}]},
        "statuses": {"@QUERY@": 0},
        "messages": {"@QUERY@": "no"},
        "stats": {"@QUERY@": {"wall_time_ms": 1}},
    }
).encode()
_START = b'{"node_key":"@KEY@","block_count":2,"block_size":4,"carve_size":8,"carve_id":"../c","request_id":"r"}'
_BLOCK = b'{"session_id":"@SESSION@","block_id":0,"request_id":"r","data":"' + base64.b64encode(b"abcd") + b'"}'

_BODIES: dict[str, tuple[str, list[bytes]]] = {
    "enroll": ("/enroll", [_ENROLL]),
    "config": ("/config", [_CONFIG, b'{"node_key":"@KEY@"}']),
    "log": ("/log", [_LOG, _STATUS]),
    "read": ("/distributed/read", [b'{"node_key":"@KEY@"}']),
    "write": ("/distributed/write", [_WRITE]),
    "carve_start": ("/carver/start", [_START]),
    "carve_block": ("/carver/continue", [_BLOCK]),
}
_MEMBERS = (b"node_key", b"data", b"log_type", b"queries", b"statuses", b"messages", b"stats", b"host_details", b"etag")

TARGETS = [
    Target("http", "a connection of a node: all of HTTP", _http, _http_seeds, _HTTP_WORDS),
    *(
        Target(
            f"route_{name}",
            f"the body of {path}, by the whole server",
            _route(path),
            lambda b=bodies: b,
            (*_JSON_WORDS, *_MEMBERS),
        )
        for name, (path, bodies) in _BODIES.items()
    ),
    Target(
        "wire",
        "bodies as every kind of request",
        _requests,
        lambda: [_ENROLL, _CONFIG, _LOG, _WRITE, _START, _BLOCK],
        (*_JSON_WORDS, *_MEMBERS),
    ),
    Target("log_lines", "the lines of a log post", _lines, lambda: [_LOG, _STATUS, b'{"a":NaN}'], _JSON_WORDS),
    Target(
        "gzip",
        "compressed bodies",
        _gzip,
        lambda: [gzip.compress(b"{}"), gzip.compress(b"a") * 2, gzip.compress(hashlib.sha256(b"").digest() * 9)],
    ),
    Target("node_key", "node keys", _node_key, _fixed_keys, (b"o1.", b"abcdef", b".c.", b".s."), 200),
    Target("certificate", "certificates of nodes (DER): identity, tags, responders", _certificate, _certificates),
    Target("ocsp", "answers of OCSP responders", _ocsp, _ocsp_answers),
    Target("crl", "revocation lists, PEM and DER", _crl, _crls),
    Target("tls_files", "the server's certificate, key, and the CAs of nodes", _tls_files, _tls_seeds),
    Target("proxy_header", "the header of the PROXY protocol", _proxy_header, _proxy_headers, (), 4200),
    Target(
        "passed_headers",
        "headers of a proxy that ends TLS",
        _passed_headers,
        _passed_seeds,
        (b"%00", b";", b'"', b"\n"),
    ),
    Target("csr", "certificate signing requests", _csr, _csrs),
]

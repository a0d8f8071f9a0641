"""A real OCSP responder over HTTP, which can be told to misbehave."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from osqtwist.pki import Authority, Credential, leaf_extensions, new_key, sign_leaf, utc_now
from tests.certificates import DAY

HOUR = datetime.timedelta(hours=1)


def delegate(authority: Authority, usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.OCSP_SIGNING) -> Credential:
    """A responder's own credential, signed by the CA; good for that, unless said otherwise."""
    key, now = new_key(), utc_now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a responder")])
    more: list[tuple[x509.ExtensionType, bool]] = [(x509.ExtendedKeyUsage([usage]), False)]
    signed = sign_leaf(authority.credential, key.public_key(), name, more, now - DAY, now + DAY)
    return Credential(signed, key)


def node_with_responder(authority: Authority, name: str, *urls: str) -> Credential:
    """A node's credential that names its responders."""
    key, now = new_key(), utc_now()
    access = [
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)) for url in urls
    ]
    extensions = [*leaf_extensions("node", []), (x509.AuthorityInformationAccess(access), False)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return Credential(sign_leaf(authority.credential, key.public_key(), subject, extensions, now - DAY, now + DAY), key)


@attrs.define
class Signing:
    """
    Makes answers.

    :ivar by: who signs; the CA itself unless it is a delegate.
    :ivar revoked: serial numbers; :attr:`strange` are unknown.
    :ivar about: the serial number that answers are about, instead of the one asked about.
    :ivar nonce: an answer's, instead of the request's; ``None`` for none.
    """

    authority: Authority
    by: Credential | None = None
    revoked: set[int] = attrs.field(factory=set)
    strange: set[int] = attrs.field(factory=set)
    about: int | None = None
    nonce: bytes | None = b"as asked"
    this_update: datetime.datetime | None = None
    next_update: datetime.datetime | None = None
    has_end: bool = True
    by_key: bool = False
    shows: bool = True

    def answer(self, request: ocsp.OCSPRequest) -> bytes:
        """An answer to a request."""
        asked = self.about or request.serial_number
        status = ocsp.OCSPCertStatus.GOOD
        if asked in self.revoked:
            status = ocsp.OCSPCertStatus.REVOKED
        elif asked in self.strange:
            status = ocsp.OCSPCertStatus.UNKNOWN
        is_revoked = status is ocsp.OCSPCertStatus.REVOKED
        begin = self.this_update or utc_now()
        signer = self.by or self.authority.credential
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                issuer_name_hash=request.issuer_name_hash,
                issuer_key_hash=request.issuer_key_hash,
                serial_number=asked,
                algorithm=request.hash_algorithm,
                cert_status=status,
                this_update=begin,
                next_update=(self.next_update or begin + HOUR) if self.has_end else None,
                revocation_time=begin if is_revoked else None,
                revocation_reason=x509.ReasonFlags.key_compromise if is_revoked else None,
            )
            .responder_id(
                ocsp.OCSPResponderEncoding.HASH if self.by_key else ocsp.OCSPResponderEncoding.NAME,
                signer.certificate,
            )
        )
        if self.by is not None and self.shows:
            builder = builder.certificates([self.by.certificate])
        nonce = self.nonce
        if nonce == b"as asked":
            nonce = request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        signed = builder.sign(signer.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.DER)


class Responder(Resource):
    """
    Listens on loopback.

    :ivar mood: ``answers``, ``slow`` (never), ``trickles``, ``rubbish``, ``empty``, ``huge``, ``fails`` (500) or
        ``declines`` (unauthorized).
    """

    isLeaf = True

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.signing = Signing(authority)
        self.mood = "answers"
        self.requests = 0
        self.port: Any = None
        self.connections: list[Any] = []

    def start(self) -> str:
        """Listen; answers with the URL."""
        made: Any = reactor
        self.port = made.listenTCP(0, Site(self, timeout=None), interface="127.0.0.1")
        return f"http://127.0.0.1:{self.port.getHost().port}/ocsp"

    async def stop(self) -> None:
        """End it, with what is open."""
        for request in self.connections:
            if request.channel is not None:
                request.channel.transport.abortConnection()
        stopped = self.port.stopListening()
        if stopped is not None:
            await stopped

    def render_POST(self, request: Any) -> Any:
        """Answer, or whatever."""
        self.requests += 1
        assert request.getHeader("content-type") == "application/ocsp-request"
        asked = ocsp.load_der_ocsp_request(request.content.read())
        request.setHeader("content-type", "application/ocsp-response")
        if self.mood in ("slow", "trickles"):
            self.connections.append(request)
            if self.mood == "trickles":
                request.setHeader("content-length", "1000")
                request.write(b"0")
            return NOT_DONE_YET
        if self.mood == "fails":
            request.setResponseCode(500)
        if self.mood == "declines":
            built = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
            return built.public_bytes(serialization.Encoding.DER)
        other = {"rubbish": b"<html>no</html>", "empty": b"", "huge": b"0" * 10_000_000}
        return other.get(self.mood) or (b"" if self.mood == "empty" else self.signing.answer(asked))

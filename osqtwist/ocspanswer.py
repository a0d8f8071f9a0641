"""
OCSP (RFC 6960): what is asked about a certificate, and what an answer is worth.  No network here.

An answer counts when the issuer signed it, or a responder whom the issuer gave a certificate for that
(``OCSPSigning``), when it is about the certificate that was asked about, and when its time has not passed.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

Status = Literal["good", "revoked", "unknown"]

CLOCK_SKEW = 300.0
"""Seconds by which the clocks of responders may be ahead of ours."""
WITHOUT_END = 300.0
"""Seconds for which an answer is good that does not say how long: newer information may be there at any time."""

# Answers signed over these could be made up.
_TOO_WEAK = (hashes.MD5, hashes.SHA1)
_STATUSES: dict[ocsp.OCSPCertStatus, Status] = {
    ocsp.OCSPCertStatus.GOOD: "good",
    ocsp.OCSPCertStatus.REVOKED: "revoked",
    ocsp.OCSPCertStatus.UNKNOWN: "unknown",
}


class BadAnswer(Exception):
    """An answer is worth nothing; says why."""


@attrs.frozen(eq=False)
class Issuer:
    """
    A CA, as OCSP knows it.

    :ivar name_hash: SHA-1 of its name, :attr:`key_hash` of its key.  They only name it; every responder knows these.
    """

    certificate: x509.Certificate
    name_hash: bytes
    key_hash: bytes

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Issuer:
        """That of a CA's certificate."""
        return cls(certificate, _sha1(certificate.subject.public_bytes()), _key_hash(certificate))


@attrs.frozen(eq=False)
class Question:
    """
    What is asked of a responder.

    :ivar url: where.
    """

    serial: int
    issuer: Issuer
    url: str

    def encoded(self, nonce: bytes) -> bytes:
        """As it is sent."""
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            self.issuer.name_hash,
            self.issuer.key_hash,
            self.serial,
            hashes.SHA1(),  # noqa: S303 - it names the issuer, and proves nothing.
        )
        request = builder.add_extension(x509.OCSPNonce(nonce), critical=False).build()
        return request.public_bytes(serialization.Encoding.DER)


@attrs.frozen
class Answer:
    """
    What an issuer says of a certificate.

    :ivar said_at: Unix time from which it says so, :attr:`valid_until` the one up to which.
    :ivar reason: why it is revoked, if it is and that is known.
    """

    status: Status
    said_at: float
    valid_until: float
    reason: str = ""


def responders_of(certificate: x509.Certificate) -> list[str]:
    """The ``http:`` addresses of responders in a certificate, in its order."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return []
    return [
        each.access_location.value
        for each in access
        if each.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(each.access_location, x509.UniformResourceIdentifier)
        and each.access_location.value.lower().startswith("http://")
    ]


def read_answer(encoded: bytes, question: Question, nonce: bytes, now: float) -> Answer:
    """
    What an answer to a question says.

    :param nonce: that was sent; an answer may leave it out, but not have another.
    :raise BadAnswer: it counts for nothing.
    """
    try:
        response = ocsp.load_der_ocsp_response(encoded)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise BadAnswer(f"the responder says {response.response_status.name.lower()}")
        return _read(response, question, nonce, now)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as problem:
        raise BadAnswer(f"the answer cannot be read: {problem}") from None


def _read(response: ocsp.OCSPResponse, question: Question, nonce: bytes, now: float) -> Answer:
    _check_signature(response, question.issuer, now)
    single = _about(response.responses, question)
    try:
        said = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        said = nonce
    if said != nonce:
        raise BadAnswer("the answer is to another request: its nonce is not ours")
    begin = single.this_update_utc.timestamp()
    if begin > now + CLOCK_SKEW:
        raise BadAnswer("the answer is dated in the future")
    if single.next_update_utc is None:
        end = max(begin, now) + WITHOUT_END
        if begin < now - WITHOUT_END - CLOCK_SKEW:
            raise BadAnswer("the answer is old, and does not say how long it is good")
    else:
        end = single.next_update_utc.timestamp()
        if end <= now:
            raise BadAnswer(f"the answer is stale: it was good until {single.next_update_utc:%Y-%m-%d %H:%M} UTC")
    reason = single.revocation_reason.value if single.revocation_reason else ""
    return Answer(_STATUSES[single.certificate_status], begin, end, reason)


def _about(singles: Iterable[ocsp.OCSPSingleResponse], question: Question) -> ocsp.OCSPSingleResponse:
    """The part of an answer that is about what was asked."""
    wanted = question.serial, question.issuer.name_hash, question.issuer.key_hash
    for single in singles:
        if isinstance(single.hash_algorithm, hashes.SHA1) and wanted == (
            single.serial_number,
            single.issuer_name_hash,
            single.issuer_key_hash,
        ):
            return single
    raise BadAnswer("the answer is about another certificate")


def _check_signature(response: ocsp.OCSPResponse, issuer: Issuer, now: float) -> None:
    signer = _signer(response, issuer, now)
    algorithm = response.signature_hash_algorithm
    if isinstance(algorithm, _TOO_WEAK):
        raise BadAnswer(f"the answer is signed over {algorithm.name}, which proves nothing")
    key, signature, data = signer.public_key(), response.signature, response.tbs_response_bytes
    try:
        match key:
            case rsa.RSAPublicKey() if algorithm:
                key.verify(signature, data, padding.PKCS1v15(), algorithm)
            case ec.EllipticCurvePublicKey() if algorithm:
                key.verify(signature, data, ec.ECDSA(algorithm))
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                key.verify(signature, data)
            case _:
                raise BadAnswer("the answer is signed by a kind of key that is not supported")
    except InvalidSignature:
        raise BadAnswer("the signature of the answer is wrong") from None


def _signer(response: ocsp.OCSPResponse, issuer: Issuer, now: float) -> x509.Certificate:
    """Who signed, if it is one who may."""
    if _is_responder(response, issuer.certificate):
        return issuer.certificate
    delegated: Sequence[x509.Certificate] = [each for each in response.certificates if _is_responder(response, each)]
    if not delegated:
        raise BadAnswer("the answer is signed by somebody who is neither the issuer nor shows a certificate of it")
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    for each in delegated:
        try:
            each.verify_directly_issued_by(issuer.certificate)
            usage = each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
            continue
        if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            continue
        if each.not_valid_before_utc <= moment <= each.not_valid_after_utc:
            return each
    raise BadAnswer("the answer is signed by somebody whom the issuer did not entrust with that")


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    return response.responder_key_hash == _key_hash(certificate)


def _key_hash(certificate: x509.Certificate) -> bytes:
    # Of the bits of the key without what stands before them (RFC 6960, 4.1.1), which is what this digest is of.
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()

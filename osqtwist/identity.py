"""
Who is this certificate?  Rules that turn a verified certificate into a node's identity and tags.

A certificate was verified in the handshake before it comes here; this module decides only what it says.  Whatever
is ambiguous is refused rather than guessed: two common names, a wildcard, a control character.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from osqtwist.node import TAG_PATTERN

MAX_IDENTITY = 255

_ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "title": NameOID.TITLE,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
SOURCES = ("san.dns", "san.uri", "serial", *(f"subject.{name}" for name in _ATTRIBUTES))
"""The parts of a certificate that a rule can be about."""

# What cryptography raises, and only when a part is asked for: text that is not in its own encoding, extensions twice
# or of a kind that it does not know, keys likewise.
_UNREADABLE = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)


class UnidentifiedCertificate(Exception):
    """A good certificate that no rule makes an identity of; the text says why."""


class CertificateIdentity(msgspec.Struct, frozen=True):
    """
    What a certificate says of its node.

    :ivar value: the identity.
    :ivar source: the part of the certificate that the identity is from.
    :ivar issuer: the issuer's name (RFC 4514).
    :ivar serial: the serial number in hexadecimal.
    :ivar fingerprint: SHA-256 of the certificate in hexadecimal.
    :ivar not_after: Unix time at which it ends.
    :ivar tags: tags that the CA put there, so the node cannot forge them.
    """

    value: str
    source: str
    issuer: str
    serial: str
    fingerprint: str
    not_after: float
    key_type: str
    tags: tuple[str, ...] = ()


class IdentityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    One way to find the identity.

    :ivar source: ``subject.CN`` and other attributes of the subject, ``san.dns``, ``san.uri`` or ``serial``.
    :ivar issuer: the rule counts only for certificates of this issuer: its common name, or its whole name (RFC 4514).
    :ivar pattern: a regular expression that must match all of the value; its first group, if any, is the identity.
    :ivar namespace: put before the identity, so that two CAs cannot speak of the same node.
    :ivar kind: a kind of rule from a plug-in, which takes the place of :attr:`source`; see :class:`ForeignRule`.
    :ivar settings: what the kind takes.
    """

    source: str = "subject.CN"
    issuer: str = ""
    pattern: str = ""
    namespace: str = ""
    kind: str = ""
    settings: dict[str, Any] = {}

    def __post_init__(self) -> None:
        _check_rule(self.source, self.pattern)
        if self.settings and not self.kind:
            raise ValueError("settings are for a kind of a plug-in, and no kind is given")

    @property
    def called(self) -> str:
        """What messages call the part of the certificate that the rule is about."""
        return self.source

    def values(self, certificate: x509.Certificate) -> Sequence[str]:
        """What the rule finds, before its pattern."""
        return values_of(certificate, self.source)

    def covers(self, certificate: x509.Certificate) -> bool:
        """Whether the certificate's issuer is the rule's."""
        return not self.issuer or self.issuer in (
            certificate.issuer.rfc4514_string(),
            *_texts(certificate.issuer, NameOID.COMMON_NAME),
        )


class ForeignRule(IdentityRule, frozen=True, kw_only=True):
    """
    A rule whose values a plug-in finds; issuer, pattern and namespace are as in every rule.

    :ivar find: what :class:`osqtwist.identityinterfaces.IIdentityRule` says of ``find``, with its settings.
    """

    find: Callable[[x509.Certificate], Any]

    @property
    def called(self) -> str:
        """See :class:`IdentityRule`."""
        return f"{self.kind} (a plug-in's)"

    def values(self, certificate: x509.Certificate) -> Sequence[str]:
        """
        See :class:`IdentityRule`.

        :raise UnidentifiedCertificate: the plug-in failed; what it may have found is not guessed.
        """
        try:
            found = self.find(certificate)
            values = [found] if isinstance(found, str) else list(found or ())
        except UnidentifiedCertificate:
            raise
        except Exception as problem:
            raise UnidentifiedCertificate(f"the identity rule {self.kind} failed: {problem!r}") from problem
        if not all(isinstance(value, str) for value in values):
            raise UnidentifiedCertificate(f"the identity rule {self.kind} failed: what it found is not text")
        return values


class TagRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Makes a tag of each value of a source: ``prefix`` and the value.  Values with other letters than tags have are
    left out.
    """

    source: str
    prefix: str = ""
    issuer: str = ""

    def __post_init__(self) -> None:
        _check_rule(self.source, "")


def identify(
    certificate: x509.Certificate, rules: Sequence[IdentityRule], tag_rules: Sequence[TagRule] = ()
) -> CertificateIdentity:
    """
    The identity of a certificate: the first rule that covers its issuer and finds a value decides.

    :raise UnidentifiedCertificate: no rule finds one, or what it finds is ambiguous or unfit, or cannot be read.
    """
    try:
        return _identify(certificate, rules, tag_rules)
    except _UNREADABLE:
        raise UnidentifiedCertificate("the certificate cannot be read") from None


def _identify(
    certificate: x509.Certificate, rules: Sequence[IdentityRule], tag_rules: Sequence[TagRule]
) -> CertificateIdentity:
    reason = "no identity rule covers its issuer"
    for rule in rules:
        if not rule.covers(certificate):
            continue
        candidates = list(rule.values(certificate))
        if rule.pattern:
            matches = [match for value in candidates if (match := _pattern(rule.pattern).fullmatch(value))]
            candidates = [match.group(1) if match.re.groups else match.group(0) for match in matches]
            candidates = [value for value in candidates if value]
        if not candidates:
            reason = f"it has no {rule.called}" + (" that fits the pattern" if rule.pattern else "")
            continue
        if len(set(candidates)) > 1:
            raise UnidentifiedCertificate(f"its {rule.called} is ambiguous: it has {len(set(candidates))} of them")
        return CertificateIdentity(
            value=rule.namespace + _checked(candidates[0], rule.called),
            source=rule.kind or rule.source,
            issuer=certificate.issuer.rfc4514_string(),
            serial=f"{certificate.serial_number:x}",
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            key_type=_key_type(certificate),
            tags=_tags(certificate, tag_rules),
        )
    raise UnidentifiedCertificate(f"the certificate gives no identity: {reason}")


def values_of(certificate: x509.Certificate, source: str) -> list[str]:
    """Every value of a source, in the certificate's order; DNS names in lower case."""
    if source == "serial":
        return [f"{certificate.serial_number:x}"]
    if source.startswith("subject."):
        return _texts(certificate.subject, _ATTRIBUTES[source.removeprefix("subject.")])
    try:
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except x509.ExtensionNotFound:
        return []
    if not isinstance(names, x509.SubjectAlternativeName):
        return []
    if source == "san.dns":
        return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def node_id_for_certificate(identity: str) -> str:
    """The id of the node that a certificate's identity proves."""
    return hashlib.sha256(b"certificate\0" + identity.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def node_id_for_host(host_identifier: str) -> str:
    """The id of the node that an enroll secret let in under a host identifier."""
    return hashlib.sha256(b"host\0" + host_identifier.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _check_rule(source: str, pattern: str) -> None:
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; it must be one of {', '.join(SOURCES)}")
    try:
        re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {problem}") from None


def _checked(value: str, source: str) -> str:
    value = unicodedata.normalize("NFC", value)
    if not value.strip():
        raise UnidentifiedCertificate(f"its {source} is empty")
    if len(value) > MAX_IDENTITY:
        raise UnidentifiedCertificate(f"its {source} is longer than {MAX_IDENTITY} letters")
    if not value.isprintable() or value != value.strip():
        raise UnidentifiedCertificate(f"its {source} has control characters or blanks at an end")
    if (source == "san.dns" and "*" in value) or (source == "subject.CN" and value.startswith("*")):
        raise UnidentifiedCertificate(f"its {source} is a wildcard")
    return value


def _texts(name: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    values = [attribute.value for attribute in name.get_attributes_for_oid(oid)]
    return [value if isinstance(value, str) else value.decode("utf-8", "replace") for value in values]


def _tags(certificate: x509.Certificate, rules: Sequence[TagRule]) -> tuple[str, ...]:
    found = {
        rule.prefix + value
        for rule in rules
        if IdentityRule(issuer=rule.issuer).covers(certificate)
        for value in values_of(certificate, rule.source)
    }
    return tuple(sorted(tag for tag in found if TAG_PATTERN.fullmatch(tag)))


def _key_type(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    match key:
        case ec.EllipticCurvePublicKey():
            return {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}.get(
                key.curve.name, key.curve.name
            )
        case rsa.RSAPublicKey():
            return f"RSA-{key.key_size}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"
        case dsa.DSAPublicKey():
            return "DSA"
        case _:
            return "other"


@functools.lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


@attrs.define
class IdentityCache:
    """Identities by certificate, so that a certificate is read once; bounded, the oldest go first."""

    rules: Sequence[IdentityRule]
    tag_rules: Sequence[TagRule] = ()
    max_entries: int = 100_000
    _known: dict[bytes, CertificateIdentity] = attrs.field(factory=dict, init=False)

    def identify(self, encoded: bytes) -> CertificateIdentity:
        """
        The identity of a certificate in DER.

        :raise UnidentifiedCertificate: see :func:`identify`.
        """
        fingerprint = hashlib.sha256(encoded).digest()
        known = self._known.get(fingerprint)
        if known is None:
            known = identify(_certificate(encoded), self.rules, self.tag_rules)
            if len(self._known) >= self.max_entries:
                del self._known[next(iter(self._known))]
            self._known[fingerprint] = known
        return known


def _certificate(encoded: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(encoded)
    except (ValueError, x509.InvalidVersion):
        # OpenSSL, which verified it, is the more lenient reader of the two.
        raise UnidentifiedCertificate("the certificate cannot be read") from None

"""
What a certificate is asked for: names that are checked, and keys from requests that nodes make themselves.

A certificate says what the operator typed and nothing else.  Of a certificate signing request (PKCS #10) only the
public key is taken, so nobody can ask for a name, or a purpose, that was not meant for them.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import quote

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osqtwist.pki import PublicKey

ROLES = ("viewer", "operator", "admin")
PURPOSES = ("server", "node", "operator")

MAX_NAME = 64
"""Bytes of a common name: RFC 5280 (appendix A, ub-common-name) counts letters, some implementations bytes."""
MAX_REQUEST = 65536

_MAX_DNS = 253
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,2000}")
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class CertificateRefused(Exception):
    """The CA does not do what it is asked; one sentence says why."""


class UnfitName(CertificateRefused):
    """A name that cannot stand in a certificate, or that software would read in two ways."""


class UnfitRequest(CertificateRefused):
    """A certificate signing request that cannot be read, is not signed by its own key, or has a key too weak."""


@attrs.frozen
class LeafRequest:
    """
    What a certificate is to say; made by :meth:`server`, :meth:`node` and :meth:`operator`, which check it.

    :ivar purpose: ``server``, ``node`` or ``operator``.
    :ivar name: the common name.
    :ivar role: what an operator may do, in the OU; empty for others.
    """

    purpose: str
    name: str
    role: str = ""
    alternatives: tuple[x509.GeneralName, ...] = ()

    @classmethod
    def server(cls, names: Sequence[str], alternatives: Sequence[str] = ()) -> LeafRequest:
        """
        A server's: each name is a DNS name or an IP address and stands among its alternative names.

        :raise UnfitName: one of them cannot.
        """
        found = list(dict.fromkeys(alternative_name(name, wildcard=True) for name in (*names, *alternatives)))
        if not names:
            raise UnfitName("a server needs at least one name")
        return cls("server", checked_name(names[0]), "", tuple(found))

    @classmethod
    def node(cls, name: str, alternatives: Sequence[str] = ()) -> LeafRequest:
        """
        A node's; the name is its identity.

        :raise UnfitName: a name cannot stand there.
        """
        found = dict.fromkeys(alternative_name(each) for each in alternatives)
        return cls("node", checked_name(name), "", tuple(found))

    @classmethod
    def operator(cls, name: str, role: str = "operator", alternatives: Sequence[str] = ()) -> LeafRequest:
        """
        A person's or a program's that operates the server.

        :raise UnfitName: a name cannot stand there, or there is no such role.
        """
        if role not in ROLES:
            raise UnfitName(f"{role!r} is not a role: they are {', '.join(ROLES)}")
        found = dict.fromkeys(alternative_name(each) for each in alternatives)
        return cls("operator", checked_name(name), role, tuple(found))

    @property
    def subject(self) -> x509.Name:
        """The subject: the common name, and the role if there is one."""
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, self.name)]
        if self.role:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.role))
        return x509.Name(attributes)


def checked_name(name: str) -> str:
    """
    A common name in the form in which it stands in a certificate (NFC), and in which an identity is read from it.

    :raise UnfitName: it is empty, too long, or has control characters or blanks at an end.
    """
    shown = repr(name[:MAX_NAME])
    name = unicodedata.normalize("NFC", name)
    if not name:
        raise UnfitName("a name must not be empty")
    if not name.isprintable() or name != name.strip():
        raise UnfitName(f"the name {shown} has control characters or blanks at an end")
    if len(name.encode()) > MAX_NAME:
        raise UnfitName(f"the name {shown} is longer than the {MAX_NAME} bytes that a common name may have")
    return name


def alternative_name(text: str, *, wildcard: bool = False) -> x509.GeneralName:
    """
    An alternative name: ``DNS:``, ``IP:`` or ``URI:`` before it says what it is; else it is what it looks like.

    :param wildcard: whether ``*.example.com`` is a DNS name.
    :raise UnfitName: it is none.
    """
    kind, colon, value = text.partition(":")
    match kind.upper() if colon else "":
        case "DNS":
            return _dns_name(value, wildcard)
        case "IP":
            return _address(value)
        case "URI":
            return _uri(value)
    if "://" in text:
        return _uri(text)
    try:
        return _address(text)
    except UnfitName:
        return _dns_name(text, wildcard)


def purpose_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Purpose and role of a certificate; both are empty if it is none of ours."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return "", ""
    if ExtendedKeyUsageOID.SERVER_AUTH in usage:
        return "server", ""
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        return "", ""
    units = [unit.value for unit in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    roles = [str(unit) for unit in units if unit in ROLES]
    return ("operator", roles[0]) if roles else ("node", "")


def name_of(certificate: x509.Certificate) -> str:
    """The common name of a certificate, or its whole subject if it has not exactly one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else certificate.subject.rfc4514_string() or "nobody"


def key_of_request(data: bytes) -> PublicKey:
    """
    The public key of a certificate signing request, PEM or DER; all else that it says is left where it is.

    :raise UnfitRequest: it cannot be read, was not made by whoever holds the key, or the key is too weak.
    """
    if len(data) > MAX_REQUEST:
        raise UnfitRequest(f"the certificate signing request is longer than {MAX_REQUEST} bytes")
    try:
        is_pem = b"-----BEGIN" in data
        request = x509.load_pem_x509_csr(data) if is_pem else x509.load_der_x509_csr(data)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion):
        raise UnfitRequest("the certificate signing request cannot be read") from None
    if not is_signed:
        raise UnfitRequest("the certificate signing request is not signed by its own key")
    return checked_key(key)


def checked_key(key: object) -> PublicKey:
    """
    A public key that a certificate may carry.

    :raise UnfitRequest: its kind is another, or it is too weak.
    """
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    # Larger ones would only make every handshake of the server slow.
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192 and key.public_numbers().e >= 65537:
        return key
    raise UnfitRequest("the key must be P-256, P-384, P-521, or RSA of 2048 to 8192 bits with an exponent of 65537")


def file_name(name: str) -> str:
    """A name as a file name without ending: the name itself if that is plain, else with escapes as in a URL."""
    escaped = quote(name, safe="@+=,")
    # Neither hidden, nor an option of some command, nor a way out of the folder.
    return f"%{ord(escaped[0]):02X}{escaped[1:]}" if escaped[0] in ".-~" else escaped


def _dns_name(text: str, wildcard: bool) -> x509.DNSName:
    bare = text.removeprefix("*.") if wildcard else text
    labels = bare.split(".")
    if (
        len(text) > _MAX_DNS
        or not all(_LABEL.fullmatch(label) for label in labels)
        or labels[-1].isdigit()
        or (bare != text and len(labels) < 2)
    ):
        raise UnfitName(f"{text[:_MAX_DNS]!r} is not a DNS name in ASCII" + ("" if wildcard else ", or is a wildcard"))
    return x509.DNSName(text)


def _address(text: str) -> x509.IPAddress:
    try:
        address = ipaddress.ip_address(text)
        # A zone (fe80::1%eth0) would be lost without a word.
        if "%" not in text:
            return x509.IPAddress(address)
    except ValueError:
        pass
    raise UnfitName(f"{text[:MAX_NAME]!r} is not an IP address")


def _uri(text: str) -> x509.UniformResourceIdentifier:
    if not _URI.fullmatch(text):
        raise UnfitName(f"{text[:MAX_NAME]!r} is not a URI in ASCII")
    return x509.UniformResourceIdentifier(text)

"""
The files that TLS is made of: certificates, keys, CAs, revocation lists (see :mod:`osqtwist.revocationlists`).

Each error names the option and the file at fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID

# With the names that `openssl rehash` gives.
_CRL_FILE = re.compile(r"[^.].*\.(pem|crl|der|r[0-9]+)")

OF_NODES = {"cert": "--cert", "key": "--key", "client_ca": "--client-ca", "client_crl": "--client-crl"}
"""The options that the files towards nodes come from."""


UNREADABLE = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
)
"""What cryptography raises of a certificate or a list that is not right, and only when a part is asked for."""


class UnusableCredential(Exception):
    """A certificate, key, CA or CRL file cannot be used; one sentence that names option and file."""


@attrs.frozen
class TLSFiles:
    """
    The files that make up the server's side of TLS, and how nodes are asked for certificates.

    :ivar cert: nothing where proxies end TLS on every port.
    :ivar options: the option that each is from, for errors to name.
    :ivar contents: what is taken for the contents of the files, instead of what is on the disk; nothing for the latter.
    :ivar was_read: what was found in those that were read.
    :ivar client_auth: ``required``, ``optional`` or ``none``.
    :ivar stale_crl: ``accept`` keeps a revocation list in force past its next update; ``refuse`` refuses every
        certificate that it is about.
    """

    cert: Path | None
    key: Path | None
    client_ca: Path | None = None
    client_crl: Path | None = None
    client_auth: str = "optional"
    stale_crl: str = "accept"
    options: Mapping[str, str] = OF_NODES
    contents: Mapping[Path, bytes] = attrs.field(factory=dict, repr=False)
    was_read: dict[Path, bytes] = attrs.field(factory=dict, repr=False, eq=False)

    def said(self, name: str) -> str:
        """A file as an operator said it: option and path."""
        return f"{self.options[name]} {getattr(self, name)}"

    @property
    def paths(self) -> list[Path]:
        """Every file there is to watch."""
        named = [path for path in (self.cert, self.key, self.client_ca) if path is not None]
        return [*named, *self.revocation_files]

    @property
    def revocation_files(self) -> list[Path]:
        """Where revocation lists are: one file, or those of a folder."""
        if self.client_crl is None:
            return []
        if self.contents:
            return sorted(path for path in self.contents if self.client_crl in (path, path.parent))
        try:
            return sorted(path for path in self.client_crl.iterdir() if _CRL_FILE.fullmatch(path.name))
        except OSError:
            # It is a file; or whoever reads it says what is wrong.
            return [self.client_crl]

    def read(self, path: Path) -> bytes:
        """
        What is in a file.

        :raise OSError: it cannot be read.
        """
        found = self.was_read[path] = self.contents[path] if path in self.contents else path.read_bytes()
        return found


def intermediates(leaf: x509.Certificate, authorities: list[x509.Certificate]) -> list[x509.Certificate]:
    """Who stands between the server's certificate and its root, if that is to be found among the CAs of nodes."""
    found: list[x509.Certificate] = []
    current = leaf
    while issuer := next((each for each in authorities if each not in found and is_issued_by(current, each)), None):
        if issuer.issuer == issuer.subject:
            break
        found.append(issuer)
        current = issuer
    return found


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate names this issuer, and is signed by its key."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _read(files: TLSFiles, name: str) -> bytes:
    path: Path = getattr(files, name)
    try:
        return files.read(path)
    except OSError as problem:
        raise UnusableCredential(f"{files.said(name)}: {problem.strerror}") from None


def certificates(files: TLSFiles, name: str = "cert") -> list[x509.Certificate]:
    """
    Every certificate of a file.

    :raise UnusableCredential: there is none.
    """
    try:
        return x509.load_pem_x509_certificates(_read(files, name))
    except (ValueError, x509.InvalidVersion):
        raise UnusableCredential(f"{files.said(name)} holds no certificate in PEM") from None


def private_key(files: TLSFiles) -> Any:
    """
    The private key.

    :raise UnusableCredential: it cannot be used.
    """
    try:
        return serialization.load_pem_private_key(_read(files, "key"), None)
    except TypeError:
        raise UnusableCredential(f"{files.said('key')} is encrypted; the server needs one that is not") from None
    except UnsupportedAlgorithm as problem:
        raise UnusableCredential(f"{files.said('key')} is of a kind that is not supported: {problem}") from None
    except ValueError:
        raise UnusableCredential(f"{files.said('key')} holds no private key in PEM") from None


def public_key(files: TLSFiles, certificate: x509.Certificate) -> Any:
    """
    The key in the server's certificate.

    :raise UnusableCredential: it cannot be used.
    """
    try:
        return certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as problem:
        raise UnusableCredential(f"{files.said('cert')} has a key that cannot be used: {problem}") from None


def authorities(files: TLSFiles) -> list[x509.Certificate]:
    """
    The CAs of those who connect; none if they are not asked for certificates.

    :raise UnusableCredential: one is not a CA.
    """
    if files.client_auth == "none" or not files.client_ca:
        return []
    found = certificates(files, "client_ca")
    for authority in found:
        try:
            constraints = authority.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
            is_ca = isinstance(constraints, x509.BasicConstraints) and constraints.ca
        except (x509.ExtensionNotFound, *UNREADABLE):
            # Old roots (X.509 version 1) have no such extension.
            is_ca = authority.issuer == authority.subject
        if not is_ca:
            name = authority.subject.rfc4514_string()
            raise UnusableCredential(f"{files.said('client_ca')}: {name} is not a CA certificate")
    return found

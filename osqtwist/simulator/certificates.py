"""Certificates for simulated nodes, minted in memory by a development CA."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@attrs.frozen
class NodeCredential:
    """A node's certificate and key."""

    certificate: x509.Certificate
    key: Any


@attrs.define
class CertificateSource:
    """
    Gives each node a certificate.

    With ``ca.key`` in the folder each gets one of its own, over one shared key, which makes minting fast; without,
    all show ``node.pem``.

    :ivar unit: the OU in their subjects; none if empty.
    """

    folder: Path
    unit: str = ""
    _ca: NodeCredential | None = None
    _shared: NodeCredential | None = None
    _key: Any = None

    @classmethod
    def of(cls, folder: Path, unit: str = "") -> CertificateSource:
        """The source that a folder makes possible."""
        source = cls(folder, unit)
        if (folder / "ca.key").exists():
            source._ca = _load(folder / "ca.pem", folder / "ca.key")
            source._key = ec.generate_private_key(ec.SECP256R1())
        else:
            source._shared = _load(folder / "node.pem", folder / "node.key")
        return source

    def credential(self, name: str) -> NodeCredential | None:
        """The certificate of a node."""
        if self._shared is not None or self._ca is None:
            return self._shared
        now = datetime.datetime.now(datetime.UTC)
        units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.unit)] if self.unit else []
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._ca.certificate.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._ca.key, hashes.SHA256())
        )
        return NodeCredential(certificate, self._key)


def _load(certificate: Path, key: Path) -> NodeCredential:
    return NodeCredential(
        x509.load_pem_x509_certificate(certificate.read_bytes()),
        serialization.load_pem_private_key(key.read_bytes(), None),
    )

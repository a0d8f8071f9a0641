"""Certificates for tests, minted on the spot."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from osqtwist.pki import Authority, Credential, new_key

DAY = datetime.timedelta(days=1)


@attrs.define
class TestPKI:
    """
    A CA with everything that a TLS matrix needs, and a CA that nobody trusts.

    :ivar nodes: ``good``, ``second``, ``other CA``, ``expired``, ``revoked``, ``wrong key usage``.
    """

    __test__ = False

    folder: Path
    authority: Authority
    other: Authority
    nodes: dict[str, Credential]
    server: Credential

    @classmethod
    def mint(cls, folder: Path, kind: str = "P-256") -> TestPKI:
        """Make it all in a folder."""
        now = datetime.datetime.now(datetime.UTC)
        authority, other = Authority.create("test CA", kind), Authority.create("other CA", kind)
        long_ago = {"not_before": now - 30 * DAY, "not_after": now - DAY}
        nodes = {
            "good": authority.issue("node-1", "node", kind=kind, attributes=[(NameOID.ORGANIZATION_NAME, "Example")]),
            "second": authority.issue("node-2", "node", kind=kind),
            "other CA": other.issue("node-1", "node", kind=kind),
            "expired": authority.issue("node-1", "node", kind=kind, **long_ago),
            "revoked": authority.issue("node-3", "node", kind=kind),
            "wrong key usage": authority.issue("node-1", "server", kind=kind),
        }
        server = authority.issue("localhost", "server", dns=["localhost"], addresses=["127.0.0.1", "::1"], kind=kind)
        pki = cls(folder, authority, other, nodes, server)
        pki.write("ca", authority.credential)
        pki.write("other-ca", other.credential)
        pki.write("server", server)
        for name, credential in nodes.items():
            pki.write(name.replace(" ", "-"), credential)
        pki.revoke("revoked")
        return pki

    def write(self, name: str, credential: Credential) -> None:
        """Put a credential into the folder."""
        credential.write(self.path(f"{name}.pem"), self.path(f"{name}.key"))

    def revoke(self, *names: str, next_update: datetime.datetime | None = None) -> None:
        """Write a revocation list with these nodes."""
        serials = [self.nodes[name].certificate.serial_number for name in names]
        past = datetime.datetime.now(datetime.UTC) - 10 * DAY
        text = self.authority.revocation_list(serials, next_update=next_update, last_update=past)
        self.path("crl.pem").write_bytes(text)

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def files_of(self, node: str) -> tuple[str, str]:
        """Certificate and key file of a node."""
        name = node.replace(" ", "-")
        return str(self.path(f"{name}.pem")), str(self.path(f"{name}.key"))


def plain_authority(name: str, by: Authority | None = None, says_so: bool = True) -> Authority:
    """A CA that may have others below it: a root, or one signed by another; ``says_so``: whether it says it is one."""
    key, now = new_key(), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.credential.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )
    if says_so:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return Authority(Credential(builder.sign(by.credential.key if by else key, hashes.SHA256()), key))


def renewed_ca(authority: Authority) -> bytes:
    """A new certificate, as PEM, of a CA's name and key."""
    old, now = authority.credential.certificate, datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
    )
    made = builder.sign(authority.credential.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def altered(authority: Authority, certificate: x509.Certificate, before: bytes, after: bytes) -> bytes:
    """A certificate, as PEM, with some of its bytes changed and signed again: OpenSSL has nothing against it."""
    body = certificate.tbs_certificate_bytes
    assert before in body and len(before) == len(after)
    body = body.replace(before, after, 1)
    key: Any = authority.credential.key
    signature = _der(0x03, b"\0" + key.sign(body, ec.ECDSA(hashes.SHA256())))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    return ssl.DER_cert_to_PEM_cert(_der(0x30, body + ecdsa_with_sha256 + signature)).encode()


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = b"" if length < 128 else length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)] if size else [tag, length]) + size + content

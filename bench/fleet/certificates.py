"""Certificates for many nodes: minted quickly, or read from a folder; each in a TLS context that its nodes share."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


class Contexts:
    """
    Makes the TLS contexts of nodes.

    :param version: ``1.2`` or ``1.3``, or nothing for what comes of it.
    :param groups: of the key exchange, such as ``X25519:P-256``.  OpenSSL offers ML-KEM first from 3.5 on, and so do
        nodes with osquery's newest releases; those with older ones begin with X25519.
    :param trusted: a CA file to verify the server with; without it the server is not verified, which it cannot see
        and which leaves more of the machine to it.
    """

    def __init__(self, version: str = "", trusted: str = "", groups: str = "") -> None:
        self._groups = groups
        self._version = VERSIONS.get(version)
        self._trusted = trusted

    def make(self, certificate: x509.Certificate | None = None, key: Any = None) -> SSL.Context:
        """A context for nodes that show this certificate, or none."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if self._version:
            context.set_min_proto_version(self._version)
            context.set_max_proto_version(self._version)
        if self._groups and not SSL._lib.SSL_CTX_set1_curves_list(context._context, self._groups.encode()):
            # pyOpenSSL has no method for it.
            raise SystemExit(f"--groups {self._groups}: OpenSSL does not know all of them")
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if self._trusted:
            context.load_verify_locations(self._trusted)
            context.set_verify(SSL.VERIFY_PEER)
        if certificate is not None:
            context.use_certificate(certificate)
            context.use_privatekey(key)
        return context


def mint(authority: Path, authority_key: Path, names: list[str]) -> Iterator[tuple[x509.Certificate, Any]]:
    """A P-256 certificate for each name (its subject's CN), valid for a day; some 6,000 a second."""
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    signer: Any = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
        )
        yield builder.sign(signer, hashes.SHA256()), key


def read(folder: Path) -> Iterator[tuple[x509.Certificate, Any]]:
    """Every NAME.pem of a folder with the NAME.key beside it."""
    for path in sorted(folder.glob("*.pem")):
        if (key := path.with_suffix(".key")).exists():
            yield (
                x509.load_pem_x509_certificate(path.read_bytes()),
                serialization.load_pem_private_key(key.read_bytes(), None),
            )

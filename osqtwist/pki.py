"""
A small CA: for development, for tests, and for operators without one.

P-256 unless asked otherwise, the extensions that verifiers look at, keys that nobody else can read.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CA_DAYS = 3650
LEAF_DAYS = 397
_BACKDATE = datetime.timedelta(minutes=5)
_PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "node": ExtendedKeyUsageOID.CLIENT_AUTH}
_PURPOSES["operator"] = ExtendedKeyUsageOID.CLIENT_AUTH


class UnusablePKI(Exception):
    """The files of a PKI are not all there, or cannot be used; one sentence that names them."""


@attrs.frozen
class Credential:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey = attrs.field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as PKCS #8 PEM, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, certificate_path: Path, key_path: Path) -> None:
        """Write both as PEM; the key first, and readable by its owner only from the very beginning."""
        write_new(key_path, self.key_pem, 0o600)
        write_new(certificate_path, self.certificate_pem, 0o644)


def new_key(kind: str = "P-256") -> PrivateKey:
    """A new private key: ``P-256``, ``P-384`` or ``RSA-2048`` (any size)."""
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[kind])


@attrs.frozen
class Authority:
    """A CA that signs leaves directly."""

    credential: Credential

    @classmethod
    def create(cls, name: str, kind: str = "P-256", days: int = CA_DAYS) -> Authority:
        """A new CA, self-signed, allowed to sign leaves and revocation lists and nothing else."""
        key = new_key(kind)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public = key.public_key()
        builder = (
            _dated(x509.CertificateBuilder(), days)
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        return cls(Credential(builder.sign(key, hashes.SHA256()), key))

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path) -> Authority:
        """
        A CA from its files.

        :raise UnusablePKI: they cannot be read.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        except OSError as problem:
            raise UnusablePKI(f"{problem.filename}: {problem.strerror}") from None
        except (ValueError, TypeError) as problem:
            raise UnusablePKI(f"{certificate_path} or {key_path} cannot be read as PEM: {problem}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise UnusablePKI(f"{key_path} is neither an EC nor an RSA key")
        if key.public_key() != certificate.public_key():
            raise UnusablePKI(f"{key_path} is not the key of {certificate_path}")
        return cls(Credential(certificate, key))

    def issue(
        self,
        common_name: str | Sequence[str],
        purpose: str,
        *,
        dns: Iterable[str] = (),
        addresses: Iterable[str] = (),
        uris: Iterable[str] = (),
        attributes: Iterable[tuple[x509.ObjectIdentifier, str]] = (),
        kind: str = "P-256",
        key: PrivateKey | None = None,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
        days: int = LEAF_DAYS,
    ) -> Credential:
        """
        A leaf certificate.

        :param purpose: ``server``, ``node`` or ``operator``; an operator's certificate says so in its OU.
        :param key: an existing key, to save the making of one; it stays the caller's.
        """
        key = key or new_key(kind)
        names = [common_name] if isinstance(common_name, str) else list(common_name)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
        subject += [x509.NameAttribute(oid, value) for oid, value in attributes]
        if purpose == "operator":
            subject.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "operator"))
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        alternatives += [x509.UniformResourceIdentifier(uri) for uri in uris]
        issuer, public = self.credential.certificate, key.public_key()
        builder = (
            _dated(x509.CertificateBuilder(), days, not_before, not_after)
            .subject_name(x509.Name(subject))
            .issuer_name(issuer.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_PURPOSES[purpose]]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(self._authority_key_identifier(), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return Credential(builder.sign(self.credential.key, hashes.SHA256()), key)

    def revocation_list(
        self,
        serials: Iterable[int],
        *,
        next_update: datetime.datetime | None = None,
        last_update: datetime.datetime | None = None,
    ) -> bytes:
        """A CRL of this CA as PEM; by default good for a week."""
        now = _now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.credential.certificate.subject)
            .last_update(last_update or now - _BACKDATE)
            .next_update(next_update or now + datetime.timedelta(days=7))
            .add_extension(self._authority_key_identifier(), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _BACKDATE).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.credential.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _authority_key_identifier(self) -> x509.AuthorityKeyIdentifier:
        certificate = self.credential.certificate
        try:
            identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.credential.key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


@attrs.frozen
class DevelopmentPKI:
    """Where a development PKI is: for each name ``NAME.pem`` and ``NAME.key``."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """The certificate of ``ca``, ``server``, ``node`` or ``operator``."""
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        """Its key."""
        return self.folder / f"{name}.key"

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [path for name in _NAMES for path in (self.certificate(name), self.key(name))]


_NAMES = ("ca", "server", "node", "operator")


def development_pki(folder: Path) -> DevelopmentPKI:
    """
    The development PKI in a folder; made there if it is not.

    :raise UnusablePKI: some of its files are there and others are not, or they cannot be written.
    """
    pki = DevelopmentPKI(folder)
    present = [path for path in pki.files if path.exists()]
    if len(present) == len(pki.files):
        return pki
    if present:
        missing = next(path for path in pki.files if path not in present)
        raise UnusablePKI(
            f"{folder} holds {present[0].name} but not {missing.name}: remove the rest too, or give --cert and --key"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority.create("osqtwist development CA")
        authority.credential.write(pki.certificate("ca"), pki.key("ca"))
        server = authority.issue("localhost", "server", dns=["localhost"], addresses=["127.0.0.1", "::1"])
        server.write(pki.certificate("server"), pki.key("server"))
        authority.issue("node-1.example.com", "node").write(pki.certificate("node"), pki.key("node"))
        authority.issue("operator-1", "operator").write(pki.certificate("operator"), pki.key("operator"))
    except OSError as problem:
        raise UnusablePKI(f"{problem.filename or folder}: {problem.strerror}") from None
    return pki


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, never readable by more than ``mode`` says, not even for an instant."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _dated(
    builder: x509.CertificateBuilder,
    days: int,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = _now()
    begin = not_before or now - _BACKDATE
    return builder.not_valid_before(begin).not_valid_after(not_after or now + datetime.timedelta(days=days))


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""
What certificates are made of: keys, extensions, signatures, files; and the CA of development and tests.

P-256 unless asked otherwise, the extensions that verifiers look at, keys that nobody else can read.  The CA that
remembers what it issued, for fleets, is :mod:`osqtwist.certificateauthority`.
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
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
Extensions = Iterable[tuple[x509.ExtensionType, bool]]
"""Extensions, each with whether it is critical."""

CA_DAYS = 3650
LEAF_DAYS = 397
BACKDATE = datetime.timedelta(minutes=5)
"""How long before now a certificate begins, for clocks that are late."""
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
        return pem_of_key(self.key)

    def write(self, certificate_path: Path, key_path: Path) -> None:
        """Write both as PEM; the key first, and readable by its owner only from the very beginning."""
        write_new(key_path, self.key_pem, 0o600)
        write_new(certificate_path, self.certificate_pem, 0o644)


def new_key(kind: str = "P-256") -> PrivateKey:
    """A new private key: ``P-256``, ``P-384``, ``P-521`` or ``RSA-2048`` (any size)."""
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[kind])


def pem_of_key(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """A key as PKCS #8 PEM, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def kind_of(key: PublicKey) -> str:
    """What :func:`new_key` makes another key of the same kind of."""
    return f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"P-{key.key_size}"


@attrs.frozen
class Authority:
    """A CA that signs leaves directly."""

    credential: Credential

    @classmethod
    def create(cls, name: str, kind: str = "P-256", days: int = CA_DAYS) -> Authority:
        """A new CA, self-signed, allowed to sign leaves and revocation lists and nothing else."""
        key, now = new_key(kind), utc_now()
        end = now + datetime.timedelta(days=days)
        return cls(Credential(sign_authority(key, name, now - BACKDATE, end), key))

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path) -> Authority:
        """
        A CA from its files.

        :raise UnusablePKI: they cannot be read.
        """
        try:
            certificate_pem, key_pem = certificate_path.read_bytes(), key_path.read_bytes()
        except OSError as problem:
            raise UnusablePKI(f"{problem.filename}: {problem.strerror}") from None
        return cls.parse(certificate_path, certificate_pem, key_path, key_pem)

    @classmethod
    def parse(
        cls,
        certificate_path: Path,
        certificate_pem: bytes,
        key_path: Path,
        key_pem: bytes,
        passphrase: bytes | None = None,
    ) -> Authority:
        """
        A CA from what its files hold; the paths are for the error texts.

        :raise UnusablePKI: it is not PEM, the passphrase is wrong or missing, or the two do not belong together.
        """
        if b"ENCRYPTED" in key_pem and passphrase is None:
            raise UnusablePKI(f"{key_path} is encrypted: give --passphrase-file")
        if b"ENCRYPTED" not in key_pem:
            passphrase = None
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, passphrase)
        except (ValueError, TypeError) as problem:
            if passphrase is not None:
                raise UnusablePKI(f"{key_path} cannot be read: is the passphrase the right one?") from None
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
        now = utc_now()
        begin, end = not_before or now - BACKDATE, not_after or now + datetime.timedelta(days=days)
        extensions = leaf_extensions(purpose, alternatives)
        certificate = sign_leaf(self.credential, key.public_key(), x509.Name(subject), extensions, begin, end)
        return Credential(certificate, key)

    def revocation_list(
        self,
        serials: Iterable[int],
        *,
        next_update: datetime.datetime | None = None,
        last_update: datetime.datetime | None = None,
    ) -> bytes:
        """A CRL of this CA as PEM; by default good for a week."""
        now = utc_now()
        revoked = [
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - BACKDATE).build()
            for serial in serials
        ]
        begin, end = last_update or now - BACKDATE, next_update or now + datetime.timedelta(days=7)
        signed = sign_revocation_list(self.credential, revoked, int(now.timestamp()), begin, end)
        return signed.public_bytes(serialization.Encoding.PEM)


def sign_authority(key: PrivateKey, name: str, begin: datetime.datetime, end: datetime.datetime) -> x509.Certificate:
    """The certificate of a CA, signed by itself, that may sign leaves and revocation lists and nothing else."""
    subject, public = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key()
    builder = (
        x509.CertificateBuilder(not_valid_before=begin, not_valid_after=end)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return builder.sign(key, _digest(key))


def leaf_extensions(purpose: str, alternatives: Sequence[x509.GeneralName]) -> list[tuple[x509.ExtensionType, bool]]:
    """The extensions that make a leaf a ``server``, ``node`` or ``operator``, and never two of them."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([_PURPOSES[purpose]]), False),
    ]
    if alternatives:
        extensions.append((x509.SubjectAlternativeName(alternatives), False))
    return extensions


def sign_leaf(
    issuer: Credential,
    public: PublicKey,
    subject: x509.Name,
    extensions: Extensions,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.Certificate:
    """A leaf certificate with a new serial number; the two key identifiers are added to its extensions."""
    builder = (
        x509.CertificateBuilder(not_valid_before=begin, not_valid_after=end)
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
    return builder.sign(issuer.key, _digest(issuer.key))


def sign_revocation_list(
    issuer: Credential,
    revoked: Iterable[x509.RevokedCertificate],
    number: int,
    begin: datetime.datetime,
    next_update: datetime.datetime,
) -> x509.CertificateRevocationList:
    """A CRL of a CA."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.certificate.subject,
        last_update=begin,
        next_update=next_update,
        revoked_certificates=list(revoked),
    )
    builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(issuer.key, _digest(issuer.key))


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


def utc_now() -> datetime.datetime:
    """The time of this machine, in whole seconds as certificates have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _digest(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """A digest as strong as the key that signs it."""
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()


def _authority_key_identifier(issuer: Credential) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


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

"""
A CA for fleets that have none: it issues, renews, revokes, and remembers.

It never sees the private keys of those it issues to: it is given their public keys.  All its methods block, on the
disk and on other processes that change the same CA, for milliseconds.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID

from osqtwist.cafolder import REASONS, CAFolder, Revocation, write_durably
from osqtwist.certificaterequest import (
    CertificateRefused,
    LeafRequest,
    checked_key,
    checked_name,
    name_of,
    purpose_of,
)
from osqtwist.pki import (
    BACKDATE,
    CA_DAYS,
    Authority,
    Credential,
    Extensions,
    PublicKey,
    leaf_extensions,
    new_key,
    sign_authority,
    sign_leaf,
    sign_revocation_list,
    utc_now,
)

MAX_DAYS = 36500
_IDENTIFIERS = (ExtensionOID.SUBJECT_KEY_IDENTIFIER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)


class OutlivesAuthority(CertificateRefused):
    """A certificate would be good for longer than the CA, or begin before it."""


class UnknownCertificate(CertificateRefused):
    """A certificate, or a serial number, that this CA did not issue."""


class AlreadyRevoked(CertificateRefused):
    """The certificate is revoked."""


@attrs.frozen
class Issued:
    """
    A certificate that the CA issued, and what became of it.

    :ivar renewed: whether another one with the same subject and purpose is good for longer.
    """

    certificate: x509.Certificate
    purpose: str
    role: str
    revocation: Revocation | None
    renewed: bool

    @property
    def serial(self) -> str:
        """The serial number in hexadecimal."""
        return f"{self.certificate.serial_number:x}"

    @property
    def name(self) -> str:
        """The common name, or the whole subject if there is not exactly one."""
        return name_of(self.certificate)

    def status(self, now: datetime.datetime) -> str:
        """``revoked``, ``expired`` or ``valid``."""
        if self.revocation:
            return "revoked"
        return "expired" if self.certificate.not_valid_after_utc <= now else "valid"


@attrs.define
class CertificateAuthority:
    """
    One CA and its folder.

    :ivar certificate: the CA's own.
    :param passphrase: of its key, which is read only when something is to be signed.
    :param now: the clock, in UTC.
    """

    folder: CAFolder
    certificate: x509.Certificate
    _passphrase: bytes | None = attrs.field(default=None, repr=False)
    _now: Callable[[], datetime.datetime] = utc_now
    _authority: Authority | None = attrs.field(default=None, init=False, repr=False)

    @classmethod
    def create(
        cls,
        path: Path,
        name: str = "",
        days: int = CA_DAYS,
        key_kind: str = "P-256",
        passphrase: bytes | None = None,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> CertificateAuthority:
        """
        A new CA in a folder that is not there, or empty.

        :param name: its common name; by default one that no other CA has, so that two of them can be told apart.
        :raise UnfitName: the name cannot stand in a certificate.
        :raise UnusablePKI: the folder is in use, or cannot be written.
        """
        if not 0 < days <= MAX_DAYS:
            raise CertificateRefused(f"a CA is good for 1 to {MAX_DAYS} days, not {days}")
        folder, name = CAFolder(path), name and checked_name(name)
        folder.prepare()
        key, begin = new_key(key_kind), now().replace(microsecond=0)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = name or f"osqtwist CA {identifier.digest[:4].hex()}"
        certificate = sign_authority(key, name, begin - BACKDATE, begin + datetime.timedelta(days=days))
        with folder.locked():
            folder.found(Credential(certificate, key), passphrase)
        return cls(folder, certificate, passphrase, now)

    @classmethod
    def open(
        cls, path: Path, passphrase: bytes | None = None, now: Callable[[], datetime.datetime] = utc_now
    ) -> CertificateAuthority:
        """
        The CA of a folder.

        :raise UnusablePKI: there is none.
        """
        folder = CAFolder(path)
        return cls(folder, folder.load_certificate(), passphrase, now)

    def issue(self, request: LeafRequest, key: PublicKey, days: int) -> x509.Certificate:
        """
        A new certificate.  It is recorded before this returns, so whatever is in anybody's hands can be revoked.

        :raise OutlivesAuthority: the CA ends earlier, or begins later.
        :raise UnfitRequest: the key is too weak.
        :raise UnusablePKI: the CA's key cannot be used, or can be read by others.
        """
        extensions = leaf_extensions(request.purpose, request.alternatives)
        return self._sign(key, request.subject, extensions, datetime.timedelta(days=days))

    def renew(
        self, certificate: x509.Certificate, key: PublicKey | None = None, days: int | None = None
    ) -> x509.Certificate:
        """
        A certificate with the subject and the extensions of another, which stays good until its own end.

        :param key: the new key; by default that of the old certificate.
        :param days: how long it is good; by default as long as the old one was in all.
        :raise UnknownCertificate: the certificate is not one that this CA issued.
        :raise AlreadyRevoked: it is revoked: who may have a new one is then for :meth:`issue` to say.
        :raise OutlivesAuthority: the CA ends earlier.
        """
        self._recognize(certificate)
        self._refuse_revoked(certificate.serial_number, "it is not renewed; issue a new one instead")
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE
        if days is not None:
            lifetime = datetime.timedelta(days=days)
        extensions = [(each.value, each.critical) for each in certificate.extensions if each.oid not in _IDENTIFIERS]
        return self._sign(key or checked_key(certificate.public_key()), certificate.subject, extensions, lifetime)

    def find(self, serial: str) -> x509.Certificate:
        """
        A certificate that was issued.

        :param serial: its number in hexadecimal, with or without colons.
        :raise UnknownCertificate: there is none with that number.
        """
        digits = serial.replace(":", "")
        # RFC 5280, 4.1.2.2: 20 octets.
        if not re.fullmatch(r"[0-9A-Fa-f]{1,40}", digits):
            raise UnknownCertificate(f"{serial!r} is neither a file nor a serial number in hexadecimal")
        found = self.folder.recorded(int(digits, 16))
        if found is None:
            raise UnknownCertificate(f"{self.name} issued no certificate with the serial number {serial}")
        return found

    def revoke(self, certificate: x509.Certificate, reason: str = "unspecified") -> Revocation:
        """
        Revoke a certificate.  It is in force once servers have the next :meth:`crl`.

        :param reason: one of ``cafolder.REASONS``.
        :raise UnknownCertificate: the certificate is not one that this CA issued.
        :raise AlreadyRevoked: it is revoked already; nothing changes.
        """
        if reason not in REASONS:
            raise CertificateRefused(f"{reason!r} is not a reason: they are {', '.join(REASONS)}")
        self._recognize(certificate)
        serial = certificate.serial_number
        with self.folder.locked():
            self._refuse_revoked(serial, "nothing is changed")
            if self.folder.recorded(serial) is None:
                self.folder.record(certificate)
            revocation = Revocation(f"{serial:x}", self._now().replace(microsecond=0), reason)
            self.folder.record_revocation(revocation)
        return revocation

    def crl(self, days: int = 30) -> x509.CertificateRevocationList:
        """
        A new revocation list, which is also ``crl.pem`` in the folder.

        Its number is greater than any before it: one more than the last, or the Unix time if that is more, so that
        it goes on growing even if the last list was lost.  Certificates stay on it after their end.

        :param days: until the next one is due.
        :raise UnusablePKI: the CA's key cannot be used, or can be read by others.
        """
        now = self._now().replace(microsecond=0)
        with self.folder.locked():
            issuer = self._issuer()
            newest = self.folder.newest_crl()
            last = 0 if newest is None else _number(newest)
            revoked = [_entry(serial, each) for serial, each in sorted(self.folder.revocations().items())]
            number, end = max(last + 1, int(now.timestamp())), now + datetime.timedelta(days=days)
            signed = sign_revocation_list(issuer, revoked, number, now - BACKDATE, end)
            write_durably(self.folder.crl, signed.public_bytes(serialization.Encoding.PEM), 0o644)
        return signed

    def list(self) -> Sequence[Issued]:
        """Every certificate that was issued, the one that ends first first."""
        certificates = sorted(self.folder.issued(), key=lambda each: (each.not_valid_after_utc, each.serial_number))
        revocations = self.folder.revocations()
        # The last that ends, of each subject and purpose, is the one that counts.
        newest = {
            (each.subject, purpose_of(each)): each.serial_number
            for each in certificates
            if each.serial_number not in revocations
        }
        return [
            Issued(
                each,
                *purpose_of(each),
                revocations.get(each.serial_number),
                newest.get((each.subject, purpose_of(each)), each.serial_number) != each.serial_number,
            )
            for each in certificates
        ]

    def expiring(self, days: int) -> Sequence[Issued]:
        """Certificates that are good now, end within some days, and were not renewed or revoked."""
        now = self._now()
        limit = now + datetime.timedelta(days=days)
        return [
            each
            for each in self.list()
            if each.status(now) == "valid" and not each.renewed and each.certificate.not_valid_after_utc <= limit
        ]

    @property
    def name(self) -> str:
        """The CA's subject (RFC 4514)."""
        return self.certificate.subject.rfc4514_string()

    def _sign(
        self,
        key: PublicKey,
        subject: x509.Name,
        extensions: Extensions,
        lifetime: datetime.timedelta,
    ) -> x509.Certificate:
        checked_key(key)
        now = self._now().replace(microsecond=0)
        self._refuse_to_outlive(now, lifetime)
        with self.folder.locked():
            issuer = self._issuer()
            if key == issuer.key.public_key():
                raise CertificateRefused("the key is that of the CA itself")
            begin = max(now - BACKDATE, self.certificate.not_valid_before_utc)
            certificate = sign_leaf(issuer, key, subject, extensions, begin, now + lifetime)
            self.folder.record(certificate)
        return certificate

    def _refuse_to_outlive(self, now: datetime.datetime, lifetime: datetime.timedelta) -> None:
        end = self.certificate.not_valid_after_utc
        if now < self.certificate.not_valid_before_utc:
            raise OutlivesAuthority(f"{self.name} begins in the future: is the clock of this machine right?")
        if end <= now:
            raise OutlivesAuthority(f"{self.name} ended on {end:%Y-%m-%d}: make a new CA beside it")
        if lifetime <= datetime.timedelta():
            raise CertificateRefused("a certificate must be good for some time")
        if lifetime > end - now:
            raise OutlivesAuthority(
                f"the certificate would outlive {self.name}, which ends on {end:%Y-%m-%d}: "
                f"ask for at most {(end - now).days} days, or make a new CA beside it"
            )

    def _issuer(self) -> Credential:
        if self._authority is None:
            self._authority = self.folder.load(self._passphrase)
        return self._authority.credential

    def _recognize(self, certificate: x509.Certificate) -> None:
        subject = certificate.subject.rfc4514_string()
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise UnknownCertificate(f"the certificate of {subject} was not issued by {self.name}") from None
        if certificate.public_key() == self.certificate.public_key():
            raise UnknownCertificate(f"the certificate is that of {self.name} itself")

    def _refuse_revoked(self, serial: int, consequence: str) -> None:
        found = self.folder.revocation(serial)
        if found:
            raise AlreadyRevoked(f"certificate {serial:x} was revoked on {found.at:%Y-%m-%d %H:%M} UTC: {consequence}")


def _number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _entry(serial: int, revocation: Revocation) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revocation.at)
    if revocation.reason != "unspecified":
        # RFC 5280, 5.3.1: "unspecified" is said by saying nothing.
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(revocation.reason)), critical=False)
    return builder.build()

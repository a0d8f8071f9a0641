"""
The folder of a CA: its key, and what it issued and revoked.

======================  ==========================================================
``ca.pem``, ``ca.key``  the CA
``issued/SERIAL.pem``   every certificate it ever signed
``revoked/SERIAL``      what is revoked, when and why, as JSON
``crl.pem``             the newest revocation list
``lock``                held by whoever changes something
======================  ==========================================================

One file for each fact, and each is written whole or not at all, so there is no index that a crash could leave behind
what is true.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import attrs
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from osqtwist.pki import Authority, Credential, UnusablePKI, pem_of_key, write_new

REASONS = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
"""Why a certificate is revoked (RFC 5280, 5.3.1), without what can be taken back and what is about CAs."""


class Revocation(msgspec.Struct, frozen=True):
    """
    That a certificate is revoked.

    :ivar serial: its number in hexadecimal.
    :ivar at: when, in UTC.
    """

    serial: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,40}$")]
    at: datetime.datetime
    reason: str


@attrs.frozen
class CAFolder:
    """The files of one CA.  Whatever reads or writes raises :class:`UnusablePKI` for a file that it cannot use."""

    path: Path

    @property
    def certificate(self) -> Path:
        """The CA's certificate."""
        return self.path / "ca.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.path / "ca.key"

    @property
    def crl(self) -> Path:
        """The newest revocation list."""
        return self.path / "crl.pem"

    @property
    def issued_folder(self) -> Path:
        """Where the records of certificates are."""
        return self.path / "issued"

    def record_path(self, serial: int) -> Path:
        """Where the record of a certificate is."""
        return self.issued_folder / f"{serial:x}.pem"

    def prepare(self) -> None:
        """Make the folder, for its owner only; one that is there must be empty."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            self._refuse_to_share()
            self.path.chmod(0o700)
        except OSError as problem:
            raise UnusablePKI(f"{problem.filename or self.path}: {problem.strerror}") from None

    def found(self, credential: Credential, passphrase: bytes | None) -> None:
        """
        Write the CA itself; the lock must be held.

        After a crash in the middle the folder holds a key that never signed anything, and is not taken for a CA.
        """
        self._refuse_to_share()
        write_durably(self.key, pem_of_key(credential.key, passphrase), 0o600)
        write_durably(self.certificate, credential.certificate_pem, 0o644)

    def load_certificate(self) -> x509.Certificate:
        """The CA's certificate, without a look at its key."""
        with reading(self.certificate):
            data = self.certificate.read_bytes()
        return read_certificate(self.certificate, data)

    def load(self, passphrase: bytes | None) -> Authority:
        """The CA with its key, unless others could have read that."""
        with reading(self.certificate):
            certificate = self.certificate.read_bytes()
        return Authority.parse(self.certificate, certificate, self.key, read_secret(self.key, 0o077), passphrase)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """
        Keep other processes and threads out; waits for them, some milliseconds as a rule.

        It ends with the process, however that ends.  Not to be nested.
        """
        path = self.path / "lock"
        with reading(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def record(self, certificate: x509.Certificate) -> None:
        """Remember a certificate; when this returns, it outlives a loss of power."""
        path = self.record_path(certificate.serial_number)
        with reading(path):
            _make_durably(path.parent)
            write_durably(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def record_revocation(self, revocation: Revocation) -> None:
        """Remember that a certificate is revoked, as durably."""
        path = self.path / "revoked" / revocation.serial
        with reading(path):
            _make_durably(path.parent)
            write_durably(path, msgspec.json.encode(revocation) + b"\n", 0o644)

    def issued(self) -> Iterator[x509.Certificate]:
        """Every certificate that was recorded, in no order."""
        for path in self.issued_folder.glob("*.pem"):
            with reading(path):
                data = path.read_bytes()
            yield read_certificate(path, data)

    def recorded(self, serial: int) -> x509.Certificate | None:
        """The certificate with a serial number."""
        path = self.record_path(serial)
        with reading(path):
            data = path.read_bytes() if path.exists() else None
        return None if data is None else read_certificate(path, data)

    def revocations(self) -> dict[int, Revocation]:
        """What is revoked, by serial number."""
        paths = [path for path in (self.path / "revoked").glob("*") if path.suffix != ".new"]
        return {int(each.serial, 16): each for each in map(self._revocation, paths)}

    def revocation(self, serial: int) -> Revocation | None:
        """Whether a certificate is revoked, and since when."""
        path = self.path / "revoked" / f"{serial:x}"
        return self._revocation(path) if path.exists() else None

    def newest_crl(self) -> x509.CertificateRevocationList | None:
        """The revocation list that was written last."""
        with reading(self.crl):
            data = self.crl.read_bytes() if self.crl.exists() else None
        try:
            return None if data is None else x509.load_pem_x509_crl(data)
        except ValueError:
            raise UnusablePKI(f"{self.crl} holds no revocation list in PEM: move it away") from None

    def _revocation(self, path: Path) -> Revocation:
        with reading(path):
            data = path.read_bytes()
        try:
            return msgspec.json.decode(data, type=Revocation)
        except msgspec.DecodeError:
            raise UnusablePKI(f"{path} is not the record of a revocation") from None

    def _refuse_to_share(self) -> None:
        names = sorted(path.name for path in self.path.iterdir() if path.name != "lock")
        if "ca.pem" in names:
            raise UnusablePKI(f"{self.path} holds a CA already; give the new one a folder of its own")
        if names:
            raise UnusablePKI(f"{self.path} is not empty (it holds {names[0]}); a CA needs a folder of its own")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns trouble with a file into a sentence that names it."""
    try:
        yield
    except OSError as problem:
        raise UnusablePKI(f"{problem.filename or path}: {problem.strerror}") from None


def read_certificate(path: Path, data: bytes) -> x509.Certificate:
    """
    A certificate from what its file holds, PEM or DER.

    :raise UnusablePKI: it holds none.
    """
    try:
        is_pem = b"-----BEGIN" in data
        return x509.load_pem_x509_certificate(data) if is_pem else x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        raise UnusablePKI(f"{path} holds no certificate") from None


def read_secret(path: Path, forbidden: int) -> bytes:
    """
    What a secret file holds, if nobody else can read it.

    :param forbidden: the bits of the mode that it must not have.
    :raise UnusablePKI: it has one of them, or cannot be read.
    """
    with reading(path), path.open("rb") as file:
        found = os.fstat(file.fileno())
        # What comes through a pipe has no readers to speak of.
        if stat.S_ISREG(found.st_mode) and found.st_mode & forbidden:
            mode = stat.S_IMODE(found.st_mode)
            raise UnusablePKI(
                f"{path} can be read by others (its mode is {mode:04o}): chmod 600 it, if it is secret yet"
            )
        return file.read()


def write_durably(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, in the place of what is there; it outlives a loss of power."""
    write_new(path, data, mode)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names that were given in a folder outlive a loss of power."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_durably(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)

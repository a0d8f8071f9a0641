"""
The files that a CA hands out: ``NAME.pem`` for a certificate, ``NAME.key`` for its private key.

Files that are there already are never overwritten, but by a renewal, which keeps what it replaces.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from osqtwist.cafolder import read_certificate, reading, sync_folder, write_durably
from osqtwist.certificaterequest import file_name
from osqtwist.pki import PrivateKey, PublicKey, UnusablePKI, pem_of_key


@attrs.frozen
class CredentialFiles:
    """
    Where a certificate and its key are.

    :ivar stem: the file name of both, but for its ending.
    """

    folder: Path
    stem: str

    @classmethod
    def named(cls, folder: Path, name: str) -> CredentialFiles:
        """The files for a common name."""
        return cls(folder, file_name(name))

    @classmethod
    def beside(cls, certificate: Path) -> CredentialFiles:
        """The files that a certificate file is one of."""
        return cls(certificate.parent, certificate.stem)

    @property
    def certificate(self) -> Path:
        """The certificate's."""
        return self.folder / f"{self.stem}.pem"

    @property
    def key(self) -> Path:
        """The key's."""
        return self.folder / f"{self.stem}.key"

    def create(self, key: PrivateKey, issue: Callable[[PublicKey], x509.Certificate]) -> x509.Certificate:
        """
        Write a new key and the certificate that is issued for it.

        The key is written first, so that no certificate is issued for files that are taken, be it by a process at the
        same moment.

        :raise UnusablePKI: one of the files is there, or cannot be written.
        """
        self.check_free()
        self._prepare()
        self._create_file(self.key, pem_of_key(key), 0o600)
        try:
            certificate = issue(key.public_key())
        except BaseException:
            self.key.unlink()
            raise
        self._create_file(self.certificate, _pem(certificate), 0o644)
        return certificate

    def create_certificate(self, issue: Callable[[], x509.Certificate]) -> x509.Certificate:
        """
        Write a certificate whose key is elsewhere.

        :raise UnusablePKI: one of the files is there, or cannot be written.
        """
        self.check_free()
        self._prepare()
        certificate = issue()
        self._create_file(self.certificate, _pem(certificate), 0o644)
        return certificate

    def check_free(self) -> None:
        """
        See that neither file is there.

        :raise UnusablePKI: one is.
        """
        for path in (self.certificate, self.key):
            if path.exists() or path.is_symlink():
                raise _taken(path)

    def check_holds(self, certificate: x509.Certificate) -> None:
        """
        See that a certificate is in its file.

        :raise UnusablePKI: it is not, so it is not to be replaced there.
        """
        if not self.certificate.exists() or load_certificate(self.certificate) != certificate:
            raise UnusablePKI(f"{self.certificate} does not hold that certificate: give --out for the new one")

    def replace(self, old: x509.Certificate, new: x509.Certificate, key: PrivateKey | None) -> None:
        """
        Put a renewed certificate, and its key unless that is the old one, into the place of the old.

        What was there is kept as ``NAME.pem.previous`` and ``NAME.key.previous``.  After a crash in the middle the
        new key may stand beside the old certificate; the next renewal puts that right and keeps the old pair.  The
        lock of the CA's folder must be held.

        :raise UnusablePKI: the old one is not there any more, or a file cannot be written.
        """
        self.check_holds(old)
        with reading(self.certificate):
            if key is None:
                write_durably(self._previous(self.certificate), _pem(old), 0o644)
            else:
                self._keep_pair(_pem(old))
                write_durably(self.key, pem_of_key(key), 0o600)
            write_durably(self.certificate, _pem(new), 0o644)

    def _keep_pair(self, certificate: bytes) -> None:
        key = self.key.read_bytes()
        if not _is_pair(certificate, key):
            # The rest of a renewal that did not come to its end.
            return
        write_durably(self._previous(self.key), key, 0o600)
        write_durably(self._previous(self.certificate), certificate, 0o644)

    def _previous(self, path: Path) -> Path:
        return path.with_name(path.name + ".previous")

    def _prepare(self) -> None:
        with reading(self.folder):
            if not self.folder.is_dir():
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir(mode=0o700, exist_ok=True)

    def _create_file(self, path: Path, data: bytes, mode: int) -> None:
        """Write a file whole or not at all, and never in the place of another, whoever else writes there."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        with reading(path), contextlib.ExitStack() as leaving:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            leaving.callback(partial.unlink)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            try:
                path.hardlink_to(partial)
            except FileExistsError:
                raise _taken(path) from None
        with reading(self.folder):
            sync_folder(self.folder)


def load_certificate(path: Path) -> x509.Certificate:
    """
    The certificate in a file, PEM or DER.

    :raise UnusablePKI: it cannot be read, or holds none.
    """
    with reading(path):
        data = path.read_bytes()
    return read_certificate(path, data)


def _taken(path: Path) -> UnusablePKI:
    return UnusablePKI(f"{path} is there already: renew it, move it away, or give --out")


def _is_pair(certificate_pem: bytes, key_pem: bytes) -> bool:
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        return x509.load_pem_x509_certificate(certificate_pem).public_key() == key.public_key()
    except (ValueError, TypeError):
        return False


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

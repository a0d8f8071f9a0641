"""
The state folder, and what a first start puts into it.

Whatever is made here belongs to the user that the server will run as, is secret unless it is a certificate, and is
never made twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import attrs

from osqtwist.nodekey import SigningKey, new_signing_key, parse_signing_keys, render_signing_keys

SIGNING_KEYS = "signing-keys"
ENROLL_SECRET = "enroll-secret"  # noqa: S105 - a file name
CARVES = "carves"
STORE = "store"
REFUSALS = "refusals.json"
LOCK = "lock"


class UnusableState(Exception):
    """The state folder, or a file in it, cannot be used; one sentence that names it."""


@attrs.frozen
class Owner:
    """The user and group that files are made for; ``None`` leaves them as they are."""

    uid: int | None = None
    gid: int | None = None

    def take(self, paths: Sequence[Path]) -> None:
        """Give files to the owner."""
        if self.uid is None and self.gid is None:
            return
        for path in paths:
            os.chown(path, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)


@attrs.frozen
class StateFolder:
    """A server's own folder."""

    path: Path
    owner: Owner = Owner()

    def prepare(self) -> None:
        """
        Make the folder and those in it, for their owner's eyes only.

        :raise UnusableState: it cannot be made or written to.
        """
        for folder in (self.path, self.path / CARVES, self.path / STORE):
            try:
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True)
                    self.owner.take([folder])
            except OSError as problem:
                raise UnusableState(f"--state {folder}: {problem.strerror}") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UnusableState(f"--state {self.path}: this user may not write there")

    def lock(self) -> IO[str]:
        """
        Keep other servers out for as long as the file that this answers with is open, over a fork too.

        Two servers with one folder would fight over its store and its socket.  The file is to be emptied by a server
        that ends in order; see :func:`ended_in_order`.

        :raise UnusableState: another server has the folder.
        """
        path = self.path / LOCK
        try:
            file = path.open("a+", encoding="ascii")
            self.owner.take([path])
        except OSError as problem:
            raise UnusableState(f"{path}: {problem.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UnusableState(f"--state {self.path} is in use by another osqtwist") from None
        return file

    @staticmethod
    def ended_in_order(lock: IO[str]) -> bool:
        """Whether the server before this one did; from now on this one has not, until the file is empty again."""
        lock.seek(0)
        before = lock.read()
        lock.write("running\n")
        lock.flush()
        return not before

    def signing_keys(self, spare: str = "") -> tuple[SigningKey, ...]:
        """
        The keys that sign node keys; one is made if there is none.

        :param spare: what was in their file, for when that is gone or rubbish: a process with another key than the
            others would tell all nodes to enroll again.
        :raise UnusableState: their file cannot be read or understood.
        """
        path = self.path / SIGNING_KEYS
        if spare:
            with contextlib.suppress(OSError, ValueError):
                return parse_signing_keys(path.read_text("ascii"))
            return parse_signing_keys(spare)
        try:
            if not path.exists():
                self._write_secret(path, render_signing_keys((new_signing_key(),)))
            return parse_signing_keys(path.read_text("ascii"))
        except OSError as problem:
            raise UnusableState(f"{path}: {problem.strerror}") from None
        except ValueError as problem:
            raise UnusableState(f"{path}: {problem}") from None

    def write_signing_keys(self, keys: tuple[SigningKey, ...]) -> None:
        """
        Put others in their place, all or none.

        :raise UnusableState: they cannot be written; those of before stay.
        """
        path = self.path / SIGNING_KEYS
        try:
            self._write_secret(path, render_signing_keys(keys))
        except OSError as problem:
            raise UnusableState(f"{path}: {problem.strerror}") from None

    def enroll_secret(self, make: bool) -> Path | None:
        """
        The file of this folder's own enroll secret, if there is one or one is to be made.

        It holds the secret and nothing else, so the same file serves as osquery's ``--enroll_secret_path``.
        """
        path = self.path / ENROLL_SECRET
        try:
            if make and not path.exists():
                self._write_secret(path, secrets.token_urlsafe(24) + "\n")
        except OSError as problem:
            raise UnusableState(f"{path}: {problem.strerror}") from None
        return path if path.exists() else None

    def _write_secret(self, path: Path, text: str) -> None:
        partial = path.with_name(path.name + ".new")
        partial.unlink(missing_ok=True)
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self.owner.take([partial])
        partial.replace(path)


def lock_slot(folder: Path, name: str) -> tuple[IO[str], int]:
    """
    The first free place among processes of one sort, for as long as the file that this answers with is open.

    After a ``kill -9`` the place is free at once, so the next process gets the same one.

    :raise UnusableState: the folder cannot be written to.
    """
    for number in range(1, 1000):
        path = folder / f"{name}-{number}.lock"
        try:
            file = path.open("a+", encoding="ascii")
        except OSError as problem:
            raise UnusableState(f"{path}: {problem.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        return file, number
    raise UnusableState(f"--state {folder}: too many {name} processes")

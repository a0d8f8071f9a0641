"""
The file of a backup: a tar whose last member says what all others are, and their SHA-256.

It holds secrets, so it is its owner's alone.  It is written beside its name and renamed when it is whole, and nothing
of one is used before all of it was read and compared.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import attrs
import msgspec

FORMAT = 1
_CONTENTS = "contents.json"
_NAME = re.compile(r"(signing-keys|enroll-secret|enroll-secrets|(store|carves|keys)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+)")
_CHUNK = 2**20


class BadArchive(Exception):
    """A file is no backup, or not whole, or cannot be used here; one sentence."""


class Contents(msgspec.Struct, frozen=True):
    """
    What a backup says of itself.

    :ivar version: of the osqtwist that made it.
    :ivar stores: for each server of the store the member with its data; ``private`` is the private Valkey.
    :ivar files: SHA-256 by member.
    """

    format: int
    version: str
    made_at: float
    host: str
    prefix: str
    stores: dict[str, str]
    files: dict[str, str]


class ArchiveWriter:
    """
    Writes a backup; it is there under its name after :meth:`finish`, and not before.

    :raise OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._partial.unlink(missing_ok=True)
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.files: dict[str, str] = {}

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, name: str, source: Path) -> None:
        """Copy a file, as long as it is now."""
        with source.open("rb") as stream:
            self._add(name, stream, os.fstat(stream.fileno()).st_size)

    def add_bytes(self, name: str, data: bytes) -> None:
        """The same of what is in memory."""
        self._add(name, io.BytesIO(data), len(data))

    def add_stream(self, name: str, stream: IO[bytes]) -> None:
        """The same of an open file, from its beginning."""
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self._add(name, stream, size)

    def finish(self, contents: Contents) -> None:
        """Write what it is, have it on the disk, and give it its name."""
        self._add(_CONTENTS, io.BytesIO(text := msgspec.json.encode(contents)), len(text))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._partial.replace(self.path)
        del self.files[_CONTENTS]

    def _add(self, name: str, stream: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        reader = _Hashing(stream)
        self._tar.addfile(member, reader)
        self.files[name] = reader.hash.hexdigest()


class _Hashing(io.RawIOBase):
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        return data


@attrs.frozen
class Archive:
    """A backup that is whole."""

    path: Path
    contents: Contents

    @classmethod
    def read(cls, path: Path) -> Archive:
        """
        Read all of it, and compare.

        :raise BadArchive: it is no backup, or not as it was made.
        """
        found: dict[str, str] = {}
        said: bytes | None = None
        try:
            for member, stream in _members(path):
                if member.name == _CONTENTS:
                    said = stream.read()
                    continue
                if not _NAME.fullmatch(member.name):
                    raise BadArchive(f"{path}: it holds {member.name!r}, which no backup does")
                digest = hashlib.sha256()
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                found[member.name] = digest.hexdigest()
        except OSError as problem:
            raise BadArchive(f"{path}: {problem.strerror or problem}") from None
        except (tarfile.TarError, EOFError):
            raise BadArchive(f"{path} is not a backup of osqtwist, or is cut short") from None
        if said is None:
            raise BadArchive(f"{path} is not a backup of osqtwist, or is cut short")
        return cls(path, _contents(path, said, found))

    def extract(self, name: str, target: Path) -> None:
        """Write a member to a new file, for its owner alone."""
        for member, stream in _members(self.path):
            if member.name == name:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    while chunk := stream.read(_CHUNK):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                return
        raise BadArchive(f"{self.path} holds no {name}")

    def names(self, folder: str) -> list[str]:
        """The members of a folder."""
        return [name for name in self.contents.files if name.startswith(f"{folder}/")]


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise BadArchive(f"{path}: it holds {member.name!r}, which is not a file")
            yield member, stream


def _contents(path: Path, said: bytes, found: dict[str, str]) -> Contents:
    try:
        form = msgspec.json.decode(said).get("format")
        if form != FORMAT:
            raise BadArchive(f"{path} is of format {form}; this osqtwist reads format {FORMAT}")
        contents = msgspec.json.decode(said, type=Contents)
    except (msgspec.MsgspecError, AttributeError):
        raise BadArchive(f"{path}: what it says of itself cannot be read") from None
    if contents.files != found:
        wrong = sorted(name for name in {*contents.files, *found} if contents.files.get(name) != found.get(name))
        raise BadArchive(f"{path}: {wrong[0]} is not what was backed up (SHA-256); nothing was restored")
    return contents

"""
Carves: files that nodes send, written in place block by block.

The bytes are in files under one folder, shared by every process of a host; which blocks came is in the store.  A
block is in the file before the store is told and before the node is answered, so a crash at any moment costs at
most a block that is sent again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypedDict

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist.authentication import Caller
from osqtwist.carve import ZSTD_MAGIC, BadCarve, CarveSession, check_figures, new_session_id
from osqtwist.identity import CertificateIdentity
from osqtwist.interfaces import CarveProgress, ICarveStore, NoSuchThing
from osqtwist.metrics import Metrics
from osqtwist.wire import CarveBlockRequest, CarveStartRequest

InThread = Callable[[Callable[[], str]], Awaitable[str]]
"""Runs something that blocks where it does no harm."""

_HASH_CHUNK = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MOST = 10_000
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")


class CarveRow(TypedDict):
    """A carve; `sha256` and `file` are empty until it is complete."""

    carve: str
    node: str
    name: str
    carve_id: str
    request_id: str
    size: int
    blocks: int
    received_blocks: int
    started_at: float
    completed_at: float | None
    sha256: str
    file: str


class UnknownCarve(Exception):
    """There is no such carve session, or it is another node's."""


class DiskFull(OSError):
    """There is no room for a carve."""


@attrs.frozen
class CarveLimits:
    """
    What a carve may cost.

    :ivar max_unfinished: carves that one node may have under way.
    :ivar min_free_bytes: a carve is refused unless this much disk would stay free.
    """

    max_bytes: int = 4 * 2**30
    max_block_bytes: int = 16 * 2**20
    max_unfinished: int = 8
    min_free_bytes: int = 2**30


@attrs.frozen
class Carves:
    """Takes carves into files under :attr:`folder`."""

    clock: IReactorTime
    store: ICarveStore
    folder: Path
    in_thread: InThread
    metrics: Metrics
    limits: CarveLimits = CarveLimits()

    async def start(self, caller: Caller, node_name: str, request: CarveStartRequest) -> CarveSession:
        """
        Begin a carve; fires when the store has it.

        :raise BadCarve: its figures contradict each other or pass a limit.
        :raise DiskFull: too little would stay free.
        """
        check_figures(
            request.block_count,
            request.block_size,
            request.carve_size,
            self.limits.max_bytes,
            self.limits.max_block_bytes,
        )
        if len(await self.store.unfinished(caller.node_id)) >= self.limits.max_unfinished:
            raise BadCarve(f"this node has {self.limits.max_unfinished} carves under way already")
        if shutil.disk_usage(self.folder).free - request.carve_size < self.limits.min_free_bytes:
            raise DiskFull(f"carves would leave less than {self.limits.min_free_bytes} bytes free in {self.folder}")
        session = CarveSession(
            session_id=new_session_id(),
            node_id=caller.node_id,
            node_name=node_name,
            carve_id=request.carve_id[:128],
            request_id=request.request_id[:128],
            block_count=request.block_count,
            block_size=request.block_size,
            carve_size=request.carve_size,
            started_at=self.clock.seconds(),
            identity=caller.certificate.value if caller.certificate else "",
        )
        await self.store.add(session)
        if not session.block_count:
            _write_block(self._partial(session), 0, b"", True)
            await self._finish(session)
        return session

    async def add_block(
        self, request: CarveBlockRequest, caller: Caller | None, certificate: CertificateIdentity | None
    ) -> None:
        """
        Keep one block; fires when it is in the file and the store knows.  The last one completes the carve.

        :param caller: who sent it, where the client shows its key (from 5.23 on); otherwise the session id, and
            the certificate if the carve began with one, must do.
        :raise UnknownCarve: no session, or not this node's.
        :raise BadCarve: the block is not one of the carve's, or has the wrong size.
        :raise DiskFull: there is no room for it; the node sends it again.
        """
        progress = await self.store.get(request.session_id)
        if progress is None:
            raise UnknownCarve("there is no such carve session")
        session = progress.session
        if caller is not None and caller.node_id != session.node_id:
            raise UnknownCarve("this carve session is another node's")
        if session.identity and (certificate is None or certificate.value != session.identity):
            raise UnknownCarve("this carve session is another certificate's")
        if session.is_complete:
            return
        expected = session.size_of(request.block_id)
        if len(request.data) != expected:
            raise BadCarve(f"block {request.block_id} has {len(request.data)} bytes instead of {expected}")
        try:
            _write_block(
                self._partial(session),
                request.block_id * session.block_size,
                request.data,
                not progress.received_blocks,
            )
        except FileNotFoundError:
            raise UnknownCarve("the file of this carve session is gone") from None
        except OSError as problem:
            if problem.errno in _NO_ROOM:
                raise DiskFull(f"{problem.strerror} in {self.folder}") from None
            raise
        received = await self.store.mark(session.session_id, request.block_id)
        self.metrics.carve_bytes.inc(len(request.data))
        if received == session.block_count:
            await self._finish(session)

    def path_of(self, session: CarveSession) -> Path:
        """Where the bytes of a complete carve are."""
        path = self.folder / session.file_name
        if not path.exists() and self._partial(session).exists():
            # A crash fell between the two last steps of a carve.
            self._partial(session).replace(path)
        return path

    async def listing(self, count: int) -> list[CarveRow]:
        """The newest carves, as operators see them."""
        return [_row(progress) for progress in await self.store.recent(count)]

    async def file_of(self, name: str) -> tuple[Path, str]:
        """
        Where the bytes of a complete carve are, and their SHA-256.

        :param name: the id of the listing, osquery's carve id, or the file name.
        :raise NoSuchThing: there is none by that name, or it is not complete, or not on this machine.
        """
        for progress in await self.store.recent(_MOST):
            session = progress.session
            if name in (_public_id(session.session_id), session.carve_id, session.file_name):
                if not session.is_complete:
                    raise NoSuchThing(f"carve {name!r} is not complete")
                path = self.path_of(session)
                if not path.exists():
                    raise NoSuchThing(f"the file of carve {name!r} is not on this machine")
                return path, session.sha256
        raise NoSuchThing(f"there is no carve {name!r}")

    async def _finish(self, session: CarveSession) -> None:
        partial = self._partial(session)
        digest = await self.in_thread(lambda: _settle(partial))
        with partial.open("rb") as file:
            suffix = ".zst" if file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC else ".tar"
        # The names in it are the node's word: only letters, digits and dashes of them get near a path.
        carve_id = _UNSAFE.sub("-", session.carve_id)[:40].strip("-") or "carve"
        name = f"{session.node_id}-{carve_id}-{_public_id(session.session_id)[:8]}{suffix}"
        done = msgspec.structs.replace(session, completed_at=self.clock.seconds(), sha256=digest, file_name=name)
        # The store first: once it knows, a block that comes again no longer opens the file.
        if await self.store.complete(done):
            self.path_of(done)
            self.metrics.carves_completed.inc()

    def _partial(self, session: CarveSession) -> Path:
        return self.folder / f"{_public_id(session.session_id)}.part"


def _row(progress: CarveProgress) -> CarveRow:
    session = progress.session
    return {
        "carve": _public_id(session.session_id),
        "node": session.node_id,
        "name": session.node_name,
        "carve_id": session.carve_id,
        "request_id": session.request_id,
        "size": session.carve_size,
        "blocks": session.block_count,
        "received_blocks": progress.received_blocks,
        "started_at": session.started_at,
        "completed_at": session.completed_at or None,
        "sha256": session.sha256,
        "file": session.file_name,
    }


def _public_id(session_id: str) -> str:
    # A name that operators may see: the session id itself lets its bearer send blocks.
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


def _write_block(path: Path, offset: int, data: bytes, is_first: bool) -> None:
    # Only the first block makes the file: one made later would have holes where blocks were lost with the old one.
    create = os.O_CREAT if is_first else 0
    file = os.open(path, os.O_WRONLY | create | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(file)


def _settle(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
        os.fsync(file.fileno())
    return digest.hexdigest()

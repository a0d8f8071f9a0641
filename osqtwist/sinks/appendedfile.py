"""A file that lines are appended to, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import msgspec

from osqtwist.logevent import LogEvent
from osqtwist.sinks.rotatedfiles import free_name, sync_folder

if TYPE_CHECKING:
    from osqtwist.sinks.file import FileSettings

_LONGEST_LOCK = 20.0
_LOCK_PAUSE = 0.01
_REPEATS_BYTES = 8 * 2**20
_REPEATS_SECONDS = 300.0
_REPEATS_EVENTS = 100_000
_BLOCK = 2**16


@attrs.define(eq=False)
class AppendedFile:
    """
    The file itself; its methods block and run in a thread, one at a time.

    :ivar tell: what to call, from a thread, with something the operator should know.
    :ivar is_closing: set to wait no longer for a lock.
    """

    path: Path
    settings: FileSettings
    group: int
    tell: Callable[[str], None]
    is_closing: bool = attrs.field(default=False, init=False)
    _fd: int = attrs.field(default=-1, init=False)
    _repeats: set[str] = attrs.field(factory=set, init=False)
    _repeats_until: float = attrs.field(default=0.0, init=False)
    _repeats_left: int = attrs.field(default=0, init=False)
    _is_stuck: bool = attrs.field(default=False, init=False)

    def start(self, now: float) -> None:
        """Open the file if need be, mend its end, and remember which lines are there."""
        fd = self._locked()
        try:
            if self.settings.skip_repeats:
                self._remember(fd, now)
            fcntl.flock(fd, fcntl.LOCK_UN)
        except BaseException:
            self._let_go()
            raise

    def append(self, events: Sequence[LogEvent], now: float) -> bool:
        """
        Write lines, or none of them; answers with whether the file before was rotated.

        :raise OSError: none is there.
        """
        if self._fd < 0:
            self.start(now)
        rotated = False
        try:
            fd = self._locked()
            data = b"".join(event.document + b"\n" for event in self._without_repeats(events, now))
            if self._is_due(os.fstat(fd), len(data), now) and self._rotate(fd, now):
                rotated, fd = True, self._locked()
            self._write(fd, data)
            fcntl.flock(fd, fcntl.LOCK_UN)
        except BaseException:
            self._let_go()
            raise
        return rotated

    def sync(self) -> None:
        """Make safe what is written."""
        if self._fd >= 0:
            try:
                os.fsync(self._fd)
            except OSError:
                self._let_go()
                raise

    def close(self) -> None:
        """Make safe what is written unless that is not wanted, and let go."""
        try:
            if self.settings.fsync != "never":
                self.sync()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _locked(self) -> int:
        """The file that the path names now, open, locked and with whole lines only."""
        until = time.monotonic() + _LONGEST_LOCK
        while True:
            if self._fd >= 0 and not self._is_current():
                if self.settings.fsync == "interval":
                    self.sync()
                self._let_go()
                # Somebody moved or deleted it: a line may be wanted again that was there.
                self._repeats = set()
            if self._fd < 0:
                self._open()
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.is_closing or time.monotonic() > until:
                    text = f"another process has held its lock for {_LONGEST_LOCK:g} s"
                    raise OSError(errno.EWOULDBLOCK, text) from None
                time.sleep(_LOCK_PAUSE)
                continue
            # It may have been rotated while we waited.
            if self._is_current():
                # Another process may have died in the middle of a line.
                self._mend(self._fd)
                return self._fd

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        # Through links, so that a new file is made, and synced, where it really is.
        path = os.path.realpath(self.path)
        fd, is_new = _opened(path)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if self.group not in (-1, facts.st_gid):
                try:
                    os.fchown(fd, -1, self.group)
                except PermissionError:
                    raise PermissionError(errno.EPERM, f"it cannot be given to group {self.settings.group}") from None
            if is_new:
                os.fchmod(fd, int(self.settings.mode, 8))
                if self.settings.fsync != "never":
                    sync_folder(Path(path).parent)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _mend(self, fd: int) -> None:
        """Cut off what is behind the last newline: it was never acknowledged, so it comes again."""
        facts = os.fstat(fd)
        size = end = facts.st_size
        if not size or os.pread(fd, 1, size - 1) == b"\n":
            return
        while end:
            start = max(0, end - _BLOCK)
            at = os.pread(fd, end - start, start).rfind(b"\n")
            end = start + at + 1
            if at >= 0:
                break
        os.ftruncate(fd, end)
        # The time of the last write says when to rotate.
        os.utime(fd, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        self.tell(f"{self.path}: cut off {size - end} bytes of a line that was not finished")

    def _write(self, fd: int, data: bytes) -> None:
        before = os.fstat(fd).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            # Also if all were repeats: then those may not be safe yet.
            if self.settings.fsync == "always":
                os.fsync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, before)
            raise

    def _is_due(self, facts: os.stat_result, more: int, now: float) -> bool:
        mib, seconds = self.settings.rotate_mib, self.settings.rotate_hours * 3600
        if not facts.st_size or not more:
            return False
        return bool(
            (mib and facts.st_size + more > mib * 2**20) or (seconds and now // seconds > facts.st_mtime // seconds)
        )

    def _rotate(self, fd: int, now: float) -> bool:
        """Give the file, which is locked, another name; where that fails lines still go to it."""
        path = Path(os.path.realpath(self.path))
        try:
            if self.settings.fsync != "never":
                os.fsync(fd)
            path.rename(free_name(path, now))
        except OSError as problem:
            if not self._is_stuck:
                self.tell(f"{self.path} cannot be rotated, so it grows: {problem.strerror}")
            self._is_stuck = True
            return False
        self._is_stuck = False
        self._let_go()
        if self.settings.fsync != "never":
            sync_folder(path.parent)
        return True

    def _remember(self, fd: int, now: float) -> None:
        size = os.fstat(fd).st_size
        start = max(0, size - _REPEATS_BYTES)
        data = os.pread(fd, size - start, start)
        if b'"event_id"' not in data:
            return
        # The first line is only whole at the beginning of the file.
        for line in data.split(b"\n")[1 if start else 0 :]:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                self._repeats.add(_stamped.decode(line).osqtwist.event_id)
        self._repeats_until, self._repeats_left = now + _REPEATS_SECONDS, _REPEATS_EVENTS

    def _without_repeats(self, events: Sequence[LogEvent], now: float) -> Sequence[LogEvent]:
        """Events that were not in the file when it was opened; each is left out once."""
        if not self._repeats:
            return events
        self._repeats_left -= len(events)
        if now > self._repeats_until or self._repeats_left < 0:
            self._repeats = set()
            return events
        new = [event for event in events if event.event_id not in self._repeats]
        self._repeats.difference_update([event.event_id for event in events])
        return new


def _opened(path: str) -> tuple[int, bool]:
    """The file, made if it is not there, and whether it is new."""
    # O_NONBLOCK so that a FIFO is found out and not waited for.
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    for _ in range(100):
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            # Another process may rotate it before we come to open it.
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, flags), False
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {Path(path).parent}") from None
    raise OSError(errno.EAGAIN, "it comes and goes while it is opened")


class _Stamp(msgspec.Struct, frozen=True):
    event_id: str = ""


class _Stamped(msgspec.Struct, frozen=True):
    """As much of a line as says which event it is; only the server writes this key."""

    osqtwist: _Stamp = _Stamp()


_stamped = msgspec.json.Decoder(_Stamped)

"""
Sink ``file``: JSON lines appended to a file that is rotated, compressed and thinned out.

No line is ever torn: a delivery that fails half-way is taken back, and what a crash left of a line is cut off before
the next one is written.  Processes may share a path; each write is made under a lock (``flock``) on the file.
"""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs
import msgspec
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, SinkUnavailable
from osqtwist.sinks.appendedfile import AppendedFile
from osqtwist.sinks.rotatedfiles import RotatedFiles
from osqtwist.sinks.singlefile import SingleFile

_T = TypeVar("_T")
_LONGEST_DELIVERY = 30.0
_LONGEST_CLOSE = 5.0


class FileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``file`` sink.

    :ivar path: the file; its folder must exist.
    :ivar rotate_mib: MiB that the file may have before the next delivery goes to a new one; 0 for any number.
    :ivar rotate_hours: the first delivery after a multiple of so many hours in UTC goes to a new file, so 24 is at
        midnight; 0 for never.
    :ivar keep: rotated files that stay; 0 for all.
    :ivar compress: whether rotated files become gzip files.
    :ivar fsync: when the lines are safe from a power cut: before a delivery counts as made (``always``), at most
        :attr:`fsync_seconds` later (``interval``), or when the kernel likes (``never``).  No line is lost by a crash
        of the process whatever it says.
    :ivar mode: permissions of new files, in octal.
    :ivar group: the group, by name or number, that the file is given to; empty to leave it.
    :ivar skip_repeats: whether lines that come again after a crash, and are at the end of the file, are left out.
        Needs an ``event_id`` in their ``osqtwist`` key.
    """

    path: str = ""
    rotate_mib: float = 100.0
    rotate_hours: float = 24.0
    keep: int = 14
    compress: bool = True
    fsync: Literal["always", "interval", "never"] = "always"
    fsync_seconds: float = 5.0
    mode: str = "0640"
    group: str = ""
    skip_repeats: bool = True


@implementer(ISinkKind)
class FileKind:
    """Makes file sinks."""

    kind = "file"
    settings = FileSettings

    def make(self, reactor: Any, name: str, settings: FileSettings) -> FileSink:
        """
        A sink that writes to the path of the settings.

        :raise BadSinkSetting: a key has a value that cannot be.
        """
        if not settings.path:
            raise BadSinkSetting('path is missing, as in path = "/var/log/osqtwist/results.jsonl"')
        if settings.path.endswith(("/", ".gz")) or "\0" in settings.path:
            raise BadSinkSetting(f"path is {settings.path!r}; it must name a file of plain text")
        for key in ("rotate_mib", "rotate_hours", "keep"):
            if not getattr(settings, key) >= 0:
                raise BadSinkSetting(f"{key} is {getattr(settings, key)}; it must be 0 or more")
        if not 0.1 <= settings.fsync_seconds <= 3600:
            raise BadSinkSetting(f"fsync_seconds is {settings.fsync_seconds:g}; it must be from 0.1 to 3600")
        if not re.fullmatch("0?[67][0-7][0-7]", settings.mode):
            raise BadSinkSetting(f"mode is {settings.mode!r}; it must be octal with rw for the owner, as in 0640")
        path = Path(settings.path).absolute()

        def tell(text: str) -> None:
            reactor.callFromThread(FileSink._log.warn, "sink {name}: {text}", name=name, text=text)

        rotated = RotatedFiles(Path(os.path.realpath(path)), settings.keep, settings.compress, tell)
        return FileSink(reactor, settings, AppendedFile(path, settings, _group(settings.group), tell), rotated)


def _group(name: str) -> int:
    """The number of a group, -1 for none."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid if name else -1
    except KeyError:
        raise BadSinkSetting(f"group is {name!r}; there is no such group") from None


@implementer(ILogSink)
@attrs.define(eq=False)
class FileSink:
    """Appends to a file; everything that may block happens in threads."""

    reactor: Any
    settings: FileSettings
    file: AppendedFile
    rotated: RotatedFiles
    _threads: SingleFile = attrs.field(init=False)
    _tidying: Deferred[None] | None = attrs.field(default=None, init=False)
    _tidy_again: bool = attrs.field(default=False, init=False)
    _sync_call: IDelayedCall | None = attrs.field(default=None, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._threads = SingleFile(self.reactor)

    async def open(self) -> None:
        """
        Open the file, and cut off what a crash left of a line.

        :raise SinkUnavailable: it cannot be opened; names the file, or the folder if that is missing.
        """
        now = self.reactor.seconds()
        await self._run(lambda: self.file.start(now))
        self._tidy()

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """
        Fire when the lines are in the file, as safely as ``fsync`` says.

        :raise SinkUnavailable: they are not; what was written of them is taken back.
        """
        now = self.reactor.seconds()
        if await self._run(lambda: self.file.append(events, now)):
            self._tidy()
        if self.settings.fsync == "interval" and self._sync_call is None and not self._is_closed:
            self._sync_call = self.reactor.callLater(self.settings.fsync_seconds, self._sync_soon)
        return Outcome()

    async def close(self) -> None:
        """Close the file; a compression under way is given up, and made after the next start."""
        self._is_closed = True
        if self._sync_call is not None:
            self._sync_call.cancel()
            self._sync_call = None
        self.file.is_closing = True
        self.rotated.stop.set()
        try:
            await self._threads.run(_LONGEST_CLOSE, self.file.close)
        except (OSError, TimeoutError) as problem:
            self._log.warn("{path} was not closed well: {problem}", path=self.settings.path, problem=problem)
        if self._tidying is not None:
            await self._tidying

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await self._threads.run(_LONGEST_DELIVERY, work)
        except TimeoutError:
            raise SinkUnavailable(f"{self.file.path}: no answer in {_LONGEST_DELIVERY:g} s") from None
        except OSError as problem:
            raise SinkUnavailable(f"{self.file.path}: {problem.strerror or problem}") from None

    def _sync_soon(self) -> None:
        self._sync_call = None
        Deferred.fromCoroutine(self._run(self.file.sync)).addErrback(
            lambda failure: self._log.error("lines may not be safe: {text}", text=failure.getErrorMessage())
        )

    def _tidy(self) -> None:
        """Compress and thin out, in a thread beside deliveries."""
        if self._tidying is not None or self._is_closed:
            self._tidy_again = True
            return
        self._tidy_again = False
        self._tidying = deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self.rotated.tidy)
        self._tidying.addErrback(lambda failure: self._log.failure("tidying up failed", failure))
        self._tidying.addCallback(self._tidied)

    def _tidied(self, result: None) -> None:
        self._tidying = None
        if self._tidy_again:
            self._tidy()

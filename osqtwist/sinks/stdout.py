"""Sink ``stdout``: JSON lines to standard output or standard error, for containers and pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import msgspec
from twisted.internet.defer import TimeoutError
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import ILogSink, ISinkKind, Outcome, SinkUnavailable
from osqtwist.sinks.singlefile import SingleFile

_LONGEST_DELIVERY = 30.0
# A pipe that poll() calls writable takes so much without blocking, and keeps it in one piece (pipe(7), PIPE_BUF).
_PIECE = 4096
_LOOK = 0.2
_NULL = Path(os.devnull).stat().st_rdev


class StdoutSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``stdout`` sink.

    :ivar stream: ``stdout`` or ``stderr``.  ``twistd -n`` writes its own log to standard output unless it has
        ``--logfile``.
    """

    stream: Literal["stdout", "stderr"] = "stdout"


@implementer(ISinkKind)
class StdoutKind:
    """Makes sinks for the standard streams."""

    kind = "stdout"
    settings = StdoutSettings

    def make(self, reactor: Any, name: str, settings: StdoutSettings) -> StdoutSink:
        """A sink that writes to the stream of the settings."""
        return StdoutSink(reactor, settings.stream, {"stdout": 1, "stderr": 2}[settings.stream])


@implementer(ILogSink)
@attrs.define(eq=False)
class StdoutSink:
    """
    Writes whole lines to a file descriptor that is not ours: it is not closed, and its flags stay as they are.

    :ivar name: what the descriptor is called, for messages.
    :ivar longest: seconds that a delivery may take.
    """

    reactor: Any
    name: str
    fd: int
    longest: float = _LONGEST_DELIVERY
    _threads: SingleFile = attrs.field(init=False)
    _torn: bytes = attrs.field(default=b"", init=False)
    _is_closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._threads = SingleFile(self.reactor)

    async def open(self) -> None:
        """
        See whether somebody could read it.

        :raise SinkUnavailable: it is closed, or is /dev/null, as in a twistd that went to the background.
        """
        try:
            facts = os.fstat(self.fd)
        except OSError as problem:
            raise SinkUnavailable(f"{self.name}: {problem.strerror}") from None
        if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _NULL:
            raise SinkUnavailable(f"{self.name} is {os.devnull}, so lines would be lost: start twistd with --nodaemon")

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """
        Fire when the kernel has the lines.

        :raise SinkUnavailable: nobody reads; some lines may have been written.
        """
        try:
            # The thread gives up by itself, unless a file system hangs.
            await self._threads.run(self.longest + 2 * _LOOK, lambda: self._write(events))
        except TimeoutError:
            raise SinkUnavailable(f"{self.name}: no answer in {self.longest:g} s") from None
        except OSError as problem:
            raise SinkUnavailable(f"{self.name}: {problem.strerror or problem}") from None
        return Outcome()

    async def close(self) -> None:
        """Give up what is under way; the stream stays open."""
        self._is_closed = True

    def _write(self, events: Sequence[LogEvent]) -> None:
        """Write whole lines, several at once while they fit in a piece; blocks, but not for ever."""
        until = time.monotonic() + self.longest
        # A reader must not take the rest of an earlier delivery's line and the next line for one.
        if self._torn:
            self._push(self._torn, until)
            self._torn = b""
        piece = b""
        for event in events:
            if piece and len(piece) + len(event.document) >= _PIECE:
                self._push(piece, until)
                piece = b""
            piece += event.document + b"\n"
        self._push(piece, until)

    def _push(self, piece: bytes, until: float) -> None:
        ready = select.poll()
        ready.register(self.fd, select.POLLOUT)
        sent = 0
        try:
            while sent < len(piece):
                if ready.poll(_LOOK * 1000):
                    # Someone else may have been quicker to fill a pipe that does not block.
                    with contextlib.suppress(BlockingIOError):
                        sent += os.write(self.fd, piece[sent : sent + _PIECE])
                        continue
                if self._is_closed or time.monotonic() > until:
                    raise OSError(errno.EAGAIN, f"nobody has read it for {self.longest:g} s")
        except BrokenPipeError:
            # Who reads next has not seen the beginning.
            self._torn = b""
            raise
        except OSError:
            if sent and piece[sent - 1 : sent] != b"\n":
                self._torn = piece[sent : piece.index(b"\n", sent) + 1]
            raise

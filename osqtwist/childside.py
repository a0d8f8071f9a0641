"""
The child's end of :mod:`osqtwist.supervision`: instructions come in, log lines and figures go out.

Writing never waits: a child must not stand still because its parent does.  What does not fit into the pipe is dropped,
and the next line says how much that was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import attrs
import msgspec
from twisted.application.service import IService
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import ILogObserver, LogEvent, Logger, eventAsText, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from osqtwist.figures import Family
from osqtwist.supervision import MESSAGES, ChildMessage, Figures, Ready, Said

_T = TypeVar("_T")
_PIPE_BYTES = 2**20


@implementer(ILogObserver)
@attrs.define(eq=False)
class ParentPipe:
    """What a child tells its parent."""

    fd: int
    _left: bytes = attrs.field(default=b"", init=False)
    _dropped: int = attrs.field(default=0, init=False)

    def __call__(self, event: LogEvent) -> None:
        """Send a line of the log."""
        level = event.get("log_level")
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        self._send(Said(level.name if level else "info", text))

    def ready(self) -> None:
        """Say that the work has begun."""
        self._send(Ready())

    def figures(self, families: list[Family]) -> None:
        """Send what was counted."""
        self._send(Figures(families))

    def _send(self, message: ChildMessage) -> None:
        # Half a line may be in the pipe; its other half must come first.
        self._left = self._left[self._write(self._left) :]
        if self._left:
            self._dropped += 1
            return
        data = msgspec.json.encode(message) + b"\n"
        if self._dropped:
            text = f"{self._dropped} lines of this log were dropped: the parent process does not read them"
            data = msgspec.json.encode(Said("warn", text)) + b"\n" + data
        written = self._write(data)
        if written:
            self._left, self._dropped = data[written:], 0
        else:
            self._dropped += 1

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self.fd, data) if data else 0
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            # The parent is gone; the end of the standard input says so too.
            return len(data)


@implementer(IReadDescriptor)
@attrs.define(eq=False)
class ParentWords:
    """What a parent tells its child after the instructions: a word a line, and in the end nothing more."""

    on_word: Callable[[str], None]
    on_end: Callable[[], None]
    _buffer: bytes = attrs.field(default=b"", init=False)

    def fileno(self) -> int:
        """As the reactor wants it."""
        return 0

    def logPrefix(self) -> str:
        """As the reactor wants it."""
        return "parent"

    def doRead(self) -> Failure | None:
        """Take whole lines; the end of it all ends the child."""
        data = os.read(0, 4096)
        if not data:
            return Failure(ConnectionDone())
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self.on_word(line.decode("ascii", "replace"))
        return None

    def connectionLost(self, reason: Failure) -> None:
        """Stop."""
        self.on_end()


def begin() -> ParentPipe:
    """Send this process' log to its parent from now on."""
    pipe = ParentPipe(MESSAGES)
    os.set_blocking(pipe.fd, False)
    os.set_inheritable(pipe.fd, False)
    # As much as the system allows an ordinary user; less will do.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    globalLogBeginner.beginLoggingTo([pipe], redirectStandardIO=False)
    sys.excepthook = _log_last_words
    return pipe


def _log_last_words(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    Logger().failure("the process ends", Failure(problem, kind, trace))


def read_instructions(kind: type[_T]) -> _T:
    """What the standard input begins with.  Nothing after it may be lost in a buffer, so no more is read."""
    length = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        length += byte
    found = bytearray()
    while len(found) < int(length) and (part := os.read(0, int(length) - len(found))):
        found += part
    return msgspec.json.decode(found, type=kind)


def run(reactor: Any, service: IService, on_word: Callable[[str], None] = lambda word: None) -> None:
    """Run a service until the parent is gone or wants the child gone."""

    def stop() -> None:
        if reactor.running:
            reactor.stop()

    def begin_work() -> None:
        # Ctrl-C reaches every process of a terminal; the parent ends its children in its own order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        service.startService()

    reactor.addReader(ParentWords(on_word, stop))
    reactor.callWhenRunning(begin_work)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
    sys.exit(0)

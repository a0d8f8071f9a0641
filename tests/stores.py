"""A real Valkey for tests, outside the reactor, and stores connected to it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.embedded import find_binary
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import BlockingRedis, RedisPlace, check_redis

_numbers = itertools.count(1)


PASSWORD = "for tests"
USERS = Path(__file__).parent.parent / "packaging" / "redis" / "users.acl"


def users_for_tests(keys: str = "*") -> str:
    """The rights that operators give us, with a password, and those of tests themselves, which may do everything."""
    text = USERS.read_text().replace("0" * 64, hashlib.sha256(PASSWORD.encode()).hexdigest())
    text = text.replace("user default off", "user default on nopass ~* &* +@all")
    return text.replace("~osqtwist:*", f"~{keys}").replace("&osqtwist:*", f"&{keys}")


@attrs.define
class RealValkey:
    """A Valkey process on a socket in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    arguments: tuple[str, ...] = ()
    program_only: bool = False
    opened: list[RedisStores] = attrs.field(factory=list)

    @property
    def has_users(self) -> bool:
        """Whether stores come as the user of packaging/redis/users.acl, unless a test has rights of its own."""
        return not any("requirepass" in word or word == "--user" for word in self.arguments)

    @property
    def place(self) -> RedisPlace:
        """Where it listens; for tests, which may do everything."""
        return RedisPlace("unix", (), str(self.folder / "valkey.sock"), Login())

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self.program_only:
            self._run([find_binary(), *self.arguments])
            return
        words = [find_binary(), "--port", "0", "--unixsocket", self.place.path, "--dir", str(self.folder)]
        words += ["--appendonly", "yes", "--save", "", "--logfile", str(self.folder / "log"), *self.arguments]
        if self.has_users:
            rights = self.folder / "users.acl"
            rights.write_text(users_for_tests())
            words += ["--aclfile", str(rights)]
        self._run(words)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreUnavailable):
                check_redis(self.place)
                return
            time.sleep(0.01)
        raise AssertionError("Valkey did not start")

    def _run(self, words: list[str]) -> None:
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def empty(self) -> None:
        """Delete its data; only while it does not run."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def ask(self, *words: str, also: tuple[str, ...] = ()) -> Any:
        """What it answers to a command (and then to another on the same connection), asked without a reactor."""
        with BlockingRedis.to(self.place) as talk:
            answer = talk.ask(*words)
            return talk.ask(*also) if also else answer

    def stores(self, reactor: Any, place: RedisPlace | None = None, prefix: str = "", **more: Any) -> RedisStores:
        """Stores with keys of their own; they are closed with the server at the latest."""
        least = attrs.evolve(self.place, login=Login("osqtwist", PASSWORD)) if self.has_users else self.place
        stores = RedisStores(reactor, place or least, prefix or f"test{next(_numbers)}:", **more)
        self.opened.append(stores)
        return stores


@contextlib.contextmanager
def valkey(*arguments: str, program_only: bool = False) -> Iterator[RealValkey]:
    """A Valkey for as long as the context lasts, or its program with these arguments alone."""
    # A short path: that of a socket has about a hundred letters at most.
    folder = Path(tempfile.mkdtemp(prefix="osqtw-"))
    server = RealValkey(folder, arguments=arguments, program_only=program_only)
    try:
        server.start()
        yield server
    finally:
        for stores in server.opened:
            Deferred.fromCoroutine(stores.close())
        if server.process is not None and server.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                server.signal(signal.SIGCONT)
                server.kill()
        shutil.rmtree(folder, ignore_errors=True)

"""A real Valkey for tests, outside the reactor, and stores connected to it."""

from __future__ import annotations

import contextlib
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

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.embedded import find_binary
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace, check_redis

_numbers = itertools.count(1)


@attrs.define
class RealValkey:
    """A Valkey process on a socket in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    arguments: tuple[str, ...] = ()

    @property
    def place(self) -> RedisPlace:
        """Where it listens."""
        return RedisPlace("unix", (), str(self.folder / "valkey.sock"), Login())

    def start(self) -> None:
        """Start it and wait until it answers."""
        words = [find_binary(), "--port", "0", "--unixsocket", self.place.path, "--dir", str(self.folder)]
        words += ["--appendonly", "yes", "--save", "", "--logfile", str(self.folder / "log"), *self.arguments]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreUnavailable):
                check_redis(self.place)
                return
            time.sleep(0.01)
        raise AssertionError("Valkey did not start")

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

    def stores(self, reactor: Any, **more: Any) -> RedisStores:
        """Stores with keys of their own."""
        return RedisStores(reactor, self.place, f"test{next(_numbers)}:", **more)


@contextlib.contextmanager
def valkey(*arguments: str) -> Iterator[RealValkey]:
    """A Valkey for as long as the context lasts."""
    # A short path: that of a socket has about a hundred letters at most.
    folder = Path(tempfile.mkdtemp(prefix="osqtw-"))
    server = RealValkey(folder, arguments=arguments)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                server.signal(signal.SIGCONT)
                server.kill()
        shutil.rmtree(folder, ignore_errors=True)
